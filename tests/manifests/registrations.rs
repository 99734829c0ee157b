//! Registrations: wrong ones with what is said to them, and good ones.

use serde_json::{Value, json};

use super::{Case, formats, many, rejected, taken, text};

pub fn wrong() -> Vec<Case> {
    let groups = [
        selectors(),
        ports(),
        formats::wrong(),
        consumers(),
        single_values(),
        readiness(),
        facts(),
    ];
    groups.into_iter().flatten().collect()
}

fn selectors() -> Vec<Case> {
    let expression = |expression: Value| json!({"selector": {"matchExpressions": [expression]}});
    rejected(vec![
        (
            "neither selector nor Service",
            json!({"selector": null}),
            "either selector, with the labels of the pods, or service",
        ),
        (
            "empty selector",
            json!({"selector": {"matchLabels": null}}),
            "name at least one label in matchLabels",
        ),
        (
            "no label",
            json!({"selector": {"matchLabels": null, "matchExpressions": []}}),
            "every pod of the namespace",
        ),
        (
            "In without values",
            expression(json!({"key": "a", "operator": "In"})),
            "need at least one entry in values",
        ),
        (
            "Exists with values",
            expression(json!({"key": "a", "operator": "Exists", "values": ["b"]})),
            "leave values out",
        ),
        (
            "unknown operator",
            expression(json!({"key": "a", "operator": "Is"})),
            r#"supported values: "In", "NotIn""#,
        ),
        (
            "empty label key",
            json!({"selector": {"matchLabels": {"": "x"}}}),
            "write it as it is on the pods",
        ),
        (
            "malformed label key",
            json!({"selector": {"matchLabels": {"a b": "x"}}}),
            "write it as it is on the pods",
        ),
        (
            "selector and Service",
            json!({"service": {"name": "orders"}}),
            "either selector, with the labels of the pods, or service",
        ),
        (
            "a Service's name in capitals",
            json!({"selector": null, "service": {"name": "Orders"}}),
            "name must be that of an object",
        ),
        (
            "the address of a Service with a selector",
            json!({"address": {"type": "NodePort"}}),
            "write service instead of selector",
        ),
        (
            "types of node addresses for another type",
            json!({"selector": null, "service": {"name": "orders"}, "address": {"nodeAddressTypes": ["InternalIP"]}}),
            "only for the type NodePort",
        ),
        (
            "a type of node address twice",
            json!({
                "selector": null, "service": {"name": "orders"},
                "address": {"type": "NodePort", "nodeAddressTypes": ["InternalIP", "InternalIP"]}
            }),
            "listed once",
        ),
        (
            "an unknown type of node address",
            json!({
                "selector": null, "service": {"name": "orders"},
                "address": {"type": "NodePort", "nodeAddressTypes": ["Hostname"]}
            }),
            r#"supported values: "ExternalIP", "InternalIP""#,
        ),
    ])
}

fn ports() -> Vec<Case> {
    let port = |port: Value| json!({"ports": [port]});
    rejected(vec![
        (
            "no ports",
            json!({"ports": []}),
            "spec.ports in body should have at least 1 items",
        ),
        (
            "ports left out",
            json!({"ports": null}),
            "with service, the default is all ports of the Service",
        ),
        (
            "17 ports",
            json!({"ports": many(17, |i| json!({"name": format!("p{i}")}))}),
            "must have at most 16 items",
        ),
        (
            "port 0",
            port(json!({"name": "a", "port": 0})),
            "a number from 1 to 65535 without quotes",
        ),
        (
            "port 65536",
            port(json!({"name": "a", "port": 65536})),
            "a number from 1 to 65535 without quotes",
        ),
        (
            "quoted port number",
            port(json!({"name": "a", "port": "8080"})),
            "spec.ports[0].port in body should match '^([a-z]",
        ),
        (
            "port name in capitals",
            port(json!({"name": "a", "port": "HTTP"})),
            "spec.ports[0].port in body should match '^([a-z]",
        ),
        (
            "port name that ends with a hyphen",
            port(json!({"name": "a", "port": "http-"})),
            "spec.ports[0].port in body should match '^([a-z]",
        ),
        (
            "port name of 16",
            port(json!({"name": "a", "port": text(16)})),
            "may not be more than 15",
        ),
        (
            "port's own name in capitals",
            port(json!({"name": "HTTP", "port": 80})),
            "such as http or grpc-2",
        ),
        (
            "port's own name of digits",
            port(json!({"name": "80", "port": 80})),
            "at least one letter",
        ),
        (
            "appProtocol with a colon",
            port(json!({"name": "a", "port": 80, "appProtocol": "http://"})),
            "such as grpc or http",
        ),
        (
            "two ports of one name",
            json!({"ports": [{"name": "http", "port": 80}, {"name": "http", "port": 81}]}),
            r#"spec.ports[1]: Duplicate value: {"name":"http"}"#,
        ),
        (
            "a port without a name",
            port(json!({"port": 8080})),
            "spec.ports[0].name: Required value",
        ),
        (
            "port's own name of 16",
            port(json!({"name": text(16)})),
            "spec.ports[0].name: Too long: may not be more than 15",
        ),
        (
            "empty port's own name",
            port(json!({"name": ""})),
            "spec.ports[0].name in body should be at least 1 chars long",
        ),
        (
            "port's own name with two hyphens in a row",
            port(json!({"name": "a--b"})),
            "single hyphens",
        ),
        (
            "unknown protocol",
            port(json!({"name": "a", "protocol": "QUIC"})),
            r#"supported values: "TCP", "UDP", "SCTP""#,
        ),
    ])
}

/// What a consumer cannot read of an otherwise good registration.
fn consumers() -> Vec<Case> {
    let redis = json!([{"name": "redis", "port": 6379, "appProtocol": "redis"}]);
    rejected(vec![
        (
            "IPv6 for GoFrame",
            json!({"address": {"ipFamilies": ["IPv6"]}, "formats": [{"type": "Plain"}, {"type": "GoFrame"}]}),
            "GoFrame's clients panic on IPv6 addresses",
        ),
        (
            "both families for GoFrame",
            json!({"address": {"ipFamilies": ["IPv4", "IPv6"]}, "formats": [{"type": "GoFrame"}]}),
            "GoFrame's clients panic on IPv6 addresses",
        ),
        (
            "redis for GoMicro",
            json!({"ports": redis, "formats": [{"type": "GoMicro"}]}),
            "go-micro's clients speak grpc, http and mucp",
        ),
        (
            "redis over Traefik's HTTP",
            json!({"ports": redis, "formats": [{"type": "Traefik"}]}),
            "or write traefik: {protocol: TCP} or UDP",
        ),
        (
            "a service in capitals for Traefik",
            json!({"serviceName": "Orders", "formats": [{"type": "Traefik"}]}),
            "give the format Traefik a name in lower case",
        ),
    ])
}

fn single_values() -> Vec<Case> {
    rejected(vec![
        (
            "lease TTL of 14",
            json!({"leaseTTLSeconds": 14}),
            "spec.leaseTTLSeconds in body should be greater than or equal to 15",
        ),
        (
            "lease TTL of 300",
            json!({"leaseTTLSeconds": 300}),
            "spec.leaseTTLSeconds in body should be less than or equal to 299",
        ),
        (
            "weight of 65536",
            json!({"weight": 65536}),
            "spec.weight in body should be less than or equal to 65535",
        ),
        (
            "weight of -1",
            json!({"weight": -1}),
            "spec.weight in body should be greater than or equal to 0",
        ),
        (
            "empty service name",
            json!({"serviceName": ""}),
            "leave it out to use the object's name",
        ),
        (
            "service name with a slash",
            json!({"serviceName": "shop/orders"}),
            "letters, digits, dots, hyphens and underscores",
        ),
        (
            "service name of dots",
            json!({"serviceName": ".."}),
            "letters, digits, dots, hyphens and underscores",
        ),
        (
            "service name of 254",
            json!({"serviceName": text(254)}),
            "may not be more than 253",
        ),
        (
            "registry's name in capitals",
            json!({"registryRef": {"name": "Main"}}),
            "name must be that of an object",
        ),
        (
            "unknown address",
            json!({"address": {"type": "Anycast"}}),
            r#"supported values: "PodIP", "HostIP", "NodePort", "LoadBalancer", "ClusterIP", "ExternalIP""#,
        ),
        (
            "unknown family",
            json!({"address": {"ipFamilies": ["IPv5"]}}),
            r#"supported values: "IPv4", "IPv6""#,
        ),
        (
            "last endpoint to be kept for a while",
            json!({"lastEndpoint": "Linger"}),
            r#"supported values: "Keep", "Remove""#,
        ),
        (
            "no family",
            json!({"address": {"ipFamilies": []}}),
            "spec.address.ipFamilies in body should have at least 1 items",
        ),
        (
            "a family twice",
            json!({"address": {"ipFamilies": ["IPv4", "IPv4"]}}),
            "each IP family is listed once",
        ),
        (
            "three families",
            json!({"address": {"ipFamilies": ["IPv4", "IPv6", "IPv4"]}}),
            "must have at most 2 items",
        ),
        (
            "a registry by its name alone",
            json!({"registryRef": "main"}),
            "spec.registryRef in body must be of type object",
        ),
        (
            "a registry reference without a name",
            json!({"registryRef": {}}),
            "spec.registryRef.name: Required value",
        ),
        (
            "unknown update policy",
            json!({"updatePolicy": "UpsertOnly"}),
            r#"supported values: "Sync", "Frozen""#,
        ),
    ])
}

fn readiness() -> Vec<Case> {
    rejected(vec![
        (
            "readiness for more than an hour",
            json!({"minReadySeconds": 3601}),
            "spec.minReadySeconds in body should be less than or equal to 3600",
        ),
        (
            "readiness for less than no time",
            json!({"minReadySeconds": -1}),
            "spec.minReadySeconds in body should be greater than or equal to 0",
        ),
        (
            "readiness of pods for cluster IPs",
            json!({"selector": null, "service": {"name": "orders"}, "address": {"type": "ClusterIP"}, "minReadySeconds": 10}),
            "minReadySeconds needs an address.type that registers pods",
        ),
    ])
}

fn facts() -> Vec<Case> {
    let attribute = |attribute: Value| json!({"attributes": [attribute]});
    rejected(vec![
        (
            "version without a label",
            json!({"version": {}}),
            "spec.version.fromLabel: Required value",
        ),
        (
            "version from a malformed label",
            json!({"version": {"fromLabel": "a b"}}),
            "such as app.kubernetes.io/version",
        ),
        (
            "65 attributes",
            json!({"attributes": many(65, |i| json!({"name": format!("k{i}"), "value": "v"}))}),
            "must have at most 64 items",
        ),
        (
            "an attribute twice",
            json!({"attributes": [{"name": "a", "value": "b"}, {"name": "a", "fromLabel": "b"}]}),
            r#"spec.attributes[1]: Duplicate value: {"name":"a"}"#,
        ),
        (
            "an attribute without a name",
            attribute(json!({"value": "x"})),
            "spec.attributes[0].name: Required value",
        ),
        (
            "an attribute with an empty name",
            attribute(json!({"name": "", "value": "x"})),
            "spec.attributes[0].name in body should be at least 1 chars long",
        ),
        (
            "an attribute's name of 318",
            attribute(json!({"name": text(318), "value": "x"})),
            "may not be more than 317",
        ),
        (
            "an attribute of 257",
            attribute(json!({"name": "k", "value": text(257)})),
            "may not be more than 256",
        ),
        (
            "an attribute without a value",
            attribute(json!({"name": "k"})),
            "an attribute has exactly one of value, fromLabel",
        ),
        (
            "an attribute with two values",
            attribute(json!({"name": "k", "value": "v", "fromLabel": "l"})),
            "an attribute has exactly one of value, fromLabel",
        ),
        (
            "an attribute with a value and a label of the node",
            attribute(json!({"name": "k", "value": "v", "fromNodeLabel": "l"})),
            "an attribute has exactly one of value, fromLabel",
        ),
        (
            "an attribute from a label of the pod and one of the node",
            attribute(json!({"name": "k", "fromLabel": "l", "fromNodeLabel": "l"})),
            "an attribute has exactly one of value, fromLabel",
        ),
        (
            "an attribute from three places",
            attribute(json!({"name": "k", "value": "v", "fromLabel": "l", "fromNodeLabel": "l"})),
            "an attribute has exactly one of value, fromLabel",
        ),
        (
            "an attribute from a malformed label of the node",
            attribute(json!({"name": "k", "fromNodeLabel": "a b"})),
            "fromNodeLabel must be the key of a node's label",
        ),
        (
            "an attribute from a label of the node with a key of 318",
            attribute(json!({"name": "k", "fromNodeLabel": text(318)})),
            "may not be more than 317",
        ),
        (
            "an attribute from a malformed label",
            attribute(json!({"name": "k", "fromLabel": "-"})),
            "such as topology.kubernetes.io/zone",
        ),
    ])
}

pub fn good() -> Vec<Case> {
    let expressions = json!([
        {"key": "app.kubernetes.io/name", "operator": "In", "values": ["orders", "orders-canary"]},
        {"key": "track", "operator": "NotIn", "values": ["dark"]},
        {"key": "app", "operator": "Exists"},
        {"key": "legacy", "operator": "DoesNotExist"},
    ]);
    let mut good = formats::good();
    good.extend(taken(vec![
        ("the smallest", json!({})),
        (
            "a Service with all its ports",
            json!({"selector": null, "ports": null, "service": {"name": "orders"}}),
        ),
        (
            "the nodes of a Service, by one of its ports",
            json!({
                "selector": null, "service": {"name": "orders"}, "ports": [{"name": "web", "port": 80}],
                "address": {"type": "NodePort", "nodeAddressTypes": ["InternalIP"]},
                "formats": [{"type": "Plain", "ports": ["web"]}]
            }),
        ),
        ("a host port", json!({"address": {"type": "HostIP"}})),
        ("the formats of the Registry", json!({"formats": null})),
        (
            "only expressions",
            json!({"selector": {"matchLabels": null, "matchExpressions": expressions}}),
        ),
        (
            "a port by number",
            json!({"ports": [{"name": "web", "port": 8080}], "formats": [{"type": "Plain", "ports": ["web"]}]}),
        ),
        (
            "the same container port under two names",
            json!({"ports": [{"name": "web", "port": 80}, {"name": "again", "port": 80}]}),
        ),
        (
            "container ports by name",
            json!({"ports": [
                {"name": "a"}, {"name": "grpc-2"}, {"name": "9p"}, {"name": "8-h"}, {"name": "b", "port": "0a-0"},
            ]}),
        ),
        (
            "a format with ports by number and by name",
            json!({
                "ports": [{"name": "web", "port": 8080}, {"name": "http"}, {"name": "own", "port": "http"}],
                "formats": [{"type": "Plain", "ports": ["web", "http", "own"]}],
            }),
        ),
        ("IPv6", json!({"address": {"ipFamilies": ["IPv6"]}})),
        ("both families", json!({"address": {"ipFamilies": ["IPv6", "IPv4"]}})),
        (
            "null for what may be left out",
            json!({"weight": null, "version": null, "registryRef": null, "leaseTTLSeconds": null}),
        ),
        (
            "the bounds",
            json!({"leaseTTLSeconds": 15, "weight": 65535, "ports": [{"name": "a", "port": 1}, {"name": "b", "port": 65535}]}),
        ),
        (
            "everything",
            json!({
                "registryRef": {"name": "main"}, "serviceName": "shop_Orders.v2",
                "selector": {"matchLabels": {"app": "orders"}, "matchExpressions": expressions},
                "ports": many(16, |i| json!({"name": format!("port-{i}"), "port": format!("p{i}"), "appProtocol": "h2c"})),
                "address": {"type": "PodIP", "ipFamilies": ["IPv4"]},
                "formats": many(16, |i| json!({
                    "type": "Plain", "plain": {"prefix": format!("/services/{i:02}/{}", text(490)), "value": "JSON"},
                    "ports": many(16, |i| json!(format!("port-{i}"))),
                })),
                "version": {"fromLabel": "app.kubernetes.io/version"}, "weight": 0,
                "attributes": many(64, |i| match i {
                    0 => json!({"name": "empty", "value": ""}),
                    1 => json!({"name": text(317), "value": text(256)}),
                    i if i % 2 == 0 => json!({"name": format!("l{i}"), "fromNodeLabel": format!("{}.example.org/{i}", text(240))}),
                    i => json!({"name": format!("l{i}"), "fromLabel": format!("{}.example.org/{i}", text(240))}),
                }),
                "leaseTTLSeconds": 299, "minReadySeconds": 3600, "lastEndpoint": "Keep", "updatePolicy": "Frozen",
            }),
        ),
    ]));
    good
}
