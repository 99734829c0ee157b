//! The objects that the chaos is made of.

use serde_json::{Value, json};
use testbed::NewPod;

use super::{
    plan::{ADDRESSES, EDGE_APP, EDGE_PODS, EDGE_SLOTS, REGISTRATIONS},
    wanted::ZONE,
};

/// The namespaces: that of the second one has the app [`EDGE_APP`], some bare pods and some registrations.
pub const NAMESPACES: [&str; 2] = ["chaos", "edge"];
/// The Registries, each with its meta prefix and its class.
pub const REGISTRIES: [(&str, &str, Option<&str>); 2] = [
    ("default", "/leasehold/", None),
    ("edge", "/leasehold-edge/", Some("edge")),
];
/// The API of registrations and Registries.
pub const API: &str = "leasehold.dev/v1alpha1";
/// The ports of every pod.
pub const PORTS: [(&str, u16); 2] = [("grpc", 8080), ("http", 8081)];

/// The operator's readiness gate.
pub const GATE: &str = "leasehold.dev/registered";

/// Whether the pods of an app have the readiness gate. Of the bare pods, some change the app.
fn is_gated(app: usize) -> bool {
    app == 1
}

/// What gives the pods of a Deployment the readiness gate, if those of this app have it.
pub fn deployment_gate(number: usize) -> Option<Value> {
    let gates = json!([{"conditionType": GATE}]);
    is_gated(number).then(|| json!({"spec": {"template": {"spec": {"readinessGates": gates}}}}))
}

/// A label of nodes that registrations may publish while the Registry allows it, as it does at first.
pub const RACK: &str = "example.org/rack";
/// Another one, which the Registry does not allow at first.
pub const COST: &str = "example.org/cost-center";

/// The label of nodes that load balancers may not use.
pub const EXCLUDE: &str = "node.kubernetes.io/exclude-from-external-load-balancers";
/// The taint of nodes that are about to be removed.
pub const TO_BE_DELETED: &str = "ToBeDeletedByClusterAutoscaler";

/// A port that no container declares.
const ADMIN: u16 = 9090;

/// How many keys a namespace may have in the second Registry: fewer than its pods ask for at times.
const QUOTA: usize = 6;

/// A Registry, one of [`REGISTRIES`].
pub fn registry(number: usize, endpoints: &[String], ttl_seconds: u32) -> Value {
    let (name, meta_prefix, class) = REGISTRIES[number];
    let mut registry = json!({
        "apiVersion": API,
        "kind": "Registry",
        "metadata": {"name": name},
        "spec": {
            "etcd": {"endpoints": endpoints, "metaPrefix": meta_prefix},
            "defaults": {"leaseTTLSeconds": ttl_seconds},
            // Holds begin often, and end before the checker takes what they keep for a violation.
            "guard": {"minEndpoints": 3, "maxLossPercent": 30, "windowSeconds": 5, "holdSeconds": 1},
            "nodeLabels": [RACK],
        },
    });
    if let Some(class) = class {
        registry["spec"]["class"] = json!(class);
        let rule = json!({"name": "all", "namespaceSelector": {}, "keysPerNamespace": QUOTA});
        registry["spec"]["access"] = json!({"rules": [rule]});
    }
    registry
}

/// Sets the labels of nodes that the Registry allows to those that `pick` falls to.
pub fn allowed_labels(pick: u64) -> Value {
    let lists: [&[&str]; 4] = [&[], &[RACK], &[COST], &[RACK, COST]];
    json!({"spec": {"nodeLabels": lists[super::rng::index(pick, 4)]}})
}

/// The name of a Deployment, and the label of its pods.
pub fn app(number: usize) -> String {
    format!("app-{number}")
}

/// The namespace of an app.
pub fn namespace_of(app: usize) -> &'static str {
    NAMESPACES[usize::from(app == EDGE_APP)]
}

/// The app whose labels a bare pod has at first.
pub fn app_of_pod(slot: usize) -> usize {
    if slot < EDGE_PODS { slot % EDGE_APP } else { EDGE_APP }
}

/// The app of a registration.
pub fn app_of_registration(slot: usize) -> usize {
    if slot < EDGE_SLOTS { slot % EDGE_APP } else { EDGE_APP }
}

/// The Service of an app. Its ports have the names and numbers by which registrations ask for ports of pods, so that a
/// registration of the Service means the same as one of its pods.
pub fn service(number: usize) -> Value {
    let name = app(number);
    let port = |name: &str, port: u16, target: Value| json!({"name": name, "port": port, "targetPort": target, "protocol": "TCP"});
    let [(grpc, _), (http, _)] = PORTS;
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {
            // It also has a cluster IP and node ports.
            "type": "LoadBalancer",
            "selector": {"app": name},
            "externalIPs": EXTERNAL_IPS,
            "ports": [port(grpc, 80, json!(grpc)), port(http, 81, json!(http)), port("admin", ADMIN, json!(ADMIN))],
        },
    })
}

/// The external IPs of Services.
pub const EXTERNAL_IPS: [&str; 2] = ["192.0.2.10", "192.0.2.11"];

/// What gives the load balancer of the Service of an app so many addresses and host names.
pub fn load_balancer(number: usize, most: usize) -> Value {
    let ingress = [json!({"ip": "203.0.113.7"}), json!({"hostname": "lb.example.com"})];
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": app(number)},
        "status": {"loadBalancer": {"ingress": &ingress[..most]}},
    })
}

/// The name of a bare pod.
pub fn bare_pod(slot: usize) -> String {
    format!("bare-{slot}")
}

/// A bare pod, of the app that its number falls to.
pub fn new_pod(slot: usize) -> NewPod {
    let mut pod = NewPod::new(&bare_pod(slot)).label("app", &app(app_of_pod(slot)));
    if is_gated(app_of_pod(slot)) {
        pod = pod.with(&json!({"spec": {"readinessGates": [{"conditionType": GATE}]}}));
    }
    // No two pods have the same port of a node.
    let port = |(i, (name, number)): (usize, &(&str, u16))| json!({"name": name, "containerPort": number, "hostPort": 18000 + 100 * i + slot});
    let ports: Vec<Value> = PORTS.iter().enumerate().map(port).collect();
    pod.with(&json!({"spec": {"containers": [{"name": "main", "image": "leasehold.test/main", "ports": ports}]}}))
}

/// The name of a registration.
pub fn registration_name(slot: usize) -> String {
    format!("reg-{slot}")
}

/// The formats of one of the many shapes of a registration.
fn formats(name: &str, shape: u64) -> Value {
    let prefix = |format: &str, member: &str, value: Option<&str>, variant: u64| {
        let mut options = json!({});
        if let Some(value) = value {
            options["value"] = json!(value);
        }
        if variant > 0 {
            let variants = ["a", "b", "a/deep"];
            let variant = variants[super::rng::index(variant - 1, variants.len())];
            options["prefix"] = json!(format!("/chaos/{name}/{variant}"));
        }
        json!({"type": format, member: options})
    };
    let variant = bits(shape, 8, 4);
    match bits(shape, 0, 5) {
        0 => json!([prefix("Plain", "plain", None, variant)]),
        1 => json!([prefix("Plain", "plain", Some("JSON"), variant)]),
        2 => json!([prefix("EtcdGRPC", "etcdGRPC", None, variant)]),
        3 => json!([prefix("Plain", "plain", None, variant), {"type": "EtcdGRPC"}]),
        _ => json!([prefix("Plain", "plain", Some("JSON"), variant), {"type": "EtcdGRPC"}]),
    }
}

/// A number below `of`, of the bits of a shape from one on.
fn bits(shape: u64, at: u64, of: u64) -> u64 {
    (shape >> at) % of
}

/// The annotation of a Service that holds its shape, for the chaos itself.
pub const SHAPE: &str = "chaos.leasehold.test/shape";

/// The annotations by which a Service asks for the registration [`annotated`].
pub fn annotations(number: usize, shape: u64) -> Value {
    let spec = annotated(number, shape)["spec"].take();
    let ports = spec["ports"].as_array().into_iter().flatten();
    let ports: Vec<&str> = ports.filter_map(|port| port["name"].as_str()).collect();
    json!({
        SHAPE: shape.to_string(),
        "leasehold.dev/register": "",
        "leasehold.dev/formats": spec["formats"].to_string(),
        "leasehold.dev/ports": ports.join(","),
        "leasehold.dev/weight": spec["weight"].as_u64().map(|weight| weight.to_string()),
        "leasehold.dev/attributes": spec["attributes"][0]["value"].as_str().map(|value| format!("edition={value}")),
    })
}

/// No annotations.
pub fn no_annotations() -> Value {
    let mut annotations = annotations(0, 0);
    for value in annotations.as_object_mut().into_iter().flat_map(|all| all.values_mut()) {
        value.take();
    }
    annotations
}

/// The registration that the operator is to keep for an annotated Service.
pub fn annotated(number: usize, shape: u64) -> Value {
    let name = app(number);
    let ports = match bits(shape, 16, 2) {
        0 => json!([{"name": "grpc"}, {"name": "http"}]),
        _ => json!([{"name": "grpc"}]),
    };
    let mut spec = json!({"ports": ports, "formats": formats(&name, shape), "service": {"name": name}});
    add_facts(&mut spec, shape);
    json!({
        "apiVersion": API,
        "kind": "ServiceRegistration",
        "metadata": {"name": name, "namespace": namespace_of(number)},
        "spec": spec,
    })
}

fn add_facts(spec: &mut Value, shape: u64) {
    if bits(shape, 24, 2) == 1 {
        spec["attributes"] = json!([{"name": "edition", "value": bits(shape, 26, 5).to_string()}]);
    }
    if bits(shape, 32, 2) == 1 {
        spec["weight"] = json!(bits(shape, 34, 3));
    }
}

/// Attributes from labels of nodes: one that is always allowed, and two that depend on the Registry.
fn add_node_labels(spec: &mut Value, shape: u64) {
    let labels = [("place", ZONE), ("cell", RACK), ("cost", COST)];
    let attributes = labels.iter().enumerate().filter(|(i, _)| (shape >> (40 + i)) & 1 == 1);
    let attributes = attributes.map(|(_, (name, label))| json!({"name": name, "fromNodeLabel": label}));
    let attributes: Vec<Value> = attributes.collect();
    if let Some(Value::Array(all)) = spec.get_mut("attributes") {
        all.extend(attributes);
    } else if !attributes.is_empty() {
        spec["attributes"] = attributes.into();
    }
}

/// The type of addresses of a registration, if it names one: half of the time the one that it has mostly.
fn address(slot: usize, shape: u64) -> Option<&'static str> {
    let mostly = slot.checked_sub(REGISTRATIONS).map(|i| ADDRESSES[i]);
    let others = [
        None,
        Some("HostIP"),
        Some("NodePort"),
        Some("ClusterIP"),
        Some("ExternalIP"),
        Some("LoadBalancer"),
    ];
    let address = match bits(shape, 54, 2) {
        0 => mostly,
        _ => others[super::rng::index(shape >> 55, others.len())],
    };
    // The pods of Deployments have no host ports, so that their gates would wait for nothing.
    address.filter(|address| *address != "HostIP" || !is_gated(app_of_registration(slot)))
}

/// A registration in one of its many shapes. Whatever its shape, no other registration wants its keys.
pub fn registration(slot: usize, shape: u64) -> Value {
    if slot >= EDGE_SLOTS {
        return edge_registration(slot, shape);
    }
    let name = registration_name(slot);
    let ports = match bits(shape, 16, 4) {
        0 => json!([{"name": "grpc"}, {"name": "web", "port": "http"}]),
        1 => json!([{"name": "admin", "port": ADMIN}]),
        _ => json!([{"name": "grpc"}]),
    };
    let mut spec = json!({"ports": ports, "formats": formats(&name, shape)});
    let app = app(app_of_registration(slot));
    let address = address(slot, shape);
    if let Some(address) = address {
        spec["address"] = json!({"type": address});
    }
    if address == Some("NodePort") && bits(shape, 50, 2) == 0 {
        // Every node has an internal address, so that each of these can be carried out.
        let types = [
            json!(["InternalIP"]),
            json!(["InternalIP", "ExternalIP"]),
            json!(["ExternalIP", "InternalIP"]),
        ];
        spec["address"]["nodeAddressTypes"] = types[super::rng::index(shape >> 51, types.len())].clone();
    }
    if address == Some("NodePort") && spec["formats"][0]["type"] == "Plain" {
        // Only this value has a place for the weight.
        spec["formats"][0]["plain"]["value"] = json!("JSON");
    }
    let of_pods = matches!(address, None | Some("HostIP"));
    // No pod has a host port for it, so that gates would wait for nothing.
    if address == Some("HostIP") && spec["ports"] == json!([{"name": "admin", "port": ADMIN}]) {
        spec["ports"] = json!([{"name": "grpc"}]);
    }
    match address {
        None | Some("HostIP") if bits(shape, 38, 2) == 0 => spec["selector"] = json!({"matchLabels": {"app": app}}),
        _ => spec["service"] = json!({"name": app}),
    }
    if of_pods && bits(shape, 44, 8) < 3 {
        spec["minReadySeconds"] = json!(bits(shape, 44, 8) + 1);
    }
    if address.is_none() && bits(shape, 48, 3) == 0 {
        spec["address"] = json!({"ipFamilies": ["IPv4", "IPv6"]});
    }
    add_facts(&mut spec, shape);
    add_node_labels(&mut spec, shape);
    json!({
        "apiVersion": API,
        "kind": "ServiceRegistration",
        "metadata": {"name": name, "namespace": NAMESPACES[0]},
        "spec": spec,
    })
}

/// A registration in the second namespace and Registry. Whatever its shape, each pod has one key, and always the same one.
fn edge_registration(slot: usize, shape: u64) -> Value {
    let (registry, ..) = REGISTRIES[1];
    let format = match (slot - EDGE_SLOTS, bits(shape, 0, 2)) {
        (0, 0) => json!({"type": "Plain"}),
        (0, _) => json!({"type": "Plain", "plain": {"value": "JSON"}}),
        _ => json!({"type": "EtcdGRPC"}),
    };
    let mut spec = json!({
        "registryRef": {"name": registry},
        "selector": {"matchLabels": {"app": app(EDGE_APP)}},
        "ports": [{"name": "grpc"}],
        "formats": [format],
    });
    if bits(shape, 44, 8) < 3 {
        spec["minReadySeconds"] = json!(bits(shape, 44, 8) + 1);
    }
    add_facts(&mut spec, shape);
    add_node_labels(&mut spec, shape);
    json!({
        "apiVersion": API,
        "kind": "ServiceRegistration",
        "metadata": {"name": registration_name(slot), "namespace": NAMESPACES[1]},
        "spec": spec,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::chaos::{
        plan::{APPS, SLOTS},
        rng::Rng,
        wanted::Registration,
    };

    #[test]
    fn every_shape_is_understood_and_no_two_registrations_share_a_prefix() {
        let mut rng = Rng::new(1, 1);
        let mut prefixes: Vec<BTreeSet<String>> = vec![BTreeSet::new(); SLOTS + APPS];
        for _ in 0..500 {
            for (slot, own) in prefixes.iter_mut().enumerate() {
                let object = match slot.checked_sub(SLOTS) {
                    None => registration(slot, rng.next()),
                    Some(number) => annotated(number, rng.next()),
                };
                let read = Registration::read(&object).expect("understood");
                own.extend(read.prefixes().map(str::to_owned));
            }
        }
        for (slot, own) in prefixes.iter().enumerate() {
            let is_fixed = (EDGE_SLOTS..SLOTS).contains(&slot);
            assert!(if is_fixed { own.len() == 1 } else { own.len() >= 5 }, "{own:?}");
            let others: BTreeSet<_> = prefixes[slot + 1..].iter().flatten().collect();
            assert!(own.iter().all(|prefix| !others.contains(prefix)));
        }
    }
}
