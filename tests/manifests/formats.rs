//! Formats of registrations: wrong ones with what is said to them, and good ones.

use serde_json::{Value, json};

use super::record_formats::users;
use super::{Case, many, rejected, taken, text};

pub(super) fn format(format: Value) -> Value {
    json!({"formats": vec![format]})
}

pub fn wrong() -> Vec<Case> {
    let groups = [kinds(), prefixes(), places(), users(), domains(), records()];
    groups.into_iter().flatten().collect()
}

fn kinds() -> Vec<Case> {
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
            "17 formats",
            json!({"formats": many(17, |_| json!({"type": "Plain"}))}),
            "must have at most 16 items",
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
            "omit ports to write all of them",
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
        (
            "a prefix that leads elsewhere",
            prefix("/services/../leasehold"),
            "must not have a segment of dots only",
        ),
        ("prefix of 513", prefix(&text(513)), "may not be more than 512"),
        (
            "one prefix twice",
            json!({"formats": [{"type": "Plain", "prefix": "/a"}, {"type": "EtcdGrpc", "prefix": "/a"}]}),
            "give each its own prefix",
        ),
        (
            "a prefix below another",
            json!({"formats": [{"type": "Plain", "prefix": "/a/b"}, {"type": "Plain", "prefix": "/a"}]}),
            "so the consumers of one would read the other's records",
        ),
        (
            "one format twice without prefix",
            json!({"formats": [{"type": "Plain"}, {"type": "Plain", "value": "Json"}]}),
            "two formats of the same type would use the same default place",
        ),
    ])
}

/// Where the keys of each format lie.
fn places() -> Vec<Case> {
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
            "a key of dots",
            format(json!({"type": "GoZero", "key": ".."})),
            "must not have a segment of dots only",
        ),
        (
            "a root of dots",
            format(json!({"type": "Kratos", "root": "/./x"})),
            "must not have a segment of dots only",
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
            "two formats of the same type would use the same default place",
        ),
    ])
}

/// The names that CoreDNS's records have.
fn domains() -> Vec<Case> {
    rejected(vec![
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
            "treats the label any as a wildcard",
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
    ])
}

/// What a format's records may hold.
fn records() -> Vec<Case> {
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
            "CoreDNS treats 0 as 10",
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
            "Traefik treats names that differ only in case as equal",
        ),
        (
            "a Traefik name that is a number",
            format(json!({"type": "Traefik", "name": "42"})),
            "Traefik treats it as an index",
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

pub fn good() -> Vec<Case> {
    taken(vec![
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
    ])
}
