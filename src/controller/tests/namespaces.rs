//! Watches that are restricted to some namespaces.

use super::*;
use crate::kube::{SharedCheckpoint, WatchScope};

/// Returns a rig that watches these namespaces.
fn rig_in(namespaces: &[&str]) -> Rig {
    let names: Vec<String> = namespaces.iter().map(|name| (*name).to_owned()).collect();
    let (mut context, ends) = Context::for_test();
    context.checkpoint = SharedCheckpoint::new(WatchScope::of(&names));
    let (states, state) = watch::channel(None);
    Rig {
        controller: Controller::new(Workers::of_etcd(context, CancellationToken::new()), states),
        state,
        ends,
    }
}

fn registration_in(namespace: &str) -> WatchEvent {
    let object = json!({
        "apiVersion": "leasehold.dev/v1alpha1", "kind": "ServiceRegistration",
        "metadata": {"name": "orders", "namespace": namespace, "uid": namespace, "generation": 1},
        "spec": {
            "selector": {"matchLabels": {"app": "orders"}}, "ports": [{"name": "grpc"}], "formats": [{"type": "Plain"}],
        },
    });
    WatchEvent::Registration(
        NamespaceScope::namespace(namespace),
        ObjectEvent::Applied(Box::new(decode(object))),
    )
}

#[tokio::test]
async fn controller_is_complete_after_every_namespace_is_listed() {
    let mut rig = rig_in(&["shop", "bank"]);
    rig.take(WatchEvent::Registry(ObjectEvent::ListComplete));
    rig.take(WatchEvent::RecordFormat(ObjectEvent::ListComplete));
    rig.take(WatchEvent::Node(ObjectEvent::ListComplete));
    for name in ["shop", "bank"] {
        assert!(!rig.controller.complete, "{name} is not listed");
        let namespaces = NamespaceScope::namespace(name);
        rig.take(WatchEvent::Namespace(namespaces.clone(), ObjectEvent::ListComplete));
        rig.take(WatchEvent::Registration(namespaces.clone(), ObjectEvent::ListComplete));
        rig.services_complete(&namespaces);
        rig.take(WatchEvent::Pod(namespaces, ObjectEvent::ListComplete));
    }
    assert!(rig.controller.complete);
}

#[tokio::test]
async fn a_list_of_one_namespace_says_nothing_of_the_registrations_of_another() {
    let mut rig = rig_in(&["shop", "bank"]);
    let [shop, bank] = [NamespaceScope::namespace("shop"), NamespaceScope::namespace("bank")];
    rig.take(registration_in("shop"));
    rig.take(registration_in("bank"));
    rig.take(WatchEvent::Registration(shop.clone(), ObjectEvent::ListBegins));
    rig.take(WatchEvent::Registration(bank.clone(), ObjectEvent::ListBegins));
    rig.take(WatchEvent::Registration(shop, ObjectEvent::ListComplete));
    let known: Vec<RegistrationRef> = rig.cache().entries.keys().cloned().collect();
    assert_eq!(known, [RegistrationRef::new("bank", "orders")]);
    rig.take(registration_in("bank"));
    rig.take(WatchEvent::Registration(bank, ObjectEvent::ListComplete));
    assert_eq!(rig.cache().entries.len(), 1);
}

#[tokio::test]
async fn deleted_namespace_without_access_has_no_pods_and_is_not_awaited() {
    let mut rig = rig_in(&["shop"]);
    let shop = NamespaceScope::namespace("shop");
    let named = |labels: Value| crate::kube::namespace(json!({"metadata": {"name": "shop", "labels": labels}}));
    let pod = json!({"metadata": {"name": "a", "namespace": "shop"}, "spec": {}, "status": {}});
    rig.take(WatchEvent::Namespace(
        shop.clone(),
        ObjectEvent::Applied(named(json!({})).expect("decodes")),
    ));
    rig.take(WatchEvent::Namespace(shop.clone(), ObjectEvent::ListComplete));
    rig.take(WatchEvent::Registration(shop.clone(), ObjectEvent::ListComplete));
    rig.take(WatchEvent::Pod(
        shop.clone(),
        ObjectEvent::Applied(crate::kube::pod(pod).expect("decodes")),
    ));
    rig.take(WatchEvent::Pod(shop.clone(), ObjectEvent::ListComplete));
    let lost = Timestamp::from_second(7).expect("a time");
    rig.take(WatchEvent::Pod(shop.clone(), ObjectEvent::Lost(lost)));
    assert_eq!((rig.outdated(), rig.cache().index.pod_count()), (Some(lost), 1));
    let (namespace, name) = (String::new(), "shop".to_owned());
    rig.take(WatchEvent::Namespace(shop, ObjectEvent::Deleted { namespace, name }));
    assert_eq!((rig.outdated(), rig.cache().index.pod_count()), (None, 0));
}
