//! The shared keepalive streams of a renewal: which one takes the next request, and how many there are.
//!
//! An etcd follower forwards the requests of one stream to etcd's leader one after the other, so one stream renews one
//! lease per round trip between these members. Next to the leader, one stream renews thousands of leases per second.
//! So the pool starts with one stream, and adds one with each answer that arrives while a renewal is [`LATE`].

use std::time::Duration;

use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::task::JoinSet;

use super::connection::Connection;
use super::keep_alive::{KeepAliveStream, Report, Request};

/// Most unanswered requests per stream. Limits how long a request waits behind others on its stream: with 80 ms between
/// the members, 1.3 s. Enough to keep a stream busy when etcd itself is far away.
const WINDOW: usize = 16;
/// Most streams per group. Together with the separate streams, below the 100 streams per connection that proxies allow. A
/// group that is left closes its streams as soon as they are idle.
const MAX_STREAMS: usize = 64;
/// A renewal is late if it waits this long for a free stream after it is due.
const LATE: Duration = Duration::from_millis(250);

/// Identifies a shared keepalive stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct StreamId {
    /// Group 0 uses the preferred endpoint, group 1 the one after it.
    pub(super) group: usize,
    index: usize,
}

/// The load of the streams of one group.
struct Group {
    /// The unanswered requests of each stream opened so far.
    unanswered: Vec<usize>,
    /// How many streams may take new requests.
    limit: usize,
}

impl Group {
    fn new() -> Self {
        Self {
            unanswered: Vec::new(),
            limit: 1,
        }
    }

    /// Returns the first stream with room for a request. Requests concentrate on few streams, so that no more than
    /// necessary are opened and used.
    fn free(&self) -> Option<usize> {
        (0..self.limit).find(|index| self.unanswered.get(*index).is_none_or(|count| *count < WINDOW))
    }

    /// Counts a request on a stream that [`Self::free`] returned, which may be a new one.
    fn take(&mut self, index: usize) {
        if index == self.unanswered.len() {
            self.unanswered.push(0);
        }
        self.unanswered[index] += 1;
    }

    fn release(&mut self, index: usize) {
        self.unanswered[index] -= 1;
    }

    /// Forgets the last streams if they are idle and take no new requests. Returns how many are left.
    fn drop_idle(&mut self) -> usize {
        while self.unanswered.len() > self.limit && self.unanswered.last() == Some(&0) {
            self.unanswered.pop();
        }
        self.unanswered.len()
    }

    /// Records an answer while another renewal was due for `waited`.
    fn widen(&mut self, waited: Duration) {
        if waited > LATE {
            self.limit = (self.limit + 1).min(MAX_STREAMS);
        }
    }
}

pub(super) struct StreamPool {
    connection: Connection,
    reports: UnboundedSender<Report>,
    groups: [Group; 2],
    streams: [Vec<UnboundedSender<Request>>; 2],
    /// The group that takes new requests.
    current: usize,
    /// Dropped with the pool, which ends the streams.
    tasks: JoinSet<()>,
}

impl StreamPool {
    pub(super) fn new(connection: Connection, reports: UnboundedSender<Report>) -> Self {
        Self {
            connection,
            reports,
            groups: [Group::new(), Group::new()],
            streams: [Vec::new(), Vec::new()],
            current: 0,
            tasks: JoinSet::new(),
        }
    }

    /// Returns a stream with room for a request; `None` if every stream has to answer first.
    pub(super) fn free(&self) -> Option<StreamId> {
        let group = self.current;
        self.groups[group].free().map(|index| StreamId { group, index })
    }

    /// Sends a request over a stream that [`Self::free`] returned.
    pub(super) fn send(&mut self, id: StreamId, request: Request) {
        let streams = &mut self.streams[id.group];
        if id.index == streams.len() {
            let (requests, outgoing) = unbounded_channel();
            let stream = KeepAliveStream {
                id,
                connection: self.connection.clone(),
                requests: outgoing,
                reports: self.reports.clone(),
            };
            self.tasks.spawn(stream.run());
            streams.push(requests);
        }
        self.groups[id.group].take(id.index);
        streams[id.index]
            .send(request)
            .expect("a keepalive stream ends only when its sender is dropped");
    }

    /// Makes room on a stream: a request on it has its result, or is no longer waited for.
    pub(super) fn release(&mut self, id: StreamId) {
        self.groups[id.group].release(id.index);
        self.close_idle(id.group);
    }

    /// Closes the last streams of a group if they are idle and take no new requests.
    fn close_idle(&mut self, group: usize) {
        let streams = self.groups[group].drop_idle();
        self.streams[group].truncate(streams);
        while self.tasks.try_join_next().is_some() {}
    }

    /// Records that etcd answered over a stream while another renewal was due for `waited`. Only answers add streams: more
    /// streams do not help if etcd does not answer.
    pub(super) fn record_answer(&mut self, id: StreamId, waited: Duration) {
        if id.group == self.current {
            self.groups[id.group].widen(waited);
        }
    }

    /// Uses the other group from now on, because a stream of this one failed. If etcd is down, one stream of each group
    /// finds out when it is back.
    pub(super) fn leave(&mut self, group: usize) {
        self.groups[group].limit = 1;
        self.close_idle(group);
        self.current = 1 - group;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeSet, VecDeque};

    use super::*;

    /// The interval of the renewals of a lease with a TTL of 30 s.
    const INTERVAL: Duration = Duration::from_millis(8750);

    #[derive(Debug)]
    struct Course {
        streams: usize,
        /// The longest time from due to answered, in the first two intervals. The first renewals are due at once.
        first: Duration,
        /// The same of all later renewals.
        later: Duration,
    }

    /// Renews leases through an etcd that answers a stream once per round trip.
    fn renew(leases: u32, round_trip: Duration) -> Course {
        let mut group = Group::new();
        let mut course = Course {
            streams: 0,
            first: Duration::ZERO,
            later: Duration::ZERO,
        };
        let mut due: BTreeSet<_> = (0..leases).map(|lease| (Duration::ZERO, lease)).collect();
        // Each stream's requests, and when it answers the first of them.
        let mut streams: Vec<(Duration, VecDeque<(Duration, u32)>)> = Vec::new();
        let mut now = Duration::ZERO;
        while now < 4 * INTERVAL {
            while let Some(&(at, lease)) = due.first()
                && at <= now
                && let Some(index) = group.free()
            {
                due.pop_first();
                group.take(index);
                if index == streams.len() {
                    streams.push((Duration::ZERO, VecDeque::new()));
                }
                let (answer, queue) = &mut streams[index];
                if queue.is_empty() {
                    *answer = now + round_trip;
                }
                queue.push_back((at, lease));
            }
            let busy = streams.iter().enumerate().filter(|(_, (_, queue))| !queue.is_empty());
            let answer = busy.map(|(index, (at, _))| (*at, index)).min();
            let next_due = due.first().filter(|_| group.free().is_some()).map(|(at, _)| *at);
            match (answer, next_due) {
                (Some((at, index)), next_due) if next_due.is_none_or(|due| at <= due) => {
                    now = at;
                    let (answer, queue) = &mut streams[index];
                    *answer = now + round_trip;
                    let (was_due, lease) = queue.pop_front().expect("the stream is busy");
                    group.release(index);
                    let (late, is_early) = (now.saturating_sub(was_due), was_due < 2 * INTERVAL);
                    let longest = if is_early { &mut course.first } else { &mut course.later };
                    *longest = late.max(*longest);
                    let share = if was_due.is_zero() { lease } else { leases };
                    due.insert((now + INTERVAL * share / leases, lease));
                    if let Some((at, _)) = due.first() {
                        group.widen(now.saturating_sub(*at));
                    }
                }
                (_, Some(due)) => now = now.max(due),
                _ => unreachable!("a renewal is due or unanswered"),
            }
        }
        course.streams = streams.len();
        course
    }

    #[test]
    fn near_leader_or_few_leases_take_one_stream() {
        for (leases, microseconds) in [(2_000, 10), (2_000, 100), (100, 2_000), (16, 100_000)] {
            let course = renew(leases, Duration::from_micros(microseconds));
            assert_eq!(course.streams, 1, "{leases} leases, {microseconds} us: {course:?}");
        }
    }

    #[test]
    fn far_leader_and_many_leases_take_more_streams_and_are_in_time() {
        for (leases, milliseconds) in [
            (190, 100),
            (800, 40),
            (2_000, 15),
            (2_000, 40),
            (2_000, 80),
            (5_000, 40),
        ] {
            let course = renew(leases, Duration::from_millis(milliseconds));
            let reported = format!("{leases} leases, {milliseconds} ms: {course:?}");
            assert!((2..=MAX_STREAMS).contains(&course.streams), "{reported}");
            assert!(course.first < Duration::from_secs(5), "{reported}");
            assert!(course.later < Duration::from_secs(2), "{reported}");
        }
    }

    #[test]
    fn etcd_that_does_not_answer_gets_one_stream_with_few_requests() {
        let mut group = Group::new();
        group.widen(2 * LATE);
        assert_eq!(group.limit, 2, "an answer came late");
        let mut group = Group::new();
        while let Some(index) = group.free() {
            group.take(index);
        }
        assert_eq!(group.unanswered, [WINDOW]);
    }
}
