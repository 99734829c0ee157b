//! Registries of other classes, which other installations serve.

use super::*;

/// A Registry with this class and metaPrefix, which names a Secret.
fn registry(rig: &mut Rig, uid: &str, class: Option<&str>, meta_prefix: &str) {
    let object = json!({
        "apiVersion": "leasehold.dev/v1alpha1", "kind": "Registry",
        "metadata": {"name": "default", "uid": uid, "generation": 1},
        "spec": {
            "class": class,
            "etcd": {
                "endpoints": ["http://127.0.0.1:1"], "metaPrefix": meta_prefix,
                "auth": {"secretRef": {"name": "user"}},
            },
        },
    });
    rig.take(WatchEvent::Registry(ObjectEvent::Applied(Box::new(decode(object)))));
}

/// The registration `refused` in the Registry `default`, with a prefix that is no prefix.
fn refused(rig: &mut Rig) {
    let object = json!({
        "apiVersion": "leasehold.dev/v1alpha1", "kind": "ServiceRegistration",
        "metadata": {"name": "refused", "namespace": "shop", "uid": "u9", "generation": 1},
        "spec": {
            "selector": {"matchLabels": {"app": "orders"}}, "ports": [{"name": "grpc"}],
            "formats": [{"type": "Plain", "plain": {"prefix": "no slash"}}],
        },
    });
    rig.take(WatchEvent::Registration(
        NamespaceScope::Cluster,
        ObjectEvent::Applied(Box::new(decode(object))),
    ));
}

#[tokio::test]
async fn registry_of_other_class_has_no_worker_and_registrations_no_status() {
    for registry_first in [true, false] {
        let mut rig = Rig::new();
        if registry_first {
            registry(&mut rig, "r", Some("edge"), "/leasehold/");
        }
        rig.registration("u1", 1, "/orders");
        refused(&mut rig);
        if !registry_first {
            registry(&mut rig, "r", Some("edge"), "/leasehold/");
        }
        rig.lists_complete();
        assert_eq!(rig.controller.workers.started(), 0);
        assert_eq!(rig.refusals(), [""; 0]);
        assert!(rig.ends.events.try_recv().is_err());
        assert!(rig.ends.sources.borrow().is_empty());
        assert_eq!(rig.stored(), Some((String::from("c1"), vec![])));
        // It selects pods here, too, so that their readiness gates wait for it.
        assert_eq!(rig.in_force().as_deref(), Some("u1"));
    }
}

#[tokio::test]
async fn rejected_registration_is_reported_once_its_registry_class_is_known() {
    let mut rig = Rig::new();
    refused(&mut rig);
    assert_eq!(rig.refusals(), [""; 0], "its Registry may be of another class");
    registry(&mut rig, "r", None, "/leasehold/");
    rig.lists_complete();
    assert_eq!(rig.refusals(), ["InvalidSpec"]);
}

#[tokio::test]
async fn the_meta_prefix_of_a_registry_of_another_class_is_reserved() {
    let mut rig = Rig::new();
    rig.registry();
    let object = json!({
        "apiVersion": "leasehold.dev/v1alpha1", "kind": "Registry",
        "metadata": {"name": "edge", "uid": "e", "generation": 1},
        "spec": {"class": "edge", "etcd": {"endpoints": ["http://127.0.0.1:1"], "metaPrefix": "/edge/"}},
    });
    rig.take(WatchEvent::Registry(ObjectEvent::Applied(Box::new(decode(object)))));
    rig.registration("u1", 1, "/edge/orders");
    rig.lists_complete();
    assert_eq!(rig.refusals(), ["PrefixReserved"]);
}

#[tokio::test]
async fn registry_recreated_with_other_class_is_released_and_taken_back() {
    let mut rig = Rig::new();
    rig.registry();
    rig.registration("u1", 1, "/orders");
    rig.lists_complete();
    let started = rig.controller.workers.started();
    assert_eq!(started, 1);
    registry(&mut rig, "other", Some("edge"), "/leasehold/");
    let ready = rig.controller.workers.context().health.ready();
    assert!(!ready.is_err_and(|why| why.contains("default")));
    assert_eq!(rig.stored().map(|(_, endpoints)| endpoints), Some(vec![]));
    rig.refusals();
    rig.registration("u1", 2, "/other");
    assert_eq!(rig.refusals(), [""; 0]);
    // And back.
    rig.registry();
    assert_eq!(rig.controller.workers.started(), 2);
    assert_eq!(rig.in_force().as_deref(), Some("u1"));
}

#[tokio::test]
async fn stored_registries_of_another_class_are_not_resumed() {
    let mut rig = Rig::new();
    let stored = StoredRegistry {
        access: None,
        uid: String::new(),
        generation: 1,
        spec: decode(json!({"class": "edge", "etcd": {"endpoints": ["http://127.0.0.1:1"]}})),
    };
    rig.controller.resume([("default".to_owned(), stored)]);
    assert_eq!(rig.controller.workers.started(), 0);
}
