//! The open connections of the HTTP server, and the choice of those to close when there are too many.
//!
//! A new connection is always accepted, because it may be a probe of the kubelet. The connections that are closed for
//! it belong to the address with the most connections and have been idle for the longest, so that unknown clients
//! displace one another.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use tokio::task::AbortHandle;
use tokio::time::Instant;

/// The maximum number of idle connections that are closed at a time.
const AT_ONCE: usize = 16;
/// The maximum number of requests per connection.
const REQUESTS: u32 = 100;

pub(super) struct Connections {
    most: usize,
    began: Instant,
    open: Vec<Open>,
}

struct Open {
    address: IpAddr,
    activity: Activity,
    task: AbortHandle,
}

/// The activity of one connection. Clones share it.
#[derive(Clone)]
pub(super) struct Activity(Arc<Inner>);

struct Inner {
    began: Instant,
    /// Whether a request is being answered.
    is_answering: AtomicBool,
    /// When `is_answering` last changed, in microseconds since the server started.
    since: AtomicU64,
    requests: AtomicU32,
}

/// The state of a connection when connections to close are chosen.
#[derive(Clone, Copy, Debug)]
struct OpenConnection {
    address: IpAddr,
    is_answering: bool,
    since: u64,
}

impl Connections {
    /// Creates an empty set for at most `most` connections.
    pub fn new(most: usize) -> Self {
        Self {
            most,
            began: Instant::now(),
            open: Vec::new(),
        }
    }

    /// Creates the activity of a connection that is about to be served.
    pub fn activity(&self) -> Activity {
        let activity = Activity(Arc::new(Inner {
            began: self.began,
            is_answering: AtomicBool::new(false),
            since: AtomicU64::new(0),
            requests: AtomicU32::new(0),
        }));
        activity.note(false);
        activity
    }

    /// Makes room for more connections: closes some if the maximum is reached. Returns whether it closed any.
    pub fn make_room(&mut self) -> bool {
        if self.open.len() < self.most {
            return false;
        }
        self.open.retain(|open| !open.task.is_finished());
        if self.open.len() < self.most {
            return false;
        }
        let seen: Vec<OpenConnection> = self.open.iter().map(Open::seen).collect();
        let mut places = to_close(&seen);
        // From the end, because `swap_remove` changes the indices behind.
        places.sort_unstable_by(|a, b| b.cmp(a));
        for place in places {
            self.open.swap_remove(place).task.abort();
        }
        true
    }

    /// Adds a connection from [`network`] `address` that is served by `task`.
    pub fn add(&mut self, address: IpAddr, activity: Activity, task: AbortHandle) {
        self.open.push(Open {
            address,
            activity,
            task,
        });
    }
}

impl Open {
    fn seen(&self) -> OpenConnection {
        let Inner {
            is_answering, since, ..
        } = &*self.activity.0;
        OpenConnection {
            address: self.address,
            is_answering: is_answering.load(Ordering::Relaxed),
            since: since.load(Ordering::Relaxed),
        }
    }
}

impl Activity {
    /// Records the start of a request. Returns whether it is the last one that this connection may make.
    pub fn begin(&self) -> bool {
        self.note(true);
        self.0.requests.fetch_add(1, Ordering::Relaxed) + 1 >= REQUESTS
    }

    /// Records the end of a request.
    pub fn end(&self) {
        self.note(false);
    }

    fn note(&self, is_answering: bool) {
        let now = u64::try_from(self.0.began.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.0.is_answering.store(is_answering, Ordering::Relaxed);
        self.0.since.store(now, Ordering::Relaxed);
    }
}

/// Returns what counts as one address: an IPv4 address, or the /64 network of an IPv6 address, since a client usually
/// controls all of it.
pub(super) fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)).into(),
        address @ IpAddr::V4(_) => address,
    }
}

/// Returns the indices of the connections to close: idle ones, those of the address with the most connections first,
/// and of these the ones that have been idle for the longest. If none is idle, returns one that is being answered.
/// Returns several, because choosing them takes a while.
fn to_close(open: &[OpenConnection]) -> Vec<usize> {
    let mut count: HashMap<IpAddr, usize> = HashMap::new();
    for seen in open {
        *count.entry(seen.address).or_default() += 1;
    }
    let rank = |seen: &OpenConnection| (!seen.is_answering, count[&seen.address], u64::MAX - seen.since);
    let mut places: Vec<usize> = (0..open.len()).collect();
    places.sort_by_cached_key(|place| std::cmp::Reverse(rank(&open[*place])));
    let idle = places.iter().take_while(|place| !open[**place].is_answering).count();
    places.truncate(idle.clamp(1, AT_ONCE));
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(address: &str, is_answering: bool, since: u64) -> OpenConnection {
        OpenConnection {
            address: address.parse().expect("an address"),
            is_answering,
            since,
        }
    }

    #[test]
    fn the_oldest_idle_connection_of_the_busiest_address_is_closed() {
        let open = [
            seen("10.0.0.1", false, 1),
            seen("10.0.0.9", true, 0),
            seen("10.0.0.9", false, 7),
            seen("10.0.0.9", false, 5),
            seen("10.0.0.2", false, 2),
        ];
        assert_eq!(to_close(&open), [3, 2, 0, 4]);
        assert_eq!(to_close(&open[..1]), [0]);
        assert_eq!(to_close(&[]), [0_usize; 0]);
        let many: Vec<OpenConnection> = (0..100).map(|since| seen("10.0.0.9", false, 100 - since)).collect();
        assert_eq!(to_close(&many), (84..100).rev().collect::<Vec<_>>());
    }

    #[test]
    fn of_connections_that_are_all_answered_the_oldest_is_closed() {
        let open = [seen("10.0.0.1", true, 4), seen("10.0.0.2", true, 3)];
        assert_eq!(to_close(&open), [1]);
        let one_idle = [open[0], open[1], seen("10.0.0.3", false, 9)];
        assert_eq!(to_close(&one_idle), [2]);
    }

    #[test]
    fn an_ipv6_network_counts_as_one_address_and_a_mapped_one_as_ipv4() {
        let of = |address: &str| network(address.parse().expect("an address"));
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:10.0.0.1"), of("10.0.0.1"));
    }
}
