//! The open connections of the HTTP server, and which of them is closed for a new one when there are too many.
//!
//! A new connection is always taken: it may be a probe of the kubelet. The one that is closed for it belongs to the
//! address with the most connections and has been idle for the longest, so that strangers displace one another.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use tokio::task::AbortHandle;
use tokio::time::Instant;

/// How many idle connections are closed at a time.
const AT_ONCE: usize = 16;
/// How many requests a connection may make.
const REQUESTS: u32 = 100;

/// The open connections.
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

/// What one connection does. Clones are the same connection's.
#[derive(Clone)]
pub(super) struct Activity(Arc<Inner>);

struct Inner {
    began: Instant,
    /// A request is being answered.
    is_answering: AtomicBool,
    /// When that last changed, in microseconds since the server began.
    since: AtomicU64,
    requests: AtomicU32,
}

/// A connection as seen when one is to be closed.
#[derive(Clone, Copy, Debug)]
struct OpenConnection {
    address: IpAddr,
    is_answering: bool,
    since: u64,
}

impl Connections {
    /// No connection is open; `most` may be.
    pub fn new(most: usize) -> Self {
        Self {
            most,
            began: Instant::now(),
            open: Vec::new(),
        }
    }

    /// The activity of a connection that is about to be served.
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

    /// Makes room for more connections: closes some if there are as many as may be, and returns whether it did.
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
        // From the end, so that the others keep their places.
        places.sort_unstable_by(|a, b| b.cmp(a));
        for place in places {
            self.open.swap_remove(place).task.abort();
        }
        true
    }

    /// A connection from [`network`] `address` is served by `task`.
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
    /// A request has come. Returns whether it is the last one of this connection.
    pub fn begin(&self) -> bool {
        self.note(true);
        self.0.requests.fetch_add(1, Ordering::Relaxed) + 1 >= REQUESTS
    }

    /// A request has been answered.
    pub fn end(&self) {
        self.note(false);
    }

    fn note(&self, is_answering: bool) {
        let now = u64::try_from(self.0.began.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.0.is_answering.store(is_answering, Ordering::Relaxed);
        self.0.since.store(now, Ordering::Relaxed);
    }
}

/// What counts as one address: who has an IPv6 address has its whole network.
pub(super) fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)).into(),
        address @ IpAddr::V4(_) => address,
    }
}

/// The places of the connections to close: idle ones of the address with the most connections, for which nothing has
/// happened for the longest, or if none is idle one that is answered. Several, for looking for them takes a while.
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
