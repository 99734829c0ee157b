//! What holds for every format and every endpoint.

use std::collections::{BTreeMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use proptest::collection::{btree_map, btree_set};
use proptest::option;
use proptest::prelude::*;

use super::{Endpoint, Format};
use crate::api::{self, FormatType, PlainValue};

fn formats() -> impl Strategy<Value = api::Format> {
    let kinds = prop_oneof![
        Just((FormatType::Plain, None)),
        Just((FormatType::Plain, Some(PlainValue::Json))),
        Just((FormatType::EtcdGrpc, None)),
    ];
    (kinds, option::of("/?[a-zé.-]{1,8}(/[a-z:0-9]{1,8}){0,3}")).prop_map(|((kind, value), prefix)| api::Format {
        kind,
        prefix,
        value,
        ports: None,
    })
}

fn endpoints() -> impl Strategy<Value = Endpoint> {
    let address = prop_oneof![
        any::<[u8; 4]>().prop_map(IpAddr::from),
        any::<[u8; 16]>().prop_map(IpAddr::from)
    ];
    // Any text at all: quotes, control characters, what is not ASCII.
    let metadata = btree_map(".{0,12}", "(?s).{0,24}", 0..6);
    (
        address,
        any::<u16>(),
        pod(),
        port_name(),
        option::of("(?s).{0,12}"),
        option::of(any::<u32>()),
        metadata,
    )
        .prop_map(|(address, port, pod, port_name, version, weight, metadata)| Endpoint {
            namespace: "shop".into(),
            service: "orders".into(),
            pod: pod.into(),
            node: Some("n1".into()),
            zone: None,
            address,
            port,
            port_name: port_name.into(),
            scheme: None,
            version: version.map(Into::into),
            weight,
            metadata: Arc::new(
                metadata
                    .into_iter()
                    .map(|(key, value)| (key.into(), value.into()))
                    .collect(),
            ),
        })
}

fn pod() -> &'static str {
    "[a-z0-9]([a-z0-9.-]{0,20}[a-z0-9])?"
}

fn port_name() -> &'static str {
    "[a-z0-9]([a-z0-9-]{0,6}[a-z0-9])?"
}

/// Reads a record as a consumer does that knows nothing of how it was written.
fn read(spec: &api::Format, value: &[u8]) -> SocketAddr {
    let text = std::str::from_utf8(value).expect("UTF-8");
    match (spec.kind, spec.value) {
        (FormatType::Plain, None | Some(PlainValue::HostPort)) => text.parse().expect("host:port"),
        (FormatType::Plain, Some(PlainValue::Json)) => {
            let json: serde_json::Value = serde_json::from_str(text).expect("JSON");
            let ip: IpAddr = json["address"].as_str().expect("text").parse().expect("an address");
            SocketAddr::new(
                ip,
                json["port"]
                    .as_u64()
                    .and_then(|port| port.try_into().ok())
                    .expect("a port"),
            )
        }
        (FormatType::EtcdGrpc, _) => {
            let json: serde_json::Value = serde_json::from_str(text).expect("JSON");
            json["Addr"].as_str().expect("text").parse().expect("host:port")
        }
    }
}

proptest! {
    #[test]
    fn a_key_lies_inside_its_formats_scope_and_a_value_leads_to_its_endpoint(
        spec in formats(), endpoint in endpoints(), sole_port: bool,
    ) {
        let format = Format::compile(&spec, "shop", "orders").unwrap();
        for record in format.record(&endpoint, sole_port).unwrap() {
            prop_assert!(format.scope().contains(&record.key));
            prop_assert!(record.key.len() > format.scope().prefix().len());
            prop_assert_eq!(read(&spec, &record.value), SocketAddr::new(endpoint.address, endpoint.port));
        }
    }

    #[test]
    fn no_two_endpoints_share_a_key(
        spec in formats(), names in btree_set((pod(), port_name()), 0..12), template in endpoints(),
    ) {
        let format = Format::compile(&spec, "shop", "orders").unwrap();
        let mut keys = HashSet::new();
        for (pod, port_name) in names {
            let endpoint = Endpoint { pod: pod.into(), port_name: port_name.into(), ..template.clone() };
            for record in format.record(&endpoint, false).unwrap() {
                prop_assert!(keys.insert(record.key.clone()), "{} twice", record.key);
            }
        }
    }

    #[test]
    fn metadata_reads_back_as_it_was_whatever_it_holds(endpoint in endpoints()) {
        let value = Some(PlainValue::Json);
        let spec = api::Format { kind: FormatType::Plain, prefix: None, value, ports: None };
        let records = Format::compile(&spec, "shop", "orders").unwrap().record(&endpoint, true).unwrap();
        let json: serde_json::Value = serde_json::from_slice(&records[0].value).unwrap();
        let read: BTreeMap<Arc<str>, Arc<str>> = match &json["metadata"] {
            serde_json::Value::Null => BTreeMap::new(),
            map => map.as_object().unwrap().iter()
                .map(|(key, value)| (key.as_str().into(), value.as_str().unwrap().into())).collect(),
        };
        prop_assert_eq!(&read, &*endpoint.metadata);
        prop_assert_eq!(json["version"].as_str(), endpoint.version.as_deref());
    }

    #[test]
    fn any_text_for_a_prefix_is_either_refused_or_safe(prefix in "(?s).{0,24}", endpoint in endpoints()) {
        let spec = api::Format { kind: FormatType::Plain, prefix: Some(prefix), value: None, ports: None };
        if let Ok(format) = Format::compile(&spec, "shop", "orders") {
            for record in format.record(&endpoint, true).unwrap() {
                prop_assert!(!record.key.contains("//") && !record.key.chars().any(char::is_whitespace));
                prop_assert!(format.scope().contains(&record.key));
            }
        }
    }
}
