//! Resolves duplicate keys: two named ports of one pod can have the same number, and some formats identify a port in
//! the key by its number only. The templates of a RecordFormat may not distinguish the two families of a pod.
//!
//! If the records are equal, one copy is kept. If they differ, the preferred family is kept; of two ports neither is,
//! because neither has precedence.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};

use super::desired::{FormatBinding, Problem};
use crate::model::{Endpoint, Key, Record};

/// The records of one endpoint in one format.
pub(super) struct Draft {
    /// The index of the endpoint in the pod's endpoints.
    pub endpoint: usize,
    /// The index of the format in the registration's bindings.
    pub binding: usize,
    pub records: Vec<Record>,
}

/// Clears the drafts that repeat an earlier draft, and all drafts that have a key in common but different records.
/// Returns one problem per conflict.
pub(super) fn part(drafts: &mut [Draft], endpoints: &[Endpoint], bindings: &[FormatBinding]) -> Vec<Problem> {
    let mut first: HashMap<(usize, &Key), usize> = HashMap::new();
    let (mut out, mut problems) = (BTreeSet::new(), Vec::new());
    for (at, draft) in drafts.iter().enumerate() {
        for record in &draft.records {
            let before = match first.entry((draft.binding, &record.key)) {
                Entry::Vacant(free) => {
                    free.insert(at);
                    continue;
                }
                Entry::Occupied(taken) => *taken.get(),
            };
            out.insert(at);
            if before == at || drafts[before].records == draft.records {
                continue;
            }
            let (one, other) = (&endpoints[drafts[before].endpoint], &endpoints[draft.endpoint]);
            let format = bindings[draft.binding].format.reading().dialect.to_string().into();
            let problem = if one.port_name == other.port_name {
                // The preferred family comes first and stays.
                Problem::SameKeyOfFamilies { format }
            } else {
                out.insert(before);
                Problem::SameKey {
                    format,
                    ports: [one.port_name.clone(), other.port_name.clone()],
                    number: other.port,
                }
            };
            if !problems.contains(&problem) {
                problems.push(problem);
            }
        }
    }
    for at in out {
        drafts[at].records.clear();
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::{Format, RecordFormats, Service, Templates};
    use crate::index::{PodView, ReadyPod};
    use crate::model::Family;
    use crate::plan::testing::endpoint;
    use crate::plan::{DesiredPod, PrefixGrant};

    fn binding(kind: &str) -> FormatBinding {
        compiled(&serde_json::json!({"type": kind}), &RecordFormats::new(), false)
    }

    fn compiled(spec: &serde_json::Value, record_formats: &RecordFormats, sole_port: bool) -> FormatBinding {
        let spec = serde_json::from_value(spec.clone()).expect("decodes");
        let service = Service {
            namespace: "shop",
            name: "orders",
            ports: &[],
            ipv6: false,
            record_formats,
        };
        let format = Format::compile(&spec, &service).expect("compiles");
        FormatBinding {
            format,
            sole_port,
            pass: PrefixGrant::Free,
        }
    }

    /// Returns the binding of a RecordFormat with this template of its keys.
    fn templates(key: &str) -> FormatBinding {
        let spec = serde_json::json!({"records": [{"name": "address", "key": key, "value": "{{ hostPort }}"}]});
        let mut record_formats = RecordFormats::new();
        let spec = serde_json::from_value(spec).expect("decodes");
        record_formats.set("mine", Templates::compile("mine", &spec));
        let custom =
            serde_json::json!({"type": "Custom", "custom": {"recordFormatRef": {"name": "mine"}, "prefix": "/s"}});
        compiled(&custom, &record_formats, true)
    }

    /// Returns the desired records of a pod with three ports. Its ports `grpc` and `web` have the same number and the
    /// protocols `schemes`.
    fn desired(kind: &str, schemes: [&str; 2]) -> DesiredPod {
        let port = |name: &str, number, scheme: &str| Endpoint {
            port_name: name.into(),
            scheme: Some(scheme.into()),
            ..endpoint("p", number)
        };
        let [grpc, web] = schemes;
        let pod = ReadyPod {
            endpoints: vec![
                port("grpc", 8080, grpc),
                port("web", 8080, web),
                port("other", 9090, "http"),
            ],
            missing_ports: Vec::new(),
            weight_unparsable: false,
            gated: None,
            min_ready: None,
        };
        DesiredPod::of(PodView::Ready(pod), &[binding(kind), binding("Plain")]).expect("it is ready")
    }

    #[test]
    fn conflicting_ports_of_one_number_are_rejected_in_keys_by_number() {
        let desired = desired("GoFrame", ["grpc", "http"]);
        let reported: Vec<String> = desired.problems.iter().map(ToString::to_string).collect();
        let [reported] = &reported[..] else {
            panic!("{reported:?}");
        };
        for part in ["GoFrame", "\"grpc\"", "\"web\"", "8080"] {
            assert!(reported.contains(part), "{reported}");
        }
        let keys = desired.keys();
        assert_eq!(
            keys.len(),
            4,
            "the third port, and all ports in the other format: {keys:?}"
        );
        assert!(!keys.iter().any(|key| key.ends_with(":8080")), "{keys:?}");
    }

    #[test]
    fn families_that_the_templates_do_not_distinguish_are_refused() {
        let [by_pod, by_id] = ["{{ prefix }}/{{ pod }}", "{{ prefix }}/{{ id }}"].map(|key| {
            let preferred = endpoint("p", 8080);
            let second = Endpoint {
                address: "fd00::7".parse().expect("an address"),
                second_family: Some(Family::IPv6),
                ..preferred.clone()
            };
            let pod = ReadyPod {
                endpoints: vec![preferred, second],
                missing_ports: Vec::new(),
                weight_unparsable: false,
                gated: None,
                min_ready: None,
            };
            DesiredPod::of(PodView::Ready(pod), &[templates(key)]).expect("it is ready")
        });
        let [problem] = &by_pod.problems[..] else {
            panic!("{:?}", by_pod.problems);
        };
        let reported = problem.to_string();
        assert!(
            reported.contains("IPv4 and the IPv6") && reported.contains("{{ id }}"),
            "{reported}"
        );
        assert_eq!(by_pod.keys(), ["/s/p"].map(Key::from), "the preferred family stays");
        assert_eq!(*by_id.problems, []);
        assert_eq!(by_id.keys(), ["/s/p", "/s/p_ipv6"].map(Key::from));
    }

    #[test]
    fn ports_of_one_number_that_say_the_same_are_one_record() {
        for kind in ["Kitex", "Hertz", "GoFrame"] {
            let desired = desired(kind, ["http", "http"]);
            assert_eq!(*desired.problems, [], "{kind}");
            let keys: BTreeSet<Key> = desired.keys().into_iter().collect();
            assert_eq!((keys.len(), desired.keys().len()), (5, 5), "{kind}: {keys:?}");
        }
    }
}
