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

/// Returns these readings, all claimed at `millis`.
fn since(millis: i64, readings: Vec<Reading>) -> Vec<Option<(Reading, Since)>> {
    let claimed = |reading| Some((reading, Since::Created(millis)));
    readings.into_iter().map(claimed).collect()
}

fn named(name: &str) -> RegistrationRef {
    RegistrationRef::new("shop", name)
}

/// Adds registrations of one format each, the first one being the oldest. Returns why the formats of each are
/// suppressed.
fn registry_prefixes(specs: &[serde_json::Value]) -> (PrefixOverlaps, Vec<Vec<String>>) {
    let mut overlaps = PrefixOverlaps::default();
    // Add the oldest last: the order of arrival does not matter.
    for (age, spec) in specs.iter().enumerate().rev() {
        let since = Since::Created(i64::try_from(age).unwrap());
        overlaps.settle(
            &named(&age.to_string()),
            &"default".into(),
            vec![Some((reading(spec.clone()), since))],
        );
    }
    let suppressed = |age: usize| {
        overlaps
            .suppressed(&named(&age.to_string()))
            .into_iter()
            .map(|suppressed| suppressed.reason)
            .collect()
    };
    let all = (0..specs.len()).map(suppressed).collect();
    (overlaps, all)
}

macro_rules! spec {
    ($($json:tt)+) => { serde_json::json!({$($json)+}) };
}

#[test]
fn newer_of_two_overlapping_formats_is_suppressed_with_reason() {
    let cases = [
        // A prefix below the root of another consumer.
        (
            spec!("type": "Traefik"),
            spec!("type": "Plain", "plain": {"prefix": "traefik/notes"}),
            "shop/0",
            "consumers of Traefik",
        ),
        (
            spec!("type": "Plain", "plain": {"prefix": "traefik/notes"}),
            spec!("type": "Traefik"),
            "shop/0",
            "has consumers",
        ),
        (
            spec!("type": "CoreDNS", "coreDNS": {"domain": "a.example"}),
            spec!("type": "Plain", "plain": {"prefix": "/skydns/x"}),
            "shop/0",
            "CoreDNS",
        ),
        // Consumers read the prefix without a slash at its end.
        (
            spec!("type": "Kratos"),
            spec!("type": "Plain", "plain": {"prefix": "/microservices/orders-v2"}),
            "shop/0",
            "Kratos",
        ),
        (
            spec!("type": "GoFrame"),
            spec!("type": "GoFrame", "goFrame": {"version": "latest2"}),
            "shop/0",
            "GoFrame",
        ),
        (
            spec!("type": "GoFrame", "goFrame": {"version": "latest2"}),
            spec!("type": "GoFrame"),
            "shop/0",
            "GoFrame",
        ),
        // A Traefik root inside another one, and around it.
        (
            spec!("type": "Traefik"),
            spec!("type": "Traefik", "traefik": {"root": "traefik/http/services/team-a-web", "serviceName": "yy"}),
            "shop/0",
            "consumers of Traefik of",
        ),
        (
            spec!("type": "Traefik", "traefik": {"root": "edge/inner"}),
            spec!("type": "Traefik", "traefik": {"root": "edge"}),
            "shop/0",
            "Traefik with the root edge/inner",
        ),
        // The last segment is the same name, so consumers take the two for the same service.
        (
            spec!("type": "Kratos"),
            spec!("type": "Kratos", "kratos": {"root": "/microservices/orders-evil"}),
            "shop/0",
            "Kratos",
        ),
        // A prefix below the other, or the same prefix with other values.
        (
            spec!("type": "Plain", "plain": {"prefix": "/a"}),
            spec!("type": "Plain", "plain": {"prefix": "/a/b"}),
            "shop/0",
            "/a/",
        ),
        (
            spec!("type": "Plain", "plain": {"prefix": "/a"}),
            spec!("type": "EtcdGRPC", "etcdGRPC": {"prefix": "/a"}),
            "shop/0",
            "EtcdGRPC",
        ),
        (
            spec!("type": "Plain", "plain": {"prefix": "/a"}),
            spec!("type": "Plain", "plain": {"prefix": "/a", "value": "JSON"}),
            "shop/0",
            "JSON",
        ),
    ];
    for (older, newer, owner, what) in cases {
        let (_, suppressed) = registry_prefixes(&[older.clone(), newer.clone()]);
        assert_eq!(suppressed[0], Vec::<String>::new(), "{older} {newer}");
        let [reason] = &suppressed[1][..] else {
            panic!("{older} {newer}: {suppressed:?}");
        };
        assert!(
            reason.contains(owner) && reason.contains(what) && reason.contains("outside"),
            "{reason}"
        );
    }
}

#[test]
fn shared_service_and_distinct_siblings_are_not_suppressed() {
    let cases = [
        (
            spec!("type": "Plain", "plain": {"prefix": "/a"}),
            spec!("type": "Plain", "plain": {"prefix": "/a"}),
        ),
        (spec!("type": "GoFrame"), spec!("type": "GoFrame")),
        (spec!("type": "Traefik"), spec!("type": "Traefik")),
        (spec!("type": "Traefik"), spec!("type": "Traefik", "service": "users")),
        (
            spec!("type": "CoreDNS", "coreDNS": {"domain": "a.example"}),
            spec!("type": "CoreDNS", "coreDNS": {"domain": "b.example"}),
        ),
        (spec!("type": "Kratos"), spec!("type": "Kratos", "service": "orders-v2")),
        (
            spec!("type": "Traefik", "traefik": {"root": "edge"}),
            spec!("type": "Traefik", "traefik": {"root": "edge-2"}),
        ),
        (
            spec!("type": "Plain", "plain": {"prefix": "/orders"}),
            spec!("type": "Plain", "plain": {"prefix": "/orders-v2"}),
        ),
        (
            spec!("type": "GoZero", "key": "orders"),
            spec!("type": "GoZero", "key": "orders-v2"),
        ),
    ];
    for (one, other) in cases {
        let (_, suppressed) = registry_prefixes(&[one.clone(), other.clone()]);
        assert_eq!(suppressed, [Vec::<String>::new(), Vec::new()], "{one} {other}");
    }
}

#[test]
fn another_registry_is_another_street() {
    let mut overlaps = PrefixOverlaps::default();
    for (name, registry) in [("a", "one"), ("b", "two")] {
        let readings = vec![reading(
            spec!("type": "Plain", "plain": {"prefix": format!("/x{}", &name[1..])}),
        )];
        overlaps.settle(&named(name), &registry.into(), since(0, readings));
    }
    assert_eq!(overlaps.suppressed(&named("b")), []);
}

#[test]
fn overlap_change_returns_only_affected_newer_registrations() {
    let (plain, traefik) = (
        spec!("type": "Plain", "plain": {"prefix": "traefik/notes"}),
        spec!("type": "Traefik"),
    );
    let (mut overlaps, suppressed) = registry_prefixes(&[
        traefik.clone(),
        plain.clone(),
        spec!("type": "Plain", "plain": {"prefix": "/else"}),
    ]);
    assert_eq!(suppressed.iter().map(Vec::len).collect::<Vec<_>>(), [0, 1, 0]);
    let one = || BTreeSet::from([named("1")]);
    let registry: Arc<str> = "default".into();
    assert_eq!(
        overlaps.settle(&named("0"), &registry, since(0, vec![reading(traefik.clone())])),
        BTreeSet::new(),
        "as before"
    );
    assert_eq!(overlaps.leave(&named("0")), one());
    assert_eq!(overlaps.suppressed(&named("1")), []);
    assert_eq!(
        overlaps.settle(&named("0"), &registry, since(0, vec![reading(traefik.clone())])),
        one()
    );
    // The registration moves to another prefix.
    let moved = vec![reading(spec!("type": "Traefik", "traefik": {"root": "edge"}))];
    assert_eq!(overlaps.settle(&named("0"), &registry, since(0, moved)), one());
    // After it is created again, it is the later one.
    overlaps.leave(&named("0"));
    assert_eq!(
        overlaps.settle(&named("0"), &registry, since(9, vec![reading(traefik)])),
        BTreeSet::new()
    );
    assert_eq!(overlaps.suppressed(&named("0")).len(), 1);
    for name in ["0", "1", "2"] {
        overlaps.leave(&named(name));
    }
    assert!(
        overlaps.by_registry.is_empty() && overlaps.entries.is_empty(),
        "{overlaps:?}"
    );
}

#[test]
fn many_of_one_kind_are_not_compared_with_one_another() {
    let mut overlaps = PrefixOverlaps::default();
    let began = std::time::Instant::now();
    for i in 0..20_000_i64 {
        let readings = vec![reading(
            spec!("type": "Traefik", "traefik": {"serviceName": format!("s{i}")}),
        )];
        assert_eq!(
            overlaps.settle(&named(&i.to_string()), &"default".into(), since(i, readings)),
            BTreeSet::new()
        );
        assert_eq!(overlaps.suppressed(&named(&i.to_string())), []);
    }
    // Comparing every pair, two hundred million comparisons, would take minutes.
    assert!(
        began.elapsed() < std::time::Duration::from_mins(1),
        "{:?}",
        began.elapsed()
    );
}

#[test]
fn an_old_registration_edited_onto_a_place_is_the_later_one_there() {
    let mut overlaps = PrefixOverlaps::default();
    let registry: Arc<str> = "default".into();
    let web = vec![Some((reading(spec!("type": "Traefik")), Since::Created(5)))];
    overlaps.settle(&named("web"), &registry, web);
    let before = vec![Some((
        reading(spec!("type": "Plain", "plain": {"prefix": "/old"})),
        Since::Recorded(1),
    ))];
    overlaps.settle(&named("old"), &registry, before);
    // The clock of the replica that recorded the other claims may be ahead.
    let claim = overlaps.claim(3);
    assert!(claim > Since::Created(5) && claim.millis() > 5, "{claim:?}");
    let edited = vec![Some((
        reading(spec!("type": "Plain", "plain": {"prefix": "traefik/notes"})),
        claim,
    ))];
    assert_eq!(overlaps.settle(&named("old"), &registry, edited), BTreeSet::new());
    assert_eq!(overlaps.suppressed(&named("web")), []);
    assert_eq!(overlaps.suppressed(&named("old")).len(), 1);
}

#[test]
fn what_a_status_records_precedes_what_none_does() {
    let mut order = [
        Since::Asked(1),
        Since::Recorded(9),
        Since::Created(0),
        Since::Recorded(2),
    ];
    order.sort();
    assert_eq!(
        order,
        [
            Since::Recorded(2),
            Since::Recorded(9),
            Since::Created(0),
            Since::Asked(1)
        ]
    );
}
