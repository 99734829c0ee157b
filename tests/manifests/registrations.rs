//! Registrations: wrong ones with what is said to them, and good ones.

use serde_json::{Value, json};

use super::{Case, many, rejected, taken, text};

pub fn wrong() -> Vec<Case> {
    let groups = [
        selectors(),
        ports(),
        formats(),
        prefixes(),
        places(),
        records(),
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
    ])
}

fn formats() -> Vec<Case> {
    let format = |format: Value| json!({"formats": [format]});
    rejected(vec![
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
    ])
}

fn prefixes() -> Vec<Case> {
    let prefix = |prefix: &str| json!({"formats": [{"type": "Plain", "prefix": prefix}]});
    rejected(vec![
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
            "two formats of the same type tell no place",
        ),
    ])
}

/// Where the keys of each format lie.
fn places() -> Vec<Case> {
    let format = |format: Value| json!({"formats": [format]});
    rejected(vec![
        (
            "a prefix for GoZero",
            format(json!({"type": "GoZero", "prefix": "orders.rpc"})),
            "write key with GoZero",
        ),
        (
            "a key for Plain",
            format(json!({"type": "Plain", "key": "orders.rpc"})),
            "or write prefix with Plain and EtcdGrpc",
        ),
        (
            "a key with a slash at the end",
            format(json!({"type": "GoZero", "key": "orders.rpc/"})),
            "the Key of the consumers' EtcdConf",
        ),
        (
            "a key with a space",
            format(json!({"type": "GoZero", "key": "orders rpc"})),
            "must not contain spaces or control characters",
        ),
        (
            "a root for Hertz",
            format(json!({"type": "Hertz", "root": "x"})),
            "go-micro and Hertz have a fixed one",
        ),
        (
            "a root for GoMicro",
            format(json!({"type": "GoMicro", "root": "/x"})),
            "go-micro and Hertz have a fixed one",
        ),
        (
            "an empty root",
            format(json!({"type": "Kratos", "root": ""})),
            "leave it out for the framework's default",
        ),
        (
            "a root with a line break",
            format(json!({"type": "Kitex", "root": "a\nb"})),
            "must not contain spaces or control characters",
        ),
        (
            "a GoFrame root of two segments",
            format(json!({"type": "GoFrame", "root": "/a/b"})),
            "a slash and one segment, such as /service",
        ),
        (
            "a GoFrame root without a slash",
            format(json!({"type": "GoFrame", "root": "service"})),
            "a slash and one segment, such as /service",
        ),
        (
            "a CoreDNS path of two segments",
            format(json!({"type": "CoreDns", "domain": "a.b", "root": "skydns/ka"})),
            "one segment without slashes, such as skydns",
        ),
        (
            "a Traefik root with a slash before it",
            format(json!({"type": "Traefik", "root": "/traefik"})),
            "write root without it, such as traefik",
        ),
        (
            "CoreDns without a domain",
            format(json!({"type": "CoreDns"})),
            "CoreDns needs domain, the name that consumers look up",
        ),
        (
            "a domain for Plain",
            format(json!({"type": "Plain", "domain": "a.b"})),
            "no other format takes it",
        ),
        (
            "a domain in capitals",
            format(json!({"type": "CoreDns", "domain": "Orders.example.com"})),
            "a DNS name in lower case without a dot at the end",
        ),
        (
            "a domain with a dot at the end",
            format(json!({"type": "CoreDns", "domain": "orders.example.com."})),
            "a DNS name in lower case without a dot at the end",
        ),
        (
            "a domain with a wildcard",
            format(json!({"type": "CoreDns", "domain": "any.example.com"})),
            "takes the label any for a wildcard",
        ),
        (
            "a domain with a label of 64",
            format(json!({"type": "CoreDns", "domain": text(64)})),
            "a DNS name in lower case",
        ),
        (
            "a domain of 174",
            format(json!({"type": "CoreDns", "domain": format!("{}a", "a.".repeat(87))})),
            "may not be more than 173",
        ),
        (
            "one key twice",
            json!({"formats": [{"type": "GoZero", "key": "a.rpc"}, {"type": "GoZero", "key": "a.rpc"}]}),
            "two formats have the same key or domain",
        ),
        (
            "one domain twice",
            json!({"formats": [{"type": "CoreDns", "domain": "a.b"}, {"type": "CoreDns", "domain": "a.b", "ttl": 5}]}),
            "two formats have the same key or domain",
        ),
        (
            "Traefik twice",
            json!({"formats": [{"type": "Traefik"}, {"type": "Plain"}, {"type": "Traefik"}]}),
            "two formats of the same type tell no place",
        ),
    ])
}

/// What a format's records may hold.
fn records() -> Vec<Case> {
    let format = |format: Value| json!({"formats": [format]});
    let core_dns = |field: &str, value: Value| format(json!({"type": "CoreDns", "domain": "a.b", field: value}));
    rejected(vec![
        (
            "a DNS TTL of 0",
            core_dns("ttl", json!(0)),
            "ttl must be 1 to 86400 seconds",
        ),
        (
            "a DNS TTL of more than a day",
            core_dns("ttl", json!(86401)),
            "ttl must be 1 to 86400 seconds",
        ),
        (
            "a priority of 0",
            core_dns("priority", json!(0)),
            "CoreDNS takes 0 for 10",
        ),
        (
            "a priority of 65536",
            core_dns("priority", json!(65536)),
            "priority must be 1 to 65535",
        ),
        (
            "a group with a slash",
            core_dns("group", json!("a/b")),
            "group must be made of letters, digits",
        ),
        (
            "a DNS TTL for Kitex",
            format(json!({"type": "Kitex", "ttl": 5})),
            "for the format CoreDns only",
        ),
        (
            "a protocol for GoZero",
            format(json!({"type": "GoZero", "protocol": "Tcp"})),
            "protocol and name are for the format Traefik only",
        ),
        (
            "an unknown protocol",
            format(json!({"type": "Traefik", "protocol": "Quic"})),
            r#"supported values: "Http", "Tcp", "Udp""#,
        ),
        (
            "a Traefik name in capitals",
            format(json!({"type": "Traefik", "name": "Orders"})),
            "Traefik takes names that differ in case for one",
        ),
        (
            "a Traefik name that is a number",
            format(json!({"type": "Traefik", "name": "42"})),
            "Traefik takes it for an index",
        ),
        (
            "a deployment for Kratos",
            format(json!({"type": "Kratos", "deployment": "prod"})),
            "segments of GoFrame's keys",
        ),
        (
            "a deployment with a slash",
            format(json!({"type": "GoFrame", "deployment": "a/b"})),
            "deployment must be made of letters, digits",
        ),
        (
            "a namespace with a slash",
            format(json!({"type": "GoFrame", "namespace": "a/b"})),
            "namespace must be made of letters, digits",
        ),
        (
            "an empty version segment",
            format(json!({"type": "GoFrame", "versionSegment": ""})),
            "versionSegment must be made of letters, digits",
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
            "eight consumers at their defaults",
            json!({"formats": [
                {"type": "GoZero"}, {"type": "Kratos"}, {"type": "GoMicro"}, {"type": "Kitex"}, {"type": "Hertz"},
                {"type": "GoFrame"}, {"type": "CoreDns", "domain": "orders.example.com"}, {"type": "Traefik"},
            ]}),
        ),
        (
            "formats of one type in places of their own",
            json!({"formats": [
                {"type": "Traefik"}, {"type": "Traefik", "protocol": "Tcp"}, {"type": "Traefik", "name": "again"},
                {"type": "CoreDns", "domain": "a.b"}, {"type": "CoreDns", "domain": "_x.c"},
                {"type": "GoFrame"}, {"type": "GoFrame", "deployment": "prod"}, {"type": "Kratos", "root": "/x"},
            ]}),
        ),
        (
            "a scheme that a format does not carry",
            json!({
                "ports": [{"port": "http"}, {"name": "redis", "port": 6379, "scheme": "redis"}],
                "formats": [
                    {"type": "GoMicro", "ports": ["http"]}, {"type": "Traefik", "ports": ["http"]},
                    {"type": "Traefik", "protocol": "Tcp", "ports": ["redis"]},
                ],
            }),
        ),
        (
            "IPv6 for all that read it",
            json!({"address": {"family": "IPv6"}, "formats": [
                {"type": "EtcdGrpc"}, {"type": "GoZero"}, {"type": "Kratos"}, {"type": "GoMicro"}, {"type": "Kitex"},
                {"type": "Hertz"}, {"type": "CoreDns", "domain": "a.b"}, {"type": "Traefik"},
            ]}),
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
