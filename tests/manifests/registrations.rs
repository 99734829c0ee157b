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
        facts(),
    ];
    groups.into_iter().flatten().collect()
}

fn selectors() -> Vec<Case> {
    let expression = |expression: Value| json!({"selector": {"matchExpressions": [expression]}});
    rejected(vec![
        (
            "no selector",
            json!({"selector": null}),
            "spec.selector: Required value",
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
            "a Service as the source",
            json!({"selector": null, "service": {"name": "orders"}}),
            r#"unknown field "spec.service""#,
        ),
    ])
}

fn ports() -> Vec<Case> {
    let port = |port: Value| json!({"ports": [port]});
    rejected(vec![
        ("no ports", json!({"ports": []}), "name at least one port"),
        ("ports left out", json!({"ports": null}), "spec.ports: Required value"),
        (
            "17 ports",
            json!({"ports": many(17, |i| json!({"port": i + 1}))}),
            "must have at most 16 items",
        ),
        (
            "port 0",
            port(json!({"port": 0})),
            "a number from 1 to 65535 without quotes",
        ),
        (
            "port 65536",
            port(json!({"port": 65536})),
            "a number from 1 to 65535 without quotes",
        ),
        (
            "quoted port number",
            port(json!({"port": "8080"})),
            "spec.ports[0].port in body should match '^([a-z]",
        ),
        (
            "port name in capitals",
            port(json!({"port": "HTTP"})),
            "spec.ports[0].port in body should match '^([a-z]",
        ),
        (
            "port name that ends with a hyphen",
            port(json!({"port": "http-"})),
            "spec.ports[0].port in body should match '^([a-z]",
        ),
        (
            "port name of 16",
            port(json!({"port": text(16)})),
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
            "scheme with a colon",
            port(json!({"port": 80, "scheme": "http://"})),
            "such as grpc or http",
        ),
        (
            "two ports of one name",
            json!({"ports": [{"name": "http", "port": 80}, {"name": "http", "port": 81}]}),
            "two ports have the same name: give each its own name",
        ),
        (
            "a port named as another's container port",
            json!({"ports": [{"name": "http", "port": 80}, {"port": "http"}]}),
            "two ports have the same name",
        ),
        (
            "one port twice",
            json!({"ports": [{"port": 80}, {"port": 80}]}),
            "two ports have the same name",
        ),
        (
            "one container port twice",
            json!({"ports": [{"port": "http"}, {"port": "http"}]}),
            "two ports have the same name",
        ),
    ])
}

/// What a consumer cannot read of an otherwise good registration.
fn consumers() -> Vec<Case> {
    let redis = json!([{"name": "redis", "port": 6379, "scheme": "redis"}]);
    rejected(vec![
        (
            "IPv6 for GoFrame",
            json!({"address": {"family": "IPv6"}, "formats": [{"type": "Plain"}, {"type": "GoFrame"}]}),
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
            "or write protocol: Tcp or Udp",
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
        ("ttl of 14", json!({"ttlSeconds": 14}), "ttlSeconds must be 15 to 299"),
        (
            "ttl of 300",
            json!({"ttlSeconds": 300}),
            "leave it out for the Registry's",
        ),
        ("weight of 65536", json!({"weight": 65536}), "weight must be 0 to 65535"),
        ("weight of -1", json!({"weight": -1}), "weight must be 0 to 65535"),
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
            json!({"registry": "Main"}),
            "must be the name of a Registry (kubectl get registries)",
        ),
        (
            "unknown address",
            json!({"address": {"type": "HostIP"}}),
            r#"supported values: "PodIP""#,
        ),
        (
            "unknown family",
            json!({"address": {"family": "IPv5"}}),
            r#"supported values: "IPv4", "IPv6""#,
        ),
        (
            "last endpoint to be kept for a while",
            json!({"lastEndpoint": "Linger"}),
            r#"supported values: "Keep", "Remove""#,
        ),
        ("suspend as text", json!({"suspend": "yes"}), "must be of type boolean"),
    ])
}

fn facts() -> Vec<Case> {
    let facts = |count: usize| {
        (0..count)
            .map(|i| (format!("k{i}"), json!("v")))
            .collect::<serde_json::Map<_, _>>()
    };
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
            "65 facts",
            json!({"metadata": {"static": facts(65)}}),
            "must have at most 64 items",
        ),
        (
            "a fact without a name",
            json!({"metadata": {"static": {"": "x"}}}),
            "a key in metadata.static is empty",
        ),
        (
            "a fact of 257",
            json!({"metadata": {"static": {"k": text(257)}}}),
            "may not be more than 256",
        ),
        (
            "a fact's name of 257",
            json!({"metadata": {"static": {text(257): "v"}}}),
            "longer than 256 characters: shorten it",
        ),
        (
            "a fact from a malformed label",
            json!({"metadata": {"fromLabels": ["-"]}}),
            "must hold keys of pod labels",
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
            "only expressions",
            json!({"selector": {"matchLabels": null, "matchExpressions": expressions}}),
        ),
        (
            "a port by number",
            json!({"ports": [{"port": 8080}], "formats": [{"type": "Plain", "ports": ["8080"]}]}),
        ),
        (
            "the same container port under two names",
            json!({"ports": [{"port": 80}, {"name": "again", "port": 80}]}),
        ),
        (
            "container ports by name",
            json!({"ports": [{"port": "a"}, {"port": "grpc-2"}, {"port": "9p"}, {"port": "8-h"}, {"port": "0a-0"}]}),
        ),
        (
            "a format with ports by number and by name",
            json!({
                "ports": [{"port": 8080}, {"port": "http"}, {"name": "own", "port": "http"}],
                "formats": [{"type": "Plain", "ports": ["8080", "http", "own"]}],
            }),
        ),
        ("IPv6", json!({"address": {"family": "IPv6"}})),
        (
            "null for what may be left out",
            json!({"weight": null, "version": null, "registry": null, "ttlSeconds": null}),
        ),
        (
            "the bounds",
            json!({"ttlSeconds": 15, "weight": 65535, "ports": [{"port": 1}, {"port": 65535}]}),
        ),
        (
            "everything",
            json!({
                "registry": "main", "serviceName": "shop_Orders.v2",
                "selector": {"matchLabels": {"app": "orders"}, "matchExpressions": expressions},
                "ports": many(16, |i| json!({"name": format!("port-{i}"), "port": format!("p{i}"), "scheme": "h2c"})),
                "address": {"type": "PodIP", "family": "IPv4"},
                "formats": many(16, |i| json!({
                    "type": "Plain", "prefix": format!("/services/{i:02}/{}", text(490)), "value": "Json",
                    "ports": many(16, |i| json!(format!("port-{i}"))),
                })),
                "version": {"fromLabel": "app.kubernetes.io/version"}, "weight": 0,
                "metadata": {
                    "static": {"region": "eu", "empty": ""},
                    "fromLabels": many(64, |i| json!(format!("{}.example.org/{i}", text(240)))),
                },
                "ttlSeconds": 299, "lastEndpoint": "Keep", "suspend": true,
            }),
        ),
    ]));
    good
}
