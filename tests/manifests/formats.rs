//! Formats of registrations: wrong ones with what is said to them, and good ones.

use serde_json::{Value, json};

use super::record_formats::users;
use super::{Case, many, rejected, taken, text};

pub(super) fn format(format: Value) -> Value {
    json!({"formats": vec![format]})
}

pub fn wrong() -> Vec<Case> {
    let groups = [kinds(), members(), prefixes(), places(), users(), domains(), records()];
    groups.into_iter().flatten().collect()
}

fn kinds() -> Vec<Case> {
    rejected(vec![
        (
            "no formats",
            json!({"formats": []}),
            "spec.formats in body should have at least 1 items",
        ),
        (
            "unknown format",
            format(json!({"type": "Consul"})),
            r#"supported values: "Plain", "EtcdGRPC""#,
        ),
        (
            "17 formats",
            json!({"formats": many(17, |_| json!({"type": "Plain"}))}),
            "must have at most 16 items",
        ),
        (
            "an option beside its member",
            format(json!({"type": "Plain", "prefix": "/a"})),
            r#"unknown field "spec.formats[0].prefix""#,
        ),
        (
            "unknown value",
            format(json!({"type": "Plain", "plain": {"value": "Yaml"}})),
            r#"supported values: "HostPort", "JSON""#,
        ),
        (
            "misspelt field",
            format(json!({"type": "Plain", "plain": {"prefx": "/a"}})),
            r#"unknown field "spec.formats[0].plain.prefx""#,
        ),
        (
            "a port that the spec does not have",
            format(json!({"type": "Plain", "ports": ["grpc"]})),
            "formats[].ports must hold names of spec.ports",
        ),
        (
            "a format without ports",
            format(json!({"type": "Plain", "ports": []})),
            "spec.formats[0].ports in body should have at least 1 items",
        ),
        (
            "a format's port twice",
            format(json!({"type": "Plain", "ports": ["http", "http"]})),
            r#"spec.formats[0].ports[1]: Duplicate value: "http""#,
        ),
    ])
}

/// Each member with a type that is not its own.
fn members() -> Vec<Case> {
    let members = [
        ("plain", json!({"value": "JSON"}), "plain has the options of type Plain"),
        (
            "etcdGRPC",
            json!({"prefix": "a"}),
            "etcdGRPC has the options of type EtcdGRPC",
        ),
        (
            "goZero",
            json!({"key": "a.rpc"}),
            "goZero has the options of type GoZero",
        ),
        ("kratos", json!({"root": "/a"}), "kratos has the options of type Kratos"),
        ("kitex", json!({"root": "a"}), "kitex has the options of type Kitex"),
        (
            "goFrame",
            json!({"root": "/a"}),
            "goFrame has the options of type GoFrame",
        ),
        ("coreDNS", json!({"domain": "a.b"}), "type CoreDNS needs coreDNS"),
        (
            "traefik",
            json!({"root": "a"}),
            "traefik has the options of type Traefik",
        ),
        (
            "custom",
            json!({"recordFormatRef": {"name": "a"}}),
            "type Custom needs custom",
        ),
    ];
    // Types without options of their own.
    let spec = |kind: &str, member: &str, options: &Value| format(json!({"type": kind, member: options}));
    let each = members.into_iter().flat_map(|(member, options, expected)| {
        ["Hertz", "GoMicro"].map(|kind| (member, spec(kind, member, &options), expected))
    });
    let other = (
        "the member of another type",
        spec("EtcdGRPC", "plain", &json!({"prefix": "/a"})),
        "such as etcdGRPC for EtcdGRPC",
    );
    rejected(each.chain([other]).collect())
}

fn prefixes() -> Vec<Case> {
    let prefix = |prefix: &str| json!({"formats": [{"type": "Plain", "plain": {"prefix": prefix}}]});
    rejected(vec![
        (
            "empty prefix",
            prefix(""),
            "plain.prefix in body should be at least 1 chars long",
        ),
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
            json!({"formats": [{"type": "Plain", "plain": {"prefix": "/a"}}, {"type": "EtcdGRPC", "etcdGRPC": {"prefix": "/a"}}]}),
            "give each its own prefix",
        ),
        (
            "a prefix below another",
            json!({"formats": [{"type": "Plain", "plain": {"prefix": "/a/b"}}, {"type": "Plain", "plain": {"prefix": "/a"}}]}),
            "so the consumers of one would read the other's records",
        ),
        (
            "a prefix below another of type Custom",
            json!({"formats": [
                {"type": "EtcdGRPC", "etcdGRPC": {"prefix": "/a"}},
                {"type": "Custom", "custom": {"recordFormatRef": {"name": "b"}, "prefix": "/a/b"}},
            ]}),
            "so the consumers of one would read the other's records",
        ),
        (
            "one format twice without prefix",
            json!({"formats": [{"type": "Plain"}, {"type": "Plain", "plain": {"value": "JSON"}}]}),
            "two formats of the same type would use the same default place",
        ),
    ])
}

/// Where the keys of each format lie.
fn places() -> Vec<Case> {
    rejected(vec![
        (
            "a key with a slash at the end",
            format(json!({"type": "GoZero", "goZero": {"key": "orders.rpc/"}})),
            "the Key of the consumers' EtcdConf",
        ),
        (
            "a key with a space",
            format(json!({"type": "GoZero", "goZero": {"key": "orders rpc"}})),
            "must not contain spaces or control characters",
        ),
        (
            "an empty root",
            format(json!({"type": "Kratos", "kratos": {"root": ""}})),
            "kratos.root in body should be at least 1 chars long",
        ),
        (
            "a root with a line break",
            format(json!({"type": "Kitex", "kitex": {"root": "a\nb"}})),
            "must not contain spaces or control characters",
        ),
        (
            "a key of dots",
            format(json!({"type": "GoZero", "goZero": {"key": ".."}})),
            "must not have a segment of dots only",
        ),
        (
            "a root of dots",
            format(json!({"type": "Kratos", "kratos": {"root": "/./x"}})),
            "must not have a segment of dots only",
        ),
        (
            "a GoFrame root of two segments",
            format(json!({"type": "GoFrame", "goFrame": {"root": "/a/b"}})),
            "a slash and one segment, such as /service",
        ),
        (
            "a GoFrame root without a slash",
            format(json!({"type": "GoFrame", "goFrame": {"root": "service"}})),
            "a slash and one segment, such as /service",
        ),
        (
            "a CoreDNS path of two segments",
            format(json!({"type": "CoreDNS", "coreDNS": {"domain": "a.b", "root": "skydns/ka"}})),
            "one segment without slashes, such as skydns",
        ),
        (
            "a Traefik root with a slash before it",
            format(json!({"type": "Traefik", "traefik": {"root": "/traefik"}})),
            "write root without it, such as traefik",
        ),
        (
            "one key twice",
            json!({"formats": [{"type": "GoZero", "goZero": {"key": "a.rpc"}}, {"type": "GoZero", "goZero": {"key": "a.rpc"}}]}),
            "two formats have the same key or domain",
        ),
        (
            "one domain twice",
            json!({"formats": [{"type": "CoreDNS", "coreDNS": {"domain": "a.b"}}, {"type": "CoreDNS", "coreDNS": {"domain": "a.b", "ttlSeconds": 5}}]}),
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
            "CoreDNS without its member",
            format(json!({"type": "CoreDNS"})),
            "type CoreDNS needs coreDNS with the domain that consumers look up",
        ),
        (
            "CoreDNS without a domain",
            format(json!({"type": "CoreDNS", "coreDNS": {"ttlSeconds": 5}})),
            "coreDNS.domain: Required value",
        ),
        (
            "a domain in capitals",
            format(json!({"type": "CoreDNS", "coreDNS": {"domain": "Orders.example.com"}})),
            "a DNS name in lower case without a dot at the end",
        ),
        (
            "a domain with a dot at the end",
            format(json!({"type": "CoreDNS", "coreDNS": {"domain": "orders.example.com."}})),
            "a DNS name in lower case without a dot at the end",
        ),
        (
            "a domain with a wildcard",
            format(json!({"type": "CoreDNS", "coreDNS": {"domain": "any.example.com"}})),
            "treats the label any as a wildcard",
        ),
        (
            "a domain with a label of 64",
            format(json!({"type": "CoreDNS", "coreDNS": {"domain": text(64)}})),
            "a DNS name in lower case",
        ),
        (
            "a domain of 174",
            format(json!({"type": "CoreDNS", "coreDNS": {"domain": format!("{}a", "a.".repeat(87))}})),
            "may not be more than 173",
        ),
    ])
}

/// What a format's records may hold.
fn records() -> Vec<Case> {
    let core_dns =
        |field: &str, value: Value| format(json!({"type": "CoreDNS", "coreDNS": {"domain": "a.b", field: value}}));
    rejected(vec![
        (
            "a DNS TTL of 0",
            core_dns("ttlSeconds", json!(0)),
            "coreDNS.ttlSeconds in body should be greater than or equal to 1",
        ),
        (
            "a DNS TTL of more than a day",
            core_dns("ttlSeconds", json!(86401)),
            "coreDNS.ttlSeconds in body should be less than or equal to 86400",
        ),
        (
            "a priority of 0",
            core_dns("priority", json!(0)),
            "coreDNS.priority in body should be greater than or equal to 1",
        ),
        (
            "a priority of 65536",
            core_dns("priority", json!(65536)),
            "coreDNS.priority in body should be less than or equal to 65535",
        ),
        (
            "a group with a slash",
            core_dns("group", json!("a/b")),
            "group must be made of letters, digits",
        ),
        (
            "an unknown protocol",
            format(json!({"type": "Traefik", "traefik": {"protocol": "QUIC"}})),
            r#"supported values: "HTTP", "TCP", "UDP""#,
        ),
        (
            "a Traefik name in capitals",
            format(json!({"type": "Traefik", "traefik": {"serviceName": "Orders"}})),
            "Traefik treats names that differ only in case as equal",
        ),
        (
            "a Traefik name that is a number",
            format(json!({"type": "Traefik", "traefik": {"serviceName": "42"}})),
            "Traefik treats it as an index",
        ),
        (
            "a deployment with a slash",
            format(json!({"type": "GoFrame", "goFrame": {"deployment": "a/b"}})),
            "deployment must be made of letters, digits",
        ),
        (
            "a namespace with a slash",
            format(json!({"type": "GoFrame", "goFrame": {"namespace": "a/b"}})),
            "namespace must be made of letters, digits",
        ),
        (
            "an empty version segment",
            format(json!({"type": "GoFrame", "goFrame": {"version": ""}})),
            "version must be made of letters, digits",
        ),
    ])
}

pub fn good() -> Vec<Case> {
    taken(vec![
        (
            "both formats at their defaults",
            json!({"formats": [{"type": "Plain"}, {"type": "EtcdGRPC"}]}),
        ),
        (
            "eight consumers at their defaults",
            json!({"formats": [
                {"type": "GoZero"}, {"type": "Kratos"}, {"type": "GoMicro"}, {"type": "Kitex"}, {"type": "Hertz"},
                {"type": "GoFrame"}, {"type": "CoreDNS", "coreDNS": {"domain": "orders.example.com"}}, {"type": "Traefik"},
            ]}),
        ),
        (
            "members without options",
            json!({"formats": [
                {"type": "Plain", "plain": {}}, {"type": "EtcdGRPC", "etcdGRPC": {}}, {"type": "GoZero", "goZero": {}},
                {"type": "Kratos", "kratos": {}}, {"type": "Kitex", "kitex": {}}, {"type": "GoFrame", "goFrame": {}},
                {"type": "Traefik", "traefik": {}},
            ]}),
        ),
        (
            "formats of one type in places of their own",
            json!({"formats": [
                {"type": "Traefik"}, {"type": "Traefik", "traefik": {"protocol": "TCP"}}, {"type": "Traefik", "traefik": {"serviceName": "again"}},
                {"type": "CoreDNS", "coreDNS": {"domain": "a.b"}}, {"type": "CoreDNS", "coreDNS": {"domain": "_x.c"}},
                {"type": "GoFrame"}, {"type": "GoFrame", "goFrame": {"deployment": "prod"}}, {"type": "Kratos", "kratos": {"root": "/x"}},
            ]}),
        ),
        (
            "an appProtocol that a format does not carry",
            json!({
                "ports": [{"name": "http"}, {"name": "redis", "port": 6379, "appProtocol": "redis"}],
                "formats": [
                    {"type": "GoMicro", "ports": ["http"]}, {"type": "Traefik", "ports": ["http"]},
                    {"type": "Traefik", "traefik": {"protocol": "TCP"}, "ports": ["redis"]},
                ],
            }),
        ),
        (
            "IPv6 for all that read it",
            json!({"address": {"ipFamilies": ["IPv6"]}, "formats": [
                {"type": "EtcdGRPC"}, {"type": "GoZero"}, {"type": "Kratos"}, {"type": "GoMicro"}, {"type": "Kitex"},
                {"type": "Hertz"}, {"type": "CoreDNS", "coreDNS": {"domain": "a.b"}}, {"type": "Traefik"},
            ]}),
        ),
        (
            "prefixes that only look alike",
            json!({"formats": [{"type": "Plain", "plain": {"prefix": "/a"}}, {"type": "Plain", "plain": {"prefix": "/a-2", "value": "JSON"}}]}),
        ),
        (
            "a prefix that is dialled with four slashes",
            json!({"formats": [{"type": "EtcdGRPC", "etcdGRPC": {"prefix": "/shop/orders"}}]}),
        ),
        (
            "a prefix beyond ASCII",
            json!({"formats": [{"type": "Plain", "plain": {"prefix": "/dienste/büro"}}]}),
        ),
    ])
}
