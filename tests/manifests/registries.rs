//! Registries: wrong ones with what is said to them, and good ones.

use serde_json::{Value, json};

use super::{Case, many, rejected, taken, text};

pub fn wrong() -> Vec<Case> {
    let groups = [
        endpoints(),
        access(),
        meta_prefixes(),
        limits(),
        guards(),
        classes(),
        node_labels(),
        super::access::wrong(),
    ];
    groups.into_iter().flatten().collect()
}

fn endpoints() -> Vec<Case> {
    let endpoints = |endpoints: Value| json!({"etcd": {"endpoints": endpoints}});
    rejected(vec![
        (
            "no endpoints",
            endpoints(json!([])),
            "spec.etcd.endpoints in body should have at least 1 items",
        ),
        (
            "endpoints left out",
            endpoints(json!(null)),
            "spec.etcd.endpoints: Required value",
        ),
        (
            "https",
            endpoints(json!(["https://etcd:2379"])),
            "https needs tls: name in tls.caRef",
        ),
        (
            "http and https",
            json!({"etcd": {"endpoints": ["https://a:2379", "http://b:2379"], "tls": {"caRef": {"name": "ca"}}}}),
            "write http:// or https:// in all endpoints",
        ),
        (
            "TLS for http",
            json!({"etcd": {"tls": {"caRef": {"name": "ca"}}}}),
            "tls is for https",
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
            r#"spec.etcd.endpoints[1]: Duplicate value: "http://a:1""#,
        ),
        (
            "an empty one",
            endpoints(json!([""])),
            "spec.etcd.endpoints[0] in body should be at least 1 chars long",
        ),
        ("no etcd", json!({"etcd": null}), "spec.etcd: Required value"),
        (
            "endpoints outside of etcd",
            json!({"endpoints": ["http://a:1"]}),
            r#"unknown field "spec.endpoints""#,
        ),
        (
            "17",
            endpoints(json!(many(17, |i| json!(format!("http://e{i}:2379"))))),
            "must have at most 16 items",
        ),
    ])
}

fn access() -> Vec<Case> {
    let tls = |tls: Value| json!({"etcd": {"endpoints": ["https://etcd:2379"], "tls": tls}});
    rejected(vec![
        (
            "no CA",
            tls(json!({"serverName": "etcd"})),
            "spec.etcd.tls.caRef: Required value",
        ),
        (
            "a CA of another kind",
            tls(json!({"caRef": {"kind": "Service", "name": "a"}})),
            r#"supported values: "Secret", "ConfigMap""#,
        ),
        (
            "a server name with a scheme",
            tls(json!({"caRef": {"name": "a"}, "serverName": "https://etcd"})),
            "serverName must be a host name or an IP address",
        ),
        (
            "a Secret that no object is called",
            json!({"etcd": {"auth": {"secretRef": {"name": "A"}}}}),
            "name must be that of an object",
        ),
        (
            "auth without a Secret",
            json!({"etcd": {"auth": {"usernameKey": "u"}}}),
            "spec.etcd.auth.secretRef: Required value",
        ),
        (
            "an empty key",
            json!({"etcd": {"auth": {"secretRef": {"name": "a"}, "passwordKey": ""}}}),
            "passwordKey must be a key of a Secret",
        ),
    ])
}

fn meta_prefixes() -> Vec<Case> {
    let meta = |prefix: &str| json!({"etcd": {"metaPrefix": prefix}});
    rejected(vec![
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
    ])
}

fn limits() -> Vec<Case> {
    let limits = |limits: Value| json!({"limits": limits});
    rejected(vec![
        (
            "lease TTL of 4",
            json!({"defaults": {"leaseTTLSeconds": 4}}),
            "spec.defaults.leaseTTLSeconds in body should be greater than or equal to 5",
        ),
        (
            "lease TTL of 300",
            json!({"defaults": {"leaseTTLSeconds": 300}}),
            "spec.defaults.leaseTTLSeconds in body should be less than or equal to 299",
        ),
        (
            "a default format with a prefix",
            json!({"defaults": {"formats": [{"type": "Plain", "plain": {"prefix": "/s"}}]}}),
            "list formats that need them in the registrations",
        ),
        (
            "CoreDNS as a default format",
            json!({"defaults": {"formats": [{"type": "CoreDNS", "coreDNS": {"domain": "a.example.com"}}]}}),
            "list formats that need them in the registrations",
        ),
        (
            "two default formats of one type",
            json!({"defaults": {"formats": [{"type": "Plain"}, {"type": "Plain", "plain": {"value": "JSON"}}]}}),
            "a type of format is listed once",
        ),
        (
            "no default formats",
            json!({"defaults": {"formats": []}}),
            "should have at least 1 items",
        ),
        (
            "31 keys per lease",
            limits(json!({"keysPerLease": 31})),
            "spec.limits.keysPerLease in body should be greater than or equal to 32",
        ),
        (
            "1001 keys per lease",
            limits(json!({"keysPerLease": 1001})),
            "spec.limits.keysPerLease in body should be less than or equal to 1000",
        ),
        (
            "no keys per second",
            limits(json!({"keysPerSecond": 0})),
            "spec.limits.keysPerSecond in body should be greater than or equal to 1",
        ),
        (
            "65 transactions",
            limits(json!({"transactionsInFlight": 65})),
            "spec.limits.transactionsInFlight in body should be less than or equal to 64",
        ),
        (
            "no changes per second",
            limits(json!({"changesPerSecondPerNamespace": 0})),
            "spec.limits.changesPerSecondPerNamespace in body should be greater than or equal to 1",
        ),
        (
            "too many keysPerSecond",
            limits(json!({"keysPerSecond": 100_001})),
            "spec.limits.keysPerSecond in body should be less than or equal to 100000",
        ),
        (
            "too few transactionsInFlight",
            limits(json!({"transactionsInFlight": 0})),
            "spec.limits.transactionsInFlight in body should be greater than or equal to 1",
        ),
        (
            "too many changesPerSecondPerNamespace",
            limits(json!({"changesPerSecondPerNamespace": 100_001})),
            "spec.limits.changesPerSecondPerNamespace in body should be less than or equal to 100000",
        ),
    ])
}

fn guards() -> Vec<Case> {
    let guard = |guard: Value| json!({"guard": guard});
    rejected(vec![
        (
            "a guard of another mode",
            guard(json!({"mode": "Strict"})),
            r#"supported values: "Off", "Warn", "Hold""#,
        ),
        (
            "a window of nothing",
            guard(json!({"windowSeconds": 0})),
            "spec.guard.windowSeconds in body should be greater than or equal to 1",
        ),
        (
            "a loss of 100 percent",
            guard(json!({"maxLossPercent": 100})),
            "spec.guard.maxLossPercent in body should be less than or equal to 99",
        ),
        (
            "at least no keys",
            guard(json!({"minEndpoints": 0})),
            "spec.guard.minEndpoints in body should be greater than or equal to 1",
        ),
        (
            "a hold of more than a day",
            guard(json!({"holdSeconds": 86401})),
            "spec.guard.holdSeconds in body should be less than or equal to 86400",
        ),
        (
            "too much windowSeconds",
            guard(json!({"windowSeconds": 3601})),
            "spec.guard.windowSeconds in body should be less than or equal to 3600",
        ),
        (
            "too little maxLossPercent",
            guard(json!({"maxLossPercent": 0})),
            "spec.guard.maxLossPercent in body should be greater than or equal to 1",
        ),
        (
            "too much minEndpoints",
            guard(json!({"minEndpoints": 100_001})),
            "spec.guard.minEndpoints in body should be less than or equal to 100000",
        ),
        (
            "too little holdSeconds",
            guard(json!({"holdSeconds": 0})),
            "spec.guard.holdSeconds in body should be greater than or equal to 1",
        ),
    ])
}

fn classes() -> Vec<Case> {
    rejected(vec![
        (
            "an empty class",
            json!({"class": ""}),
            "spec.class in body should be at least 1 chars long",
        ),
        (
            "a class of 64 letters",
            json!({"class": text(64)}),
            "may not be more than 63",
        ),
        (
            "a class in capitals",
            json!({"class": "Edge"}),
            "class must be made of lower-case letters",
        ),
        (
            "a class that ends in a hyphen",
            json!({"class": "edge-"}),
            "class must be made of lower-case letters",
        ),
    ])
}

fn node_labels() -> Vec<Case> {
    let labels = |labels: Value| json!({"nodeLabels": labels});
    rejected(vec![
        (
            "33 labels of nodes",
            labels(json!(many(33, |i| json!(format!("l{i}"))))),
            "must have at most 32 items",
        ),
        (
            "a label of nodes twice",
            labels(json!(["rack", "rack"])),
            r#"spec.nodeLabels[1]: Duplicate value: "rack""#,
        ),
        (
            "a malformed label of nodes",
            labels(json!(["example.org/"])),
            "nodeLabels must hold keys of labels of nodes",
        ),
        (
            "a label of nodes with a key of 318",
            labels(json!([text(318)])),
            "may not be more than 317",
        ),
        (
            "an empty label of nodes",
            labels(json!([""])),
            "spec.nodeLabels[0] in body should be at least 1 chars long",
        ),
    ])
}

pub fn good() -> Vec<Case> {
    taken(vec![
        ("the smallest registry", json!({})),
        ("a registry with a class", json!({"class": "edge-1"})),
        (
            "a registry with default formats",
            json!({"defaults": {"formats": [{"type": "Plain", "plain": {"value": "JSON"}}, {"type": "Kitex", "kitex": {"root": "a/b"}}]}}),
        ),
        (
            "the largest registry",
            json!({
                "etcd": {
                    "endpoints": many(16, |i| json!(format!("http://etcd-{i}.etcd.svc.cluster.local:2379"))),
                    "metaPrefix": "/_platform/leasehold/",
                },
                "defaults": {"leaseTTLSeconds": 5},
                "limits": {"keysPerLease": 1000, "keysPerSecond": 100_000, "transactionsInFlight": 64},
                "nodeLabels": many(32, |i| json!(format!("{}.example.org/{i}", text(240)))),
            }),
        ),
        (
            "IPv6 endpoints",
            json!({"etcd": {"endpoints": ["http://[2001:db8::5]:2379", "http://[::1]:2379"]}}),
        ),
        (
            "every way in at once",
            json!({"etcd": {
                "endpoints": ["https://[2001:db8::5]:2379"],
                "tls": {
                    "caRef": {"kind": "ConfigMap", "name": "etcd-ca", "key": "root.pem"},
                    "clientCertSecretRef": {"name": "etcd-client"}, "serverName": "etcd.example.org",
                },
                "auth": {"secretRef": {"name": "etcd-user"}, "usernameKey": "u", "passwordKey": "p"},
            }}),
        ),
        (
            "a guard that only warns",
            json!({"guard": {"mode": "Warn", "windowSeconds": 3600, "maxLossPercent": 99, "minEndpoints": 1, "holdSeconds": 1}}),
        ),
        (
            "null for what may be left out",
            json!({"etcd": {"metaPrefix": null}, "defaults": null, "limits": null, "access": null}),
        ),
    ])
    .into_iter()
    .chain(super::access::good())
    .collect()
}
