//! The commands that the controller sends to a worker.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use jiff::Timestamp;

use super::backend_health::Trouble;
use crate::api::{FormatStatus, Guard, LastSynced, Limits, Reason, RegistryStatus};
use crate::backend::Access;
use crate::controller::policy::Verdict;
use crate::controller::source::Obstacle;
use crate::kube::NODES;
use crate::model::{NamespaceScope, Prefix, RegistrationRef, WatchTarget};
use crate::plan::{EndpointKind, RegistrationSettings, Since};

/// Identifies an object and the version of its spec.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// `metadata.uid`; empty if it is not known yet.
    pub uid: Arc<str>,
    /// `metadata.generation`.
    pub generation: i64,
}

/// Which part of the view of Kubernetes is stale.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outdated {
    pub since: Timestamp,
    /// The silent watches; at least one.
    pub targets: Vec<WatchTarget>,
}

impl Outdated {
    /// Whether more is stale than some of the namespaces that are watched one by one, or the nodes, which few
    /// registrations need. While the API server reports other cluster-scoped objects, the API server itself is not in
    /// trouble.
    pub fn is_general(&self) -> bool {
        let is_general = |target: &WatchTarget| target.namespaces == NamespaceScope::Cluster && &*target.kind != NODES;
        self.targets.iter().any(is_general)
    }
}

/// What the status of a Registry says, whichever replica wrote it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StatusSeen {
    /// The replica that leads.
    pub leader: Option<String>,
    /// The endpoints that are last known to work.
    pub endpoints: Vec<String>,
    /// The id of the etcd cluster.
    pub cluster_id: Option<u64>,
    /// Whether the status has no conditions.
    pub is_blank: bool,
}

impl StatusSeen {
    pub fn of(status: Option<&RegistryStatus>) -> Self {
        let Some(status) = status else {
            return Self {
                is_blank: true,
                ..Self::default()
            };
        };
        let id = status.cluster_id.as_deref();
        Self {
            leader: status.leader.clone(),
            endpoints: status.endpoints.clone(),
            cluster_id: id.and_then(|id| u64::from_str_radix(id, 16).ok()),
            is_blank: status.conditions.is_empty(),
        }
    }
}

/// A pod that a list did not contain.
#[derive(Debug)]
pub struct MissingPod {
    pub registration: RegistrationRef,
    /// The pod's name.
    pub pod: Arc<str>,
    /// The pod was terminating or had ended when it was last seen.
    pub ended: bool,
    /// Number of pods that the registration selects now, ready or not.
    pub selected: usize,
}

/// What a worker has to know of a registration.
#[derive(Debug)]
pub struct Register {
    pub registration: RegistrationRef,
    pub settings: RegistrationSettings,
    /// The name under which consumers know the service.
    pub service: Arc<str>,
    /// The object, and the version of its spec.
    pub version: Version,
    /// Number of pods that it selects, ready or not.
    pub selected: usize,
    /// Why formats of it are suppressed in favour of another registration's.
    pub suppressed: Vec<String>,
    /// What it registers.
    pub kind: EndpointKind,
    /// Why nothing, or not everything, of its Service can be registered now.
    pub obstacle: Option<Obstacle>,
    /// Why attributes are in no record, although everything else is registered.
    pub missing: Option<Obstacle>,
    /// Whether its pods may keep the keys of the spec before.
    pub keeps_previous: bool,
    /// When it claimed each of its prefixes.
    pub since: BTreeMap<Prefix, Since>,
    /// For its status.
    pub places: Vec<FormatStatus>,
    /// Which keys and values it asks for.
    pub identity: Arc<LastSynced>,
    /// The last spec that was fully written, as its status records it.
    pub last_synced: Option<Arc<LastSynced>>,
}

/// A command. The worker carries out commands in the order in which they were sent.
#[derive(Debug)]
pub enum Command {
    /// Registers with these settings. The commands about its pods follow. Boxed, because an edit sends a command for each
    /// pod, and each takes the memory of the largest.
    Register(Box<Register>),
    /// The new spec of a registration cannot be carried out. The spec before stays in force.
    Refuse {
        registration: RegistrationRef,
        /// `metadata.generation` of the new spec.
        generation: i64,
        /// Machine-readable.
        reason: Reason,
        /// For people.
        message: String,
    },
    /// The Registry's rules, and what they allow a registration that was sent just before.
    Rule {
        registration: RegistrationRef,
        verdict: Verdict,
    },
    /// A registration was deleted. All its keys are to be removed, subject to the guard.
    Remove(RegistrationRef),
    /// A pod changed while the same registrations as before select it.
    PodChanged {
        namespace: Arc<str>,
        /// The pod's name.
        pod: Arc<str>,
        /// The pod is terminating or has ended.
        ending: bool,
        /// When Kubernetes reported the change.
        at: Instant,
    },
    /// A pod was deleted, whether or not a registration selects it.
    PodDeleted {
        namespace: Arc<str>,
        /// The pod's name.
        pod: Arc<str>,
    },
    /// A pod was created or deleted, or its labels changed. The registration selects or selected it.
    PodSelected {
        registration: RegistrationRef,
        /// The pod's name.
        pod: Arc<str>,
        /// The pod was deleted. A pod of that name in the cache is another one.
        deleted: bool,
        /// Number of pods that the registration selects now, ready or not.
        selected: usize,
        /// When Kubernetes reported the change.
        at: Instant,
    },
    /// The spec or the settings of a registration changed, and with them the desired records of these pods.
    PodsEdited {
        registration: RegistrationRef,
        /// The names of the pods, nodes or addresses: first those that the registration may register now.
        pods: Vec<Arc<str>>,
        /// When Kubernetes reported the change.
        at: Instant,
    },
    /// A list of pods did not contain these, and no watch event reported their deletion.
    PodsMissing {
        pods: Vec<MissingPod>,
        /// When the list was complete.
        at: Instant,
    },
    /// Kubernetes has listed everything: a key that no registration has asked for until now is not desired.
    KubernetesIsComplete,
    /// What is stale because Kubernetes has not answered for long. None when nothing is.
    KubernetesIsOutdated(Option<Outdated>),
    /// Whether some registrations of this Registry are invalid or unreadable, so that their keys are not known. While
    /// that is so, a key that no registration is known to want may be theirs.
    SomeAreUnclear(bool),
    /// The Registry's settings have changed, as of this version of its spec.
    Settings {
        /// How much load the etcd may get.
        limits: Limits,
        /// When removals are held.
        guard: Guard,
        version: Version,
    },
    /// The current status of the Registry.
    Status(StatusSeen),
    /// The Registry names other endpoints or other Secrets, or the content of these has changed. The worker uses the
    /// new access if it works. An error says why it cannot be used.
    Access(Result<Box<Access>, Trouble>),
    /// The id of the hold that an admin approved, if there is one: the guard releases the removals that it holds.
    Approve(Option<String>),
    /// Commands that belong together. The worker decides nothing before it has taken in all of them.
    Together(Vec<Command>),
}

impl Command {
    pub fn refuse(registration: &RegistrationRef, generation: i64, reason: Reason, message: String) -> Self {
        Self::Refuse {
            registration: registration.clone(),
            generation,
            reason,
            message,
        }
    }
}
