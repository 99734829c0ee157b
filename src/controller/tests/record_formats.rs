//! How registrations react when the RecordFormats that they use are created, changed, broken or deleted.

use super::*;
use crate::api::{RecordFormat, RecordFormatStatus};
use crate::kube::WritePolicy;
use crate::plan::{DesiredState, PodState};

const GOOD: &str = r#"{"host": {{ address }}}"#;

impl Rig {
    fn user(&mut self, generation: i64) {
        let object = json!({
            "apiVersion": "leasehold.dev/v1alpha1", "kind": "ServiceRegistration",
            "metadata": {"name": "orders", "namespace": "shop", "uid": "a", "generation": generation},
            "spec": {
                "selector": {"matchLabels": {"app": "orders"}},
                "ports": [{"name": "http", "port": 8080}],
                "formats": [{"type": "Custom", "custom": {"recordFormatRef": {"name": "mine"}}}],
            },
        });
        self.take(WatchEvent::Registration(
            NamespaceScope::Cluster,
            ObjectEvent::Applied(Box::new(decode(object))),
        ));
    }

    fn record_format(&mut self, generation: i64, value: &str) {
        let object = json!({
            "apiVersion": "leasehold.dev/v1alpha1", "kind": "RecordFormat",
            "metadata": {"name": "mine", "uid": "f", "generation": generation},
            "spec": {"records": [{"name": "endpoint", "key": "{{ prefix }}/{{ id }}", "value": value}]},
        });
        let object: RecordFormat = decode(object);
        self.take(WatchEvent::RecordFormat(ObjectEvent::Applied(Box::new(object))));
    }

    fn record_format_gone(&mut self) {
        let (namespace, name) = (String::new(), "mine".to_owned());
        self.take(WatchEvent::RecordFormat(ObjectEvent::Deleted { namespace, name }));
    }

    /// Returns the value that the spec in force gives for the pod `p`.
    fn written(&self) -> Option<String> {
        let PodState::Ready(desired) = self.cache().pod_state(&orders(), "p")? else {
            panic!("the pod is ready");
        };
        let record = desired.records().next().expect("one record").clone();
        Some(String::from_utf8(record.value.to_vec()).expect("UTF-8"))
    }

    /// The statuses written since the last call.
    fn reported(&mut self) -> Vec<RecordFormatStatus> {
        let mut reported = Vec::new();
        while let Ok(note) = self.ends.record_formats.try_recv() {
            if let StatusUpdate::Wanted(_, status, write_policy) = note {
                assert_eq!(
                    write_policy,
                    WritePolicy::Once,
                    "replicas of two releases would overwrite each other"
                );
                reported.push(status);
            }
        }
        reported
    }

    fn started() -> Self {
        let mut rig = Self::new();
        rig.cluster("c1");
        rig.registry();
        let pod = crate::kube::pod(json!({
            "metadata": {"name": "p", "namespace": "shop", "uid": "p", "labels": {"app": "orders"}},
            "spec": {"containers": [{"name": "main"}]},
            "status": {
                "phase": "Running", "podIP": "10.0.0.7", "podIPs": [{"ip": "10.0.0.7"}],
                "conditions": [{"type": "Ready", "status": "True"}]
            }
        }));
        rig.take(WatchEvent::Pod(
            NamespaceScope::Cluster,
            ObjectEvent::Applied(pod.expect("a pod")),
        ));
        rig.user(1);
        rig
    }
}

fn refusal(rig: &Rig) -> Option<String> {
    rig.cache().entries[&orders()].refusal().map(str::to_owned)
}

#[tokio::test]
async fn a_registration_waits_for_its_record_format_until_all_are_listed() {
    let mut rig = Rig::started();
    assert_eq!((rig.written(), refusal(&rig)), (None, None));
    rig.take(WatchEvent::Registration(
        NamespaceScope::Cluster,
        ObjectEvent::ListComplete,
    ));
    rig.take(WatchEvent::Registry(ObjectEvent::ListComplete));
    rig.take(WatchEvent::Pod(NamespaceScope::Cluster, ObjectEvent::ListComplete));
    rig.take(WatchEvent::Namespace(
        NamespaceScope::Cluster,
        ObjectEvent::ListComplete,
    ));
    rig.services_complete(&NamespaceScope::Cluster);
    rig.take(WatchEvent::Node(ObjectEvent::ListComplete));
    assert!(!rig.controller.complete, "its keys may have to stay");
    rig.record_format(1, GOOD);
    assert_eq!(rig.written().as_deref(), Some(r#"{"host": "10.0.0.7"}"#));
    rig.take(WatchEvent::RecordFormat(ObjectEvent::ListComplete));
    assert!(rig.controller.complete);
    assert_eq!(refusal(&rig), None);
}

#[tokio::test]
async fn missing_record_format_is_reported_and_its_keys_are_unclear() {
    let mut rig = Rig::started();
    rig.lists_complete();
    assert_eq!(refusal(&rig).as_deref(), Some("RecordFormatNotFound"));
    assert_eq!(rig.refusals(), ["RecordFormatNotFound"]);
    assert_eq!(rig.controller.unclear.sent(), ["default"], "its keys may exist in etcd");
    rig.record_format(1, GOOD);
    assert_eq!(rig.controller.unclear.sent(), [""; 0]);
    assert_eq!(refusal(&rig), None);
}

#[tokio::test]
async fn a_new_version_is_written_for_every_pod_and_a_broken_one_loses_nothing() {
    let mut rig = Rig::started();
    rig.lists_complete();
    rig.record_format(1, GOOD);
    rig.record_format(2, "{{ addres }}");
    assert_eq!(rig.written().as_deref(), Some(r#"{"host": "10.0.0.7"}"#));
    assert_eq!(refusal(&rig).as_deref(), Some("RecordFormatUnusable"));
    rig.record_format(3, "{{ port }}");
    assert_eq!(rig.written().as_deref(), Some("8080"));
    assert_eq!(refusal(&rig), None);
    rig.record_format_gone();
    assert_eq!(rig.written().as_deref(), Some("8080"));
    assert_eq!(refusal(&rig).as_deref(), Some("RecordFormatNotFound"));
    assert_eq!(
        rig.controller.unclear.sent(),
        [""; 0],
        "the prefixes of its keys are known"
    );
    // A new spec of the registration does not bypass the missing RecordFormat.
    rig.user(2);
    assert_eq!(rig.written().as_deref(), Some("8080"));
    rig.record_format(1, GOOD);
    assert_eq!(rig.written().as_deref(), Some(r#"{"host": "10.0.0.7"}"#));
}

#[tokio::test]
async fn record_format_missing_from_list_is_gone_and_unreadable_is_unusable() {
    let mut rig = Rig::started();
    rig.lists_complete();
    rig.record_format(1, GOOD);
    rig.take(WatchEvent::RecordFormat(ObjectEvent::Unreadable {
        namespace: String::new(),
        name: "mine".to_owned(),
        generation: 2,
        cause: "spec: not a map".to_owned(),
    }));
    assert_eq!(refusal(&rig).as_deref(), Some("RecordFormatUnusable"));
    rig.take(WatchEvent::RecordFormat(ObjectEvent::ListBegins));
    assert_eq!(
        refusal(&rig).as_deref(),
        Some("RecordFormatUnusable"),
        "the list is not complete"
    );
    rig.take(WatchEvent::RecordFormat(ObjectEvent::ListComplete));
    assert_eq!(refusal(&rig).as_deref(), Some("RecordFormatNotFound"));
    assert_eq!(rig.written().as_deref(), Some(r#"{"host": "10.0.0.7"}"#));
}

#[tokio::test]
async fn record_format_status_has_preview_or_error_once_per_generation() {
    let mut rig = Rig::new();
    rig.record_format(1, GOOD);
    let [status] = <[_; 1]>::try_from(rig.reported()).expect("one");
    assert_eq!(status.preview[0].value, r#"{"host": "10.0.0.7"}"#);
    assert_eq!(
        (status.observed_generation, &*status.conditions[0].status),
        (Some(1), "True")
    );
    rig.record_format(1, GOOD);
    rig.take(WatchEvent::RecordFormat(ObjectEvent::ListBegins));
    rig.record_format(1, GOOD);
    assert!(
        rig.reported().is_empty(),
        "the operator's own status update changes the object"
    );
    rig.record_format(2, "{{ addres }}");
    let [status] = <[_; 1]>::try_from(rig.reported()).expect("one");
    assert_eq!(
        (&*status.conditions[0].reason, &*status.conditions[0].message),
        (
            "InvalidTemplate",
            "The value of the record \"endpoint\", line 1, column 4: addres is undefined: correct the name, or use addres | default(...)."
        )
    );
    assert!(status.preview.is_empty());
    let notice = rig.ends.events.try_recv().expect("one Event");
    assert_eq!(notice.about, crate::kube::About::RecordFormat("mine".into()));
    assert_eq!(
        (notice.reason, &*notice.occurrence, &*notice.uid),
        ("InvalidTemplate", "2", "f")
    );
    assert!(
        rig.ends.events.try_recv().is_err(),
        "only a broken version causes an Event"
    );
}

#[tokio::test]
async fn invalid_registration_ignores_record_format_edits_until_repaired() {
    let mut rig = Rig::started();
    rig.lists_complete();
    rig.record_format(1, GOOD);
    rig.unreadable(2);
    rig.record_format(2, "{{ port }}");
    assert_eq!(rig.written().as_deref(), Some(r#"{"host": "10.0.0.7"}"#));
    assert_eq!(refusal(&rig).as_deref(), Some("InvalidSpec"));
    rig.user(3);
    assert_eq!(rig.written().as_deref(), Some("8080"));
}
