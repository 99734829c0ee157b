//! What one pod is to have in etcd on behalf of one registration: the place where a pod becomes keys.

use std::fmt;
use std::sync::Arc;

use super::policy::{Denial, Pass, Quota};
use super::transaction::Key;
use crate::format::{Endpoint, Format, Record};
use crate::index::{Family, PodView, ReadyPod, WEIGHT_ANNOTATION, Why};

/// The endpoints of one ready pod with the keys each should have, and what of it could not be had.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tenancy {
    /// One per port that the pod offers.
    pub lodgings: Vec<Lodging>,
    /// What the registration's author should know about this pod.
    pub problems: Vec<Problem>,
}

/// How a pod stands with a registration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Presence {
    /// It is to be registered, and to have this.
    Ready(Tenancy),
    /// It is not ready, and would have this if it were.
    Unready(Tenancy),
    /// It was missing from a list, and nothing else is known of its end.
    Missing,
    /// It was deleted, is about to go, or has left the selector. While it is still there: the keys it would have.
    Gone(Vec<Key>),
}

impl Presence {
    /// How a pod stands of which the index says `view`, and `if_ready` if it is there but not to be registered.
    /// `missing` when a list did not name it, and nothing else is known of its end.
    pub fn of(view: PodView, if_ready: impl FnOnce() -> Option<ReadyPod>, missing: bool, outlets: &[Outlet]) -> Self {
        let tenancy = || {
            let tenancy = if_ready().and_then(|pod| Tenancy::of(PodView::Ready(pod), outlets));
            tenancy.unwrap_or_default()
        };
        match view {
            PodView::Unready { why: Why::NotReady } => Self::Unready(tenancy()),
            PodView::Unready {
                why: Why::Terminal | Why::Terminating,
            } => Self::Gone(tenancy().keys()),
            PodView::Gone if missing => Self::Missing,
            PodView::Gone => Self::Gone(Vec::new()),
            view => Tenancy::of(view, outlets).map_or_else(|| Self::Gone(Vec::new()), Self::Ready),
        }
    }
}

/// One of a registration's formats.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outlet {
    /// The format.
    pub format: Format,
    /// Whether it carries exactly one of the registration's ports, so that a key need not tell which.
    pub sole_port: bool,
    /// Which of its keys may be written.
    pub pass: Pass,
}

/// One endpoint and its records over all formats.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lodging {
    /// The endpoint.
    pub endpoint: Endpoint,
    /// Its records, each under a key of its own.
    pub records: Vec<Record>,
}

/// Why a ready pod is not, or not wholly, registered.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Problem {
    /// No container port of the pod has that name.
    PortMissing {
        /// The container port's name.
        port: Arc<str>,
    },
    /// The pod has no address of the wanted family.
    AddressMissing {
        /// That family.
        family: Family,
    },
    /// The pod's weight annotation is no whole number from 0 to 65535; the registration's weight is used.
    WeightUnreadable,
    /// A format cannot express the endpoint.
    Refused {
        /// What the format says about it.
        reason: String,
    },
    /// The Registry's rules do not allow a key.
    Denied(Denial),
    /// The namespace has as many keys as the Registry's rules allow.
    OverQuota(Quota),
}

impl Tenancy {
    /// What `view` of a pod is to have in etcd through each of `outlets`; none when the pod is not to be registered.
    pub fn of(view: PodView, outlets: &[Outlet]) -> Option<Self> {
        let pod = match view {
            PodView::Ready(pod) => pod,
            // Its readiness is not in doubt, so it counts as ready; it just cannot be dialled.
            PodView::Unready {
                why: Why::NoAddress(family),
            } => {
                let problems = vec![Problem::AddressMissing { family }];
                return Some(Self {
                    lodgings: Vec::new(),
                    problems,
                });
            }
            PodView::Unready { .. } | PodView::Gone => return None,
        };
        let missing = pod.missing_ports.into_iter();
        let mut tenancy = Self {
            lodgings: Vec::with_capacity(pod.endpoints.len()),
            problems: missing
                .map(|port| Problem::PortMissing {
                    port: port.container_port,
                })
                .collect(),
        };
        if pod.weight_unparsable {
            tenancy.problems.push(Problem::WeightUnreadable);
        }
        for endpoint in pod.endpoints {
            let mut records = Vec::with_capacity(outlets.len());
            for outlet in outlets
                .iter()
                .filter(|outlet| outlet.format.carries(&endpoint.port_name))
            {
                match outlet.format.record(&endpoint, outlet.sole_port) {
                    Ok(written) => tenancy.admit(&outlet.pass, written, &mut records),
                    Err(refusal) => tenancy.problems.push(Problem::Refused {
                        reason: refusal.to_string(),
                    }),
                }
            }
            tenancy.lodgings.push(Lodging { endpoint, records });
        }
        Some(tenancy)
    }

    /// Takes those of the `written` records into `records` that may be written. What a format makes of a tenant's
    /// words is looked at here, as the text that etcd would get.
    fn admit(&mut self, pass: &Pass, written: Vec<Record>, records: &mut Vec<Record>) {
        for record in written {
            match pass.check(&record.key) {
                Ok(()) => records.push(record),
                Err(denial) => {
                    let problem = Problem::Denied(denial);
                    if !self.problems.contains(&problem) {
                        self.problems.push(problem);
                    }
                }
            }
        }
    }

    /// The keys of all records, in the order of endpoints.
    pub fn keys(&self) -> Vec<Key> {
        self.records().map(|record| record.key.clone()).collect()
    }

    /// All records, in the order of endpoints.
    pub fn records(&self) -> impl Iterator<Item = &Record> {
        self.lodgings.iter().flat_map(|lodging| &lodging.records)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PortMissing { port } => write!(
                f,
                "no container port is named \"{port}\": name one so in the pod's template, or give spec.ports its number"
            ),
            Self::AddressMissing { family } => write!(
                f,
                "no {family} address: set spec.address.family to the family the pods have"
            ),
            Self::WeightUnreadable => write!(
                f,
                "the annotation {WEIGHT_ANNOTATION} is no whole number, so spec.weight is used: write a number from 0 to 65535"
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
    use crate::format::Service;
    use crate::plan::testing::endpoint;

    fn ready_pod() -> ReadyPod {
        ReadyPod {
            uid: "u".into(),
            endpoints: vec![endpoint("p", 8080)],
            missing_ports: Vec::new(),
            weight_unparsable: false,
        }
    }

    fn presence(view: PodView, missing: bool) -> Presence {
        let spec = serde_json::json!({"type": "Plain", "prefix": "/s"});
        let spec = serde_json::from_value(spec).expect("decodes");
        let service = Service {
            namespace: "shop",
            name: "orders",
            ports: &[],
            ipv6: false,
        };
        let format = Format::compile(&spec, &service).expect("compiles");
        let outlet = Outlet {
            format,
            sole_port: true,
            pass: Pass::Free,
        };
        Presence::of(view, || Some(ready_pod()), missing, &[outlet])
    }

    fn unready(why: Why) -> PodView {
        PodView::Unready { why }
    }

    #[test]
    fn lost_readiness_is_in_doubt_and_what_ends_a_pod_is_not() {
        let keys = || vec![Key::from("/s/p")];
        let Presence::Unready(tenancy) = presence(unready(Why::NotReady), false) else {
            panic!("it may be ready again");
        };
        assert_eq!(tenancy.keys(), keys());
        for why in [Why::Terminal, Why::Terminating] {
            assert_eq!(presence(unready(why), false), Presence::Gone(keys()));
        }
    }

    #[test]
    fn a_pod_that_a_list_did_not_name_is_in_doubt_and_a_deleted_one_is_not() {
        assert_eq!(presence(PodView::Gone, true), Presence::Missing);
        assert_eq!(presence(PodView::Gone, false), Presence::Gone(Vec::new()));
    }

    #[test]
    fn a_ready_pod_without_an_address_is_not_in_doubt() {
        let view = unready(Why::NoAddress(Family::V4));
        assert!(matches!(presence(view, false), Presence::Ready(_)));
    }
}
