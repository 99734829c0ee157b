//! Manifests to create: a smallest one of each kind, and what is changed in it.

use serde_json::{Value, json};

/// A change to the smallest manifest and what the apiserver answers to the result.
pub struct Case {
    pub name: &'static str,
    /// A JSON merge patch.
    pub patch: Value,
    /// A part of the message that tells the user what to write; none when the manifest is good.
    pub expected: Option<&'static str>,
}

/// The smallest good registration.
pub fn registration() -> Value {
    json!({
        "apiVersion": "leasehold.dev/v1alpha1",
        "kind": "ServiceRegistration",
        "metadata": {"name": "orders", "namespace": "default"},
        "spec": {
            "selector": {"matchLabels": {"app": "orders"}},
            "ports": [{"port": "http"}],
            "formats": [{"type": "Plain"}],
        },
    })
}

/// The smallest good registry.
pub fn registry() -> Value {
    json!({
        "apiVersion": "leasehold.dev/v1alpha1",
        "kind": "Registry",
        "metadata": {"name": "default"},
        "spec": {"endpoints": ["http://10.0.0.5:2379"]},
    })
}

/// `base` with the JSON merge patch `patch`; a null in the patch stays, for the apiserver to judge.
pub fn with(base: &Value, patch: &Value) -> Value {
    match (base, patch) {
        (Value::Object(base), Value::Object(patch)) => {
            let mut merged = base.clone();
            for (key, value) in patch {
                let old = merged.get(key).unwrap_or(&Value::Null);
                let new = with(old, value);
                merged.insert(key.clone(), new);
            }
            Value::Object(merged)
        }
        _ => patch.clone(),
    }
}

/// Rows about the spec: name, what to put there, and a part of the answer.
fn rejected(rows: Vec<(&'static str, Value, &'static str)>) -> Vec<Case> {
    let case = |(name, spec, expected)| Case {
        name,
        patch: json!({"spec": spec}),
        expected: Some(expected),
    };
    rows.into_iter().map(case).collect()
}

fn taken(rows: Vec<(&'static str, Value)>) -> Vec<Case> {
    rows.into_iter()
        .map(|(name, spec)| Case {
            name,
            patch: json!({"spec": spec}),
            expected: None,
        })
        .collect()
}

fn text(length: usize) -> String {
    "x".repeat(length)
}

fn many(count: usize, item: impl Fn(usize) -> Value) -> Vec<Value> {
    (0..count).map(item).collect()
}

pub fn wrong_registrations() -> Vec<Case> {
    let expression = |expression: Value| json!({"selector": {"matchExpressions": [expression]}});
    let port = |port: Value| json!({"ports": [port]});
    let format = |format: Value| json!({"formats": [format]});
    let prefix = |prefix: &str| json!({"formats": [{"type": "Plain", "prefix": prefix}]});
    let facts = |count: usize| {
        (0..count)
            .map(|i| (format!("k{i}"), json!("v")))
            .collect::<serde_json::Map<_, _>>()
    };
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
            "a number from 1 to 65535 without quotes",
        ),
        (
            "port name in capitals",
            port(json!({"port": "HTTP"})),
            "the name of a container port (lower-case letters",
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
            "two ports go by the same name: give each a name of its own",
        ),
        (
            "a port named as another's container port",
            json!({"ports": [{"name": "http", "port": 80}, {"port": "http"}]}),
            "two ports go by the same name",
        ),
        (
            "one port twice",
            json!({"ports": [{"port": 80}, {"port": 80}]}),
            "two ports go by the same name",
        ),
        (
            "no formats",
            json!({"formats": []}),
            "name at least one format, such as {type: Plain}",
        ),
        (
            "unknown format",
            format(json!({"type": "Consul"})),
            r#"supported values: "Plain", "EtcdGrpc""#,
        ),
        (
            "9 formats",
            json!({"formats": many(9, |_| json!({"type": "Plain"}))}),
            "must have at most 8 items",
        ),
        (
            "value on EtcdGrpc",
            format(json!({"type": "EtcdGrpc", "value": "Json"})),
            "value is for the format Plain only",
        ),
        (
            "unknown value",
            format(json!({"type": "Plain", "value": "Yaml"})),
            r#"supported values: "HostPort", "Json""#,
        ),
        (
            "misspelt field",
            format(json!({"type": "Plain", "prefx": "/a"})),
            r#"unknown field "spec.formats[0].prefx""#,
        ),
        ("empty prefix", prefix(""), "leave it out for the default one"),
        (
            "prefix with a slash at the end",
            prefix("/services/"),
            "the slash before the record's name is added",
        ),
        (
            "prefix with an empty segment",
            prefix("/services//orders"),
            "write one slash where there are two",
        ),
        (
            "prefix with a space",
            prefix("/services/my orders"),
            "must not contain spaces or control characters",
        ),
        (
            "prefix with a bell",
            prefix("/services/\u{7}"),
            "must not contain spaces or control characters",
        ),
        (
            "prefix with an unseen character",
            prefix("/a\u{200b}b"),
            "must not contain spaces or control characters",
        ),
        ("prefix of 513", prefix(&text(513)), "may not be more than 512"),
        (
            "one prefix twice",
            json!({"formats": [{"type": "Plain", "prefix": "/a"}, {"type": "EtcdGrpc", "prefix": "/a"}]}),
            "give each a prefix of its own",
        ),
        (
            "a prefix below another",
            json!({"formats": [{"type": "Plain", "prefix": "/a/b"}, {"type": "Plain", "prefix": "/a"}]}),
            "so one's consumers would read the other's records",
        ),
        (
            "one format twice without prefix",
            json!({"formats": [{"type": "Plain"}, {"type": "Plain", "value": "Json"}]}),
            "two formats of the same type have no prefix",
        ),
        (
            "a port that the spec does not have",
            format(json!({"type": "Plain", "ports": ["grpc"]})),
            "must name ports of spec.ports",
        ),
        (
            "a format without ports",
            format(json!({"type": "Plain", "ports": []})),
            "leave ports out to carry all of them",
        ),
        (
            "a format's port twice",
            format(json!({"type": "Plain", "ports": ["http", "http"]})),
            "name each port of a format once",
        ),
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
        ("suspend as text", json!({"suspend": "yes"}), "must be of type boolean"),
    ])
}

pub fn good_registrations() -> Vec<Case> {
    let expressions = json!([
        {"key": "app.kubernetes.io/name", "operator": "In", "values": ["orders", "orders-canary"]},
        {"key": "track", "operator": "NotIn", "values": ["dark"]},
        {"key": "app", "operator": "Exists"},
        {"key": "legacy", "operator": "DoesNotExist"},
    ]);
    taken(vec![
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
        ("IPv6", json!({"address": {"family": "IPv6"}})),
        (
            "both formats at their defaults",
            json!({"formats": [{"type": "Plain"}, {"type": "EtcdGrpc"}]}),
        ),
        (
            "prefixes that only look alike",
            json!({"formats": [{"type": "Plain", "prefix": "/a"}, {"type": "Plain", "prefix": "/a-2", "value": "Json"}]}),
        ),
        (
            "a prefix that is dialled with four slashes",
            json!({"formats": [{"type": "EtcdGrpc", "prefix": "/shop/orders"}]}),
        ),
        (
            "a prefix beyond ASCII",
            json!({"formats": [{"type": "Plain", "prefix": "/dienste/büro"}]}),
        ),
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
                "formats": many(8, |i| json!({
                    "type": "Plain", "prefix": format!("/services/{i}/{}", text(490)), "value": "Json",
                    "ports": many(16, |i| json!(format!("port-{i}"))),
                })),
                "version": {"fromLabel": "app.kubernetes.io/version"}, "weight": 0,
                "metadata": {
                    "static": {"region": "eu", "empty": ""},
                    "fromLabels": many(64, |i| json!(format!("{}.example.org/{i}", text(240)))),
                },
                "ttlSeconds": 299, "suspend": true,
            }),
        ),
    ])
}

pub fn wrong_registries() -> Vec<Case> {
    let endpoints = |endpoints: Value| json!({"endpoints": endpoints});
    let meta = |prefix: &str| json!({"metaPrefix": prefix});
    let limits = |limits: Value| json!({"limits": limits});
    rejected(vec![
        (
            "no endpoints",
            endpoints(json!([])),
            "name at least one member of the etcd cluster",
        ),
        (
            "endpoints left out",
            endpoints(json!(null)),
            "spec.endpoints: Required value",
        ),
        (
            "https",
            endpoints(json!(["https://etcd:2379"])),
            "https needs TLS settings, which a later version",
        ),
        (
            "no scheme",
            endpoints(json!(["etcd:2379"])),
            "write each endpoint as http://host:port",
        ),
        (
            "no port",
            endpoints(json!(["http://etcd"])),
            "write each endpoint as http://host:port",
        ),
        (
            "port 0",
            endpoints(json!(["http://etcd:0"])),
            "write each endpoint as http://host:port",
        ),
        (
            "port 65536",
            endpoints(json!(["http://etcd:65536"])),
            "write each endpoint as http://host:port",
        ),
        ("a path", endpoints(json!(["http://etcd:2379/v3"])), "without a path"),
        (
            "a password",
            endpoints(json!(["http://root:pw@etcd:2379"])),
            "write each endpoint as http://host:port",
        ),
        (
            "one twice",
            endpoints(json!(["http://a:1", "http://a:1"])),
            "name each member once",
        ),
        (
            "17",
            endpoints(json!(many(17, |i| json!(format!("http://e{i}:2379"))))),
            "must have at most 16 items",
        ),
        (
            "meta prefix without a slash before",
            meta("leasehold/"),
            "must start and end with a slash",
        ),
        (
            "meta prefix without a slash after",
            meta("/leasehold"),
            "must start and end with a slash",
        ),
        (
            "meta prefix over everything",
            meta("/"),
            "name something between them, such as /leasehold/",
        ),
        (
            "meta prefix with an empty segment",
            meta("/a//b/"),
            "write one slash where there are two",
        ),
        (
            "meta prefix of slashes",
            meta("///"),
            "write one slash where there are two",
        ),
        (
            "meta prefix with a space",
            meta("/a b/"),
            "must not contain spaces or control characters",
        ),
        (
            "meta prefix of 257",
            meta(&format!("/{}/", text(255))),
            "may not be more than 256",
        ),
        (
            "ttl of 4",
            json!({"ttlSeconds": 4}),
            "ttlSeconds must be 5 to 299; 30 suits most",
        ),
        (
            "ttl of 300",
            json!({"ttlSeconds": 300}),
            "ttlSeconds must be 5 to 299; 30 suits most",
        ),
        (
            "31 keys per lease",
            limits(json!({"keysPerLease": 31})),
            "keysPerLease must be 32 to 1000; 256 suits most",
        ),
        (
            "1001 keys per lease",
            limits(json!({"keysPerLease": 1001})),
            "keysPerLease must be 32 to 1000",
        ),
        (
            "no keys per second",
            limits(json!({"keysPerSecond": 0})),
            "keysPerSecond must be 1 to 100000; 5000 suits most",
        ),
        (
            "65 transactions",
            limits(json!({"transactionsInFlight": 65})),
            "transactionsInFlight must be 1 to 64; 4 suits most",
        ),
        ("TLS", json!({"tls": {"ca": "x"}}), r#"unknown field "spec.tls""#),
    ])
}

pub fn good_registries() -> Vec<Case> {
    taken(vec![
        ("the smallest registry", json!({})),
        (
            "the largest registry",
            json!({
                "endpoints": many(16, |i| json!(format!("http://etcd-{i}.etcd.svc.cluster.local:2379"))),
                "metaPrefix": "/_platform/leasehold/", "ttlSeconds": 5,
                "limits": {"keysPerLease": 1000, "keysPerSecond": 100_000, "transactionsInFlight": 64},
            }),
        ),
        (
            "IPv6 endpoints",
            json!({"endpoints": ["http://[2001:db8::5]:2379", "http://[::1]:2379"]}),
        ),
        (
            "null for what may be left out",
            json!({"metaPrefix": null, "ttlSeconds": null, "limits": null}),
        ),
    ])
}
