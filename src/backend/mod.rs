//! The backend layer: where records live.
//!
//! Owns every call to a store, one module for each kind of store. A [`Backend`] is what the worker of a Registry needs of
//! a store, and nothing more. Decides nothing about keys: that is the task of `plan`.

mod access;
#[cfg(test)]
#[path = "../../tests/etcd/contract.rs"]
mod contract;
mod error;
pub mod etcd;
mod leadership;
mod memory;
mod random;
mod tls;
mod validity;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

pub use self::access::{Access, Bound, Timeouts, Trial, User};
pub use self::error::{Error, ErrorKind, Result};
pub use self::leadership::{Campaign, Candidacy, Leadership};
pub use self::memory::Memory;
pub use self::random::random;
pub use self::tls::{Identity, Malformed, Tls};
pub use self::validity::Validity;
use crate::model::{
    Fence, Key, KeyValue, LeaseId, Observation, Prefix, PrefixChanges, Revision, Transaction, TxnOutcome,
};
use crate::peer::PeerStatuses;

/// The leases to keep alive, each with its TTL in seconds.
pub type Leases = Arc<BTreeMap<LeaseId, u32>>;

/// A report about a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseEvent {
    /// The store confirms that the lease does not exist.
    Lapsed(LeaseId),
    /// The store denies renewing the lease, because the user may not write one of its keys. The renewal is retried, and the
    /// report is repeated while the store denies it.
    Denied(LeaseId),
}

/// What differs between stores, or between two stores of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// Most ops of one transaction; at most [`Transaction::MAX_OPS`].
    pub ops_per_transaction: usize,
    /// Whether the store may allow its user one prefix and deny another. If not, the permission methods are not called.
    pub has_permissions: bool,
}

/// What a store reports about itself.
#[derive(Clone, Debug)]
pub struct Status {
    /// The store's version, such as `3.6.15`.
    pub version: String,
    /// The id of the store, which all its endpoints share.
    pub cluster_id: u64,
    /// Why it cannot serve at present, although it answers.
    pub trouble: Option<Error>,
    /// Why it accepts no new data. Keys may still be deleted.
    pub refuses: Option<Error>,
    /// Why this version is not written to.
    pub unsupported: Option<Error>,
}

/// The connection to a store. Clones share it.
///
/// A method without an answer in time fails. The caller tries again, and the methods need not.
pub trait Backend: Clone + Send + Sync + 'static {
    fn capabilities(&self) -> Capabilities;

    // ---- keys and leases ----

    /// Writes `transaction` if `fence` holds. It takes effect at one revision. The transaction is not empty.
    ///
    /// If an answer is lost, the transaction may be sent again. With a checkpoint it is still executed only once.
    fn commit(&self, fence: &Fence, transaction: &Transaction) -> impl Future<Output = Result<TxnOutcome>> + Send;

    /// Grants a lease with a TTL in seconds. Its id has never been used in this store.
    fn grant(&self, ttl: u32) -> impl Future<Output = Result<LeaseId>> + Send;

    /// Lists the keys on `lease`; none if the lease does not exist.
    fn keys_on(&self, lease: LeaseId) -> impl Future<Output = Result<Vec<Key>>> + Send;

    /// Reads one key, and the revision at which it was read.
    fn get(&self, key: &Key) -> impl Future<Output = Result<(Option<KeyValue>, Revision)>> + Send;

    /// Lists the keys below `prefix` at one revision. The values of keys without a lease may be missing, here and in a
    /// snapshot of the mirror: nothing depends on them.
    fn list(&self, prefix: &Prefix) -> impl Future<Output = Result<Vec<(Key, KeyValue)>>> + Send;

    // ---- tasks for the life of a worker ----

    /// Mirrors the prefixes that `wanted` adds into `out`, until it removes them or until `shutdown`. The `essential` prefix
    /// must be readable. For each key, changes arrive in the order of revisions.
    fn mirror(
        self,
        essential: Prefix,
        wanted: mpsc::UnboundedReceiver<PrefixChanges>,
        out: mpsc::Sender<Observation>,
        shutdown: CancellationToken,
    ) -> impl Future<Output = ()> + Send;

    /// Keeps `leases` alive until `shutdown`. Reports each lease that is gone once in `events`. `soonest` shows when the
    /// first lease expires if no further renewal succeeds; none without leases.
    fn renew(
        self,
        leases: watch::Receiver<Leases>,
        events: mpsc::Sender<LeaseEvent>,
        soonest: watch::Sender<Option<Instant>>,
        shutdown: CancellationToken,
    ) -> impl Future<Output = ()> + Send;

    /// Takes part in the election until `shutdown`, as `candidacy` says, and publishes every change to `out`. Then gives
    /// the lead back, so that the next candidate leads at once.
    fn campaign(
        self,
        campaign: Campaign,
        candidacy: watch::Receiver<Candidacy>,
        peer_statuses: watch::Receiver<PeerStatuses>,
        out: watch::Sender<Leadership>,
        shutdown: CancellationToken,
    ) -> impl Future<Output = ()> + Send;

    // ---- health ----

    /// Asks for the status. With a `key`, fails if the key may not be read.
    fn status(&self, key: Option<&Key>) -> impl Future<Output = Result<Status>> + Send;

    /// Describes the endpoints that are not used, with the reasons.
    fn unused_endpoints(&self) -> Vec<String>;

    // ---- permissions ----

    /// Whether the store accepts every client although a user is configured.
    fn is_open_to_all(&self) -> bool;

    /// Whether the user may read and write all of `keys`.
    fn may_write(&self, keys: &[Key]) -> impl Future<Output = Result<bool>> + Send;

    /// Whether the user may write every possible key below `prefix`.
    fn may_write_below(&self, prefix: &Prefix) -> impl Future<Output = Result<bool>> + Send;

    /// Whether the user may attach `key` to `lease`.
    fn may_attach(&self, key: &Key, lease: LeaseId) -> impl Future<Output = Result<bool>> + Send;

    // ---- endpoints and credentials ----

    /// Returns the endpoints and credentials in use.
    fn access(&self) -> Access;

    /// Tries `access` as `trial` says, then switches every request of every clone to it. Keeps the access in use if the
    /// trial fails.
    fn change_access(&self, access: &Access, trial: &Trial) -> impl Future<Output = Result<()>> + Send;
}
