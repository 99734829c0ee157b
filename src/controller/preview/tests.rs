use serde_json::json;

use super::*;
use crate::index::{Addresses, PodPort};
use crate::model::{LeaseId, Protocol};
use crate::plan::MetaKeys;

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
    for prefix in preview.prefixes() {
        let inside = all.iter().filter(|(key, _)| prefix.contains(key));
        let entries = inside.map(|(key, held)| (key.clone(), held.clone())).collect();
        preview.observe(prefix, 5, entries);
    }
}

async fn outcome(mut preview: Preview) -> Outcome {
    preview
        .outcomes(&[RegistrationRef::new("shop", "orders")])
        .await
        .remove(0)
}

fn text(value: &str) -> Value {
    value.as_bytes().into()
}

#[tokio::test]
async fn preview_reports_the_planned_change_of_each_key() {
    let pods = [
        pod("a", "10.0.0.1", true),
        pod("b", "10.0.0.2", true),
        pod("c", "10.0.0.3", true),
        pod("d", "10.0.0.4", false),
        pod("e", "10.0.0.5", true),
    ];
    let mut preview = preview(&pods);
    preview.register(&registration("/s/orders")).unwrap();
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
    let outcome = outcome(preview).await;
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

#[tokio::test]
async fn what_is_as_it_should_be_is_no_change() {
    let mut preview = preview(&[pod("a", "10.0.0.1", true)]);
    preview.register(&registration("/s/orders")).unwrap();
    observe(&mut preview, &[("/s/orders/a", "10.0.0.1:8080")], &[]);
    let outcome = outcome(preview).await;
    assert_eq!(outcome.keys.len(), 1);
    assert!(!outcome.changes_anything());
}

#[tokio::test]
async fn a_changed_prefix_creates_here_and_removes_there() {
    let mut preview = preview(&[pod("a", "10.0.0.1", true)]);
    preview.register(&registration("/s/orders")).unwrap();
    preview.register(&registration("/s/elsewhere")).unwrap();
    observe(&mut preview, &[("/s/orders/a", "10.0.0.1:8080")], &[]);
    let expected = [
        ("/s/elsewhere/a", Change::Create(text("10.0.0.1:8080"))),
        ("/s/orders/a", Change::Remove(text("10.0.0.1:8080"))),
    ];
    assert_eq!(
        outcome(preview).await.keys,
        expected.map(|(key, change)| (Key::from(key), change)).into()
    );
}

#[tokio::test]
async fn another_ttl_moves_keys_to_another_lease() {
    let mut preview = preview(&[pod("a", "10.0.0.1", true)]);
    let mut longer = registration("/s/orders");
    longer.spec.lease_ttl_seconds = Some(60);
    preview.register(&longer).unwrap();
    observe(&mut preview, &[("/s/orders/a", "10.0.0.1:8080")], &[]);
    let expected = (Key::from("/s/orders/a"), Change::Move(text("10.0.0.1:8080")));
    assert_eq!(outcome(preview).await.keys, [expected].into());
}

#[tokio::test]
async fn a_suspended_registration_changes_nothing() {
    let mut preview = preview(&[pod("a", "10.0.0.1", true)]);
    let mut suspended = registration("/s/orders");
    suspended.spec.update_policy = crate::api::UpdatePolicy::Frozen;
    preview.register(&suspended).unwrap();
    observe(&mut preview, &[("/s/orders/b", "10.0.0.2:8080")], &[]);
    let outcome = outcome(preview).await;
    assert!(outcome.suspended && !outcome.changes_anything(), "{outcome:?}");
}

#[tokio::test]
async fn what_the_operator_would_refuse_is_refused() {
    let mut preview = preview(&[]);
    let error = preview.register(&registration("/leasehold/x")).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("the metaPrefix /leasehold/ of the Registry \"default\" overlap"),
        "{error}"
    );
    let mut everyone = registration("/s/orders");
    everyone.spec.selector = serde_json::from_value(json!({})).expect("decodes");
    let error = preview.register(&everyone).unwrap_err();
    assert!(error.to_string().starts_with("spec.selector is empty"), "{error}");
}

#[tokio::test]
async fn the_last_endpoint_is_kept_where_the_registration_asks_for_it() {
    for (keep, removed) in [(true, 0), (false, 1)] {
        let mut preview = preview(&[pod("p", "10.0.0.1", false)]);
        let mut registration = registration("/a");
        if keep {
            registration.spec.last_endpoint = crate::api::LastEndpoint::Keep;
        }
        let reference = preview.register(&registration).expect("a valid registration");
        observe(&mut preview, &[("/a/p", "10.0.0.1:8080")], &[]);
        let outcome = preview.outcomes(&[reference]).await.remove(0);
        let removals = outcome
            .keys
            .values()
            .filter(|change| matches!(change, Change::Remove(_)));
        assert_eq!(removals.count(), removed);
        assert_eq!(outcome.kept.as_deref(), keep.then_some("p"));
    }
}

#[tokio::test]
async fn preview_reports_held_removals_and_counts_them_as_changes() {
    let names: Vec<String> = (0..10).map(|i| format!("p{i}")).collect();
    let keys: Vec<String> = names.iter().map(|name| format!("/a/{name}")).collect();
    let ours: Vec<(&str, &str)> = keys.iter().map(|key| (&**key, "10.0.0.1:8080")).collect();
    let outcome = async |mode: &str, others: usize| {
        let pods: Vec<Pod> = names.iter().map(|name| pod(name, "10.0.0.1", false)).collect();
        let spec = json!({"etcd": {"endpoints": ["http://127.0.0.1:2379"]}, "guard": {"mode": mode}});
        let spec = serde_json::from_value(spec).expect("decodes");
        let mut preview = Preview::new("c1", "default", spec, cluster(&pods));
        preview.add_endpoints(others);
        let reference = preview.register(&registration("/a")).expect("a valid registration");
        observe(&mut preview, &ours, &[]);
        preview.outcomes(&[reference]).await.remove(0)
    };
    for (mode, others, held) in [("Hold", 0, 10), ("Hold", 1000, 0), ("Warn", 0, 0), ("Off", 0, 0)] {
        let outcome = outcome(mode, others).await;
        assert_eq!(outcome.held.len(), held, "{mode} {others}");
        assert_eq!(outcome.keys.len(), 10, "{mode}: all keys are removed");
        assert!(outcome.changes_anything());
    }
}

#[tokio::test]
async fn preview_reports_old_keys_held_by_the_guard_after_a_move() {
    let names: Vec<String> = (0..10).map(|i| format!("p{i}")).collect();
    let pods: Vec<Pod> = names.iter().map(|name| pod(name, "10.0.0.1", true)).collect();
    let keys: Vec<String> = names.iter().map(|name| format!("/a/{name}")).collect();
    let ours: Vec<(&str, &str)> = keys.iter().map(|key| (&**key, "10.0.0.1:8080")).collect();
    for (others, held) in [(0, 10), (1000, 0)] {
        let spec = json!({"etcd": {"endpoints": ["http://127.0.0.1:2379"]}});
        let spec = serde_json::from_value(spec).expect("decodes");
        let mut preview = Preview::new("c1", "default", spec, cluster(&pods));
        preview.add_endpoints(others);
        preview.register(&registration("/a")).expect("valid");
        let reference = preview.register(&registration("/b")).expect("valid");
        observe(&mut preview, &ours, &[]);
        let outcome = preview.outcomes(&[reference]).await.remove(0);
        assert_eq!(outcome.held.len(), held, "beside {others}");
        let removed = |change: &&Change| matches!(change, Change::Remove(_));
        assert_eq!(outcome.keys.values().filter(removed).count(), 10);
        assert_eq!(outcome.keys.len(), 20);
    }
}

#[tokio::test]
async fn preview_names_pod_waiting_for_min_ready_and_keeps_registered_one() {
    let spec = serde_json::from_value(json!({"etcd": {"endpoints": ["http://127.0.0.1:2379"]}})).expect("decodes");
    let now = u32::try_from(jiff::Timestamp::now().as_second()).expect("before 2106");
    let ready_for = |name, seconds| Pod {
        ready_since: std::num::NonZeroU32::new(now - seconds),
        ..pod(name, "10.0.0.7", true)
    };
    let cluster = cluster(&[ready_for("a", 100), ready_for("b", 10), ready_for("c", 10)]);
    let mut preview = Preview::new("c1", "default", spec, cluster);
    let mut patient = registration("/s/orders");
    patient.spec.min_ready_seconds = 60;
    preview.register(&patient).unwrap();
    observe(&mut preview, &[("/s/orders/c", "10.0.0.7:8080")], &[]);
    let outcome = preview.outcomes(&[compile::reference(&patient)]).await.remove(0);
    assert_eq!((outcome.ready, outcome.waiting), (3, vec!["b".into()]));
    let value: Value = b"10.0.0.7:8080".as_slice().into();
    let keys = BTreeMap::from([
        ("/s/orders/a".into(), Change::Create(value.clone())),
        ("/s/orders/c".into(), Change::Keep(value)),
    ]);
    assert_eq!(outcome.keys, keys);
}

#[tokio::test]
async fn labels_of_nodes_are_shown_if_the_registry_allows_them() {
    let values = async |allowed: &[&str]| {
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
        preview.register(&registration).expect("valid");
        observe(&mut preview, &[], &[]);
        let outcome = outcome(preview).await;
        let Some(Change::Create(value)) = outcome.keys.values().next().cloned() else {
            panic!("{outcome:?}");
        };
        let value: serde_json::Value = serde_json::from_slice(&value).expect("JSON");
        (value["metadata"]["cell"].clone(), outcome.problems)
    };
    assert_eq!(values(&["rack"]).await, (json!("r1"), BTreeMap::new()));
    let (value, problems) = values(&[]).await;
    assert_eq!(value, json!(null));
    assert!(
        problems.keys().any(|problem| problem.contains("labels rack of nodes")),
        "{problems:?}"
    );
}

/// The registration `name` in this namespace.
fn named(namespace: &str, name: &str, prefix: &str) -> ServiceRegistration {
    let mut named = registration(prefix);
    (named.metadata.namespace, named.metadata.name) = (Some(namespace.to_owned()), Some(name.to_owned()));
    named
}

#[tokio::test]
async fn format_that_overlaps_an_earlier_one_of_another_namespace_is_suppressed() {
    for (prefix, is_suppressed) in [("/s/orders/eu", true), ("/s/orders-eu", false)] {
        let mut preview = preview(&[pod("a", "10.0.0.1", true)]);
        let earlier = preview.register(&named("bank", "ledger", "/s/orders")).expect("valid");
        let reference = preview.register(&registration(prefix)).expect("valid");
        observe(&mut preview, &[], &[]);
        let wanted = HashSet::from([reference.clone()]);
        let concerned = preview.concerned(&wanted);
        assert_eq!(concerned.contains(&earlier), is_suppressed, "{concerned:?}");
        let outcome = preview.outcomes(&[reference]).await.remove(0);
        assert_eq!(outcome.keys.is_empty(), is_suppressed, "{outcome:?}");
        let names_it = |problem: &String| problem.contains("bank/ledger");
        assert_eq!(outcome.problems.keys().any(names_it), is_suppressed, "{outcome:?}");
    }
}

#[tokio::test]
async fn quota_that_a_registration_of_the_same_namespace_uses_is_counted() {
    for (quota, created) in [(1, 0), (2, 1)] {
        let spec = json!({
            "etcd": {"endpoints": ["http://127.0.0.1:2379"]},
            "access": {"rules": [{"name": "all", "namespaceSelector": {}, "keysPerNamespace": quota}]}
        });
        let spec = serde_json::from_value(spec).expect("decodes");
        let mut preview = Preview::new("c1", "default", spec, cluster(&[pod("a", "10.0.0.1", true)]));
        preview.settle(NamespaceLabels {
            name: "shop".to_owned(),
            labels: BTreeMap::new(),
        });
        let neighbor = preview
            .register(&named("shop", "billing", "/s/billing"))
            .expect("valid");
        let reference = preview.register(&registration("/s/orders")).expect("valid");
        let concerned = preview.concerned(&HashSet::from([reference.clone()]));
        assert_eq!(concerned, HashSet::from([neighbor, reference.clone()]));
        observe(&mut preview, &[("/s/billing/a", "10.0.0.1:8080")], &[]);
        let outcome = preview.outcomes(&[reference]).await.remove(0);
        assert_eq!(outcome.keys.len(), created, "{outcome:?}");
        assert_eq!(outcome.problems.is_empty(), created == 1, "{outcome:?}");
    }
}

#[tokio::test]
async fn registry_that_no_longer_allows_a_prefix_removes_its_keys() {
    let spec = |access| {
        let spec = json!({"etcd": {"endpoints": ["http://127.0.0.1:2379"]}, "access": access});
        serde_json::from_value(spec).expect("decodes")
    };
    let pods = cluster(&[pod("a", "10.0.0.1", true)]);
    let mut preview = Preview::new("c1", "default", spec(json!(null)), pods);
    preview.settle(NamespaceLabels {
        name: "shop".to_owned(),
        labels: BTreeMap::new(),
    });
    preview.register(&registration("/s/orders")).expect("valid");
    preview.reconfigure(spec(
        json!({"rules": [{"name": "all", "namespaceSelector": {}, "prefixes": ["/elsewhere"]}]}),
    ));
    let reference = preview.register(&registration("/s/orders")).expect("valid");
    observe(&mut preview, &[("/s/orders/a", "10.0.0.1:8080")], &[]);
    let outcome = preview.outcomes(&[reference]).await.remove(0);
    let removed = (Key::from("/s/orders/a"), Change::Remove(text("10.0.0.1:8080")));
    assert_eq!(outcome.keys, [removed].into());
    assert!(
        outcome.problems.keys().any(|problem| problem.contains("/elsewhere")),
        "{outcome:?}"
    );
}

#[tokio::test]
async fn registry_with_another_etcd_is_compared_with_the_keys_that_were_read() {
    let mut preview = preview(&[pod("a", "10.0.0.1", true)]);
    preview.register(&registration("/s/orders")).expect("valid");
    let spec = json!({"etcd": {
        "endpoints": ["https://10.1.0.1:2379"], "auth": {"secretRef": {"name": "user"}},
        "tls": {"caRef": {"name": "ca"}}, "metaPrefix": "/other/",
    }});
    preview.reconfigure(serde_json::from_value(spec).expect("decodes"));
    let reference = preview.register(&registration("/s/orders")).expect("valid");
    observe(&mut preview, &[], &[("/s/orders/a", "10.0.0.1:8080")]);
    let outcome = preview.outcomes(&[reference]).await.remove(0);
    assert_eq!((outcome.keys.len(), outcome.conflicts.len()), (0, 1), "{outcome:?}");
}
