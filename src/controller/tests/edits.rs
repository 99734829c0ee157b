//! How an edited registration affects older ones, and how a new leader evaluates it.

use super::*;
use crate::api::{FormatStatus, LastSynced};

/// A registration as the apiserver reports it.
struct Object {
    name: &'static str,
    created: &'static str,
    generation: i64,
    formats: Value,
    status: Option<Value>,
}

impl Object {
    fn new(name: &'static str, created: &'static str, formats: Value) -> Self {
        Self {
            name,
            created,
            generation: 1,
            formats,
            status: None,
        }
    }

    fn edited(self, formats: Value) -> Self {
        let generation = self.generation + 1;
        Self {
            generation,
            formats,
            ..self
        }
    }

    fn event(&self) -> WatchEvent {
        let mut object = json!({
            "apiVersion": "leasehold.dev/v1alpha1", "kind": "ServiceRegistration",
            "metadata": {
                "name": self.name, "namespace": "shop", "uid": self.name, "generation": self.generation,
                "creationTimestamp": self.created,
            },
            "spec": {
                "selector": {"matchLabels": {"app": "orders"}},
                "ports": [{"name": "grpc", "appProtocol": "http"}],
                "formats": self.formats,
            },
        });
        if let Some(status) = &self.status {
            object["status"] = status.clone();
        }
        WatchEvent::Registration(NamespaceScope::Cluster, ObjectEvent::Applied(Box::new(decode(object))))
    }
}

fn old() -> Object {
    Object::new("old", "2026-01-01T00:00:00Z", json!([{"type": "Plain"}]))
}

fn web() -> Object {
    let formats = json!([{"type": "Traefik"}, {"type": "CoreDNS", "coreDNS": {"domain": "web.team-b.example.org"}}]);
    Object::new("web", "2026-01-02T00:00:00Z", formats)
}

/// Formats with prefixes that overlap those of `web`.
fn onto_web() -> Value {
    json!([
        {"type": "Plain", "plain": {"prefix": "traefik/http/services/team-a-web"}},
        {"type": "Plain", "plain": {"prefix": "/skydns/org/example/team-a"}},
    ])
}

impl Rig {
    fn spec(&self, name: &str) -> Compiled {
        self.compiled(&RegistrationRef::new("shop", name))
            .expect("a spec in force")
    }

    fn suppressed(&self, name: &str) -> usize {
        self.spec(name).suppression_reasons().len()
    }

    fn places(&self, name: &str) -> Vec<FormatStatus> {
        let reference = RegistrationRef::new("shop", name);
        self.controller.places(&reference, &self.spec(name))
    }

    fn last_synced(&self, name: &str) -> LastSynced {
        (*self.spec(name).identity).clone()
    }

    /// Returns the status that the leader writes for a registration in force.
    fn status(&self, name: &str) -> Value {
        json!({"formats": self.places(name), "lastSynced": self.last_synced(name)})
    }

    /// Returns the prefixes where pods would keep their records of the previous spec.
    fn kept(&self, name: &str) -> Vec<String> {
        let spec = self.spec(name);
        let previous = spec.previous.iter().flat_map(|previous| &previous.bindings);
        previous
            .map(|binding| binding.format.prefix().as_str().to_owned())
            .collect()
    }
}

#[tokio::test]
async fn registration_edited_onto_claimed_prefixes_is_suppressed() {
    let mut rig = Rig::new();
    rig.registry();
    rig.take(old().event());
    rig.take(web().event());
    rig.lists_complete();
    let statuses = (Some(rig.status("old")), Some(rig.status("web")));
    rig.take(old().edited(onto_web()).event());
    assert_eq!((rig.suppressed("web"), rig.suppressed("old")), (0, 2));
    assert_eq!(
        rig.kept("old"),
        ["/services/shop/old/"],
        "the old records stay while the new prefix is taken"
    );

    // The status of `old` records its original prefix. With or without a record in the status of `web`, a new leader
    // decides alike.
    for of_web in [statuses.1, None] {
        let mut next = Rig::new();
        next.registry();
        next.take(
            Object {
                status: statuses.0.clone(),
                ..old().edited(onto_web())
            }
            .event(),
        );
        next.take(
            Object {
                status: of_web,
                ..web()
            }
            .event(),
        );
        next.lists_complete();
        assert_eq!((next.suppressed("web"), next.suppressed("old")), (0, 2));
        assert_eq!(next.kept("old"), ["/services/shop/old/"]);
    }
}

#[tokio::test]
async fn registration_returning_to_a_left_prefix_has_a_new_claim() {
    let mut rig = Rig::new();
    rig.registry();
    let traefik = || json!([{"type": "Traefik"}]);
    rig.take(
        Object {
            formats: traefik(),
            ..old()
        }
        .event(),
    );
    rig.lists_complete();
    let left = Object { generation: 2, ..old() };
    rig.take(left.event());
    let moved = Some(rig.status("old"));
    rig.take(
        Object {
            status: moved.clone(),
            ..left
        }
        .event(),
    );
    assert_eq!(rig.kept("old"), [""; 0]);
    let notes = json!([{"type": "Plain", "plain": {"prefix": "traefik/notes"}}]);
    rig.take(
        Object {
            formats: notes,
            ..web()
        }
        .event(),
    );
    assert_eq!(rig.suppressed("web"), 0);
    rig.take(
        Object {
            generation: 3,
            formats: traefik(),
            status: moved,
            ..old()
        }
        .event(),
    );
    assert_eq!((rig.suppressed("web"), rig.suppressed("old")), (0, 1));
}

#[tokio::test]
async fn previous_spec_is_kept_until_status_confirms_the_newest() {
    let mut rig = Rig::new();
    rig.registry();
    rig.take(old().event());
    rig.lists_complete();
    assert_eq!(rig.kept("old"), [""; 0], "there is no previous spec");
    let status = Some(rig.status("old"));
    let elsewhere = json!([{"type": "Plain", "plain": {"prefix": "/elsewhere"}}]);
    let edited = Object {
        status,
        ..old().edited(elsewhere)
    };
    rig.take(edited.event());
    assert_eq!(rig.kept("old"), ["/services/shop/old/"]);
    // The first edit was never applied. A second edit must not make it the previous spec.
    let again = edited.edited(json!([{"type": "Plain", "plain": {"prefix": "/third"}}]));
    rig.take(again.event());
    assert_eq!(rig.kept("old"), ["/services/shop/old/"]);
    let done = Object {
        status: Some(rig.status("old")),
        ..again
    };
    rig.take(done.event());
    assert_eq!(rig.kept("old"), [""; 0]);
}

#[tokio::test]
async fn new_leader_applies_last_valid_spec_when_newest_is_invalid() {
    let mut rig = Rig::new();
    rig.registry();
    rig.take(old().event());
    let status = Some(rig.status("old"));
    let mut next = Rig::new();
    next.registry();
    let broken = json!([{"type": "Plain", "ports": ["nope"]}]);
    next.take(
        Object {
            status,
            ..old().edited(broken)
        }
        .event(),
    );
    next.lists_complete();
    let spec = next.spec("old");
    let prefixes: Vec<&str> = spec
        .bindings
        .iter()
        .map(|binding| binding.format.prefix().as_str())
        .collect();
    assert_eq!(prefixes, ["/services/shop/old/"]);
    let cache = next.cache();
    let entry = &cache.entries[&RegistrationRef::new("shop", "old")];
    assert_eq!(entry.refusal(), Some("InvalidSpec"));
}

#[tokio::test]
async fn a_place_taken_back_by_the_rules_is_not_kept() {
    let mut rig = Rig::new();
    let rules = |generation: i64, prefixes: &[&str]| {
        let rule = json!({"name": "r", "namespaceSelector": {}, "prefixes": prefixes});
        let object = json!({
            "apiVersion": "leasehold.dev/v1alpha1", "kind": "Registry",
            "metadata": {"name": "default", "uid": "r", "generation": generation},
            "spec": {"etcd": {"endpoints": ["http://127.0.0.1:1"]}, "access": {"rules": [rule]}},
        });
        WatchEvent::Registry(ObjectEvent::Applied(Box::new(decode(object))))
    };
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}});
    let namespace = crate::kube::namespace(namespace).expect("decodes");
    rig.take(WatchEvent::Namespace(
        NamespaceScope::Cluster,
        ObjectEvent::Applied(namespace),
    ));
    rig.take(rules(1, &["/services/shop"]));
    rig.take(old().event());
    rig.lists_complete();
    let status = Some(rig.status("old"));
    let denied = json!([{"type": "Plain", "plain": {"prefix": "/denied"}}]);
    rig.take(
        Object {
            status,
            ..old().edited(denied)
        }
        .event(),
    );
    let prefixes = |rig: &Rig| {
        let spec = decode(json!({"etcd": {"endpoints": ["http://127.0.0.1:1"]}}));
        let settings = rig.spec("old").settings(&spec);
        settings
            .prefixes
            .iter()
            .map(|prefix| prefix.as_str().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        prefixes(&rig),
        ["/services/shop/old/"],
        "access rules deny the new prefix"
    );
    rig.take(rules(2, &["/other"]));
    assert_eq!(prefixes(&rig), [""; 0], "access rules deny the old prefix, too");
}

#[tokio::test]
async fn edit_reverted_before_any_status_update_keeps_no_previous_spec() {
    let mut rig = Rig::new();
    rig.registry();
    rig.take(old().event());
    rig.lists_complete();
    let moved = |prefix: &str| json!([{"type": "Plain", "plain": {"prefix": prefix}}]);
    let edited = old().edited(moved("/elsewhere"));
    rig.take(edited.event());
    assert_eq!(rig.kept("old"), ["/services/shop/old/"]);
    let again = edited.edited(moved("/third"));
    rig.take(again.event());
    assert_eq!(
        rig.kept("old"),
        ["/services/shop/old/"],
        "the spec before was never applied completely"
    );
    rig.take(again.edited(json!([{"type": "Plain"}])).event());
    assert_eq!(rig.kept("old"), [""; 0]);
}
