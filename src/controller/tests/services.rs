//! How registrations follow the Services, EndpointSlices and nodes that they depend on.

use super::*;
use crate::controller::source::Obstacle;
use crate::index::{EndpointSlice, Node, Service};
use crate::model::Endpoint;
use crate::plan::{DesiredState, PodState};

fn service(patch: &Value) -> Service {
    let mut object = json!({
        "metadata": {"name": "orders", "namespace": "shop"},
        "spec": {
            "type": "NodePort", "selector": {"app": "orders"}, "clusterIPs": ["10.96.0.9"],
            "ports": [{"name": "grpc", "port": 80, "targetPort": 8080, "nodePort": 30080, "appProtocol": "kubernetes.io/h2c"}]
        }
    });
    for (field, value) in patch.as_object().expect("an object") {
        object["spec"][field] = value.clone();
    }
    crate::kube::service(object).expect("decodes")
}

fn slice(ready: bool) -> EndpointSlice {
    let object = json!({
        "metadata": {"name": "orders-1", "namespace": "shop", "labels": {"kubernetes.io/service-name": "orders"}},
        "endpoints": [{"addresses": ["192.0.2.7"], "conditions": {"ready": ready}}],
        "ports": [{"name": "grpc", "port": 5000}]
    });
    crate::kube::endpoint_slice(object).expect("decodes")
}

fn node(name: &str, zone: &str) -> Node {
    let object = json!({
        "metadata": {"name": name, "labels": {"topology.kubernetes.io/zone": zone}},
        "status": {
            "addresses": [{"type": "InternalIP", "address": "10.1.0.1"}],
            "conditions": [{"type": "Ready", "status": "True"}]
        }
    });
    crate::kube::node(object).expect("decodes")
}

impl Rig {
    fn service(&mut self, patch: &Value) {
        let event = ObjectEvent::Applied(service(patch));
        self.take(WatchEvent::Service(NamespaceScope::Cluster, event));
    }

    fn service_gone(&mut self) {
        let (namespace, name) = ("shop".to_owned(), "orders".to_owned());
        let event = ObjectEvent::Deleted { namespace, name };
        self.take(WatchEvent::Service(NamespaceScope::Cluster, event));
    }

    fn slice(&mut self, ready: bool) {
        let event = ObjectEvent::Applied(slice(ready));
        self.take(WatchEvent::EndpointSlice(NamespaceScope::Cluster, event));
    }

    fn node(&mut self, node: Node) {
        self.take(WatchEvent::Node(ObjectEvent::Applied(node)));
    }

    /// Applies a registration of the Service `orders` with this address type.
    fn of_service(&mut self, address: &str) {
        let object = json!({
            "apiVersion": "leasehold.dev/v1alpha1", "kind": "ServiceRegistration",
            "metadata": {"name": "orders", "namespace": "shop", "uid": "a", "generation": 1},
            "spec": {
                "service": {"name": "orders"}, "address": {"type": address},
                "formats": [{"type": "Plain", "plain": {"prefix": "/s"}}],
            },
        });
        let event = ObjectEvent::Applied(Box::new(decode(object)));
        self.take(WatchEvent::Registration(NamespaceScope::Cluster, event));
    }

    fn pod_of(&mut self, ready: bool) {
        let pod = json!({
            "metadata": {"name": "p", "namespace": "shop", "labels": {"app": "orders"}},
            "spec": {"nodeName": "n1", "containers": [{"ports": [{"containerPort": 8080, "hostPort": 9000}]}]},
            "status": {
                "phase": "Running", "podIP": "10.0.0.7", "hostIP": "10.1.0.1",
                "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]
            }
        });
        let pod = crate::kube::pod(pod).expect("decodes");
        self.take(WatchEvent::Pod(NamespaceScope::Cluster, ObjectEvent::Applied(pod)));
    }

    /// A rig with a Registry, a ready pod, and complete lists.
    fn with_pod() -> Self {
        let mut rig = Self::new();
        rig.cluster("c1");
        rig.registry();
        rig.pod_of(true);
        rig.lists_complete();
        rig
    }

    /// Returns the endpoints of the spec in force under the name `name`; none if it is not to be registered.
    fn endpoints(&self, name: &str) -> Option<Vec<Endpoint>> {
        let cache = self.cache();
        match cache.pod_state(&orders(), name)? {
            PodState::Ready(_) => Some(cache.index.view_if_ready(&orders(), name)?.endpoints),
            _ => None,
        }
    }

    fn host_ports(&self, name: &str) -> Vec<String> {
        let endpoints = self.endpoints(name).unwrap_or_default();
        endpoints.iter().map(Endpoint::host_port).collect()
    }

    fn obstacle(&self) -> Option<&'static str> {
        let obstacle = self.compiled(&orders())?.obstacle?;
        Some(obstacle.reason.as_str())
    }
}

#[tokio::test]
async fn a_service_with_a_selector_is_its_pods_at_their_target_port() {
    let mut rig = Rig::with_pod();
    rig.of_service("PodIP");
    assert_eq!(rig.obstacle(), Some("ServiceNotFound"));
    assert_eq!(rig.endpoints("p"), None);
    rig.service(&json!({}));
    assert_eq!(rig.obstacle(), None);
    let endpoints = rig.endpoints("p").expect("a ready pod");
    assert_eq!(endpoints[0].host_port(), "10.0.0.7:8080");
    assert_eq!(
        (&*endpoints[0].port_name, endpoints[0].scheme.as_deref()),
        ("grpc", Some("h2c"))
    );
    rig.service(&json!({"ports": [{"name": "grpc", "port": 80, "targetPort": 8081}]}));
    assert_eq!(rig.host_ports("p"), ["10.0.0.7:8081"]);
    rig.service(&json!({"selector": {"app": "other"}}));
    assert_eq!(rig.endpoints("p"), None);
    rig.service(&json!({}));
    rig.service_gone();
    assert_eq!((rig.endpoints("p"), rig.obstacle()), (None, Some("ServiceNotFound")));
}

#[tokio::test]
async fn publish_not_ready_addresses_registers_pods_before_they_are_ready() {
    let mut rig = Rig::with_pod();
    rig.service(&json!({}));
    rig.of_service("PodIP");
    rig.pod_of(false);
    assert_eq!(rig.endpoints("p"), None);
    rig.service(&json!({"publishNotReadyAddresses": true}));
    assert_eq!(rig.host_ports("p"), ["10.0.0.7:8080"]);
}

#[tokio::test]
async fn a_registration_waits_until_services_and_slices_are_listed() {
    let mut rig = Rig::new();
    rig.cluster("c1");
    rig.registry();
    rig.of_service("PodIP");
    rig.take(WatchEvent::Service(NamespaceScope::Cluster, ObjectEvent::ListComplete));
    assert!(rig.compiled(&orders()).is_none(), "the Service may have no selector");
    rig.take(WatchEvent::EndpointSlice(
        NamespaceScope::Cluster,
        ObjectEvent::ListComplete,
    ));
    assert_eq!(rig.obstacle(), Some("ServiceNotFound"));
}

#[tokio::test]
async fn a_service_without_a_selector_is_the_endpoints_of_its_slices() {
    let mut rig = Rig::with_pod();
    rig.service(&json!({"selector": null}));
    rig.of_service("PodIP");
    assert_eq!(rig.endpoints("192-0-2-7"), None);
    rig.slice(true);
    assert_eq!(rig.host_ports("192-0-2-7"), ["192.0.2.7:5000"]);
    rig.slice(false);
    assert_eq!(rig.endpoints("192-0-2-7"), None);
    rig.slice(true);
    let (namespace, name) = ("shop".to_owned(), "orders-1".to_owned());
    let deleted = ObjectEvent::Deleted { namespace, name };
    rig.take(WatchEvent::EndpointSlice(NamespaceScope::Cluster, deleted));
    assert_eq!(rig.endpoints("192-0-2-7"), None);
}

#[tokio::test]
async fn the_addresses_of_a_service_are_registered_while_a_pod_is_ready() {
    for (address, name, expected) in [
        ("ClusterIP", "10-96-0-9", "10.96.0.9:80"),
        ("ExternalIP", "203-0-113-9", "203.0.113.9:80"),
        ("NodePort", "n1", "10.1.0.1:30080"),
        ("HostIP", "p", "10.1.0.1:9000"),
    ] {
        let mut rig = Rig::with_pod();
        rig.node(node("n1", "a"));
        rig.service(&json!({"externalIPs": ["203.0.113.9"]}));
        rig.of_service(address);
        assert_eq!(rig.host_ports(name), [expected], "{address}");
        rig.pod_of(false);
        assert_eq!(rig.endpoints(name), None, "{address}");
        rig.pod_of(true);
        assert_eq!(rig.host_ports(name), [expected], "{address}");
    }
}

#[tokio::test]
async fn a_type_that_the_service_does_not_have_is_an_obstacle() {
    for (address, reason) in [
        ("LoadBalancer", "ServiceUnusable"),
        ("ExternalIP", "ServiceUnusable"),
        ("NodePort", "ServiceUnusable"),
    ] {
        let mut rig = Rig::with_pod();
        rig.service(&json!({"type": "ClusterIP", "ports": [{"name": "grpc", "port": 80}]}));
        rig.of_service(address);
        assert_eq!(rig.obstacle(), Some(reason), "{address}");
    }
    let mut rig = Rig::with_pod();
    rig.service(&json!({"type": "LoadBalancer"}));
    rig.of_service("LoadBalancer");
    assert_eq!(rig.obstacle(), Some("AddressPending"));
}

#[tokio::test]
async fn the_zone_of_a_pod_follows_its_node() {
    let mut rig = Rig::with_pod();
    rig.service(&json!({}));
    rig.of_service("PodIP");
    let zone = |rig: &Rig| rig.endpoints("p").expect("a ready pod")[0].zone.clone();
    assert_eq!(zone(&rig), None);
    rig.node(node("n1", "a"));
    assert_eq!(zone(&rig).as_deref(), Some("a"));
    rig.node(node("n1", "b"));
    assert_eq!(zone(&rig).as_deref(), Some("b"));
}

#[tokio::test]
async fn without_rights_on_nodes_the_others_go_on_and_registered_nodes_stay() {
    let mut rig = Rig::new();
    rig.cluster("c1");
    rig.registry();
    rig.service(&json!({}));
    rig.of_service("NodePort");
    rig.pod_of(true);
    rig.lists_complete_without_nodes();
    assert!(!rig.controller.complete && rig.compiled(&orders()).is_none());
    let lost = Timestamp::from_second(7).expect("a time");
    rig.take(WatchEvent::Node(ObjectEvent::Lost(lost)));
    assert!(rig.controller.complete, "few registrations need nodes");
    assert_eq!(rig.obstacle(), Some("NodesUnknown"));
    assert!(
        rig.cache().pod_state(&orders(), "n1").is_none(),
        "what is registered stays"
    );
    rig.node(node("n1", "a"));
    rig.take(WatchEvent::Node(ObjectEvent::ListComplete));
    assert_eq!(rig.obstacle(), None);
    assert_eq!(rig.host_ports("n1"), ["10.1.0.1:30080"]);
}

#[tokio::test]
async fn endpoints_of_spec_in_force_are_followed_while_newest_is_invalid() {
    let mut rig = Rig::with_pod();
    rig.service(&json!({"selector": null}));
    rig.slice(true);
    let object = json!({
        "apiVersion": "leasehold.dev/v1alpha1", "kind": "ServiceRegistration",
        "metadata": {"name": "orders", "namespace": "shop", "uid": "a", "generation": 1},
        "spec": {
            "service": {"name": "orders"},
            "formats": [{"type": "Plain", "plain": {"prefix": "/s"}, "ports": ["grpc"]}],
        },
    });
    let event = ObjectEvent::Applied(Box::new(decode(object)));
    rig.take(WatchEvent::Registration(NamespaceScope::Cluster, event));
    assert_eq!(rig.host_ports("192-0-2-7"), ["192.0.2.7:5000"]);
    rig.service(&json!({"selector": null, "ports": [{"name": "renamed", "port": 80}]}));
    assert_eq!(rig.cache().entries[&orders()].refusal(), Some("InvalidSpec"));
    assert_eq!(rig.host_ports("192-0-2-7"), ["192.0.2.7:5000"]);
    rig.slice(false);
    assert_eq!(rig.endpoints("192-0-2-7"), None);
    rig.service(&json!({"selector": null}));
    rig.slice(true);
    assert_eq!(rig.cache().entries[&orders()].refusal(), None);
    assert_eq!(rig.host_ports("192-0-2-7"), ["192.0.2.7:5000"]);
}

fn attributes(rig: &Rig) -> Value {
    let endpoint = &rig.endpoints("p").expect("a ready pod")[0];
    json!(*endpoint.metadata)
}

impl Rig {
    /// Applies the Registry `default` with these labels of nodes.
    fn node_labels(&mut self, generation: i64, labels: &[&str]) {
        let object = json!({
            "apiVersion": "leasehold.dev/v1alpha1", "kind": "Registry",
            "metadata": {"name": "default", "uid": "r", "generation": generation},
            "spec": {"etcd": {"endpoints": ["http://127.0.0.1:1"]}, "nodeLabels": labels},
        });
        self.take(WatchEvent::Registry(ObjectEvent::Applied(Box::new(decode(object)))));
    }

    /// Applies a registration with attributes from the labels `rack` and region of nodes.
    fn of_racks(&mut self) {
        let object = json!({
            "apiVersion": "leasehold.dev/v1alpha1", "kind": "ServiceRegistration",
            "metadata": {"name": "orders", "namespace": "shop", "uid": "a", "generation": 1},
            "spec": {
                "selector": {"matchLabels": {"app": "orders"}}, "ports": [{"name": "grpc", "port": 8080}],
                "attributes": [
                    {"name": "cell", "fromNodeLabel": "rack"},
                    {"name": "region", "fromNodeLabel": "topology.kubernetes.io/region"},
                    {"name": "team", "value": "payments"},
                ],
                "formats": [{"type": "Plain", "plain": {"prefix": "/s"}}],
            },
        });
        let event = ObjectEvent::Applied(Box::new(decode(object)));
        self.take(WatchEvent::Registration(NamespaceScope::Cluster, event));
    }

    /// Returns why attributes are missing.
    fn missing(&self) -> Option<Obstacle> {
        self.compiled(&orders())?.missing
    }
}

fn racked() -> Node {
    let labels = json!({"rack": "r1", "topology.kubernetes.io/region": "eu", "secret": "x"});
    let node = json!({"metadata": {"name": "n1", "labels": labels}});
    crate::kube::node(node).expect("decodes")
}

#[tokio::test]
async fn only_labels_of_nodes_that_the_registry_allows_are_published() {
    let mut rig = Rig::with_pod();
    rig.node(racked());
    rig.of_racks();
    let without = json!({"region": "eu", "team": "payments"});
    assert_eq!(attributes(&rig), without);
    let missing = rig.missing().expect("a label is denied").message;
    for words in [
        "attributes cell,",
        "labels rack of nodes",
        "Registry \"default\"",
        "spec.nodeLabels",
    ] {
        assert!(missing.contains(words), "{missing}");
    }
    rig.node_labels(2, &["gpu", "rack"]);
    assert_eq!(
        attributes(&rig),
        json!({"cell": "r1", "region": "eu", "team": "payments"})
    );
    assert_eq!(rig.missing(), None);
    rig.node_labels(3, &["gpu"]);
    assert_eq!(attributes(&rig), without);
    assert!(rig.missing().is_some());
}

#[tokio::test]
async fn an_edit_of_other_labels_of_nodes_marks_no_pod() {
    let mut rig = Rig::with_pod();
    rig.node(racked());
    rig.node_labels(2, &["rack"]);
    rig.of_racks();
    let before = rig.compiled(&orders()).expect("in force");
    rig.node_labels(3, &["gpu", "rack"]);
    let after = rig.compiled(&orders()).expect("in force");
    assert_eq!(after.registration, before.registration);
    assert_eq!(
        rig.controller
            .cache
            .write()
            .index
            .apply_registration(after.registration),
        []
    );
}

#[tokio::test]
async fn without_node_access_registrations_with_node_labels_are_unchanged() {
    let mut rig = Rig::new();
    rig.cluster("c1");
    rig.node_labels(1, &["rack"]);
    rig.pod_of(true);
    rig.of_racks();
    rig.lists_complete_without_nodes();
    assert!(!rig.controller.complete, "the nodes may still be listed");
    let lost = Timestamp::from_second(7).expect("a time");
    rig.take(WatchEvent::Node(ObjectEvent::Lost(lost)));
    assert!(rig.controller.complete);
    assert_eq!(rig.obstacle(), Some("NodesUnknown"));
    let pod = rig.cache().pod_state(&orders(), "p");
    assert!(pod.is_none(), "what is registered stays: {pod:?}");
    rig.node(racked());
    rig.take(WatchEvent::Node(ObjectEvent::ListComplete));
    assert_eq!(
        attributes(&rig),
        json!({"cell": "r1", "region": "eu", "team": "payments"})
    );
    assert_eq!(rig.obstacle(), None);
}
