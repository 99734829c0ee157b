//! What a registrar is told by the intake.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use jiff::Timestamp;
use tokio::sync::OwnedSemaphorePermit;

use super::backend_health::Trouble;
use crate::api::{FormatStatus, Guard, LastSynced, Limits, Reason, RegistryStatus};
use crate::controller::policy::Verdict;
use crate::etcd::Access;
use crate::index::{NamespaceScope, RegistrationRef};
use crate::plan::{Freshness, PodState, Prefix, RegistrationSettings, Since, WatchTarget};

/// Which object of a name it is, and which version of its spec.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// `metadata.uid`; empty if it is not known yet.
    pub uid: Arc<str>,
    /// `metadata.generation`.
    pub generation: i64,
}

/// What is outdated of what is known of Kubernetes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outdated {
    /// Since when.
    pub since: Timestamp,
    /// The streams that say nothing; one at least.
    pub streams: Vec<WatchTarget>,
}

impl Outdated {
    /// Whether more is outdated than some of the namespaces that are watched one by one. As long as the apiserver tells
    /// of what belongs to the cluster, it is not that which is in trouble.
    pub fn is_general(&self) -> bool {
        self.streams.iter().any(|stream| stream.area == NamespaceScope::Cluster)
    }
}

/// What the status of a Registry says, whichever replica wrote it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StatusSeen {
    /// The replica that leads.
    pub leader: Option<String>,
    /// The endpoints that were last good.
    pub endpoints: Vec<String>,
    /// The id of the etcd cluster there.
    pub cluster_id: Option<u64>,
    /// Whether it says anything at all.
    pub is_blank: bool,
}

impl StatusSeen {
    /// What this status says.
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

/// One order. They are carried out in the order in which they were sent.
#[derive(Debug)]
pub enum Command {
    /// A registration is to be carried out on these terms, for pods that are told afterwards.
    Register {
        /// The registration.
        registration: RegistrationRef,
        /// What it asks for.
        terms: RegistrationSettings,
        /// The name under which consumers know the service.
        service: Arc<str>,
        /// The object, and the version of its spec.
        version: Version,
        /// How many pods it selects, ready or not.
        selected: usize,
        /// Why formats of it stand aside for another registration's.
        aside: Vec<String>,
        /// Its pods may keep what they have by the spec before.
        keeps_previous: bool,
        /// When it claimed each of its places.
        since: BTreeMap<Prefix, Since>,
        /// The places that it has, for its status.
        places: Vec<FormatStatus>,
        /// Which keys and values it asks for.
        identity: Arc<LastSynced>,
        /// The last spec that was carried out as a whole, as its status records it.
        last_synced: Option<Arc<LastSynced>>,
    },
    /// A registration's new spec cannot be carried out: what it had before stays in force.
    Refuse {
        /// The registration.
        registration: RegistrationRef,
        /// `metadata.generation` of the new spec.
        generation: i64,
        /// Why, for scripts.
        reason: Reason,
        /// Why, for people.
        message: String,
    },
    /// The Registry's rules, and what they leave of a registration that was told just before.
    Rule {
        /// The registration.
        registration: RegistrationRef,
        /// What they leave.
        verdict: Verdict,
    },
    /// A registration is gone, and all its keys are to go.
    Remove(RegistrationRef),
    /// This is how a pod stands with a registration.
    Pod {
        /// The registration.
        registration: RegistrationRef,
        /// The pod's name.
        pod: Arc<str>,
        /// How it stands.
        presence: PodState,
        /// How many pods the registration selects by now, ready or not.
        selected: usize,
        /// When Kubernetes told of it.
        heard: Instant,
        /// Makes room for another order once this one has been carried out; none if it needs no room.
        slip: Option<OwnedSemaphorePermit>,
    },
    /// Kubernetes has told everything: what nobody asked for until now is wanted by nobody.
    KubernetesIsComplete,
    /// What is outdated of what is known of Kubernetes, because it has not answered for long; none when nothing is.
    KubernetesIsOutdated(Option<Outdated>),
    /// How far Kubernetes has been heard, as far as it has been told in orders.
    Freshness(Freshness),
    /// Whether there are registrations whose keys are not known because they cannot be read: as long as there are,
    /// a key that nobody is known to want may be theirs.
    SomeAreUnclear(bool),
    /// The Registry's settings changed, as of this version of its spec.
    Settings {
        /// How much may be asked of the etcd.
        limits: Limits,
        /// When removals are held back.
        guard: Guard,
        /// The object, and the version of its spec.
        version: Version,
    },
    /// What the Registry's status says now.
    Status(StatusSeen),
    /// The Registry names other endpoints or other Secrets, or what is in these has changed: this is to be used from now on
    /// if it works, or cannot be used.
    Access(Result<Box<Access>, Trouble>),
    /// The hold of this id, if there is one, was approved of by an admin: what it holds is to go.
    Approve(Option<String>),
    /// Orders that belong together: nothing is decided before all of them have been taken in.
    Together(Vec<Command>),
}

impl Command {
    /// [`Command::Refuse`] for `registration`.
    pub fn refuse(registration: &RegistrationRef, generation: i64, reason: Reason, message: String) -> Self {
        Self::Refuse {
            registration: registration.clone(),
            generation,
            reason,
            message,
        }
    }

    /// This order about a pod; if the one of that name before it was `deleted`, the end of that one first.
    pub fn after_the_last(self, deleted: bool) -> Self {
        match &self {
            Self::Pod {
                registration,
                pod,
                presence,
                selected,
                heard,
                ..
            } if deleted && !matches!(presence, PodState::Gone(_)) => {
                let gone = Self::Pod {
                    registration: registration.clone(),
                    pod: pod.clone(),
                    presence: PodState::Gone(Vec::new()),
                    selected: *selected,
                    heard: *heard,
                    slip: None,
                };
                Self::Together(vec![gone, self])
            }
            _ => self,
        }
    }

    /// The same with what makes room for another one.
    pub fn with(mut self, room: Option<OwnedSemaphorePermit>) -> Self {
        match &mut self {
            Self::Pod { slip, .. } => *slip = room,
            Self::Together(commands) => {
                if let Some(Self::Pod { slip, .. }) = commands.last_mut() {
                    *slip = room;
                }
            }
            _ => {}
        }
        self
    }
}
