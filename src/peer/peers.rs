//! The handle on all other replicas: which to connect to, what is known of them, and what this replica states about
//! itself.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{Notify, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use super::dial;
use super::key::{PeerKey, random};
use super::link::{Event, Hint, PeerConnection, PeerStatuses, Replica, elsewhere};
use super::wire::{RegistryState, ReplicaState};
use crate::model::Elsewhere;
use crate::telemetry::{Calls, Metrics};

/// Maximum number of addresses to connect to: any client that may write the records in an etcd could name any number.
const MOST: usize = 64;

/// How the replicas of an installation find and trust each other.
#[derive(Clone, Debug)]
pub struct PeerOptions {
    /// The address at which this replica listens for others.
    pub listen: SocketAddr,
    /// The address at which others reach this replica; `None` if they cannot.
    pub advertise: Option<SocketAddr>,
    /// The Secret with the key, in the operator's own namespace.
    pub secret: String,
}

/// The state of the installation's key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyState {
    /// The key is being read.
    Pending,
    Known(PeerKey),
    /// This replica has no key, for this reason.
    Missing(String),
}

/// What all connections need. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct Shared {
    pub(super) me: Replica,
    pub(super) calls: Calls,
    key: watch::Receiver<KeyState>,
    key_mismatch: Arc<Notify>,
    links: Arc<std::sync::Mutex<HashMap<SocketAddr, PeerConnection>>>,
    seen: watch::Sender<PeerStatuses>,
    metrics: Metrics,
}

impl Shared {
    pub(super) fn key(&self) -> Option<PeerKey> {
        match &*self.key.borrow() {
            KeyState::Known(key) => Some(key.clone()),
            KeyState::Pending | KeyState::Missing(_) => None,
        }
    }

    /// Returns once the key has changed.
    pub(super) async fn key_changed(&self) {
        let mut key = self.key.clone();
        key.mark_unchanged();
        if key.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Reports that another replica has another key: the key may have been changed.
    pub(super) fn report_key_mismatch(&self) {
        self.key_mismatch.notify_one();
    }

    /// Takes in an event on a connection to `address`.
    pub(super) fn take(&self, address: SocketAddr, event: Event) {
        let status = {
            let mut links = self.links.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            let link = links.entry(address).or_default();
            link.take(event);
            link.status().clone()
        };
        self.seen.send_if_modified(|seen| {
            let is_new = seen.get(&address) != Some(&status);
            if is_new {
                seen.insert(address, status);
            }
            is_new
        });
        self.count();
    }

    fn forget(&self, address: &SocketAddr) {
        self.links
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .remove(address);
        self.seen.send_if_modified(|seen| seen.remove(address).is_some());
        self.count();
    }

    fn count(&self) {
        let seen = self.seen.borrow();
        let alive = seen.values().filter(|one| matches!(one, super::PeerStatus::Alive(..)));
        self.metrics.set_peers(alive.count());
    }
}

/// The other replicas. Clones share their state.
#[derive(Clone, Debug)]
pub struct Peers {
    shared: Shared,
    address: Option<SocketAddr>,
    state: Arc<watch::Sender<ReplicaState>>,
    /// The addresses to be connected to, by Registry.
    wanted: Arc<watch::Sender<BTreeMap<Arc<str>, Wanted>>>,
}

/// Why a Registry makes this replica connect to others.
#[derive(Clone, Debug, Default, PartialEq)]
struct Wanted {
    /// Candidates in etcd.
    candidates: BTreeSet<SocketAddr>,
    /// Replicas that the Registry's status named while this replica was not connected to it.
    hints: Vec<Hint>,
    /// Whether this replica has been connected to the Registry itself. Hints are ignored from then on.
    hints_are_over: bool,
}

impl Peers {
    /// `address` is the address at which others reach this replica, if they can.
    pub fn new(
        identity: Arc<str>,
        address: Option<SocketAddr>,
        key: watch::Receiver<KeyState>,
        metrics: &Metrics,
    ) -> Self {
        let incarnation = format!("{:016x}", u64::from_be_bytes(random()));
        let shared = Shared {
            me: Replica {
                identity,
                incarnation: incarnation.into(),
            },
            calls: metrics.calls.clone(),
            key,
            key_mismatch: Arc::new(Notify::new()),
            links: Arc::default(),
            seen: watch::Sender::new(PeerStatuses::new()),
            metrics: metrics.clone(),
        };
        Self {
            shared,
            address,
            state: Arc::new(watch::Sender::new(ReplicaState::default())),
            wanted: Arc::new(watch::Sender::new(BTreeMap::new())),
        }
    }

    /// A replica without connections to others.
    pub fn none(identity: Arc<str>, metrics: &Metrics) -> Self {
        let (_, key) = watch::channel(KeyState::Missing("there are no other replicas".to_owned()));
        Self::new(identity, None, key, metrics)
    }

    pub(super) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// Notified when another replica turns out to have another key.
    pub fn key_mismatch(&self) -> Arc<Notify> {
        self.shared.key_mismatch.clone()
    }

    pub fn me(&self) -> &Replica {
        &self.shared.me
    }

    /// Returns the address at which others reach this replica.
    pub fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    pub fn statuses(&self) -> watch::Receiver<PeerStatuses> {
        self.shared.seen.subscribe()
    }

    pub(super) fn states(&self) -> watch::Receiver<ReplicaState> {
        self.state.subscribe()
    }

    /// States whether the view of Kubernetes is complete and up to date.
    pub fn state_fresh(&self, fresh: bool) {
        self.state
            .send_if_modified(|state| std::mem::replace(&mut state.fresh, fresh) != fresh);
    }

    /// States whether this replica is connected to `registry` and leads it.
    pub fn state_registry(&self, registry: &str, now: RegistryState) {
        self.state.send_if_modified(|state| {
            let known = state.registries.get(registry) == Some(&now);
            if !known {
                state.registries.insert(registry.to_owned(), now);
            }
            !known
        });
    }

    /// Connects to these addresses for `registry`, in place of those named before.
    pub fn seek(&self, registry: &Arc<str>, addresses: BTreeSet<SocketAddr>) {
        self.wanted.send_if_modified(|wanted| {
            let wanted = wanted.entry(registry.clone()).or_default();
            let is_new = wanted.candidates != addresses;
            wanted.candidates = addresses;
            is_new
        });
    }

    /// Adds the replicas that the status of `registry` names as connected. All that were ever named are asked until
    /// [`Self::drop_hints`], because a replica that knows less may overwrite the status.
    pub fn hint(&self, registry: &Arc<str>, replicas: Vec<(Arc<str>, Option<SocketAddr>)>) {
        self.wanted.send_if_modified(|wanted| {
            let wanted = wanted.entry(registry.clone()).or_default();
            let before = wanted.hints.clone();
            for (identity, address) in replicas {
                // A name without an address adds nothing if an address of that replica is known.
                let is_known =
                    |hint: &Hint| hint.identity == identity && (hint.address == address || address.is_none());
                if address.is_some() {
                    wanted
                        .hints
                        .retain(|hint| hint.identity != identity || hint.address.is_some());
                }
                if !wanted.hints_are_over && wanted.hints.len() < MOST && !wanted.hints.iter().any(is_known) {
                    let since = Instant::now();
                    wanted.hints.push(Hint {
                        identity,
                        address,
                        since,
                    });
                }
            }
            wanted.hints != before
        });
    }

    /// Forgets the replicas that the status of `registry` named: this replica is connected to `registry` itself.
    pub fn drop_hints(&self, registry: &Arc<str>) {
        self.wanted.send_if_modified(|wanted| {
            let wanted = wanted.entry(registry.clone()).or_default();
            wanted.hints_are_over = true;
            !std::mem::take(&mut wanted.hints).is_empty()
        });
    }

    /// Whether another replica is connected to `registry`, according to the replicas themselves. The replicas that its
    /// status named and `others` are asked.
    pub fn elsewhere(&self, registry: &str, others: impl IntoIterator<Item = Hint>, now: Instant) -> Elsewhere {
        let mut hints: Vec<Hint> = others.into_iter().collect();
        if let Some(wanted) = self.wanted.borrow().get(registry) {
            hints.extend(wanted.hints.iter().cloned());
        }
        elsewhere(
            registry,
            &self.shared.me.identity,
            &hints,
            &self.shared.seen.borrow(),
            now,
        )
    }

    /// Forgets a Registry that no longer exists.
    pub fn forget(&self, registry: &str) {
        self.wanted.send_if_modified(|wanted| wanted.remove(registry).is_some());
        self.state
            .send_if_modified(|state| state.registries.remove(registry).is_some());
    }

    /// Keeps the connections until `shutdown`.
    pub async fn run(self, shutdown: CancellationToken) {
        let mut wanted = self.wanted.subscribe();
        wanted.mark_changed();
        // Dropped at the end of this function, which aborts the tasks.
        let mut tasks = JoinSet::new();
        let mut dialled: HashMap<SocketAddr, AbortHandle> = HashMap::new();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                changed = wanted.changed() => if changed.is_err() {
                    return;
                },
                Some(Err(ended)) = tasks.join_next() => if let Ok(panic) = ended.try_into_panic() {
                    std::panic::resume_unwind(panic);
                },
            }
            let mut now = BTreeSet::new();
            for wanted in wanted.borrow_and_update().values() {
                now.extend(wanted.candidates.iter().copied());
                now.extend(wanted.hints.iter().filter_map(|hint| hint.address));
            }
            dialled.retain(|address, task| {
                let keep = now.contains(address);
                if !keep {
                    task.abort();
                    self.shared.forget(address);
                }
                keep
            });
            for address in now {
                if Some(address) == self.address || dialled.contains_key(&address) {
                    continue;
                }
                if dialled.len() >= MOST {
                    tracing::warn!(%address, most = MOST, "too many replica addresses; not connecting to the remaining ones");
                    break;
                }
                dialled.insert(address, tasks.spawn(dial::keep(address, self.shared.clone())));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn replica_address_from_a_hint_is_kept() {
        let peers = Peers::none("me".into(), &Metrics::new().0);
        let registry: Arc<str> = "default".into();
        let address = "10.0.0.1:8081".parse().expect("an address");
        let unknown = |peers: &Peers| match peers.elsewhere(&registry, [], Instant::now()) {
            Elsewhere::Unknown(cause) => cause,
            other => panic!("{other:?}"),
        };
        peers.hint(&registry, vec![("a".into(), None)]);
        assert_eq!(&*unknown(&peers), "a: address unknown");
        peers.hint(&registry, vec![("a".into(), Some(address))]);
        peers.hint(&registry, vec![("a".into(), None)]);
        assert_eq!(&*unknown(&peers), "a at 10.0.0.1:8081: not contacted yet");
        peers.shared.take(address, Event::Refused);
        assert_eq!(peers.elsewhere(&registry, [], Instant::now()), Elsewhere::NoReplica);
    }

    #[tokio::test]
    async fn connected_replica_contacts_no_other_replica() {
        let peers = Peers::none("me".into(), &Metrics::new().0);
        let registry: Arc<str> = "default".into();
        peers.hint(&registry, vec![("a".into(), None)]);
        peers.drop_hints(&registry);
        peers.hint(&registry, vec![("b".into(), None)]);
        assert_eq!(peers.elsewhere(&registry, [], Instant::now()), Elsewhere::NoReplica);
    }
}
