//! Which registrations of annotated Services the controller has written, and when.

use super::*;
use crate::kube::{RegistrationChange, WriterCommand};

impl Rig {
    /// Applies the Service `orders` with these annotations and this port.
    fn annotated(&mut self, annotations: &Value, port: u16) {
        let object = json!({
            "metadata": {"name": "orders", "namespace": "shop", "uid": "s1", "annotations": annotations},
            "spec": {"ports": [{"name": "grpc", "port": port}]},
        });
        let event = ObjectEvent::Applied(crate::kube::service(object).expect("decodes"));
        self.take(WatchEvent::Service(NamespaceScope::Cluster, event));
    }

    /// Applies the registration that the operator keeps for the Service `orders`.
    fn kept_for_service(&mut self, generation: i64, status: &Value) {
        let owner = json!({"apiVersion": "v1", "kind": "Service", "name": "orders", "uid": "s1", "controller": true});
        let object = json!({
            "apiVersion": "leasehold.dev/v1alpha1", "kind": "ServiceRegistration",
            "metadata": {
                "name": "orders", "namespace": "shop", "uid": "r1", "generation": generation,
                "labels": {"app.kubernetes.io/managed-by": "leasehold"}, "ownerReferences": [owner],
            },
            "spec": {"service": {"name": "orders"}},
            "status": status,
        });
        let event = ObjectEvent::Applied(Box::new(decode(object)));
        self.take(WatchEvent::Registration(NamespaceScope::Cluster, event));
    }

    /// This replica begins to lead the Registry `default`.
    fn lead(&mut self) {
        self.controller.workers.leader_flag("default").set(true);
        let cache = self.controller.cache.clone();
        self.controller.keep_all_of(&cache.read(), "default");
    }

    /// The commands to the writer since the last call.
    fn writes(&mut self) -> Vec<&'static str> {
        let commands = std::iter::from_fn(|| self.ends.registration_writes.try_recv().ok());
        let word = |command| match command {
            WriterCommand::Wanted(write) => match write.change {
                RegistrationChange::Apply(_) => "apply",
                RegistrationChange::DeleteFrom { .. } => "delete",
            },
            WriterCommand::Settled(_) => "settled",
        };
        commands.map(word).collect()
    }

    /// The reasons of the Events about Services since the last call.
    fn complaints(&mut self) -> Vec<&'static str> {
        let notices = std::iter::from_fn(|| self.ends.events.try_recv().ok());
        let about_services = notices.filter(|notice| matches!(notice.about, crate::kube::About::Service(_)));
        about_services.map(|notice| notice.reason).collect()
    }

    /// A rig with a Registry whose lists are complete.
    fn listed() -> Self {
        let mut rig = Self::new();
        rig.cluster("c1");
        rig.registry();
        rig.lists_complete();
        rig
    }
}

fn register() -> Value {
    json!({"leasehold.dev/register": ""})
}

#[tokio::test]
async fn annotated_service_is_written_by_leader_and_settled_when_observed() {
    let mut rig = Rig::listed();
    rig.annotated(&register(), 80);
    assert_eq!(rig.writes(), [""; 0], "another replica may lead");
    rig.lead();
    assert_eq!(rig.writes(), ["apply"]);
    rig.kept_for_service(1, &Value::Null);
    assert_eq!(rig.writes(), ["settled"]);
    // The operator's own status, and changes of the Service that the registration does not depend on.
    rig.kept_for_service(1, &json!({"serviceName": "orders"}));
    rig.annotated(&register(), 81);
    assert_eq!(rig.writes(), [""; 0]);
    rig.annotated(&json!({}), 81);
    assert_eq!(rig.writes(), ["delete"]);
}

#[tokio::test]
async fn nothing_is_deleted_or_created_before_all_lists_are_complete() {
    let mut rig = Rig::new();
    rig.cluster("c1");
    rig.registry();
    rig.lead();
    rig.kept_for_service(1, &Value::Null);
    rig.annotated(&json!({}), 80);
    rig.annotated(&register(), 80);
    assert_eq!(rig.writes(), [""; 0]);
    rig.lists_complete();
    assert_eq!(rig.writes(), [""; 0], "it is as the annotations ask");
    rig.annotated(&json!({"leasehold.dev/register": "", "leasehold.dev/weight": "7"}), 80);
    assert_eq!(rig.writes(), ["apply"]);
}

#[tokio::test]
async fn registration_without_its_service_is_left_to_kubernetes() {
    let mut rig = Rig::listed();
    rig.lead();
    rig.kept_for_service(1, &Value::Null);
    assert_eq!(rig.writes(), [""; 0], "the Service may just not be cached yet");
    rig.annotated(&register(), 80);
    let (namespace, name) = ("shop".to_owned(), "orders".to_owned());
    let event = ObjectEvent::Deleted { namespace, name };
    rig.take(WatchEvent::Service(NamespaceScope::Cluster, event));
    assert_eq!(rig.writes(), [""; 0]);
}

#[tokio::test]
async fn complaint_is_published_once_and_again_when_it_changes() {
    let mut rig = Rig::listed();
    rig.lead();
    let wrong = |weight: &str| json!({"leasehold.dev/register": "", "leasehold.dev/weight": weight});
    rig.annotated(&wrong("heavy"), 80);
    rig.annotated(&wrong("heavy"), 81);
    assert_eq!(rig.complaints(), ["InvalidAnnotation"]);
    rig.annotated(&wrong("light"), 81);
    assert_eq!(rig.complaints(), ["InvalidAnnotation"]);
    // A user's registration takes the name meanwhile.
    rig.registration("u1", 1, "/orders");
    rig.annotated(&wrong("7"), 81);
    assert_eq!(rig.complaints(), ["RegistrationExists"]);
    assert_eq!(rig.writes(), [""; 0]);
}

#[tokio::test]
async fn registry_that_is_created_later_ends_the_complaint() {
    let mut rig = Rig::new();
    rig.cluster("c1");
    rig.annotated(&register(), 80);
    assert_eq!(rig.complaints(), [""; 0], "the Registries are not listed yet");
    rig.lists_complete();
    assert_eq!(rig.complaints(), ["RegistryNotFound"]);
    rig.registry();
    assert_eq!(rig.writes(), [""; 0]);
    rig.lead();
    assert_eq!((rig.writes(), rig.complaints()), (vec!["apply"], Vec::new()));
}

#[tokio::test]
async fn registration_is_deleted_when_annotation_was_removed_while_stopped() {
    let mut rig = Rig::new();
    rig.cluster("c1");
    rig.annotated(&json!({}), 80);
    rig.kept_for_service(1, &Value::Null);
    assert_eq!(rig.writes(), [""; 0]);
    rig.lists_complete();
    assert_eq!(
        rig.writes(),
        ["delete"],
        "no replica leads a Registry that does not exist"
    );
}
