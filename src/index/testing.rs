//! Pods and registrations for the tests of this module.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use super::{Addresses, DirtyMark, Index, Pod, PodChange, PodPort, Port, PortTarget, Registration, Selector, Target};
use crate::model::{Families, Protocol, RegistrationRef};

/// Returns a ready pod in the namespace `shop`, with the label `app: orders` and the port `grpc` at 8080.
pub(super) fn pod(name: &str) -> Pod {
    Pod {
        namespace: "shop".to_owned(),
        name: name.to_owned(),
        labels: BTreeMap::from([("app".to_owned(), "orders".to_owned())]),
        addresses: Addresses {
            v4: Some(Ipv4Addr::new(10, 0, 0, 7)),
            v6: None,
        },
        node: Some("n1".to_owned()),
        ports: vec![PodPort {
            name: "grpc".to_owned(),
            number: 8080,
            protocol: Protocol::Tcp,
            host_port: None,
        }],
        ready: true,
        ..Pod::default()
    }
}

/// Returns a registration in the namespace `shop` that selects `app: orders` and registers the port `grpc`.
pub(super) fn registration(name: &str) -> Registration {
    Registration {
        reference: RegistrationRef::new("shop", name),
        uid: "f1".into(),
        created: 1_763_700_000,
        generation: 1,
        selector: selector("app", "orders"),
        min_ready_seconds: None,
        publish_not_ready: false,
        target: Target::Pods,
        registry: "default".into(),
        service: name.into(),
        ports: vec![Port {
            name: "grpc".into(),
            target: PortTarget::Name {
                name: "grpc".into(),
                protocol: None,
            },
            scheme: Some("grpc".into()),
        }],
        families: Families::default(),
        weight: None,
        version_label: None,
        metadata: Arc::default(),
        metadata_labels: Vec::new(),
        node_labels: Vec::new(),
    }
}

/// Selects the pods with the label `key`: `value`.
pub(super) fn selector(key: &str, value: &str) -> Selector {
    Selector {
        match_labels: BTreeMap::from([(key.into(), value.into())]),
        match_expressions: Vec::new(),
    }
}

/// Applies `pod`. Returns a dirty mark for each registration whose view may have changed.
pub(super) fn apply(index: &mut Index, pod: &Pod) -> Vec<DirtyMark> {
    let mark = |registration| DirtyMark {
        registration,
        pod: pod.name.as_str().into(),
    };
    match index.apply_pod(pod) {
        PodChange::None => Vec::new(),
        PodChange::Facts | PodChange::Ending => index
            .registering(&pod.namespace, &pod.name)
            .into_iter()
            .map(mark)
            .collect(),
        PodChange::Selection(marks) => marks,
    }
}
