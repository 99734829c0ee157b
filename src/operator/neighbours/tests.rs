use super::*;
use crate::format::{Format, RecordFormats, Service};

fn reading(spec: serde_json::Value) -> Reading {
    let name = spec["service"].as_str().unwrap_or("orders").to_owned();
    let mut spec = spec;
    spec.as_object_mut().expect("a map").remove("service");
    let service = Service {
        namespace: "shop",
        name: &name,
        ports: &[],
        ipv6: false,
        record_formats: &RecordFormats::new(),
    };
    let spec = serde_json::from_value(spec).expect("decodes");
    Format::compile(&spec, &service).expect("compiles").reading()
}

fn named(name: &str) -> RegistrationRef {
    RegistrationRef::new("shop", name)
}

/// Settles registrations of one format each, the first one being the oldest; returns why the formats of each stand aside.
fn street(specs: &[serde_json::Value]) -> (Neighbours, Vec<Vec<String>>) {
    let mut neighbours = Neighbours::default();
    // The oldest comes last: in which order they are told does not matter.
    for (age, spec) in specs.iter().enumerate().rev() {
        neighbours.settle(
            &named(&age.to_string()),
            i64::try_from(age).unwrap(),
            &"default".into(),
            vec![reading(spec.clone())],
        );
    }
    let aside = |age: usize| {
        neighbours
            .aside(&named(&age.to_string()))
            .into_iter()
            .map(|aside| aside.reason)
            .collect()
    };
    let all = (0..specs.len()).map(aside).collect();
    (neighbours, all)
}

macro_rules! spec {
    ($($json:tt)+) => { serde_json::json!({$($json)+}) };
}

#[test]
fn of_two_formats_that_would_mix_the_newer_stands_aside_and_is_told_of_the_other() {
    let cases = [
        // Below the root of another consumer.
        (
            spec!("type": "Traefik"),
            spec!("type": "Plain", "prefix": "traefik/notes"),
            "shop/0",
            "consumers of Traefik",
        ),
        (
            spec!("type": "Plain", "prefix": "traefik/notes"),
            spec!("type": "Traefik"),
            "shop/0",
            "has consumers",
        ),
        (
            spec!("type": "CoreDns", "domain": "a.example"),
            spec!("type": "Plain", "prefix": "/skydns/x"),
            "shop/0",
            "CoreDns",
        ),
        // Read without a slash at the end.
        (
            spec!("type": "Kratos"),
            spec!("type": "Plain", "prefix": "/microservices/orders-v2"),
            "shop/0",
            "Kratos",
        ),
        (
            spec!("type": "GoFrame"),
            spec!("type": "GoFrame", "versionSegment": "latest2"),
            "shop/0",
            "GoFrame",
        ),
        (
            spec!("type": "GoFrame", "versionSegment": "latest2"),
            spec!("type": "GoFrame"),
            "shop/0",
            "GoFrame",
        ),
        // One below the other, or the same with other values.
        (
            spec!("type": "Plain", "prefix": "/a"),
            spec!("type": "Plain", "prefix": "/a/b"),
            "shop/0",
            "/a/",
        ),
        (
            spec!("type": "Plain", "prefix": "/a"),
            spec!("type": "EtcdGrpc", "prefix": "/a"),
            "shop/0",
            "EtcdGrpc",
        ),
        (
            spec!("type": "Plain", "prefix": "/a"),
            spec!("type": "Plain", "prefix": "/a", "value": "Json"),
            "shop/0",
            "JSON",
        ),
    ];
    for (older, newer, owner, what) in cases {
        let (_, aside) = street(&[older.clone(), newer.clone()]);
        assert_eq!(aside[0], Vec::<String>::new(), "{older} {newer}");
        let [reason] = &aside[1][..] else {
            panic!("{older} {newer}: {aside:?}");
        };
        assert!(
            reason.contains(owner) && reason.contains(what) && reason.contains("outside"),
            "{reason}"
        );
    }
}

#[test]
fn one_service_of_several_registrations_and_siblings_that_are_told_apart_stay() {
    let cases = [
        (
            spec!("type": "Plain", "prefix": "/a"),
            spec!("type": "Plain", "prefix": "/a"),
        ),
        (spec!("type": "GoFrame"), spec!("type": "GoFrame")),
        (spec!("type": "Traefik"), spec!("type": "Traefik")),
        (spec!("type": "Traefik"), spec!("type": "Traefik", "service": "users")),
        (
            spec!("type": "CoreDns", "domain": "a.example"),
            spec!("type": "CoreDns", "domain": "b.example"),
        ),
        (spec!("type": "Kratos"), spec!("type": "Kratos", "service": "orders-v2")),
        (
            spec!("type": "Plain", "prefix": "/orders"),
            spec!("type": "Plain", "prefix": "/orders-v2"),
        ),
        (
            spec!("type": "GoZero", "key": "orders"),
            spec!("type": "GoZero", "key": "orders-v2"),
        ),
    ];
    for (one, other) in cases {
        let (_, aside) = street(&[one.clone(), other.clone()]);
        assert_eq!(aside, [Vec::<String>::new(), Vec::new()], "{one} {other}");
    }
}

#[test]
fn another_registry_is_another_street() {
    let mut neighbours = Neighbours::default();
    for (name, registry) in [("a", "one"), ("b", "two")] {
        let readings = vec![reading(spec!("type": "Plain", "prefix": format!("/x{}", &name[1..])))];
        neighbours.settle(&named(name), 0, &registry.into(), readings);
    }
    assert_eq!(neighbours.aside(&named("b")), []);
}

#[test]
fn who_comes_and_goes_tells_exactly_the_younger_ones_that_are_concerned() {
    let (plain, traefik) = (
        spec!("type": "Plain", "prefix": "traefik/notes"),
        spec!("type": "Traefik"),
    );
    let (mut neighbours, aside) = street(&[
        traefik.clone(),
        plain.clone(),
        spec!("type": "Plain", "prefix": "/else"),
    ]);
    assert_eq!(aside.iter().map(Vec::len).collect::<Vec<_>>(), [0, 1, 0]);
    let one = || BTreeSet::from([named("1")]);
    let registry: Arc<str> = "default".into();
    assert_eq!(
        neighbours.settle(&named("0"), 0, &registry, vec![reading(traefik.clone())]),
        BTreeSet::new(),
        "as before"
    );
    assert_eq!(neighbours.leave(&named("0")), one());
    assert_eq!(neighbours.aside(&named("1")), []);
    assert_eq!(
        neighbours.settle(&named("0"), 0, &registry, vec![reading(traefik.clone())]),
        one()
    );
    // It moves out of the way.
    let moved = vec![reading(spec!("type": "Traefik", "root": "edge"))];
    assert_eq!(neighbours.settle(&named("0"), 0, &registry, moved), one());
    // Created anew it is the younger one.
    neighbours.leave(&named("0"));
    assert_eq!(
        neighbours.settle(&named("0"), 9, &registry, vec![reading(traefik)]),
        BTreeSet::new()
    );
    assert_eq!(neighbours.aside(&named("0")).len(), 1);
    for name in ["0", "1", "2"] {
        neighbours.leave(&named(name));
    }
    assert!(
        neighbours.streets.is_empty() && neighbours.houses.is_empty(),
        "{neighbours:?}"
    );
}

#[test]
fn many_of_one_kind_are_not_compared_with_one_another() {
    let mut neighbours = Neighbours::default();
    let began = std::time::Instant::now();
    for i in 0..20_000_i64 {
        let readings = vec![reading(spec!("type": "Traefik", "name": format!("s{i}")))];
        assert_eq!(
            neighbours.settle(&named(&i.to_string()), i, &"default".into(), readings),
            BTreeSet::new()
        );
        assert_eq!(neighbours.aside(&named(&i.to_string())), []);
    }
    // Two hundred million comparisons would take minutes here.
    assert!(
        began.elapsed() < std::time::Duration::from_mins(1),
        "{:?}",
        began.elapsed()
    );
}
