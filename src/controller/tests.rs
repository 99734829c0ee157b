//! How the controller handles watch events in an unlucky order, and invalid objects.

mod annotations;
mod classes;
mod default_formats;
mod edits;
mod namespaces;
mod record_formats;
mod services;
mod unclear;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::RwLockReadGuard;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::*;
use crate::api::ServiceRegistrationStatus;
use crate::controller::compile::Compiled;
use crate::controller::state::StoredRegistry;
use crate::controller::testing::Ends;
use crate::controller::worker::Context;
use crate::kube::{SourceKind, StatusUpdate};
use crate::secret::SecretString;

struct Rig {
    controller: Controller,
    state: watch::Receiver<Option<State>>,
    ends: Ends,
}

fn orders() -> RegistrationRef {
    RegistrationRef::new("shop", "orders")
}

impl Rig {
    fn new() -> Self {
        let (context, ends) = Context::for_test();
        let (states, state) = watch::channel(None);
        Self {
            controller: Controller::new(Workers::of_etcd(context, CancellationToken::new()), states),
            state,
            ends,
        }
    }

    fn take(&mut self, event: WatchEvent) {
        self.controller.take_all(std::iter::once(event));
    }

    fn cache(&self) -> RwLockReadGuard<'_, Cache> {
        self.controller.cache.read()
    }

    /// Returns the spec in force of a registration.
    fn compiled(&self, registration: &RegistrationRef) -> Option<Compiled> {
        self.cache().entries.get(registration)?.in_force().cloned()
    }

    fn registration(&mut self, uid: &str, generation: i64, prefix: &str) {
        let object = json!({
            "apiVersion": "leasehold.dev/v1alpha1", "kind": "ServiceRegistration",
            "metadata": {"name": "orders", "namespace": "shop", "uid": uid, "generation": generation},
            "spec": {
                "selector": {"matchLabels": {"app": "orders"}},
                "ports": [{"name": "grpc"}],
                "formats": [{"type": "Plain", "plain": {"prefix": prefix}}],
            },
        });
        self.take(WatchEvent::Registration(
            NamespaceScope::Cluster,
            ObjectEvent::Applied(Box::new(decode(object))),
        ));
    }

    fn unreadable(&mut self, generation: i64) {
        self.take(WatchEvent::Registration(
            NamespaceScope::Cluster,
            ObjectEvent::Unreadable {
                namespace: "shop".to_owned(),
                name: "orders".to_owned(),
                generation,
                cause: "spec: not a map".to_owned(),
            },
        ));
    }

    /// Applies the Registry `default`. No etcd listens at its endpoint.
    fn registry(&mut self) {
        self.registry_at(1, "http://127.0.0.1:1");
    }

    fn registry_at(&mut self, generation: i64, endpoint: &str) {
        let object = json!({
            "apiVersion": "leasehold.dev/v1alpha1", "kind": "Registry",
            "metadata": {"name": "default", "uid": "r", "generation": generation},
            "spec": {"etcd": {"endpoints": [endpoint]}},
        });
        self.take(WatchEvent::Registry(ObjectEvent::Applied(Box::new(decode(object)))));
    }

    /// Resumes from the state that [`Rig::registry`] would have stored.
    fn resume(&mut self) {
        let stored = StoredRegistry {
            access: None,
            uid: String::new(),
            generation: 1,
            spec: decode(json!({"etcd": {"endpoints": ["http://127.0.0.1:1"]}})),
        };
        self.controller.resume([("default".to_owned(), stored)]);
    }

    fn cluster(&mut self, id: &str) {
        self.take(WatchEvent::Cluster(id.into()));
    }

    fn may_stand_for_election(&self) -> bool {
        self.controller.workers.context().cluster_confirmed.is_cancelled()
    }

    /// The cluster and the endpoints of the Registries that would be served after a restart.
    fn stored(&self) -> Option<(String, Vec<String>)> {
        let state = self.state.borrow().clone()?;
        let specs = state.registries.into_values().map(|stored| stored.spec);
        Some((state.cluster_id, specs.flat_map(|spec| spec.etcd.endpoints).collect()))
    }

    fn lists_complete(&mut self) {
        self.lists_complete_without_nodes();
        self.take(WatchEvent::Node(ObjectEvent::ListComplete));
    }

    fn lists_complete_without_nodes(&mut self) {
        self.take(WatchEvent::Registration(
            NamespaceScope::Cluster,
            ObjectEvent::ListComplete,
        ));
        self.take(WatchEvent::Registry(ObjectEvent::ListComplete));
        self.take(WatchEvent::RecordFormat(ObjectEvent::ListComplete));
        self.take(WatchEvent::Namespace(
            NamespaceScope::Cluster,
            ObjectEvent::ListComplete,
        ));
        self.take(WatchEvent::Pod(NamespaceScope::Cluster, ObjectEvent::ListComplete));
        self.services_complete(&NamespaceScope::Cluster);
    }

    fn services_complete(&mut self, namespaces: &NamespaceScope) {
        self.take(WatchEvent::Service(namespaces.clone(), ObjectEvent::ListComplete));
        self.take(WatchEvent::EndpointSlice(namespaces.clone(), ObjectEvent::ListComplete));
    }

    /// Since when a cache is stale.
    fn outdated(&self) -> Option<Timestamp> {
        self.controller.outdated.as_ref().map(|outdated| outdated.since)
    }

    /// The reasons of the `Accepted` conditions written since the last call.
    fn refusals(&mut self) -> Vec<String> {
        let mut reported = Vec::new();
        while let Ok(note) = self.ends.registrations.try_recv() {
            if let StatusUpdate::Wanted(_, status, _) = note {
                reported.push(reasons(&status)["Accepted"].clone());
            }
        }
        reported
    }

    fn in_force(&self) -> Option<String> {
        Some(self.compiled(&orders())?.registration.uid.to_string())
    }
}

fn decode<T: serde::de::DeserializeOwned>(object: Value) -> T {
    serde_json::from_value(object).expect("decodes")
}

fn reasons(status: &ServiceRegistrationStatus) -> BTreeMap<String, String> {
    let reported = status.conditions.iter();
    reported
        .map(|reported| (reported.type_.clone(), reported.reason.clone()))
        .collect()
}

#[tokio::test]
async fn unreadable_object_is_rejected_once_per_generation() {
    let mut rig = Rig::new();
    rig.unreadable(1);
    assert_eq!(rig.refusals(), ["InvalidSpec"]);
    // The watch reports the operator's own status update.
    rig.unreadable(1);
    assert_eq!(rig.refusals(), [""; 0]);
    rig.unreadable(2);
    assert_eq!(rig.refusals(), ["InvalidSpec"]);
}

#[tokio::test]
async fn registration_before_its_registry_is_not_rejected_until_lists_complete() {
    let mut rig = Rig::new();
    rig.registration("u1", 1, "/orders");
    rig.take(WatchEvent::Registration(
        NamespaceScope::Cluster,
        ObjectEvent::ListComplete,
    ));
    assert_eq!(rig.refusals(), [""; 0]);
    rig.registry();
    assert_eq!(rig.in_force().as_deref(), Some("u1"));
    rig.lists_complete();
    assert_eq!(rig.refusals(), [""; 0]);
}

#[tokio::test]
async fn recreated_and_rejected_registration_drops_the_previous_spec() {
    let mut rig = Rig::new();
    rig.registry();
    rig.registration("u1", 1, "/orders");
    rig.lists_complete();
    rig.registration("u1", 2, "/leasehold/mine");
    assert_eq!(rig.in_force().as_deref(), Some("u1"), "the spec in force stays");
    rig.take(WatchEvent::Registration(
        NamespaceScope::Cluster,
        ObjectEvent::ListBegins,
    ));
    rig.registration("u2", 1, "/leasehold/mine");
    rig.take(WatchEvent::Registration(
        NamespaceScope::Cluster,
        ObjectEvent::ListComplete,
    ));
    assert_eq!(rig.in_force(), None);
    assert_eq!(rig.refusals(), ["PrefixReserved"]);
}

#[tokio::test]
async fn interrupted_and_restarted_list_removes_nothing() {
    let mut rig = Rig::new();
    rig.registry();
    rig.registration("u1", 1, "/orders");
    rig.lists_complete();
    rig.take(WatchEvent::Registration(
        NamespaceScope::Cluster,
        ObjectEvent::ListBegins,
    ));
    rig.take(WatchEvent::Registration(
        NamespaceScope::Cluster,
        ObjectEvent::ListBegins,
    ));
    assert_eq!(rig.in_force().as_deref(), Some("u1"));
    rig.registration("u1", 1, "/orders");
    rig.take(WatchEvent::Registration(
        NamespaceScope::Cluster,
        ObjectEvent::ListComplete,
    ));
    assert_eq!(rig.in_force().as_deref(), Some("u1"));
    rig.take(WatchEvent::Registration(
        NamespaceScope::Cluster,
        ObjectEvent::ListBegins,
    ));
    rig.take(WatchEvent::Registration(
        NamespaceScope::Cluster,
        ObjectEvent::ListComplete,
    ));
    assert_eq!(rig.in_force(), None);
}

#[tokio::test]
async fn cache_is_outdated_from_a_lost_watch_to_its_next_complete_list() {
    let mut rig = Rig::new();
    rig.lists_complete();
    let at = |second| Timestamp::from_second(second).expect("a time");
    rig.take(WatchEvent::Pod(NamespaceScope::Cluster, ObjectEvent::Lost(at(7))));
    rig.take(WatchEvent::Registration(
        NamespaceScope::Cluster,
        ObjectEvent::Lost(at(8)),
    ));
    assert_eq!(rig.outdated(), Some(at(7)), "the first lost watch determines the time");
    rig.take(WatchEvent::Pod(NamespaceScope::Cluster, ObjectEvent::ListBegins));
    rig.take(WatchEvent::Pod(NamespaceScope::Cluster, ObjectEvent::ListComplete));
    assert_eq!(rig.outdated(), Some(at(8)), "one watch is still lost");
    rig.take(WatchEvent::Registration(
        NamespaceScope::Cluster,
        ObjectEvent::ListComplete,
    ));
    assert_eq!(rig.outdated(), None);
}

#[tokio::test]
async fn stored_registry_keeps_its_worker_when_unchanged() {
    let mut rig = Rig::new();
    rig.resume();
    assert_eq!(rig.controller.workers.started(), 1);
    assert!(!rig.may_stand_for_election(), "a replica without caches must not lead");
    rig.cluster("c1");
    assert!(rig.may_stand_for_election());
    rig.registration("u1", 1, "/orders");
    rig.registry();
    rig.lists_complete();
    assert_eq!(rig.controller.workers.started(), 1);
    assert_eq!(rig.in_force().as_deref(), Some("u1"));
    assert_eq!(rig.refusals(), [""; 0]);
}

#[tokio::test]
async fn registry_edited_while_stopped_is_tried_by_the_same_worker() {
    let mut rig = Rig::new();
    rig.resume();
    rig.cluster("c1");
    rig.registration("u1", 1, "/orders");
    rig.registry_at(2, "http://127.0.0.1:2");
    rig.lists_complete();
    assert_eq!(
        rig.controller.workers.started(),
        1,
        "the worker keeps the access that worked"
    );
    let known = &rig.controller.registries["default"];
    let offered = known.offered.as_ref().map(|offered| offered.endpoints.clone());
    assert_eq!(offered, Some(vec!["http://127.0.0.1:2".to_owned()]));
    assert_eq!(rig.in_force().as_deref(), Some("u1"));
}

#[tokio::test]
async fn registry_never_connected_gets_a_new_worker_after_an_edit() {
    let mut rig = Rig::new();
    rig.registry();
    rig.registry_at(2, "http://127.0.0.1:2");
    assert_eq!(rig.controller.workers.started(), 2);
}

#[tokio::test]
async fn registry_that_was_deleted_and_created_again_elsewhere_is_another_one() {
    let mut rig = Rig::new();
    rig.registry();
    let good = Access::open(vec!["http://127.0.0.1:1".to_owned()]);
    rig.controller.is_good("default", good);
    rig.registry_at(2, "http://127.0.0.1:2");
    assert_eq!(rig.controller.workers.started(), 1, "the worker tries the edit");
    let object = json!({
        "apiVersion": "leasehold.dev/v1alpha1", "kind": "Registry",
        "metadata": {"name": "default", "uid": "another", "generation": 1},
        "spec": {"etcd": {"endpoints": ["http://127.0.0.1:3"]}},
    });
    rig.take(WatchEvent::Registry(ObjectEvent::Applied(Box::new(decode(object)))));
    assert_eq!(rig.controller.workers.started(), 2);
}

#[tokio::test]
async fn replica_without_state_folder_starts_with_endpoints_from_status() {
    let mut rig = Rig::new();
    let object = json!({
        "apiVersion": "leasehold.dev/v1alpha1", "kind": "Registry",
        "metadata": {"name": "default", "uid": "r", "generation": 2},
        "spec": {"etcd": {"endpoints": ["http://127.0.0.1:2"]}},
        "status": {"leader": "other", "endpoints": ["http://127.0.0.1:1"], "clusterID": "cdf818194e3a8c32"},
    });
    rig.take(WatchEvent::Registry(ObjectEvent::Applied(Box::new(decode(object)))));
    let known = &rig.controller.registries["default"];
    let access = Access::open(known.spec().etcd.endpoints.clone());
    assert_eq!(known.begin_with(&access).endpoints, ["http://127.0.0.1:1"]);
    assert_eq!(
        known.offered.as_deref(),
        Some(&access),
        "the worker tries the endpoints of the spec"
    );
    assert_eq!(known.reported.cluster_id, Some(0xcdf8_1819_4e3a_8c32));
}

#[tokio::test]
async fn registry_deleted_while_stopped_is_removed_after_complete_list() {
    let mut rig = Rig::new();
    rig.resume();
    rig.cluster("c1");
    rig.take(WatchEvent::Registry(ObjectEvent::ListBegins));
    assert_eq!(rig.controller.registries.len(), 1, "the list is not complete");
    rig.lists_complete();
    assert!(rig.controller.registries.is_empty());
    assert_eq!(rig.stored(), Some(("c1".to_owned(), vec![])));
}

#[tokio::test]
async fn registry_missing_from_list_is_removed_only_by_a_list_after_its_hold() {
    let list_at = |rig: &mut Rig, now: Instant| {
        let cache = rig.controller.cache.clone();
        for event in [ObjectEvent::ListBegins, ObjectEvent::ListComplete] {
            rig.controller.registry(&mut cache.write(), event, now);
        }
    };
    let hold = Duration::from_secs(crate::api::Guard::default().hold_seconds.into());
    let mut rig = Rig::new();
    rig.registry();
    rig.registration("u1", 1, "/orders");
    rig.lists_complete();
    let start = Instant::now();
    list_at(&mut rig, start);
    assert_eq!(rig.controller.relist_at(), Some(start + hold));
    list_at(&mut rig, start + hold / 2);
    assert_eq!(rig.controller.relist_at(), Some(start + hold), "not prolonged");
    // The time is over, and the Registries are listed again. Until that is done, for example while the watch is lost,
    // the Registry stays in force.
    rig.controller.relist(start + hold);
    assert_eq!(rig.controller.relist_at(), None);
    assert_eq!(rig.in_force().as_deref(), Some("u1"));
    // This list contains it.
    rig.registry();
    list_at(&mut rig, start + hold * 2);
    assert_eq!(
        rig.controller.relist_at(),
        Some(start + hold * 3),
        "a later list lacks it"
    );
    assert_eq!(rig.in_force().as_deref(), Some("u1"));
    rig.controller.relist(start + hold * 3);
    list_at(&mut rig, start + hold * 3);
    assert!(rig.controller.registries.is_empty());

    rig.registry();
    list_at(&mut rig, start);
    rig.take(WatchEvent::Registry(ObjectEvent::Deleted {
        namespace: String::new(),
        name: "default".to_owned(),
    }));
    assert!(rig.controller.registries.is_empty(), "its deletion was reported");
}

#[tokio::test]
async fn the_apiserver_knows_better_than_the_state_folder_which_cluster_it_is() {
    let mut rig = Rig::new();
    rig.resume();
    rig.cluster("c2");
    assert!(
        rig.controller.registries.is_empty(),
        "the Registry belonged to another cluster"
    );
    assert!(rig.may_stand_for_election());
    rig.registry();
    rig.lists_complete();
    assert_eq!(rig.controller.workers.started(), 2);
    assert_eq!(rig.controller.workers.context().cluster_id.as_ref(), "c2");
    assert_eq!(
        rig.stored(),
        Some(("c2".to_owned(), vec!["http://127.0.0.1:1".to_owned()]))
    );
}

#[tokio::test]
async fn state_is_stored_after_registries_are_listed_and_on_each_change() {
    let mut rig = Rig::new();
    rig.cluster("c1");
    rig.registry();
    assert_eq!(rig.stored(), None, "an incomplete list is not stored");
    rig.take(WatchEvent::Registry(ObjectEvent::ListComplete));
    let at = |endpoint: &str| Some(("c1".to_owned(), vec![endpoint.to_owned()]));
    assert_eq!(rig.stored(), at("http://127.0.0.1:1"));
    rig.registry_at(2, "http://127.0.0.1:2");
    assert_eq!(rig.stored(), at("http://127.0.0.1:2"));
    let (namespace, name) = (String::new(), "default".to_owned());
    rig.take(WatchEvent::Registry(ObjectEvent::Deleted { namespace, name }));
    assert_eq!(rig.stored(), Some(("c1".to_owned(), vec![])));
}

/// Returns a registration with one Plain format.
fn plain(name: &str, created: &str, prefix: &str) -> WatchEvent {
    WatchEvent::Registration(
        NamespaceScope::Cluster,
        ObjectEvent::Applied(Box::new(decode(json!({
            "apiVersion": "leasehold.dev/v1alpha1", "kind": "ServiceRegistration",
            "metadata": {"name": name, "namespace": "shop", "uid": name, "generation": 1, "creationTimestamp": created},
            "spec": {
                "selector": {"matchLabels": {"app": "orders"}},
                "ports": [{"name": "grpc"}],
                "formats": [{"type": "Plain", "plain": {"prefix": prefix}}, {"type": "EtcdGRPC", "etcdGRPC": {"prefix": format!("grpc/{name}")}}],
            },
        })))),
    )
}

#[tokio::test]
async fn formats_of_newer_registration_are_suppressed_until_older_is_deleted() {
    let mut rig = Rig::new();
    rig.registry();
    rig.take(plain("newer", "2026-01-02T00:00:00Z", "/a/b"));
    let newer = RegistrationRef::new("shop", "newer");
    let state = |rig: &Rig| {
        let compiled = rig.compiled(&newer).expect("a spec in force");
        let prefixes: Vec<String> = compiled
            .bindings
            .iter()
            .map(|binding| binding.format.prefix().as_str().to_owned())
            .collect();
        (prefixes, compiled.suppression_reasons())
    };
    assert_eq!(state(&rig).0, ["/a/b/", "grpc/newer/"]);
    rig.take(plain("older", "2026-01-01T00:00:00Z", "/a"));
    let (prefixes, reported) = state(&rig);
    assert_eq!(prefixes, ["grpc/newer/"], "the other format stays");
    assert!(reported[0].contains("shop/older"), "{reported:?}");
    rig.take(WatchEvent::Registration(
        NamespaceScope::Cluster,
        ObjectEvent::Deleted {
            namespace: "shop".to_owned(),
            name: "older".to_owned(),
        },
    ));
    assert_eq!(
        state(&rig),
        (vec!["/a/b/".to_owned(), "grpc/newer/".to_owned()], Vec::new())
    );
}

#[tokio::test]
async fn formats_denied_by_access_rules_suppress_no_registration() {
    let mut rig = Rig::new();
    let namespace = |labels: Value| {
        let namespace =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop", "labels": labels}});
        WatchEvent::Namespace(
            NamespaceScope::Cluster,
            ObjectEvent::Applied(crate::kube::namespace(namespace).expect("decodes")),
        )
    };
    rig.take(namespace(json!({"side": "b"})));
    rig.take(WatchEvent::Namespace(
        NamespaceScope::Cluster,
        ObjectEvent::ListComplete,
    ));
    let rule = |prefixes: &str, side: &str| json!({"name": side, "namespaceSelector": {"matchLabels": {"side": side}}, "prefixes": [prefixes]});
    let object = json!({
        "apiVersion": "leasehold.dev/v1alpha1", "kind": "Registry",
        "metadata": {"name": "default", "uid": "r", "generation": 1},
        "spec": {
            "etcd": {"endpoints": ["http://127.0.0.1:1"]},
            "access": {"rules": [rule("/a", "a"), rule("/a/b", "b")]},
        },
    });
    rig.take(WatchEvent::Registry(ObjectEvent::Applied(Box::new(decode(object)))));
    rig.take(plain("newer", "2026-01-02T00:00:00Z", "/a/b/c"));
    rig.take(plain("older", "2026-01-01T00:00:00Z", "/a"));
    let suppressed = |rig: &Rig| {
        let compiled = rig.compiled(&RegistrationRef::new("shop", "newer"));
        compiled.expect("a spec in force").suppression_reasons().len()
    };
    assert_eq!(suppressed(&rig), 0, "access rules deny the older one");
    rig.take(namespace(json!({"side": "a"})));
    assert_eq!(suppressed(&rig), 1, "access rules allow the older one now");
    rig.take(namespace(json!({"side": "b"})));
    assert_eq!(suppressed(&rig), 0);
}

fn etcd_user() -> Source {
    Source {
        kind: SourceKind::Secret,
        name: "etcd-user".into(),
    }
}

fn user_and_password(password: &str) -> Content {
    let text = |text: &str| Some(SecretString::from(text.to_owned()));
    let data = [("username", text("leasehold")), ("password", text(password))];
    Content::Present(data.into_iter().map(|(key, text)| (key.to_owned(), text)).collect())
}

#[tokio::test]
async fn registry_connects_once_its_secret_is_known_and_watches_only_that() {
    let mut rig = Rig::new();
    let object = json!({
        "apiVersion": "leasehold.dev/v1alpha1", "kind": "Registry",
        "metadata": {"name": "default", "uid": "r", "generation": 1},
        "spec": {"etcd": {"endpoints": ["http://127.0.0.1:1"], "auth": {"secretRef": {"name": "etcd-user"}}}},
    });
    rig.take(WatchEvent::Registry(ObjectEvent::Applied(Box::new(decode(object)))));
    assert_eq!(*rig.ends.sources.borrow(), BTreeSet::from([etcd_user()]));
    assert_eq!(rig.controller.workers.started(), 0, "the Secret is not known yet");
    rig.take(WatchEvent::Source(etcd_user(), Content::Absent));
    assert_eq!(
        rig.controller.workers.started(),
        1,
        "the worker reports the missing Secret"
    );
    rig.take(WatchEvent::Source(etcd_user(), user_and_password("one")));
    assert_eq!(rig.controller.workers.started(), 2);
    rig.take(WatchEvent::Source(etcd_user(), user_and_password("two")));
    rig.take(WatchEvent::Source(etcd_user(), Content::Absent));
    assert_eq!(rig.controller.workers.started(), 2, "the worker keeps its access");
    let known = &rig.controller.registries["default"];
    assert_eq!(
        known.wrong.as_ref().map(|trouble| trouble.reason),
        Some("CredentialsMissing")
    );
    rig.take(WatchEvent::Registry(ObjectEvent::Deleted {
        namespace: String::new(),
        name: "default".to_owned(),
    }));
    assert_eq!(*rig.ends.sources.borrow(), BTreeSet::new());
}

impl Rig {
    /// Applies a Registry with this metaPrefix.
    fn registry_named(&mut self, name: &str, generation: i64, meta_prefix: &str) {
        let object = json!({
            "apiVersion": "leasehold.dev/v1alpha1", "kind": "Registry",
            "metadata": {"name": name, "uid": name, "generation": generation},
            "spec": {"etcd": {"endpoints": ["http://127.0.0.1:1"], "metaPrefix": meta_prefix}},
        });
        self.take(WatchEvent::Registry(ObjectEvent::Applied(Box::new(decode(object)))));
    }

    fn registry_deleted(&mut self, name: &str) {
        self.take(WatchEvent::Registry(ObjectEvent::Deleted {
            namespace: String::new(),
            name: name.to_owned(),
        }));
    }

    /// Whether `orders` is in force, whether it is frozen, and why its newest spec is rejected.
    fn judged(&self) -> (bool, bool, Option<&'static str>) {
        let entry = &self.cache().entries[&orders()];
        let frozen = entry.in_force().is_some_and(|in_force| in_force.frozen);
        (entry.in_force().is_some(), frozen, entry.refusal())
    }
}

#[tokio::test]
async fn p10_no_registration_reaches_into_the_bookkeeping_of_another_registry() {
    let mut rig = Rig::new();
    rig.registry();
    rig.registry_named("a", 1, "/meta-a/");
    rig.lists_complete();
    rig.registration("u1", 1, "/meta-a/c1");
    assert_eq!(rig.judged(), (false, false, Some("PrefixReserved")));
    assert_eq!(rig.refusals(), ["PrefixReserved"]);
    // The registration is admitted once no Registry has that metaPrefix.
    rig.registry_deleted("a");
    assert_eq!(rig.judged(), (true, false, None));
    // An invalid change loses nothing.
    rig.registry_named("b", 1, "/meta-b/");
    rig.registration("u1", 2, "/meta-b/c1");
    assert_eq!(rig.judged(), (true, false, Some("PrefixReserved")));
    rig.registry_named("b", 2, "/meta-elsewhere/");
    assert_eq!(rig.judged(), (true, false, None), "another metaPrefix");
}

#[tokio::test]
async fn p10_registration_older_than_a_conflicting_meta_prefix_is_frozen() {
    let mut rig = Rig::new();
    rig.registry();
    rig.registration("u1", 1, "/meta-a/c1");
    rig.lists_complete();
    assert_eq!(rig.judged(), (true, false, None));
    rig.registry_named("a", 1, "/meta-b/");
    assert_eq!(rig.judged(), (true, false, None));
    rig.registry_named("a", 2, "/meta-a/");
    assert_eq!(rig.judged(), (true, true, Some("PrefixReserved")));
    let settings = |rig: &Rig| {
        let known = &rig.controller.registries["default"];
        rig.compiled(&orders()).expect("it is").settings(known.spec())
    };
    assert!(settings(&rig).suspended, "the registration is frozen");
    // The result is the same if a new worker receives everything again.
    rig.registry_at(2, "http://127.0.0.1:2");
    assert_eq!(rig.judged(), (true, true, Some("PrefixReserved")));
    rig.registry_deleted("a");
    assert_eq!(rig.judged(), (true, false, None));
    assert!(!settings(&rig).suspended);
}
