use std::collections::BTreeMap;
use std::sync::Arc;

use super::*;
use crate::api::{GoFrameFormat, TraefikFormat, TraefikProtocol};
use crate::format::testing::{self, ORDERS, at, compile, of, rooted, written};
use crate::model::endpoints::orders;

const ALL: [FormatType; 11] = [
    FormatType::Plain,
    FormatType::EtcdGRPC,
    FormatType::GoZero,
    FormatType::Kratos,
    FormatType::GoMicro,
    FormatType::Kitex,
    FormatType::Hertz,
    FormatType::GoFrame,
    FormatType::CoreDNS,
    FormatType::Traefik,
    FormatType::Custom,
];

fn core_dns(domain: &str) -> api::Format {
    testing::core_dns(domain).into()
}

fn traefik(protocol: TraefikProtocol) -> api::Format {
    let options = TraefikFormat {
        protocol: Some(protocol),
        ..TraefikFormat::default()
    };
    options.into()
}

/// Returns the keys and values of a format in the test vectors that unmodified consumers have read.
fn vectors(name: &str) -> Vec<(String, String)> {
    let lines: Vec<&str> = include_str!("../../../tests/data/wire-vectors.txt").lines().collect();
    let entries = lines.iter().enumerate().filter(|(_, line)| **line == name);
    let pair = |(at, _): (usize, &&str)| -> (String, String) {
        let line = |offset: usize, mark: &str| lines[at + offset].strip_prefix(mark).expect(mark).to_owned();
        (line(1, "  K "), line(2, "  V "))
    };
    entries.map(pair).collect()
}

#[test]
fn what_is_written_is_what_unmodified_consumers_have_read() {
    let same: fn(&str) -> String = str::to_owned;
    // Some keys contain more than the pod's name, or a number in its place.
    let address: fn(&str) -> String = |key| format!("{key}@10.0.0.7:8080");
    let weighed: fn(&str) -> String = |key| key.replace("orders-7d9f-abcde", "16684418475890112584");
    let number: fn(&str) -> String = |key| key.replace("orders-7d9f-abcde", "5589483222149916125");
    let rows = [
        ("plain", of(FormatType::Plain), same),
        ("etcd-grpc", of(FormatType::EtcdGRPC), same),
        ("go-zero", of(FormatType::GoZero), address),
        ("kratos", of(FormatType::Kratos), same),
        ("go-micro", of(FormatType::GoMicro), same),
        ("kitex", of(FormatType::Kitex), same),
        ("hertz", of(FormatType::Hertz), same),
        ("goframe", of(FormatType::GoFrame), same),
        ("coredns", core_dns("orders.shop.svc.example.com"), same),
        ("traefik-http", traefik(TraefikProtocol::HTTP), weighed),
        ("traefik-tcp", traefik(TraefikProtocol::TCP), number),
    ];
    for (name, spec, key) in rows {
        let mut expected = vectors(name);
        assert!(!expected.is_empty(), "{name}");
        for (vector, _) in &mut expected {
            *vector = key(vector);
        }
        assert_eq!(written(&spec, &orders(), true), expected, "{name}");
    }
}

#[test]
fn a_format_carries_the_ports_it_names_and_all_when_it_names_none() {
    let all = compile(&of(FormatType::Plain)).unwrap();
    assert!(all.carries("grpc") && all.carries("8080"));
    let ports = Some(vec!["grpc".to_owned()]);
    let one = compile(&api::Format {
        ports,
        ..of(FormatType::Plain)
    })
    .unwrap();
    assert!(one.carries("grpc") && !one.carries("http"));
}

#[test]
fn a_format_that_admission_would_refuse_is_refused_with_what_to_write() {
    let ports = api::Format {
        ports: Some(Vec::new()),
        ..of(FormatType::Plain)
    };
    assert_eq!(compile(&ports), Err(FormatError::NoPorts));
    for name in ["", "a/b", "a b", ".."] {
        let error = Format::compile(&of(FormatType::Plain), &Service { name, ..ORDERS }).unwrap_err();
        assert_eq!(error, FormatError::ServiceName(name.to_owned()));
    }
}

#[test]
fn a_member_of_another_type_is_refused_by_name() {
    let full = api::Format {
        kind: FormatType::Plain,
        plain: Some(api::PlainFormat::default()),
        etcd_grpc: Some(api::EtcdGRPCFormat::default()),
        go_zero: Some(api::GoZeroFormat::default()),
        kratos: Some(api::KratosFormat::default()),
        kitex: Some(api::KitexFormat::default()),
        go_frame: Some(GoFrameFormat::default()),
        core_dns: Some(api::CoreDNSFormat::default()),
        traefik: Some(TraefikFormat::default()),
        custom: Some(api::CustomFormat::default()),
        ports: None,
    };
    for kind in ALL {
        let mut spec = api::Format { kind, ..full.clone() };
        let mut refused = Vec::new();
        while let Some(member) = misplaced(&spec) {
            match member {
                "plain" => spec.plain = None,
                "etcdGRPC" => spec.etcd_grpc = None,
                "goZero" => spec.go_zero = None,
                "kratos" => spec.kratos = None,
                "kitex" => spec.kitex = None,
                "goFrame" => spec.go_frame = None,
                "coreDNS" => spec.core_dns = None,
                "traefik" => spec.traefik = None,
                "custom" => spec.custom = None,
                other => panic!("{other} is not a member"),
            }
            refused.push(member);
        }
        // The member of a type is named like it; go-micro and Hertz have none.
        let own = refused.iter().find(|member| member.eq_ignore_ascii_case(kind.as_str()));
        assert_eq!(own, None, "{kind:?}");
        let has_member = !matches!(kind, FormatType::GoMicro | FormatType::Hertz);
        assert_eq!(refused.len(), 9 - usize::from(has_member), "{kind:?}");
    }
    let error = compile(&full).unwrap_err().to_string();
    assert!(error.contains("etcdGRPC is not for the format Plain"), "{error}");
}

#[test]
fn no_format_may_write_where_the_consumers_of_another_read() {
    let nested = |specs: &[api::Format]| match Format::compile_all(specs, &ORDERS) {
        Err(FormatError::Nested { outer, inner }) => Some((outer, inner)),
        Err(error) => panic!("{error}"),
        Ok(_) => None,
    };
    let said = |outer: &str, inner: &str| Some((outer.to_owned(), inner.to_owned()));
    let (plain, grpc) = (FormatType::Plain, FormatType::EtcdGRPC);
    assert_eq!(nested(&[at(plain, "/a"), at(plain, "/ab")]), None);
    assert_eq!(nested(&[at(plain, "/a/b"), at(grpc, "/a")]), said("/a/", "/a/b/"));
    assert_eq!(
        nested(&[of(grpc), at(plain, "shop/orders")]),
        said("shop/orders/", "shop/orders/")
    );
    // Kratos and GoFrame read the records of siblings, too: a foreign record there fails the whole list.
    let kratos = of(FormatType::Kratos);
    let beside = at(plain, "/microservices/orders-plain");
    let read = said("/microservices/orders", "/microservices/orders-plain/");
    assert_eq!(nested(&[kratos.clone(), beside.clone()]), read);
    assert_eq!(nested(&[beside, kratos.clone()]), read);
    assert_eq!(nested(&[kratos.clone(), at(plain, "/microservices/billing")]), None);
    assert_eq!(
        nested(&[kratos.clone(), rooted(FormatType::Kratos, "/microservices/orders-2")]),
        said("/microservices/orders", "/microservices/orders-2/orders/")
    );
    let latest = GoFrameFormat {
        version: Some("latest-2".to_owned()),
        ..GoFrameFormat::default()
    };
    assert_eq!(
        nested(&[latest.into(), of(FormatType::GoFrame)]),
        said(
            "/service/default/default/orders/latest",
            "/service/default/default/orders/latest-2/"
        )
    );
    // Traefik and CoreDNS read their whole tree, so only records of their own formats may be there.
    let (http, tcp) = (traefik(TraefikProtocol::HTTP), traefik(TraefikProtocol::TCP));
    assert_eq!(nested(&[http.clone(), tcp]), None);
    assert_eq!(nested(&[http, at(plain, "traefik/x")]), said("traefik/", "traefik/x/"));
    let (one, two) = (core_dns("a.example.com"), core_dns("b.example.com"));
    assert_eq!(nested(&[one.clone(), two]), None);
    assert_eq!(
        nested(&[one.clone(), at(plain, "/skydns/x")]),
        said("/skydns/", "/skydns/x/")
    );
    assert_eq!(
        nested(&[one, core_dns("x.a.example.com")]),
        said("/skydns/com/example/a/", "/skydns/com/example/a/x/")
    );
    // All built-in formats side by side.
    let built_in = ALL.iter().copied().filter(|kind| *kind != FormatType::Custom);
    let each = |kind| match kind {
        FormatType::CoreDNS => core_dns("orders.example.com"),
        kind => of(kind),
    };
    assert_eq!(nested(&built_in.map(each).collect::<Vec<_>>()), None);
}

#[test]
fn a_port_that_a_consumer_cannot_dial_is_refused_before_there_is_a_pod() {
    let port = |name, number, scheme| ServicePort { name, number, scheme };
    let ports = [
        port("redis", Some(80), Some("redis")),
        port("web", Some(80), Some("http")),
    ];
    let service = Service {
        ports: &ports,
        ..ORDERS
    };
    for (kind, expected) in [
        (
            FormatType::GoMicro,
            "go-micro does not speak \"redis\", the appProtocol of port \"redis\"",
        ),
        (FormatType::Traefik, "Traefik does not speak \"redis\""),
        (
            FormatType::Kitex,
            "Kitex identifies an endpoint by its address, so the ports \"redis\" and \"web\"",
        ),
        (FormatType::Hertz, "Hertz identifies an endpoint by its address"),
        (FormatType::GoFrame, "GoFrame identifies an endpoint by its address"),
    ] {
        let error = Format::compile(&of(kind), &service).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
        let only = api::Format {
            ports: Some(vec!["web".to_owned()]),
            ..of(kind)
        };
        Format::compile(&only, &service).expect("it carries web only");
    }
    Format::compile(&traefik(TraefikProtocol::TCP), &service).expect("TCP carries anything");
}

#[test]
fn endpoint_too_large_for_etcd_is_rejected_with_its_size() {
    let format = compile(&testing::json()).unwrap();
    let mut endpoint = orders();
    endpoint.metadata = Arc::new(BTreeMap::from([("x".into(), "y".repeat(MAX_VALUE).into())]));
    assert!(matches!(format.record(&endpoint, true), Err(Refusal::ValueTooLong(size)) if size > MAX_VALUE));
    let mut endpoint = orders();
    endpoint.pod = "p".repeat(MAX_KEY).into();
    assert!(matches!(format.record(&endpoint, true), Err(Refusal::KeyTooLong(size)) if size > MAX_KEY));
}

#[test]
fn a_name_that_would_leave_its_segment_is_refused() {
    for kind in [
        FormatType::Plain,
        FormatType::EtcdGRPC,
        FormatType::GoZero,
        FormatType::Kratos,
        FormatType::GoMicro,
        FormatType::CoreDNS,
    ] {
        let format = match kind {
            FormatType::CoreDNS => compile(&core_dns("a.b")),
            kind => compile(&of(kind)),
        };
        let format = format.unwrap();
        for name in ["", "a/b", "a:b", "a b", "..", "../x", "a\n"] {
            let mut endpoint = orders();
            endpoint.pod = name.into();
            let refused = format.record(&endpoint, true);
            assert!(
                matches!(refused, Err(Refusal::Name { what: "pod", .. })),
                "{kind:?} {name:?}"
            );
            let mut endpoint = orders();
            endpoint.port_name = name.into();
            // The endpoint's scheme is set, so the port's name does not determine the protocol.
            let refused = format.record(&endpoint, false);
            assert!(
                matches!(refused, Err(Refusal::Name { what: "port", .. })),
                "{kind:?} {name:?}"
            );
        }
    }
}
