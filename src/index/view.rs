//! What a registration says about one pod.

use std::sync::Arc;

use super::pod::Protocol;
use super::registration::{Family, RegistrationRef};
use crate::format::Endpoint;

/// What a registration says about one pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PodView {
    /// There is no such pod, or the registration does not select it, or there is no such registration.
    Gone,
    /// The pod is selected and must not be registered.
    Unready {
        /// Why not.
        why: Why,
    },
    /// The pod is to be registered.
    Ready(ReadyPod),
}

/// Why a selected pod is not registered. Where several hold, the most final one is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Why {
    /// It has run to its end.
    Terminal,
    /// It is being deleted.
    Terminating,
    /// Its condition `Ready` is not `True`.
    NotReady,
    /// It is ready, and has no address of the family that the registration wants.
    NoAddress(Family),
}

/// A pod to be registered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadyPod {
    /// The pod's uid: a pod replaced under its name is another pod.
    pub uid: Arc<str>,
    /// One for each port of the registration that the pod has, in the registration's order.
    pub endpoints: Vec<Endpoint>,
    /// The ports of the registration that the pod has not.
    pub missing_ports: Vec<MissingPort>,
    /// The annotation [`super::WEIGHT_ANNOTATION`] is not a whole number from 0 to 65535; the registration's weight
    /// is used in its place.
    pub weight_unparsable: bool,
}

/// A named port that no container of the pod declares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingPort {
    /// The port's name in the registration.
    pub port_name: Arc<str>,
    /// The name looked for among the pod's container ports.
    pub container_port: Arc<str>,
    /// The protocol looked for; any if none.
    pub protocol: Option<Protocol>,
}

/// One registration's view of one pod may have changed: ask [`Index::view`](super::Index::view) again.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DirtyMark {
    /// The registration.
    pub registration: RegistrationRef,
    /// The pod's name, in the registration's namespace.
    pub pod: Arc<str>,
}
