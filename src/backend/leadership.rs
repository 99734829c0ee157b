//! What a replica and the election of a Registry's leader exchange.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::model::{Fence, Key, Prefix};

/// The settings of one candidate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Campaign {
    /// The creator of this key is the leader.
    pub leader_key: Key,
    /// The key of this candidate's own record. The record shows the other replicas that this candidate takes part, and
    /// whether its view of Kubernetes is fresh.
    pub candidate_key: Key,
    /// The prefix of the records of all candidates.
    pub candidates: Prefix,
    /// The namespaces that this candidate watches; empty if it watches all. It does not claim the lead while an earlier
    /// candidate watches others ([`in_the_way`](crate::plan::in_the_way)).
    pub namespaces: BTreeSet<Arc<str>>,
    /// The id of this process on direct connections between replicas.
    pub process: Arc<str>,
    /// The address at which other replicas reach this one, if they can.
    pub address: Option<SocketAddr>,
    /// Unique among live processes and kept across restarts (a pod's name).
    pub identity: String,
    /// TTL of the session in seconds: the time until an unannounced death of the leader is noticed.
    pub session_ttl: u32,
}

/// How a candidate takes part in the election.
///
/// The default: its view of Kubernetes is not fresh, and no other candidate is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Candidacy {
    /// The candidate's view of Kubernetes is complete and up to date.
    pub fresh: bool,
    /// This candidate's view is stale and another candidate's view is fresh: this candidate resigns and claims nothing.
    pub yields: bool,
}

/// The role of a candidate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Leadership {
    /// The candidate neither leads nor knows a leader.
    Seeking,
    /// Another candidate leads.
    Standby {
        /// The identity of the leader.
        leader: String,
    },
    /// The candidate leads, with this proof.
    Leading(Fence),
}
