//! Which Registries invalid and unreadable registrations affect.

use super::*;

/// The default metaPrefix of a Registry is above this prefix.
const RESERVED: &str = "/leasehold/mine";

impl Rig {
    fn with_two_registries() -> Self {
        let mut rig = Self::new();
        rig.registry();
        let object = json!({
            "apiVersion": "leasehold.dev/v1alpha1", "kind": "Registry",
            "metadata": {"name": "other", "uid": "o", "generation": 1},
            "spec": {"etcd": {"endpoints": ["http://127.0.0.1:1"]}},
        });
        rig.take(WatchEvent::Registry(ObjectEvent::Applied(Box::new(decode(object)))));
        rig
    }

    /// Applies the registration `invalid`, whose format uses a port that it does not list.
    fn invalid(&mut self, registry: &str, generation: i64) {
        let object = json!({
            "apiVersion": "leasehold.dev/v1alpha1", "kind": "ServiceRegistration",
            "metadata": {"name": "invalid", "namespace": "shop", "uid": "i", "generation": generation},
            "spec": {
                "registryRef": {"name": registry},
                "selector": {"matchLabels": {"app": "orders"}},
                "ports": [{"name": "grpc"}],
                "formats": [{"type": "Plain", "ports": ["http"]}],
            },
        });
        self.take(WatchEvent::Registration(
            NamespaceScope::Cluster,
            ObjectEvent::Applied(Box::new(decode(object))),
        ));
    }

    fn deleted(&mut self, name: &str) {
        let (namespace, name) = ("shop".to_owned(), name.to_owned());
        self.take(WatchEvent::Registration(
            NamespaceScope::Cluster,
            ObjectEvent::Deleted { namespace, name },
        ));
    }

    fn unclear(&self) -> Vec<&str> {
        self.controller.unclear.sent()
    }
}

#[tokio::test]
async fn invalid_registration_of_one_registry_holds_nothing_back_in_another() {
    let mut rig = Rig::with_two_registries();
    rig.invalid("other", 1);
    rig.lists_complete();
    assert_eq!(rig.unclear(), ["other"]);
    rig.registration("u1", 1, RESERVED);
    assert_eq!(rig.unclear(), ["default", "other"]);
    rig.registration("u1", 2, "/orders");
    assert_eq!(rig.unclear(), ["other"]);
    rig.deleted("invalid");
    assert_eq!(rig.unclear(), [""; 0]);
}

#[tokio::test]
async fn unreadable_registration_holds_back_every_registry_until_it_is_readable() {
    let mut rig = Rig::with_two_registries();
    rig.invalid("other", 1);
    rig.unreadable(1);
    rig.lists_complete();
    assert_eq!(rig.unclear(), ["default", "other"], "it may be of either");
    rig.registration("u1", 2, RESERVED);
    rig.invalid("other", 2);
    assert_eq!(rig.unclear(), ["default", "other"], "each has one of its own");
    rig.deleted("orders");
    assert_eq!(rig.unclear(), ["other"]);
}

#[tokio::test]
async fn registration_of_a_missing_registry_holds_nothing_back() {
    let mut rig = Rig::with_two_registries();
    rig.lists_complete();
    rig.invalid("missing", 1);
    assert_eq!(rig.unclear(), [""; 0]);
    rig.unreadable(1);
    assert_eq!(rig.unclear(), ["default", "other"]);
    rig.take(WatchEvent::Registry(ObjectEvent::Deleted {
        namespace: String::new(),
        name: "default".to_owned(),
    }));
    rig.registration("u1", 2, "/orders");
    assert_eq!(rig.refusals().last().map(String::as_str), Some("RegistryNotFound"));
    assert_eq!(rig.unclear(), [""; 0]);
}

#[tokio::test]
async fn worker_that_starts_later_learns_that_registrations_are_unclear() {
    let mut rig = Rig::new();
    rig.invalid("default", 1);
    rig.lists_complete();
    assert_eq!(rig.unclear(), [""; 0], "it has no worker");
    rig.registry();
    assert_eq!(rig.unclear(), ["default"]);
}
