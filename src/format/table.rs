//! Checks the tables in `docs/formats.md`: where each format writes each fact about an endpoint, and how it writes each
//! kind of address. The first test changes one fact at a time and computes the table from the difference in the records.
//! Both compare with the document.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use super::testing::{self, ORDERS, of};
use super::{Format, Service};
use crate::api::{self, FormatType, TraefikFormat, TraefikProtocol};
use crate::model::endpoints::orders;
use crate::model::{Endpoint, Family, Record};

fn rows() -> Vec<(&'static str, api::Format)> {
    let traefik = |protocol| {
        let options = TraefikFormat {
            protocol: Some(protocol),
            ..TraefikFormat::default()
        };
        options.into()
    };
    vec![
        ("Plain", of(FormatType::Plain)),
        ("Plain, JSON", testing::json()),
        ("EtcdGRPC", of(FormatType::EtcdGRPC)),
        ("GoZero", of(FormatType::GoZero)),
        ("Kratos", of(FormatType::Kratos)),
        ("GoMicro", of(FormatType::GoMicro)),
        ("Kitex", of(FormatType::Kitex)),
        ("Hertz", of(FormatType::Hertz)),
        ("GoFrame", of(FormatType::GoFrame)),
        ("CoreDNS", testing::core_dns("orders.example.com").into()),
        ("Traefik, HTTP", traefik(TraefikProtocol::HTTP)),
        ("Traefik, TCP", traefik(TraefikProtocol::TCP)),
        ("Traefik, UDP", traefik(TraefikProtocol::UDP)),
    ]
}

type Change = fn(&mut Endpoint);

/// A fact, and a change of it.
const FACTS: [(&str, Change); 11] = [
    ("namespace", |endpoint| endpoint.namespace = "store".into()),
    ("service", |endpoint| endpoint.service = "bills".into()),
    ("pod", |endpoint| endpoint.pod = "orders-2".into()),
    ("port's name", |endpoint| endpoint.port_name = "api".into()),
    ("address", |endpoint| {
        endpoint.address = "10.0.0.8".parse().expect("an address");
    }),
    ("port", |endpoint| endpoint.port = 9090),
    ("appProtocol", |endpoint| endpoint.scheme = Some("https".into())),
    ("weight", |endpoint| endpoint.weight = Some(20)),
    ("version", |endpoint| endpoint.version = Some("2.0".into())),
    ("zone", |endpoint| endpoint.zone = Some("eu-1b".into())),
    ("attribute `team`", |endpoint| {
        endpoint.metadata = Arc::new(BTreeMap::from([("team".into(), "green".into())]));
    }),
];

fn written(spec: &api::Format, endpoint: &Endpoint) -> Vec<Record> {
    let service = Service {
        namespace: &endpoint.namespace,
        name: &endpoint.service,
        ..ORDERS
    };
    let format = Format::compile(spec, &service).expect("a good format");
    format.record(endpoint, false).expect("a good endpoint")
}

/// Returns where `before` and `after` differ.
fn difference(before: &[Record], after: &[Record]) -> String {
    assert_eq!(before.len(), after.len());
    let mut places = Vec::new();
    for (before, after) in before.iter().zip(after) {
        if before.key != after.key {
            places.push("key".to_owned());
        }
        let json = |record: &Record| {
            serde_json::from_slice::<Value>(&record.value)
                .ok()
                .filter(Value::is_object)
        };
        match (json(before), json(after)) {
            (Some(before), Some(after)) => leaves(&before, &after, "", &mut places),
            _ if before.value != after.value => {
                let (_, field) = before.key.rsplit_once('/').expect("segments");
                let own_field = ["url", "weight", "address"].contains(&field);
                places.push(if own_field {
                    format!("`…/{field}`")
                } else {
                    "value".to_owned()
                });
            }
            _ => {}
        }
    }
    places.dedup();
    if places.is_empty() {
        "–".to_owned()
    } else {
        places.join(", ")
    }
}

fn leaves(before: &Value, after: &Value, path: &str, places: &mut Vec<String>) {
    match (before, after) {
        _ if before == after => {}
        (Value::Object(a), Value::Object(b)) => {
            let names: std::collections::BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            for name in names {
                leaves(&before[name], &after[name], &format!("{path}.{name}"), places);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (a, b) in a.iter().zip(b) {
                leaves(a, b, &format!("{path}[0]"), places);
            }
        }
        _ => places.push(format!("`{path}`")),
    }
}

#[test]
fn the_documented_table_says_where_each_fact_lands() {
    let before = Endpoint {
        metadata: Arc::new(BTreeMap::from([("team".into(), "blue".into())])),
        ..orders()
    };
    let heads: Vec<&str> = rows().into_iter().map(|(name, _)| name).collect();
    let rule = "---|".repeat(heads.len());
    let mut table = vec![format!("| | {} |", heads.join(" | ")), format!("|---|{rule}")];
    for (fact, change) in FACTS {
        let mut after = before.clone();
        change(&mut after);
        let cell = |(_, spec): &(_, api::Format)| difference(&written(spec, &before), &written(spec, &after));
        let cells: Vec<String> = rows().iter().map(cell).collect();
        table.push(format!("| {fact} | {} |", cells.join(" | ")));
    }
    let table = table.join("\n");
    let documented = include_str!("../../docs/formats.md");
    assert!(documented.contains(&table), "docs/formats.md should contain:\n{table}");
}

/// An address of each kind, as clients connect to it.
const ADDRESSES: [(&str, &str); 3] = [
    ("IPv4 address", "10.0.0.7"),
    ("IPv6 address", "2001:db8::7"),
    ("host name", "lb.example.com"),
];

/// Returns how `spec` writes the endpoint's address.
fn written_address(spec: &api::Format, endpoint: &Endpoint) -> String {
    let service = Service {
        ipv6: endpoint.address.is_ipv6(),
        ..ORDERS
    };
    let record = |format: Format| format.record(endpoint, true).ok();
    let Some(records) = Format::compile(spec, &service).ok().and_then(record) else {
        return "refused".to_owned();
    };
    let mut texts = records.iter().flat_map(|record| {
        let value = String::from_utf8_lossy(&record.value).into_owned();
        [record.key.to_string(), value]
    });
    let (host_port, address) = (endpoint.host_port(), endpoint.address.to_string());
    match texts.find(|text| text.contains(&address)) {
        Some(text) if text.contains(&host_port) => format!("`{host_port}`"),
        Some(_) => format!("`{address}`"),
        None => panic!("{spec:?} does not write the address"),
    }
}

/// Returns what distinguishes the key of the IPv6 address from that of the preferred IPv4 address of the same pod.
fn second_key(spec: &api::Format) -> String {
    let second = Endpoint {
        address: "2001:db8::7".parse().expect("an address"),
        second_family: Some(Family::IPv6),
        ..orders()
    };
    let service = Service { ipv6: true, ..ORDERS };
    let Ok(format) = Format::compile(spec, &service) else {
        return "refused".to_owned();
    };
    let key = |endpoint: &Endpoint| {
        format.record(endpoint, true).expect("a good endpoint")[0]
            .key
            .to_string()
    };
    let (key, first) = (key(&second), key(&orders()));
    assert_ne!(key, first);
    let named = key.contains(&*second.name()).then_some("`POD_ipv6`".to_owned());
    let address = second.host_port();
    let addressed = key.contains(&address).then(|| format!("`{address}`"));
    let parts: Vec<String> = named.into_iter().chain(addressed).collect();
    if parts.is_empty() {
        "its own hash".to_owned()
    } else {
        parts.join(", ")
    }
}

#[test]
fn the_documented_table_says_how_each_kind_of_address_is_written() {
    let heads: Vec<&str> = ADDRESSES.iter().map(|(kind, _)| *kind).collect();
    let mut table = vec![
        format!(
            "| format | {} | second address of a pod: in the key |",
            heads.join(" | ")
        ),
        "|---|---|---|---|---|".to_owned(),
    ];
    for (name, spec) in rows() {
        let cell = |(_, address): &(&str, &str)| {
            let endpoint = Endpoint {
                address: address.parse().expect("an address or a name"),
                ..orders()
            };
            written_address(&spec, &endpoint)
        };
        let cells: Vec<String> = ADDRESSES.iter().map(cell).collect();
        table.push(format!("| {name} | {} | {} |", cells.join(" | "), second_key(&spec)));
    }
    let table = table.join("\n");
    let documented = include_str!("../../docs/formats.md");
    assert!(documented.contains(&table), "docs/formats.md should contain:\n{table}");
}
