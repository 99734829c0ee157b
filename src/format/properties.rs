//! Property tests that hold for every format and every endpoint.

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use proptest::collection::{btree_map, btree_set, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use super::consumers::{self, ConsumerView};
use super::testing::{self, ORDERS, of};
use super::{Format, Refusal};
use crate::api::{
    self, CoreDNSFormat, FormatType, GoFrameFormat, GoZeroFormat, PlainFormat, PlainValue, TraefikFormat,
    TraefikProtocol,
};
use crate::model::{Endpoint, Family, Host, Record};

/// Formats of all types, with valid fields.
fn formats() -> impl Strategy<Value = api::Format> {
    let place = || option::of("/?[a-zé-][a-zé.-]{0,8}(/[a-z:0-9]{1,8}){0,3}");
    let name = || option::of("[a-zA-Z0-9_-][a-zA-Z0-9._-]{0,12}");
    let set = |kind, place: Option<String>, with: fn(FormatType, &str) -> api::Format| {
        place.map_or_else(|| of(kind), |place| with(kind, &place))
    };
    let at = |kind| place().prop_map(move |prefix| set(kind, prefix, testing::at));
    let rooted = |kind| place().prop_map(move |root| set(kind, root, testing::rooted));
    prop_oneof![
        at(FormatType::Plain),
        place().prop_map(|prefix| {
            let value = Some(PlainValue::JSON);
            PlainFormat { prefix, value }.into()
        }),
        at(FormatType::EtcdGRPC),
        place().prop_map(|key| GoZeroFormat { key }.into()),
        rooted(FormatType::Kratos),
        Just(of(FormatType::GoMicro)),
        rooted(FormatType::Kitex),
        Just(of(FormatType::Hertz)),
        (option::of("/[a-z]{1,8}"), name(), name(), name()).prop_map(|(root, deployment, namespace, version)| {
            let options = GoFrameFormat {
                root,
                deployment,
                namespace,
                version,
            };
            options.into()
        }),
        (
            "[a-x]{1,2}([.][a-x0-9]([a-x0-9-]{0,3}[a-x0-9])?){0,4}",
            option::of("[a-z]{1,8}"),
            option::of(1..9_u32)
        )
            .prop_map(|(domain, root, ttl_seconds)| {
                let options = CoreDNSFormat {
                    root,
                    ttl_seconds,
                    ..testing::core_dns(&domain)
                };
                options.into()
            }),
        (
            option::of("[a-z]{1,8}(/[a-z]{1,8})?"),
            option::of("[a-z][a-z0-9.-]{0,8}"),
            select(vec![TraefikProtocol::HTTP, TraefikProtocol::TCP, TraefikProtocol::UDP])
        )
            .prop_map(|(root, service_name, protocol)| {
                let options = TraefikFormat {
                    root,
                    protocol: Some(protocol),
                    service_name,
                };
                options.into()
            }),
    ]
}

/// Endpoints that Kubernetes allows, with arbitrary text as metadata: quotes, control characters, non-ASCII characters,
/// and names that formats use themselves.
pub(super) fn endpoints() -> impl Strategy<Value = Endpoint> {
    let fact = prop_oneof![
        ".{0,12}",
        select(vec!["weight", "protocol", "insecure", "zone", "id"]).prop_map(Into::into)
    ];
    let metadata = btree_map(fact, "(?s).{0,24}", 0..6);
    let schemes = select(vec!["grpc", "grpcs", "http", "https"]);
    (
        address(),
        any::<u16>(),
        pod(),
        port_name(),
        option::of("[A-Za-z0-9]([A-Za-z0-9._-]{0,12}[A-Za-z0-9])?"),
        (
            option::of(any::<u16>()),
            option::of(schemes),
            option::of("[a-z0-9-]{1,6}"),
        ),
        metadata,
    )
        .prop_map(|(address, port, pod, port_name, version, rest, metadata)| Endpoint {
            namespace: "shop".into(),
            service: "orders".into(),
            pod: pod.into(),
            node: Some("n1".into()),
            zone: rest.2.map(Into::into),
            address,
            second_family: None,
            port,
            port_name: port_name.into(),
            scheme: rest.1.map(Into::into),
            version: version.map(Into::into),
            weight: rest.0.map(u32::from),
            metadata: shared(metadata),
        })
}

fn shared(map: BTreeMap<String, String>) -> Arc<BTreeMap<Arc<str>, Arc<str>>> {
    Arc::new(map.into_iter().map(|(key, value)| (key.into(), value.into())).collect())
}

fn address() -> impl Strategy<Value = Host> {
    prop_oneof![
        any::<[u8; 4]>().prop_map(|ip| Host::Ip(ip.into())),
        any::<[u8; 16]>().prop_map(|ip| Host::Ip(ip.into())),
        "[a-z]([a-z0-9-]{0,8}[a-z0-9])?([.][a-z]([a-z0-9-]{0,8}[a-z0-9])?){1,3}"
            .prop_map(|name| Host::Name(name.into())),
    ]
}

fn pod() -> &'static str {
    "[a-z0-9]([a-z0-9.-]{0,20}[a-z0-9])?"
}

fn port_name() -> &'static str {
    "[a-z0-9]([a-z0-9-]{0,6}[a-z0-9])?"
}

/// Returns what the consumers of `spec` see in `records`.
fn seen(spec: &api::Format, records: &[Record]) -> Vec<ConsumerView> {
    let keys: Vec<(&str, &[u8])> = records.iter().map(|record| (&*record.key, &*record.value)).collect();
    let or = |field: &Option<String>, default: &str| field.clone().unwrap_or_else(|| default.to_owned());
    // The members that are not set have their defaults, so each reads as a whole.
    let plain = spec.plain.clone().unwrap_or_default();
    let traefik = spec.traefik.clone().unwrap_or_default();
    let go_frame = spec.go_frame.clone().unwrap_or_default();
    let core_dns = spec.core_dns.clone().unwrap_or_default();
    let kratos = spec.kratos.clone().unwrap_or_default();
    let kitex = spec.kitex.clone().unwrap_or_default();
    let etcd_grpc = spec.etcd_grpc.clone().unwrap_or_default();
    let go_zero = spec.go_zero.clone().unwrap_or_default();
    let read = match spec.kind {
        FormatType::Plain if plain.value == Some(PlainValue::JSON) => return records.iter().map(read_json).collect(),
        FormatType::Plain => consumers::plain(&keys, &or(&plain.prefix, "/services/shop/orders")),
        FormatType::EtcdGRPC => consumers::etcd_grpc(&keys, &or(&etcd_grpc.prefix, "shop/orders")),
        FormatType::GoZero => consumers::go_zero(&keys, &or(&go_zero.key, "orders.rpc")),
        FormatType::Kratos => consumers::kratos(&keys, &or(&kratos.root, "/microservices"), "orders"),
        FormatType::GoMicro => consumers::go_micro(&keys, "orders"),
        FormatType::Kitex => consumers::kitex(&keys, &or(&kitex.root, "kitex/registry-etcd"), "orders"),
        FormatType::Hertz => consumers::kitex(&keys, "hertz/registry-etcd", "orders"),
        FormatType::GoFrame => {
            let segments = [
                or(&go_frame.root, "/service"),
                or(&go_frame.deployment, "default"),
                or(&go_frame.namespace, "default"),
                "orders".to_owned(),
                or(&go_frame.version, "latest"),
            ];
            consumers::go_frame(&keys, &segments.join("/"))
        }
        FormatType::CoreDNS => consumers::core_dns(&keys, &or(&core_dns.root, "skydns"), &core_dns.domain),
        FormatType::Custom => unreachable!("`templates` has separate property tests"),
        FormatType::Traefik => {
            let protocol = match traefik.protocol.unwrap_or_default() {
                TraefikProtocol::HTTP => "http",
                TraefikProtocol::TCP => "tcp",
                TraefikProtocol::UDP => "udp",
            };
            let name = or(&traefik.service_name, "shop-orders");
            consumers::traefik(&keys, &or(&traefik.root, "traefik"), protocol, &name)
        }
    };
    read.unwrap_or_else(|stumble| panic!("{stumble}: {keys:?}"))
}

fn read_json(record: &Record) -> ConsumerView {
    let json: serde_json::Value = serde_json::from_slice(&record.value).expect("JSON");
    let Ok(host) = json["address"].as_str().expect("text").parse();
    let port = json["port"]
        .as_u64()
        .and_then(|port| port.try_into().ok())
        .expect("a port");
    let text = |name: &str| json[name].as_str().map(str::to_owned);
    let facts = json["metadata"].as_object().into_iter().flatten();
    ConsumerView {
        address: Some((host, port)),
        scheme: text("scheme"),
        version: text("version"),
        weight: json["weight"].as_u64().and_then(|weight| weight.try_into().ok()),
        facts: facts
            .map(|(name, value)| (name.clone(), value.as_str().expect("text").to_owned()))
            .collect(),
    }
}

/// Whether a format may refuse an endpoint: only if its consumers cannot express the address family or the weight.
fn may_refuse(spec: &api::Format, endpoint: &Endpoint, refusal: &Refusal) -> bool {
    use FormatType::{CoreDNS, GoFrame, Hertz, Kitex};
    match refusal {
        Refusal::Ipv6 { .. } => spec.kind == GoFrame && endpoint.address.is_ipv6(),
        Refusal::NoShare { .. } => [Kitex, Hertz, GoFrame, CoreDNS].contains(&spec.kind) && endpoint.weight == Some(0),
        _ => false,
    }
}

fn compile(spec: &api::Format) -> Format {
    Format::compile(spec, &ORDERS).unwrap_or_else(|error| panic!("{error}: {spec:?}"))
}

proptest! {
    #[test]
    fn every_consumer_sees_the_one_endpoint_that_was_written(
        spec in formats(), endpoint in endpoints(), sole_port: bool,
    ) {
        let format = compile(&spec);
        match format.record(&endpoint, sole_port) {
            Err(refusal) => prop_assert!(may_refuse(&spec, &endpoint, &refusal), "{refusal}"),
            Ok(records) => {
                for record in &records {
                    prop_assert!(format.prefix().contains(&record.key));
                    prop_assert!(record.key.len() > format.prefix().as_str().len());
                    prop_assert!(!record.key.contains("//") && !record.key.contains("/../"));
                }
                let seen = seen(&spec, &records);
                prop_assert_eq!(seen.len(), 1);
                prop_assert_eq!(seen[0].address.clone(), Some((endpoint.address.clone(), endpoint.port)));
                if let (Some(read), Some(weight)) = (seen[0].weight, endpoint.weight) {
                    prop_assert_eq!(read, weight);
                }
                if let Some(version) = &seen[0].version {
                    prop_assert_eq!(Some(version.as_str()), endpoint.version.as_deref());
                }
            }
        }
    }

    #[test]
    fn facts_read_back_as_they_were_whatever_they_hold(spec in formats(), endpoint in endpoints()) {
        let events = [FormatType::Kratos, FormatType::GoMicro, FormatType::Kitex, FormatType::Hertz, FormatType::GoFrame];
        prop_assume!(events.contains(&spec.kind));
        let Ok(records) = compile(&spec).record(&endpoint, true) else { return Ok(()) };
        let seen = seen(&spec, &records).remove(0);
        for (name, value) in &*endpoint.metadata {
            // A fact that the format writes itself replaces the metadata of that name.
            let own: &[&str] = match spec.kind {
                FormatType::Kratos if endpoint.weight.is_some() => &["weight"],
                FormatType::GoMicro => &["protocol"],
                FormatType::GoFrame => &["protocol", "insecure", "weight"],
                _ => &[],
            };
            if spec.kind == FormatType::Kratos && &**name == "weight" {
                continue;
            }
            if !own.contains(&&**name) {
                prop_assert_eq!(seen.facts.get(&**name).map(String::as_str), Some(&**value), "{}", name);
            }
        }
        if !endpoint.metadata.contains_key("zone") {
            prop_assert_eq!(seen.facts.get("zone").map(String::as_str), endpoint.zone.as_deref());
        }
    }

    #[test]
    fn json_value_preserves_every_endpoint_field(endpoint in endpoints()) {
        let spec = testing::json();
        let seen = read_json(&compile(&spec).record(&endpoint, true).unwrap()[0]);
        let facts: BTreeMap<Arc<str>, Arc<str>> =
            seen.facts.iter().map(|(key, value)| (key.as_str().into(), value.as_str().into())).collect();
        prop_assert_eq!(&facts, &*endpoint.metadata);
        prop_assert_eq!(seen.version.as_deref(), endpoint.version.as_deref());
        prop_assert_eq!(seen.scheme.as_deref(), endpoint.scheme.as_deref());
        prop_assert_eq!(seen.weight, endpoint.weight);
    }

    #[test]
    fn no_two_endpoints_share_a_key_and_each_is_seen(
        spec in formats(),
        names in btree_set((pod(), port_name()), 0..12),
        addresses in vec((any::<[u8; 3]>(), any::<u16>()), 12),
        template in endpoints(),
    ) {
        let format = compile(&spec);
        let mut keys = HashSet::new();
        let mut all = Vec::new();
        let mut dialled = Vec::new();
        for (at, ((pod, port_name), (ip, port))) in names.into_iter().zip(addresses).enumerate() {
            let at = u8::try_from(at).unwrap();
            let address = Host::Ip(IpAddr::from([10 + at, ip[0], ip[1], ip[2]]));
            let (pod, port_name) = (pod.into(), port_name.into());
            let weight = template.weight.map(|weight| weight.max(1));
            let endpoint = Endpoint { pod, port_name, address: address.clone(), port, weight, scheme: Some("grpc".into()), ..template.clone() };
            for record in format.record(&endpoint, false).unwrap() {
                prop_assert!(keys.insert(record.key.clone()), "{} twice", record.key);
                all.push(record);
            }
            dialled.push((address, port));
        }
        let mut found: Vec<(Host, u16)> = seen(&spec, &all).into_iter().filter_map(|seen| seen.address).collect();
        found.sort();
        dialled.sort();
        prop_assert_eq!(found, dialled);
    }

    #[test]
    fn both_families_of_a_pod_have_keys_of_their_own_and_each_is_seen(
        spec in formats(), endpoint in endpoints(), v4 in any::<[u8; 4]>(), v6 in any::<[u8; 16]>(), sole_port in any::<bool>(),
    ) {
        let format = compile(&spec);
        let weight = endpoint.weight.map(|weight| weight.max(1));
        let preferred = Endpoint { address: Host::Ip(v4.into()), weight, scheme: Some("grpc".into()), ..endpoint };
        let second = Endpoint { address: Host::Ip(v6.into()), second_family: Some(Family::IPv6), ..preferred.clone() };
        // Only GoFrame refuses one of them.
        let (Ok(mut all), Ok(others)) = (format.record(&preferred, sole_port), format.record(&second, sole_port)) else {
            prop_assert_eq!(spec.kind, FormatType::GoFrame);
            return Ok(());
        };
        all.extend(others);
        let keys: HashSet<_> = all.iter().map(|record| record.key.clone()).collect();
        prop_assert_eq!(keys.len(), all.len());
        let mut found: Vec<Host> = seen(&spec, &all).into_iter().filter_map(|seen| Some(seen.address?.0)).collect();
        found.sort();
        prop_assert_eq!(found, [preferred.address, second.address]);
    }

    #[test]
    fn a_key_that_stays_has_a_value_that_its_consumer_follows_in_place(
        spec in formats(), endpoint in endpoints(), other in address(), version in option::of("[a-z0-9]{1,3}"),
    ) {
        let format = compile(&spec);
        let moved = Endpoint { address: other, version: version.map(Into::into), ..endpoint.clone() };
        let (Ok(before), Ok(after)) = (format.record(&endpoint, true), format.record(&moved, true)) else { return Ok(()) };
        let same_key = before[0].key == after[0].key;
        match spec.kind {
            // go-zero loses an endpoint whose value changes in place.
            FormatType::GoZero => prop_assert_eq!(same_key, before[0].value == after[0].value),
            FormatType::Kitex | FormatType::Hertz | FormatType::GoFrame => {
                prop_assert_eq!(same_key, endpoint.address == moved.address);
            }
            _ => prop_assert!(same_key),
        }
    }

    #[test]
    fn hostile_names_are_refused_or_stay_in_their_place(
        spec in formats(), endpoint in endpoints(), pod in "(?s).{0,24}", port_name in "(?s).{0,8}",
        version in "(?s).{0,8}", zone in "(?s).{0,8}", scheme in "(?s).{0,8}",
    ) {
        let format = compile(&spec);
        let (pod, port_name, scheme) = (pod.into(), port_name.into(), option_of(scheme));
        let (version, zone) = (option_of(version), option_of(zone));
        let hostile = Endpoint { pod, zone, port_name, scheme, version, ..endpoint };
        let Ok(records) = format.record(&hostile, false) else { return Ok(()) };
        let mut keys: Vec<&str> = records.iter().map(|record| &*record.key).collect();
        keys.dedup();
        prop_assert_eq!(keys.len(), records.len());
        for record in &records {
            let name = record.key.strip_prefix(format.prefix().as_str()).expect("inside its prefix");
            prop_assert!(!name.is_empty() && !name.starts_with('/') && !name.contains("//"));
            prop_assert!(!name.chars().any(|c| c.is_whitespace() || c.is_control()));
            let depth = match spec.kind {
                FormatType::CoreDNS | FormatType::Traefik => 2,
                _ => 1,
            };
            prop_assert_eq!(name.split('/').count(), depth, "{}", name);
            if record.value.first() == Some(&b'{') {
                serde_json::from_slice::<serde_json::Value>(&record.value).expect("JSON");
            }
        }
    }

    #[test]
    fn any_text_for_a_place_is_either_refused_or_safe(place in "(?s).{0,24}", endpoint in endpoints(), field in 0..7_usize) {
        let text = Some(place.clone());
        let spec = match field {
            0 => testing::at(FormatType::Plain, &place),
            1 => GoZeroFormat { key: text }.into(),
            2 => testing::rooted(FormatType::Kratos, &place),
            3 => testing::core_dns(&place).into(),
            4 => TraefikFormat { service_name: text, ..TraefikFormat::default() }.into(),
            5 => GoFrameFormat { version: text, ..GoFrameFormat::default() }.into(),
            _ => testing::rooted(FormatType::Traefik, &place),
        };
        if let Ok(format) = Format::compile(&spec, &ORDERS)
            && let Ok(records) = format.record(&endpoint, true)
        {
            for record in &records {
                prop_assert!(!record.key.contains("//") && !record.key.chars().any(char::is_whitespace));
                prop_assert!(format.prefix().contains(&record.key));
            }
            prop_assert_eq!(seen(&spec, &records).len(), 1);
        }
    }
}

fn option_of(text: String) -> Option<Arc<str>> {
    (!text.is_empty()).then(|| text.into())
}
