//! What becomes of the ports and addresses of Services.

use serde_json::{Value, json};

use super::*;
use crate::api::ServiceRegistration;
use crate::format::RecordFormats;
use crate::index::{Addresses, ObjectCache};

fn service(patch: &Value) -> Service {
    let mut object = json!({
        "metadata": {"name": "orders", "namespace": "shop"},
        "spec": {
            "selector": {"app": "orders"}, "clusterIPs": ["10.96.0.9", "fd00::9"],
            "ports": [
                {"name": "grpc", "port": 80, "targetPort": "grpc"},
                {"name": "dns", "port": 53, "targetPort": 5353, "protocol": "UDP", "appProtocol": "Example.com/DNS"}
            ]
        },
        "status": {}
    });
    for (path, value) in patch.as_object().expect("an object") {
        *object.pointer_mut(path).expect("a known field") = value.clone();
    }
    crate::kube::service(object).expect("decodes")
}

fn resolved(spec: &Value, service: Service, slices: &[Value]) -> Resolved {
    let mut whole = json!({"service": {"name": "orders"}, "formats": [{"type": "Plain"}]});
    for (field, value) in spec.as_object().expect("an object") {
        whole[field] = value.clone();
    }
    let object = json!({
        "apiVersion": "leasehold.dev/v1alpha1", "kind": "ServiceRegistration",
        "metadata": {"name": "orders", "namespace": "shop"}, "spec": whole,
    });
    let registration: ServiceRegistration = serde_json::from_value(object).expect("decodes");
    let (mut services, mut known) = (ObjectCache::default(), ObjectCache::default());
    services.apply("shop", "orders", service);
    for (number, slice) in slices.iter().enumerate() {
        let mut object = json!({
            "metadata": {
                "name": format!("orders-{number}"), "namespace": "shop",
                "labels": {"kubernetes.io/service-name": "orders"}
            },
        });
        for (field, value) in slice.as_object().expect("an object") {
            object[field] = value.clone();
        }
        let slice = crate::kube::endpoint_slice(object).expect("decodes");
        known.apply("shop", &format!("orders-{number}"), slice);
    }
    let references = References {
        record_formats: &RecordFormats::new(),
        default_formats: &[],
        services: &services,
        slices: &known,
    };
    resolve(&registration.spec, "shop", references, &[]).expect("a valid registration")
}

fn ports(resolved: &Resolved) -> Vec<(&str, PortTarget)> {
    let ports = resolved.ports.iter();
    ports.map(|port| (&*port.name, port.target.clone())).collect()
}

fn by_name(name: &str, protocol: Protocol) -> PortTarget {
    PortTarget::Name {
        name: name.into(),
        protocol: Some(protocol),
    }
}

fn message(resolved: &Resolved) -> &str {
    resolved.obstacle.as_ref().map_or("", |obstacle| &obstacle.message)
}

#[test]
fn all_ports_of_the_service_are_registered_unless_some_are_listed() {
    let all = resolved(&json!({}), service(&json!({})), &[]);
    let expected = [
        ("grpc", by_name("grpc", Protocol::Tcp)),
        ("dns", PortTarget::Number(5353)),
    ];
    assert_eq!(ports(&all), expected);
    assert_eq!(all.ports[1].scheme, None, "no known application protocol has that form");
    for asked in [
        json!({"name": "d", "port": 53}),
        json!({"name": "d", "port": "dns", "appProtocol": "dns"}),
    ] {
        let one = resolved(&json!({"ports": [asked]}), service(&json!({})), &[]);
        assert_eq!(ports(&one), [("d", PortTarget::Number(5353))]);
        assert_eq!(one.obstacle, None);
    }
}

#[test]
fn missing_service_port_is_reported_and_other_ports_resolve() {
    let asked = json!({"ports": [{"name": "grpc"}, {"name": "http"}]});
    let some = resolved(&asked, service(&json!({})), &[]);
    assert_eq!(some.ports.len(), 1);
    assert!(
        message(&some).contains("spec.ports[].port of \"http\""),
        "{}",
        message(&some)
    );
    let wrong_protocol = json!({"ports": [{"name": "grpc", "protocol": "UDP"}]});
    assert!(resolved(&wrong_protocol, service(&json!({})), &[]).ports.is_empty());
    let none = resolved(&json!({}), service(&json!({"/spec/ports": null})), &[]);
    assert!(message(&none).contains("has no ports"), "{}", message(&none));
    let long = service(&json!({"/spec/ports": [{"name": "a-very-long-port-name", "port": 80}]}));
    let long = resolved(&json!({}), long, &[]);
    assert!(
        long.ports.is_empty() && message(&long).contains("shorter name"),
        "{}",
        message(&long)
    );
}

#[test]
fn the_only_port_may_have_no_name() {
    let unnamed = service(&json!({"/spec/ports": [{"port": 80, "appProtocol": "kubernetes.io/ws"}]}));
    let resolved = resolved(&json!({}), unnamed, &[]);
    assert_eq!(ports(&resolved), [("default", PortTarget::Number(80))]);
    assert_eq!(resolved.ports[0].scheme.as_deref(), Some("ws"));
}

#[test]
fn addresses_are_of_the_wanted_family_and_host_names_of_any() {
    let balancer = json!({"ingress": [{"ip": "203.0.113.7"}, {"ip": "fd00::7"}, {"hostname": "lb.example.com"}, {"ip": "203.0.113.7"}]});
    let hosts = |families: &[&str]| -> Vec<String> {
        let mut service = service(&json!({"/status": {"loadBalancer": balancer}}));
        service.kind = ServiceType::LoadBalancer;
        let spec = json!({"address": {"type": "LoadBalancer", "ipFamilies": families}});
        match resolved(&spec, service, &[]).target {
            Target::Addresses(addresses) => addresses.iter().map(|address| address.host.to_string()).collect(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(hosts(&["IPv4"]), ["203.0.113.7", "lb.example.com"]);
    assert_eq!(hosts(&["IPv6"]), ["fd00::7", "lb.example.com"]);
    assert_eq!(hosts(&["IPv6", "IPv4"]), ["203.0.113.7", "fd00::7", "lb.example.com"]);
    let cluster_ips = |families: &[&str]| {
        let mut service = service(&json!({}));
        service.cluster_ips = Addresses::parse(["10.96.0.7", "fd00:96::7"]);
        let spec = json!({"address": {"type": "ClusterIP", "ipFamilies": families}});
        match resolved(&spec, service, &[]).target {
            Target::Addresses(addresses) => addresses
                .iter()
                .map(|address| address.host.to_string())
                .collect::<Vec<_>>(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(cluster_ips(&["IPv6"]), ["fd00:96::7"]);
    assert_eq!(cluster_ips(&["IPv4", "IPv6"]), ["10.96.0.7", "fd00:96::7"]);
}

#[test]
fn slices_give_each_endpoint_once_with_the_ports_of_its_slice() {
    let bare = service(&json!({"/spec/selector": null}));
    let slices = [
        json!({"ports": [{"name": "grpc", "port": 1}], "endpoints": [
            {"addresses": ["192.0.2.1"], "zone": "a"}, {"addresses": ["192.0.2.2"], "conditions": {"ready": false}},
            {"addresses": ["192.0.2.3"], "conditions": {"terminating": true}}, {"addresses": ["fd00::1"]}
        ]}),
        json!({"ports": [{"name": "grpc", "port": 2}, {"name": "dns", "port": 3, "protocol": "UDP"}], "endpoints": [
            {"addresses": ["192.0.2.1"]}, {"addresses": ["192.0.2.2"]}
        ]}),
    ];
    let resolved = resolved(&json!({}), bare, &slices);
    let Target::Addresses(addresses) = &resolved.target else {
        panic!("{:?}", resolved.target)
    };
    let found: Vec<_> = addresses
        .iter()
        .map(|address| {
            (
                address.host.to_string(),
                address.ready,
                address.ports.as_deref().map(<[_]>::to_vec),
            )
        })
        .collect();
    let expected = [
        ("192.0.2.1".to_owned(), Some(true), Some(vec![Some(1), Some(3)])),
        ("192.0.2.2".to_owned(), Some(true), Some(vec![Some(2), Some(3)])),
    ];
    assert_eq!(found, expected);
}

#[test]
fn every_obstacle_says_what_to_do() {
    for (spec, patch, expected) in [
        (json!({}), json!({"/spec/ports": []}), "list them in its spec"),
        (
            json!({"address": {"type": "HostIP"}}),
            json!({"/spec/selector": null}),
            "use the type PodIP",
        ),
        (
            json!({"address": {"type": "NodePort"}}),
            json!({}),
            "give it the type NodePort",
        ),
        (
            json!({"address": {"type": "LoadBalancer"}}),
            json!({}),
            "give it the type LoadBalancer",
        ),
        (json!({"address": {"type": "ExternalIP"}}), json!({}), "add one"),
        (
            json!({"address": {"type": "ClusterIP"}}),
            json!({"/spec/clusterIPs": ["None"]}),
            "headless Service",
        ),
    ] {
        let resolved = resolved(&spec, service(&patch), &[]);
        assert!(message(&resolved).contains(expected), "{spec}: {}", message(&resolved));
    }
    let mut alias = service(&json!({}));
    alias.kind = ServiceType::ExternalName;
    assert!(message(&resolved(&json!({}), alias, &[])).contains("ExternalName"));
}
