use serde_json::json;

use super::*;
use crate::index::{Addresses, PodPort};
use crate::model::Protocol;

fn registration(prefix: &str) -> ServiceRegistration {
    serde_json::from_value(json!({
        "apiVersion": "leasehold.dev/v1alpha1", "kind": "ServiceRegistration",
        "metadata": {"name": "orders", "namespace": "shop", "generation": prefix.len()},
        "spec": {
            "selector": {"matchLabels": {"app": "orders"}},
            "ports": [{"name": "grpc"}],
            "formats": [{"type": "Plain", "plain": {"prefix": prefix}}]
        }
    }))
    .expect("decodes")
}

fn pod(name: &str, address: &str, ready: bool) -> Pod {
    Pod {
        namespace: "shop".to_owned(),
        name: name.to_owned(),
        labels: BTreeMap::from([("app".to_owned(), "orders".to_owned())]),
        addresses: Addresses::parse([address]),
        ports: vec![PodPort {
            name: "grpc".to_owned(),
            number: 8080,
            protocol: Protocol::Tcp,
            host_port: None,
        }],
        ready,
        ..Pod::default()
    }
}

fn preview(pods: &[Pod]) -> Preview {
    let spec = serde_json::from_value(json!({"etcd": {"endpoints": ["http://127.0.0.1:2379"]}})).expect("decodes");
    Preview::new("c1", "default", spec, cluster(pods))
}

fn cluster(pods: &[Pod]) -> ClusterState {
    ClusterState {
        pods: pods.to_vec(),
        ..ClusterState::default()
    }
}

/// Passes in what an operator has left in etcd, a lease with its record and the keys `ours` on it, and the `foreign`
/// keys.
fn observe(preview: &mut Preview, ours: &[(&str, &str)], foreign: &[(&str, &str)]) {
    let held = |value: &[u8], lease: i64| KeyValue {
        value: value.into(),
        lease: LeaseId(lease),
        create_revision: 2,
        mod_revision: 2,
    };
    let record = MetaKeys::new("/leasehold/", "c1").record_key(LeaseId(7));
    let mut all: BTreeMap<Key, KeyValue> = BTreeMap::from([(record, held(&MetaKeys::record_value(30), 7))]);
    all.extend(
        ours.iter()
            .map(|(key, value)| (Key::from(*key), held(value.as_bytes(), 7))),
    );
    all.extend(
        foreign
            .iter()
            .map(|(key, value)| (Key::from(*key), held(value.as_bytes(), 0))),
    );
    for scope in preview.scopes() {
        let inside = all.iter().filter(|(key, _)| scope.contains(key));
        let entries = inside.map(|(key, held)| (key.clone(), held.clone())).collect();
        preview.observe(scope, 5, entries);
    }
}

fn outcome(preview: Preview) -> Outcome {
    preview.outcomes(&[RegistrationRef::new("shop", "orders")]).remove(0)
}

fn text(value: &str) -> Value {
    value.as_bytes().into()
}

#[test]
fn preview_reports_the_planned_change_of_each_key() {
    let pods = [
        pod("a", "10.0.0.1", true),
        pod("b", "10.0.0.2", true),
        pod("c", "10.0.0.3", true),
        pod("d", "10.0.0.4", false),
        pod("e", "10.0.0.5", true),
    ];
    let mut preview = preview(&pods);
    preview
        .register(&registration("/s/orders"), &RecordFormats::new())
        .unwrap();
    let ours = [
        ("/s/orders/a", "10.0.0.1:8080"),
        ("/s/orders/b", "10.0.0.9:8080"),
        ("/s/orders/d", "10.0.0.4:8080"),
    ];
    observe(
        &mut preview,
        &ours,
        &[("/s/orders/e", "vm"), ("/s/orders/vm-1", "10.1.0.1:8080")],
    );
    let outcome = outcome(preview);
    let expected = [
        ("/s/orders/a", Change::Keep(text("10.0.0.1:8080"))),
        (
            "/s/orders/b",
            Change::Replace {
                before: text("10.0.0.9:8080"),
                after: text("10.0.0.2:8080"),
            },
        ),
        ("/s/orders/c", Change::Create(text("10.0.0.3:8080"))),
        ("/s/orders/d", Change::Remove(text("10.0.0.4:8080"))),
    ];
    assert_eq!(
        outcome.keys,
        expected.map(|(key, change)| (Key::from(key), change)).into()
    );
    assert_eq!((outcome.selected, outcome.ready), (5, 4));
    let held: Vec<&str> = outcome.conflicts.iter().map(|conflict| &*conflict.key).collect();
    assert_eq!(held, ["/s/orders/e"], "no pod wants the other foreign key");
    assert!(outcome.changes_anything());
}

#[test]
fn what_is_as_it_should_be_is_no_change() {
    let mut preview = preview(&[pod("a", "10.0.0.1", true)]);
    preview
        .register(&registration("/s/orders"), &RecordFormats::new())
        .unwrap();
    observe(&mut preview, &[("/s/orders/a", "10.0.0.1:8080")], &[]);
    let outcome = outcome(preview);
    assert_eq!(outcome.keys.len(), 1);
    assert!(!outcome.changes_anything());
}

#[test]
fn a_changed_prefix_creates_here_and_removes_there() {
    let mut preview = preview(&[pod("a", "10.0.0.1", true)]);
    preview
        .register(&registration("/s/orders"), &RecordFormats::new())
        .unwrap();
    preview
        .register(&registration("/s/elsewhere"), &RecordFormats::new())
        .unwrap();
    observe(&mut preview, &[("/s/orders/a", "10.0.0.1:8080")], &[]);
    let expected = [
        ("/s/elsewhere/a", Change::Create(text("10.0.0.1:8080"))),
        ("/s/orders/a", Change::Remove(text("10.0.0.1:8080"))),
    ];
    assert_eq!(
        outcome(preview).keys,
        expected.map(|(key, change)| (Key::from(key), change)).into()
    );
}

#[test]
fn another_ttl_moves_keys_to_another_lease() {
    let mut preview = preview(&[pod("a", "10.0.0.1", true)]);
    let mut longer = registration("/s/orders");
    longer.spec.lease_ttl_seconds = Some(60);
    preview.register(&longer, &RecordFormats::new()).unwrap();
    observe(&mut preview, &[("/s/orders/a", "10.0.0.1:8080")], &[]);
    let expected = (Key::from("/s/orders/a"), Change::Move(text("10.0.0.1:8080")));
    assert_eq!(outcome(preview).keys, [expected].into());
}

#[test]
fn a_suspended_registration_changes_nothing() {
    let mut preview = preview(&[pod("a", "10.0.0.1", true)]);
    let mut suspended = registration("/s/orders");
    suspended.spec.update_policy = crate::api::UpdatePolicy::Frozen;
    preview.register(&suspended, &RecordFormats::new()).unwrap();
    observe(&mut preview, &[("/s/orders/b", "10.0.0.2:8080")], &[]);
    let outcome = outcome(preview);
    assert!(outcome.suspended && !outcome.changes_anything(), "{outcome:?}");
}

#[test]
fn what_the_operator_would_refuse_is_refused() {
    let mut preview = preview(&[]);
    let error = preview
        .register(&registration("/leasehold/x"), &RecordFormats::new())
        .unwrap_err();
    assert!(error.to_string().contains("metaPrefix /leasehold/ overlap"), "{error}");
    let mut everyone = registration("/s/orders");
    everyone.spec.selector = serde_json::from_value(json!({})).expect("decodes");
    assert_eq!(
        preview.register(&everyone, &RecordFormats::new()),
        Err(Refusal::Invalid(Invalid::EmptySelector))
    );
}

#[test]
fn the_last_endpoint_is_kept_where_the_registration_asks_for_it() {
    for (keep, removed) in [(true, 0), (false, 1)] {
        let mut preview = preview(&[pod("p", "10.0.0.1", false)]);
        let mut registration = registration("/a");
        if keep {
            registration.spec.last_endpoint = crate::api::LastEndpoint::Keep;
        }
        let reference = preview
            .register(&registration, &RecordFormats::new())
            .expect("a valid registration");
        observe(&mut preview, &[("/a/p", "10.0.0.1:8080")], &[]);
        let outcome = preview.outcomes(&[reference]).remove(0);
        let removals = outcome
            .keys
            .values()
            .filter(|change| matches!(change, Change::Remove(_)));
        assert_eq!(removals.count(), removed);
        assert_eq!(outcome.kept.as_deref(), keep.then_some("p"));
    }
}

#[test]
fn preview_reports_held_removals_and_counts_them_as_changes() {
    let names: Vec<String> = (0..10).map(|i| format!("p{i}")).collect();
    let keys: Vec<String> = names.iter().map(|name| format!("/a/{name}")).collect();
    let ours: Vec<(&str, &str)> = keys.iter().map(|key| (&**key, "10.0.0.1:8080")).collect();
    let outcome = |mode: &str, others: usize| {
        let pods: Vec<Pod> = names.iter().map(|name| pod(name, "10.0.0.1", false)).collect();
        let spec = json!({"etcd": {"endpoints": ["http://127.0.0.1:2379"]}, "guard": {"mode": mode}});
        let spec = serde_json::from_value(spec).expect("decodes");
        let mut preview = Preview::new("c1", "default", spec, cluster(&pods));
        preview.add_endpoints(others);
        let reference = preview
            .register(&registration("/a"), &RecordFormats::new())
            .expect("a valid registration");
        observe(&mut preview, &ours, &[]);
        preview.outcomes(&[reference]).remove(0)
    };
    for (mode, others, held) in [("Hold", 0, 10), ("Hold", 1000, 0), ("Warn", 0, 0), ("Off", 0, 0)] {
        let outcome = outcome(mode, others);
        assert_eq!(outcome.held.len(), held, "{mode} {others}");
        assert_eq!(outcome.keys.len(), 10, "{mode}: all keys are removed");
        assert!(outcome.changes_anything());
    }
}

#[test]
fn preview_reports_old_keys_held_by_the_guard_after_a_move() {
    let names: Vec<String> = (0..10).map(|i| format!("p{i}")).collect();
    let pods: Vec<Pod> = names.iter().map(|name| pod(name, "10.0.0.1", true)).collect();
    let keys: Vec<String> = names.iter().map(|name| format!("/a/{name}")).collect();
    let ours: Vec<(&str, &str)> = keys.iter().map(|key| (&**key, "10.0.0.1:8080")).collect();
    for (others, held) in [(0, 10), (1000, 0)] {
        let spec = json!({"etcd": {"endpoints": ["http://127.0.0.1:2379"]}});
        let spec = serde_json::from_value(spec).expect("decodes");
        let mut preview = Preview::new("c1", "default", spec, cluster(&pods));
        preview.add_endpoints(others);
        preview
            .register(&registration("/a"), &RecordFormats::new())
            .expect("valid");
        let reference = preview
            .register(&registration("/b"), &RecordFormats::new())
            .expect("valid");
        observe(&mut preview, &ours, &[]);
        let outcome = preview.outcomes(&[reference]).remove(0);
        assert_eq!(outcome.held.len(), held, "beside {others}");
        let removed = |change: &&Change| matches!(change, Change::Remove(_));
        assert_eq!(outcome.keys.values().filter(removed).count(), 10);
        assert_eq!(outcome.keys.len(), 20);
    }
}

#[test]
fn preview_names_pod_waiting_for_min_ready_and_keeps_registered_one() {
    let spec = serde_json::from_value(json!({"etcd": {"endpoints": ["http://127.0.0.1:2379"]}})).expect("decodes");
    let ready_since = |name, seconds| Pod {
        ready_since: std::num::NonZeroU32::new(seconds),
        ..pod(name, "10.0.0.7", true)
    };
    let cluster = ClusterState {
        at: Duration::from_secs(1000),
        ..cluster(&[ready_since("a", 900), ready_since("b", 990), ready_since("c", 990)])
    };
    let mut preview = Preview::new("c1", "default", spec, cluster);
    let mut patient = registration("/s/orders");
    patient.spec.min_ready_seconds = 60;
    preview.register(&patient, &RecordFormats::new()).unwrap();
    observe(&mut preview, &[("/s/orders/c", "10.0.0.7:8080")], &[]);
    let outcome = preview.outcomes(&[compile::reference(&patient)]).remove(0);
    assert_eq!((outcome.ready, outcome.waiting), (3, vec!["b".into()]));
    let value: Value = b"10.0.0.7:8080".as_slice().into();
    let keys = BTreeMap::from([
        ("/s/orders/a".into(), Change::Create(value.clone())),
        ("/s/orders/c".into(), Change::Keep(value)),
    ]);
    assert_eq!(outcome.keys, keys);
}

#[test]
fn labels_of_nodes_are_shown_if_the_registry_allows_them() {
    let values = |allowed: &[&str]| {
        let spec = json!({"etcd": {"endpoints": ["http://127.0.0.1:2379"]}, "nodeLabels": allowed});
        let pod = Pod {
            node: Some("n1".to_owned()),
            ..pod("a", "10.0.0.1", true)
        };
        let mut cluster = cluster(&[pod]);
        cluster.nodes.push(Node {
            name: "n1".to_owned(),
            labels: BTreeMap::from([("rack".to_owned(), "r1".to_owned())]),
            ..Node::default()
        });
        let spec = serde_json::from_value(spec).expect("decodes");
        let mut preview = Preview::new("c1", "default", spec, cluster);
        let mut registration = registration("/s/orders");
        registration.spec.attributes =
            serde_json::from_value(json!([{"name": "cell", "fromNodeLabel": "rack"}])).expect("decodes");
        registration.spec.formats =
            serde_json::from_value(json!([{"type": "Plain", "plain": {"prefix": "/s/orders", "value": "JSON"}}]))
                .expect("decodes");
        preview.register(&registration, &RecordFormats::new()).expect("valid");
        observe(&mut preview, &[], &[]);
        let outcome = outcome(preview);
        let Some(Change::Create(value)) = outcome.keys.values().next().cloned() else {
            panic!("{outcome:?}");
        };
        let value: serde_json::Value = serde_json::from_slice(&value).expect("JSON");
        (value["metadata"]["cell"].clone(), outcome.problems)
    };
    assert_eq!(values(&["rack"]), (json!("r1"), BTreeMap::new()));
    let (value, problems) = values(&[]);
    assert_eq!(value, json!(null));
    assert!(
        problems.keys().any(|problem| problem.contains("labels rack of nodes")),
        "{problems:?}"
    );
}
