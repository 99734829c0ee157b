//! The view of a registration on one pod.

use std::num::{NonZeroU16, NonZeroU32};
use std::sync::Arc;
use std::time::Duration;

use super::registration::PortTarget;
use crate::model::{Endpoint, Families, RegistrationRef};

/// The view of a registration on one pod, or on one node or address that it registers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PodView {
    /// The pod or the registration does not exist, or the registration does not select the pod. For a node or an address:
    /// there is no pod behind it, either.
    Gone,
    /// The pod is selected and must not be registered.
    Unready {
        /// The most final reason, if several apply.
        why: Why,
    },
    /// The pod must be registered.
    Ready(ReadyPod),
}

/// The reason why a selected pod is not registered. If several apply, the most final one is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Why {
    /// The pod has run to completion.
    Terminal,
    /// The pod is being deleted.
    Terminating,
    /// The condition `Ready` is not `True`.
    NotReady,
    /// The pod is ready, and has no address of the families that the registration wants.
    NoAddress(Families),
}

/// A pod to register.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadyPod {
    /// One endpoint for each port of the registration that the pod has, in the registration's order.
    pub endpoints: Vec<Endpoint>,
    /// The ports of the registration that the pod does not have.
    pub missing_ports: Vec<MissingPort>,
    /// The annotation [`super::WEIGHT_ANNOTATION`] is not a whole number from 0 to 65535. The registration's weight is
    /// used instead.
    pub weight_unparsable: bool,
    /// The UID of a pod that becomes ready only when its readiness gate opens; none if it does not wait for that.
    pub gated: Option<Arc<str>>,
    /// Since when it must have been ready; none if it is to be registered at once.
    pub min_ready: Option<MinReady>,
}

/// How long a pod must have been ready before it is registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MinReady {
    /// Since when the pod has been ready without interruption, in seconds since 1970; none if Kubernetes does not say it.
    pub since: Option<NonZeroU32>,
    /// `minReadySeconds` of the registration.
    pub seconds: NonZeroU16,
}

impl MinReady {
    /// Returns how long the pod still has to be ready, given the time since 1970. At most the whole of `seconds`: if
    /// Kubernetes names no time, or one in the future because clocks differ, the pod counts as ready since now.
    pub fn remaining(self, unix: Duration) -> Duration {
        let since = self.since.map(|since| Duration::from_secs(since.get().into()));
        let ready = since.map(|since| unix.saturating_sub(since)).unwrap_or_default();
        Duration::from_secs(self.seconds.get().into()).saturating_sub(ready)
    }
}

/// A port that the pod, node or address does not have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingPort {
    /// The port's name in the registration.
    pub port_name: Arc<str>,
    /// What was looked for among the pod's container ports.
    pub target: PortTarget,
    /// The container port has no host port, or there is no such container port.
    pub is_host_port: bool,
}

/// What a pod event changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PodChange {
    /// Nothing that any registration sees.
    None,
    /// Facts of a pod that at least one registration registers. The same registrations as before do.
    Facts,
    /// The pod has begun to terminate, or has ended, whether or not a registration registers it.
    Ending,
    /// The pod is new or has other labels. A mark for each registration that registers or registered it.
    Selection(Vec<DirtyMark>),
}

/// The view of one registration on one pod may have changed: the caller reads [`Index::view`](super::Index::view)
/// again.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DirtyMark {
    pub registration: RegistrationRef,
    /// The name of the pod in the registration's namespace, of the node or of the address.
    pub pod: Arc<str>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_remains_is_at_most_the_whole_time() {
        let remaining = |since, now| {
            let min_ready = MinReady {
                since: NonZeroU32::new(since),
                seconds: NonZeroU16::MIN.saturating_add(29),
            };
            min_ready.remaining(Duration::from_millis(now)).as_millis()
        };
        assert_eq!(remaining(100, 100_000), 30_000);
        assert_eq!(remaining(100, 129_999), 1);
        assert_eq!(remaining(100, 130_000), 0);
        assert_eq!(remaining(100, 500_000), 0);
        assert_eq!(remaining(200, 130_000), 30_000, "in the future");
        assert_eq!(remaining(0, 130_000), 30_000, "not known");
    }
}
