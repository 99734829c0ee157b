//! News of some namespaces only, each in streams of its own.

use super::*;
use crate::cluster::{Hearing, Territory};

/// A rig that watches these namespaces.
fn rig_in(namespaces: &[&str]) -> Rig {
    let names: Vec<String> = namespaces.iter().map(|name| (*name).to_owned()).collect();
    let (mut context, ends) = Context::for_test();
    context.hearing = Hearing::new(Territory::of(&names));
    let (states, state) = watch::channel(None);
    Rig {
        intake: Intake::new(context, states, CancellationToken::new()),
        state,
        ends,
    }
}

fn registration_in(namespace: &str) -> News {
    let object = json!({
        "apiVersion": "leasehold.dev/v1alpha1", "kind": "ServiceRegistration",
        "metadata": {"name": "orders", "namespace": namespace, "uid": namespace, "generation": 1},
        "spec": {
            "selector": {"matchLabels": {"app": "orders"}}, "ports": [{"port": "grpc"}], "formats": [{"type": "Plain"}],
        },
    });
    News::Registration(Area::namespace(namespace), Seen::Applied(Box::new(decode(object))))
}

#[tokio::test]
async fn everything_has_been_told_when_each_namespace_has_told_everything() {
    let mut rig = rig_in(&["shop", "bank"]);
    rig.take(News::Registry(Seen::ListComplete));
    rig.take(News::RecordFormat(Seen::ListComplete));
    for name in ["shop", "bank"] {
        assert!(!rig.intake.complete, "{name} has told nothing");
        let area = Area::namespace(name);
        rig.take(News::Namespace(area.clone(), Seen::ListComplete));
        rig.take(News::Registration(area.clone(), Seen::ListComplete));
        rig.take(News::Pod(area, Seen::ListComplete));
    }
    assert!(rig.intake.complete);
}

#[tokio::test]
async fn a_list_of_one_namespace_says_nothing_of_the_registrations_of_another() {
    let mut rig = rig_in(&["shop", "bank"]);
    let [shop, bank] = [Area::namespace("shop"), Area::namespace("bank")];
    rig.take(registration_in("shop"));
    rig.take(registration_in("bank"));
    rig.take(News::Registration(shop.clone(), Seen::ListBegins));
    rig.take(News::Registration(bank.clone(), Seen::ListBegins));
    rig.take(News::Registration(shop, Seen::ListComplete));
    let known: Vec<&RegistrationRef> = rig.intake.entries.keys().collect();
    assert_eq!(known, [&RegistrationRef::new("bank", "orders")]);
    rig.take(registration_in("bank"));
    rig.take(News::Registration(bank, Seen::ListComplete));
    assert_eq!(rig.intake.entries.len(), 1);
}

#[tokio::test]
async fn a_namespace_that_is_gone_and_may_not_be_watched_any_more_has_no_pods_and_holds_up_nobody() {
    let mut rig = rig_in(&["shop"]);
    let shop = Area::namespace("shop");
    let named = |labels: Value| crate::cluster::namespace(json!({"metadata": {"name": "shop", "labels": labels}}));
    let pod = json!({"metadata": {"name": "a", "namespace": "shop"}, "spec": {}, "status": {}});
    rig.take(News::Namespace(
        shop.clone(),
        Seen::Applied(named(json!({})).expect("decodes")),
    ));
    rig.take(News::Namespace(shop.clone(), Seen::ListComplete));
    rig.take(News::Registration(shop.clone(), Seen::ListComplete));
    rig.take(News::Pod(
        shop.clone(),
        Seen::Applied(crate::cluster::pod(pod).expect("decodes")),
    ));
    rig.take(News::Pod(shop.clone(), Seen::ListComplete));
    let lost = Timestamp::from_second(7).expect("a time");
    rig.take(News::Pod(shop.clone(), Seen::Lost(lost)));
    assert_eq!((rig.outdated(), rig.intake.index.pod_count()), (Some(lost), 1));
    let (namespace, name) = (String::new(), "shop".to_owned());
    rig.take(News::Namespace(shop, Seen::Deleted { namespace, name }));
    assert_eq!((rig.outdated(), rig.intake.index.pod_count()), (None, 0));
}
