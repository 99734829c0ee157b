//! What the intake makes of news that comes in an unlucky order, or makes no sense.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::*;
use crate::api::{Registry, ServiceRegistration, ServiceRegistrationStatus};
use crate::cluster::DeskNote;
use crate::etcd::Timeouts;
use crate::telemetry::{Health, Metrics};

struct Rig {
    intake: Intake,
    notes: mpsc::UnboundedReceiver<DeskNote<ServiceRegistration>>,
    _registries: mpsc::UnboundedReceiver<DeskNote<Registry>>,
}

fn orders() -> RegistrationRef {
    RegistrationRef::new("shop", "orders")
}

impl Rig {
    fn new() -> Self {
        let (registrations, notes) = mpsc::unbounded_channel();
        let (registries, registry_notes) = mpsc::unbounded_channel();
        let context = Context {
            cluster_id: "c1".into(),
            identity: "me".into(),
            session_ttl: 10,
            timeouts: Timeouts::default(),
            registrations,
            registries,
            metrics: Metrics::new().0,
            health: Health::new(),
        };
        Self {
            intake: Intake::new(context, CancellationToken::new()),
            notes,
            _registries: registry_notes,
        }
    }

    fn take(&mut self, news: News) {
        self.intake.take(news, Instant::now());
    }

    fn registration(&mut self, uid: &str, generation: i64, prefix: &str) {
        let object = json!({
            "apiVersion": "leasehold.dev/v1alpha1", "kind": "ServiceRegistration",
            "metadata": {"name": "orders", "namespace": "shop", "uid": uid, "generation": generation},
            "spec": {
                "selector": {"matchLabels": {"app": "orders"}},
                "ports": [{"port": "grpc"}],
                "formats": [{"type": "Plain", "prefix": prefix}],
            },
        });
        self.take(News::Registration(Seen::Applied(Box::new(decode(object)))));
    }

    fn unreadable(&mut self, generation: i64) {
        self.take(News::Registration(Seen::Unreadable {
            namespace: "shop".to_owned(),
            name: "orders".to_owned(),
            generation,
            cause: "spec: not a map".to_owned(),
        }));
    }

    /// The Registry `default`, whose etcd nobody listens at.
    fn registry(&mut self) {
        let object = json!({
            "apiVersion": "leasehold.dev/v1alpha1", "kind": "Registry",
            "metadata": {"name": "default", "uid": "r", "generation": 1},
            "spec": {"endpoints": ["http://127.0.0.1:1"]},
        });
        self.take(News::Registry(Seen::Applied(Box::new(decode(object)))));
    }

    fn lists_complete(&mut self) {
        self.take(News::Registration(Seen::ListComplete));
        self.take(News::Registry(Seen::ListComplete));
        self.take(News::Pod(Seen::ListComplete));
    }

    /// The statuses asked for since the last call, by the reason why the registration is not accepted.
    fn refusals(&mut self) -> Vec<String> {
        let mut told = Vec::new();
        while let Ok(note) = self.notes.try_recv() {
            if let DeskNote::Wanted(_, status, _) = note {
                told.push(reasons(&status)["Accepted"].clone());
            }
        }
        told
    }

    fn in_force(&self) -> Option<String> {
        let entry = self.intake.entries.get(&orders())?;
        let uid = &entry.in_force()?.registration.uid;
        Some(uid.to_string())
    }
}

fn decode<T: serde::de::DeserializeOwned>(object: Value) -> T {
    serde_json::from_value(object).expect("decodes")
}

fn reasons(status: &ServiceRegistrationStatus) -> BTreeMap<String, String> {
    let told = status.conditions.iter();
    told.map(|told| (told.type_.clone(), told.reason.clone())).collect()
}

#[tokio::test]
async fn an_object_that_cannot_be_read_is_answered_once_though_the_answer_changes_it() {
    let mut rig = Rig::new();
    rig.unreadable(1);
    assert_eq!(rig.refusals(), ["InvalidSpec"]);
    // The watch tells of our own status.
    rig.unreadable(1);
    assert_eq!(rig.refusals(), [""; 0]);
    rig.unreadable(2);
    assert_eq!(rig.refusals(), ["InvalidSpec"]);
}

#[tokio::test]
async fn a_registration_heard_of_before_its_registry_is_not_refused_until_all_registries_are_known() {
    let mut rig = Rig::new();
    rig.registration("u1", 1, "/orders");
    rig.take(News::Registration(Seen::ListComplete));
    assert_eq!(rig.refusals(), [""; 0]);
    rig.registry();
    assert_eq!(rig.in_force().as_deref(), Some("u1"));
    rig.lists_complete();
    assert_eq!(rig.refusals(), [""; 0]);
}

#[tokio::test]
async fn one_created_anew_between_two_lists_and_refused_leaves_nothing_of_its_predecessor_in_force() {
    let mut rig = Rig::new();
    rig.registry();
    rig.registration("u1", 1, "/orders");
    rig.lists_complete();
    rig.registration("u1", 2, "/leasehold/mine");
    assert_eq!(rig.in_force().as_deref(), Some("u1"), "a bad change loses nothing");
    rig.take(News::Registration(Seen::ListBegins));
    rig.registration("u2", 1, "/leasehold/mine");
    rig.take(News::Registration(Seen::ListComplete));
    assert_eq!(rig.in_force(), None);
    assert_eq!(rig.refusals(), ["PrefixReserved"]);
}

#[tokio::test]
async fn a_list_that_breaks_off_and_begins_anew_removes_nothing() {
    let mut rig = Rig::new();
    rig.registry();
    rig.registration("u1", 1, "/orders");
    rig.lists_complete();
    rig.take(News::Registration(Seen::ListBegins));
    rig.take(News::Registration(Seen::ListBegins));
    assert_eq!(rig.in_force().as_deref(), Some("u1"));
    rig.registration("u1", 1, "/orders");
    rig.take(News::Registration(Seen::ListComplete));
    assert_eq!(rig.in_force().as_deref(), Some("u1"));
    rig.take(News::Registration(Seen::ListBegins));
    rig.take(News::Registration(Seen::ListComplete));
    assert_eq!(rig.in_force(), None);
}
