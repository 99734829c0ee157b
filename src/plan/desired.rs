//! Computes the desired records of one pod for one registration: applies the formats, the namespace policy and the
//! duplicate key check. Does not know what etcd holds.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use smallvec::SmallVec;

use super::duplicate_keys::{self, Draft};
use super::policy::{Denial, PrefixGrant, Quota};
use super::previous::Previous;
use crate::format::Format;
use crate::index::{MinReady, PodView, PortTarget, ReadyPod, WEIGHT_ANNOTATION, Why};
use crate::model::{Endpoint, Families, Host, Key, Record};

/// The desired records of one pod, by endpoint, and the problems that prevent others. Each registered pod has one for
/// as long as it is registered. Most pods have one port and one record, which need no allocation of their own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DesiredPod {
    /// One entry per port that the pod offers.
    pub by_endpoint: SmallVec<[EndpointRecords; 1]>,
    /// The problems to report to the author of the registration.
    pub problems: Box<[Problem]>,
    /// The records by the previous spec, until the newest spec is known to be carried out.
    pub previous: Option<Box<Previous>>,
    /// The UID of a pod that becomes ready only when its readiness gate opens; none if it does not wait for that.
    pub gated: Option<Arc<str>>,
    /// Since when the pod must have been ready; none if it is to be registered at once.
    pub min_ready: Option<MinReady>,
}

/// The state of a pod with regard to one registration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PodState {
    /// The pod is to be registered with these records, as soon as it has been ready for long enough.
    Ready(DesiredPod),
    /// The pod is not ready. Contains the records that it would have if it were ready.
    Unready(DesiredPod),
    /// A list did not contain the pod, and no other watch event shows that the pod was deleted.
    Missing,
    /// The pod was deleted, is terminal or terminating, or no longer matches the selector. Contains the keys that the
    /// pod would have while it still exists.
    Gone(Vec<Key>),
}

impl PodState {
    /// Returns the state of a pod from the index's `view`. `if_ready` returns the pod as if it were ready, if it exists
    /// but is not to be registered.
    pub fn of(view: PodView, if_ready: impl FnOnce() -> Option<ReadyPod>, bindings: &[FormatBinding]) -> Self {
        let desired = || {
            let desired = if_ready().and_then(|pod| DesiredPod::of(PodView::Ready(pod), bindings));
            desired.unwrap_or_default()
        };
        match view {
            PodView::Unready { why: Why::NotReady } => Self::Unready(desired()),
            PodView::Unready {
                why: Why::Terminal | Why::Terminating,
            } => Self::Gone(desired().keys()),
            PodView::Gone => Self::Gone(Vec::new()),
            view => DesiredPod::of(view, bindings).map_or_else(|| Self::Gone(Vec::new()), Self::Ready),
        }
    }

    /// Adds the records by the previous spec of the registration. `previous` returns what the pod would have by that
    /// spec if it were ready. `suppressed` means that the newest spec has suppressed formats that the previous spec did not
    /// have.
    #[must_use]
    pub fn keeping(mut self, previous: impl FnOnce() -> Option<DesiredPod>, suppressed: bool) -> Self {
        match &mut self {
            Self::Ready(desired) | Self::Unready(desired) => {
                if let Some(previous) = previous() {
                    desired.keep(&previous, suppressed);
                }
            }
            Self::Gone(keys) => keys.extend(previous().iter().flat_map(DesiredPod::keys)),
            Self::Missing => {}
        }
        self
    }
}

/// One format of a registration, with the grant for its keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FormatBinding {
    pub format: Format,
    /// Whether the format carries exactly one port of the registration. Its keys then need not identify the port.
    pub sole_port: bool,
    /// Decides which keys of the format may be written.
    pub pass: PrefixGrant,
}

/// What the status of a registration shows of an endpoint, apart from the name under which the planner knows its pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointAddress {
    pub address: Host,
    pub port: u16,
    pub port_name: Arc<str>,
}

impl From<Endpoint> for EndpointAddress {
    fn from(endpoint: Endpoint) -> Self {
        let Endpoint {
            address,
            port,
            port_name,
            ..
        } = endpoint;
        Self {
            address,
            port,
            port_name,
        }
    }
}

/// One endpoint and its records in all formats.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointRecords {
    /// Only this of the endpoint: whatever else of it matters is in the records.
    pub endpoint: EndpointAddress,
    /// No two records have the same key.
    pub records: SmallVec<[Record; 1]>,
    /// Ranges of `records` that are written and removed together, because they are useless apart. A record outside all
    /// ranges is independent.
    pub units: Box<[Range<usize>]>,
}

impl EndpointRecords {
    /// Returns the records in groups that are written together: a unit, or one independent record.
    pub fn groups(&self) -> impl Iterator<Item = &[Record]> {
        let mut next = 0;
        std::iter::from_fn(move || {
            let unit = self.units.iter().find(|unit| unit.start == next).cloned();
            let group = self.records.get(unit.unwrap_or(next..next + 1))?;
            next += group.len();
            Some(group)
        })
    }
}

/// Why a ready pod is not registered as its registration asks.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Problem {
    /// The pod, or the EndpointSlice of the address, has no such port.
    PortMissing {
        target: PortTarget,
        /// A container port was looked for that has a host port.
        is_host_port: bool,
    },
    /// The pod has no address of the wanted families.
    AddressMissing { families: Families },
    /// The pod's weight annotation is no whole number from 0 to 65535; the registration's weight is used.
    WeightUnreadable,
    /// A format maps two ports to the same key, but with different values.
    SameKey {
        format: Arc<str>,
        /// The names of the two ports.
        ports: [Arc<str>; 2],
        /// The port number that both have in this pod.
        number: u16,
    },
    /// The templates of a format give both families of a pod the same key. Only the preferred one is written.
    SameKeyOfFamilies { format: Arc<str> },
    /// A format cannot express the endpoint.
    Refused { reason: String },
    /// The access rules of the Registry do not allow a key.
    Denied(Denial),
    /// The namespace already has as many keys as the access rules of the Registry allow.
    OverQuota(Quota),
}

impl DesiredPod {
    /// Returns the desired records of a pod in all `bindings`; `None` if the pod is not to be registered.
    pub fn of(view: PodView, bindings: &[FormatBinding]) -> Option<Self> {
        let pod = match view {
            PodView::Ready(pod) => pod,
            // The pod is ready, but has no usable address. It counts as ready, without records.
            PodView::Unready {
                why: Why::NoAddress(families),
            } => {
                return Some(Self {
                    problems: [Problem::AddressMissing { families }].into(),
                    ..Self::default()
                });
            }
            PodView::Unready { .. } | PodView::Gone => return None,
        };
        let missing = pod.missing_ports.into_iter();
        let mut problems: Vec<Problem> = missing
            .map(|port| Problem::PortMissing {
                target: port.target,
                is_host_port: port.is_host_port,
            })
            .collect();
        if pod.weight_unparsable {
            problems.push(Problem::WeightUnreadable);
        }
        let mut drafts = Vec::with_capacity(pod.endpoints.len() * bindings.len());
        for (endpoint, draft) in pod.endpoints.iter().enumerate() {
            let carries = |(_, binding): &(usize, &FormatBinding)| binding.format.carries(&draft.port_name);
            for (place, binding) in bindings.iter().enumerate().filter(carries) {
                match binding.format.record(draft, binding.sole_port) {
                    Ok(records) if admits(&binding.pass, &records, &mut problems) => drafts.push(Draft {
                        endpoint,
                        binding: place,
                        records,
                    }),
                    Ok(_) => {}
                    Err(refusal) => problems.push(Problem::Refused {
                        reason: refusal.to_string(),
                    }),
                }
            }
        }
        if pod.endpoints.len() > 1 {
            problems.extend(duplicate_keys::part(&mut drafts, &pod.endpoints, bindings));
        }
        let mut drafts = drafts.into_iter().peekable();
        let by_endpoint = pod.endpoints.into_iter().enumerate().map(|(place, endpoint)| {
            let (mut records, mut units) = (SmallVec::new(), Vec::new());
            while let Some(draft) = drafts.next_if(|draft| draft.endpoint == place) {
                let first = records.len();
                records.extend(draft.records);
                if records.len() > first + 1 {
                    units.push(first..records.len());
                }
            }
            EndpointRecords {
                endpoint: endpoint.into(),
                records,
                units: units.into(),
            }
        });
        Some(Self {
            by_endpoint: by_endpoint.collect(),
            problems: problems.into(),
            previous: None,
            gated: pod.gated,
            min_ready: pod.min_ready,
        })
    }

    /// Frees the spare capacity of its lists.
    pub(super) fn shrink_to_fit(&mut self) {
        self.by_endpoint.shrink_to_fit();
        for endpoint in &mut self.by_endpoint {
            endpoint.records.shrink_to_fit();
        }
    }

    /// Returns the keys of all records: first the newest spec in the order of endpoints, then the previous spec.
    pub fn keys(&self) -> Vec<Key> {
        self.all_records().map(|record| record.key.clone()).collect()
    }

    /// Whether both have the same endpoints: the same pod has the same addresses and ports.
    pub(super) fn has_endpoints_of(&self, other: &Self) -> bool {
        let mut theirs = other.by_endpoint.iter();
        let is_same = |mine: &EndpointRecords| theirs.next().is_some_and(|other| other.endpoint == mine.endpoint);
        self.by_endpoint.len() == other.by_endpoint.len() && self.by_endpoint.iter().all(is_same)
    }

    /// Returns the records of the newest spec in groups that are written together, in the order of endpoints.
    pub fn groups(&self) -> impl Iterator<Item = &[Record]> {
        self.by_endpoint.iter().flat_map(EndpointRecords::groups)
    }

    /// Returns all records, including those by the previous spec.
    pub fn all_records(&self) -> impl Iterator<Item = &Record> {
        self.records().chain(self.previous.iter().flat_map(|it| it.records()))
    }

    /// Returns the records by the newest spec, in the order of endpoints.
    pub fn records(&self) -> impl Iterator<Item = &Record> {
        self.by_endpoint
            .iter()
            .flat_map(|endpoint_records| &endpoint_records.records)
    }
}

/// Whether all of `records`, which are written together, may be written. Adds the denials to `problems`. The check is on
/// the final keys, after the format has inserted the tenant's values.
fn admits(pass: &PrefixGrant, records: &[Record], problems: &mut Vec<Problem>) -> bool {
    let denials: Vec<Denial> = records
        .iter()
        .filter_map(|record| pass.check(&record.key).err())
        .collect();
    let admitted = denials.is_empty();
    for denial in denials.into_iter().map(Problem::Denied) {
        if !problems.contains(&denial) {
            problems.push(denial);
        }
    }
    admitted
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PortMissing {
                target,
                is_host_port: true,
            } => {
                let port = match target {
                    PortTarget::Number(number) => number.to_string(),
                    PortTarget::Name { name, .. } => format!("\"{name}\""),
                };
                write!(
                    f,
                    "the container port {port} has no hostPort, or is not declared: add hostPort in the pod's template, or use another address.type"
                )
            }
            Self::PortMissing {
                target: PortTarget::Number(number),
                ..
            } => write!(f, "there is no port {number}"),
            Self::PortMissing {
                target: PortTarget::Name { name, protocol: None },
                ..
            } => write!(
                f,
                "no container port is named \"{name}\": name one so in the pod's template, or give spec.ports its number"
            ),
            Self::PortMissing {
                target:
                    PortTarget::Name {
                        name,
                        protocol: Some(protocol),
                    },
                ..
            } => write!(
                f,
                "no {protocol} port is named \"{name}\": name a container port so in the pod's template, or the port of the \
                 EndpointSlice; correct the protocol; or give the port as a number"
            ),
            Self::AddressMissing { families } => write!(
                f,
                "no {families} address: set spec.address.ipFamilies to the family the pods have"
            ),
            Self::WeightUnreadable => write!(
                f,
                "the annotation {WEIGHT_ANNOTATION} is no whole number, so spec.weight is used: write a number from 0 to 65535"
            ),
            Self::SameKey {
                format,
                ports: [one, other],
                number,
            } => write!(
                f,
                "the ports \"{one}\" and \"{other}\" are both {number}, and {format} tells ports by their numbers: leave one out of the format's ports"
            ),
            Self::SameKeyOfFamilies { format } => write!(
                f,
                "the IPv4 and the IPv6 address have the same key in the format {format}, and only the preferred one is written: \
                 put {{{{ id }}}} into the key of its RecordFormat, or set spec.address.ipFamilies to one family"
            ),
            Self::Refused { reason } => f.write_str(reason),
            Self::Denied(denial) => denial.fmt(f),
            Self::OverQuota(Quota { keys, rule }) => write!(
                f,
                "the rule {rule} of the Registry's spec.access lets this namespace have {keys} keys, which others of its pods have: remove what is not needed, or ask an admin of the Registry for more"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::{RecordFormats, Service};
    use crate::model::Family;
    use crate::plan::testing::endpoint;

    fn ready_pod() -> ReadyPod {
        ReadyPod {
            endpoints: vec![endpoint("p", 8080)],
            missing_ports: Vec::new(),
            weight_unparsable: false,
            gated: None,
            min_ready: None,
        }
    }

    fn pod_state(view: PodView) -> PodState {
        let spec = serde_json::json!({"type": "Plain", "plain": {"prefix": "/s"}});
        let spec = serde_json::from_value(spec).expect("decodes");
        let service = Service {
            namespace: "shop",
            name: "orders",
            ports: &[],
            ipv6: false,
            record_formats: &RecordFormats::new(),
        };
        let format = Format::compile(&spec, &service).expect("compiles");
        let binding = FormatBinding {
            format,
            sole_port: true,
            pass: PrefixGrant::Free,
        };
        PodState::of(view, || Some(ready_pod()), &[binding])
    }

    fn unready(why: Why) -> PodView {
        PodView::Unready { why }
    }

    #[test]
    fn lost_readiness_is_unconfirmed_and_pod_termination_is_confirmed() {
        let keys = || vec![Key::from("/s/p")];
        let PodState::Unready(desired) = pod_state(unready(Why::NotReady)) else {
            panic!("it may be ready again");
        };
        assert_eq!(desired.keys(), keys());
        for why in [Why::Terminal, Why::Terminating] {
            assert_eq!(pod_state(unready(why)), PodState::Gone(keys()));
        }
    }

    #[test]
    fn deleted_pod_is_a_confirmed_removal() {
        assert_eq!(pod_state(PodView::Gone), PodState::Gone(Vec::new()));
    }

    #[test]
    fn ready_pod_without_an_address_is_not_unconfirmed() {
        let view = unready(Why::NoAddress(Family::IPv4.into()));
        assert!(matches!(pod_state(view), PodState::Ready(_)));
    }
}
