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
        super::access::wrong(),
    ];
    groups.into_iter().flatten().collect()
}

fn endpoints() -> Vec<Case> {
    let endpoints = |endpoints: Value| json!({"endpoints": endpoints});
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
            "https needs tls: name in it the CA to trust",
        ),
        (
            "http and https",
            json!({"endpoints": ["https://a:2379", "http://b:2379"], "tls": {"caSecret": {"name": "ca"}}}),
            "write http:// or https:// in all endpoints",
        ),
        (
            "TLS for http",
            json!({"tls": {"caSecret": {"name": "ca"}}}),
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
            "name each member once",
        ),
        (
            "17",
            endpoints(json!(many(17, |i| json!(format!("http://e{i}:2379"))))),
            "must have at most 16 items",
        ),
    ])
}

fn access() -> Vec<Case> {
    let tls = |tls: Value| json!({"endpoints": ["https://etcd:2379"], "tls": tls});
    rejected(vec![
        (
            "nobody to trust",
            tls(json!({"serverName": "etcd"})),
            "name either caSecret or caConfigMap",
        ),
        (
            "whom to trust twice",
            tls(json!({"caSecret": {"name": "a"}, "caConfigMap": {"name": "b"}})),
            "name either caSecret or caConfigMap",
        ),
        (
            "a server name with a scheme",
            tls(json!({"caSecret": {"name": "a"}, "serverName": "https://etcd"})),
            "serverName must be a host name or an IP address",
        ),
        (
            "a Secret that no object is called",
            json!({"auth": {"secret": {"name": "A"}}}),
            "name must be that of an object",
        ),
        (
            "auth without a Secret",
            json!({"auth": {"usernameKey": "u"}}),
            "spec.auth.secret: Required value",
        ),
        (
            "an empty key",
            json!({"auth": {"secret": {"name": "a"}, "passwordKey": ""}}),
            "passwordKey must be a key of a Secret",
        ),
    ])
}

fn meta_prefixes() -> Vec<Case> {
    let meta = |prefix: &str| json!({"metaPrefix": prefix});
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
        (
            "no changes per second",
            limits(json!({"changesPerSecondPerNamespace": 0})),
            "changesPerSecondPerNamespace must be 1 to 100000; 500 suits most",
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
            "windowSeconds must be 1 to 3600; 60 suits most",
        ),
        (
            "a loss of 100 percent",
            guard(json!({"maxLossPercent": 100})),
            "maxLossPercent must be 1 to 99; 50 suits most. mode: Off holds nothing",
        ),
        (
            "at least no keys",
            guard(json!({"minKeys": 0})),
            "minKeys must be 1 to 100000; 10 suits most",
        ),
        (
            "a hold of more than a day",
            guard(json!({"holdSeconds": 86401})),
            "holdSeconds must be 1 to 86400; 300 suits most",
        ),
    ])
}

pub fn good() -> Vec<Case> {
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
            "every way in at once",
            json!({
                "endpoints": ["https://[2001:db8::5]:2379"],
                "tls": {
                    "caConfigMap": {"name": "etcd-ca", "key": "root.pem"}, "certSecret": {"name": "etcd-client"},
                    "serverName": "etcd.example.org",
                },
                "auth": {"secret": {"name": "etcd-user"}, "usernameKey": "u", "passwordKey": "p"},
            }),
        ),
        (
            "a guard that only warns",
            json!({"guard": {"mode": "Warn", "windowSeconds": 3600, "maxLossPercent": 99, "minKeys": 1, "holdSeconds": 1}}),
        ),
        (
            "null for what may be left out",
            json!({"metaPrefix": null, "ttlSeconds": null, "limits": null, "access": null}),
        ),
    ])
    .into_iter()
    .chain(super::access::good())
    .collect()
}
