use serde_json::json;

use super::*;

/// The Service `orders` with two named ports and these annotations, named without `leasehold.dev/`.
fn service(annotations: &[(&str, &str)]) -> Service {
    let annotations: BTreeMap<String, &str> = annotations
        .iter()
        .map(|(name, value)| (format!("leasehold.dev/{name}"), *value))
        .collect();
    crate::kube::service(json!({
        "metadata": {"name": "orders", "namespace": "shop", "uid": "u1", "annotations": annotations},
        "spec": {"ports": [{"name": "grpc", "port": 80}, {"name": "a-long-port-name", "port": 90}]},
    }))
    .expect("decodes")
}

fn spec(annotations: &[(&str, &str)]) -> Value {
    let found = desired(&service(annotations)).expect("it is annotated");
    let spec = found.unwrap_or_else(|problems| panic!("{annotations:?}: {problems:?}"));
    serde_json::to_value(spec).expect("encodes")
}

fn problems(annotations: &[(&str, &str)]) -> Vec<String> {
    let found = desired(&service(annotations)).expect("it is annotated");
    let problems = found.expect_err(&format!("{annotations:?}"));
    problems.iter().map(ToString::to_string).collect()
}

#[test]
fn service_without_the_register_annotation_asks_for_nothing() {
    assert_eq!(desired(&service(&[("weight", "heavy"), ("name", "x")])), None);
}

#[test]
fn register_annotation_alone_equals_registration_with_defaults() {
    for (value, registry) in [("", "default"), (" ", "default"), ("edge-1.eu", "edge-1.eu")] {
        let short: ServiceRegistrationSpec =
            serde_json::from_value(json!({"registryRef": {"name": registry}, "service": {"name": "orders"}}))
                .expect("decodes");
        let found = desired(&service(&[("register", value)])).expect("it is annotated");
        assert_eq!(found, Ok(short), "{value:?}");
    }
}

#[test]
fn each_annotation_sets_its_field() {
    let cases = [
        (("name", "orders.v2_x-1"), "serviceName", json!("orders.v2_x-1")),
        (("weight", " 0 "), "weight", json!(0)),
        (("weight", "65535"), "weight", json!(65535)),
        (
            ("formats", "Plain, GoZero"),
            "formats",
            json!([{"type": "Plain"}, {"type": "GoZero"}]),
        ),
        (
            (
                "formats",
                "- type: CoreDNS\n  coreDNS: {domain: orders.example.com}\n- type: Kitex",
            ),
            "formats",
            json!([{"type": "CoreDNS", "coreDNS": {"domain": "orders.example.com"}}, {"type": "Kitex"}]),
        ),
        (
            (
                "formats",
                r#"[{"type": "Plain", "plain": {"prefix": "/x"}, "ports": ["grpc"]}]"#,
            ),
            "formats",
            json!([{"type": "Plain", "plain": {"prefix": "/x"}, "ports": ["grpc"]}]),
        ),
        (("ports", "grpc"), "ports", json!([{"name": "grpc"}])),
        (
            ("ports", "80,8080"),
            "ports",
            json!([{"name": "grpc", "port": 80}, {"name": "port-8080", "port": 8080}]),
        ),
        (
            ("ports", "[{name: web, port: 90, appProtocol: http}]"),
            "ports",
            json!([{"name": "web", "port": 90, "appProtocol": "http"}]),
        ),
        (
            ("attributes", "team=payments, tier = a=b ,empty="),
            "attributes",
            json!([
                {"name": "team", "value": "payments"}, {"name": "tier", "value": "a=b"}, {"name": "empty", "value": ""}
            ]),
        ),
    ];
    for (annotation, field, expected) in cases {
        let found = spec(&[("register", ""), annotation]);
        assert_eq!(found[field], expected, "{annotation:?}");
        let mut rest = found.as_object().expect("an object").clone();
        rest.remove(field);
        assert_eq!(Value::Object(rest), spec(&[("register", "")]), "{annotation:?}");
    }
}

#[test]
fn single_unnamed_service_port_gets_the_default_name() {
    let mut service = service(&[("register", ""), ("ports", "80")]);
    service.ports.truncate(1);
    service.ports[0].name = "".into();
    let spec = desired(&service).expect("it is annotated").expect("it is right");
    assert_eq!((spec.ports.len(), &*spec.ports[0].name), (1, UNNAMED_PORT));
}

#[test]
fn wrong_annotation_is_named_with_what_to_write() {
    let long = "x".repeat(MAX_LENGTH + 1);
    let many: Vec<String> = (0..17).map(|number| format!("p{number}")).collect();
    let pairs: Vec<String> = (0..65).map(|number| format!("a{number}=b")).collect();
    let (many, pairs) = (many.join(","), pairs.join(","));
    let cases = [
        (("register", "Edge"), "write one from `kubectl get registries`"),
        (("register", "a..b"), "write one from `kubectl get registries`"),
        (("name", "a/b"), "letters, digits, dots, hyphens and underscores"),
        (("name", ".."), "letters, digits, dots, hyphens and underscores"),
        (("name", ""), "remove the annotation"),
        (("wieght", "1"), "there is no such annotation"),
        (("name", &long), "longer than 16384 bytes"),
        (("weight", "heavy"), "write a whole number from 0 to 65535"),
        (("weight", "65536"), "write a whole number from 0 to 65535"),
        (("weight", "-1"), "write a whole number from 0 to 65535"),
        (("formats", "plain"), "write Plain"),
        (("formats", "Consul"), "write Plain, EtcdGRPC,"),
        (("formats", "Plain,Plain"), "written twice"),
        (("formats", "Plain,,Kitex"), "remove the comma"),
        (("formats", "CoreDNS"), "[{type: CoreDNS, coreDNS: {domain:"),
        (("formats", "Custom"), "[{type: Custom, custom: {recordFormatRef:"),
        (("formats", "[]"), "the list is empty"),
        (("formats", "[{type: Plain"), "neither YAML nor JSON"),
        (("formats", "{type: Plain}"), "it is not a list"),
        (("formats", "[{type: Consul}]"), "unknown variant `Consul`"),
        (
            ("formats", "[{type: Plain, plain: {prefx: /x}}]"),
            "no field formats[0].plain.prefx",
        ),
        (("ports", "0"), "write a number from 1 to 65535"),
        (("ports", "65536"), "write a number from 1 to 65535"),
        (("ports", "80,grpc"), "written twice"),
        (("ports", "90"), "longer than 15 characters"),
        (("ports", "a-long-port-name"), "[{name: http, port: a-long-port-name}]"),
        (("ports", &many), "more than 16 ports"),
        (("ports", "[{name: web, prot: 80}]"), "no field ports[0].prot"),
        (("attributes", "team"), "write name=value"),
        (("attributes", "team=a,=b"), "empty or too long part"),
        (("attributes", "team=a,team=b"), "written twice"),
        (("attributes", &pairs), "more than 64 attributes"),
    ];
    for (annotation, words) in cases {
        let annotations = match annotation.0 {
            "register" => vec![annotation],
            _ => vec![("register", ""), annotation],
        };
        let found = problems(&annotations);
        assert_eq!(found.len(), 1, "{found:?}");
        let name = format!("leasehold.dev/{}: ", annotation.0);
        assert!(found[0].starts_with(&name) && found[0].contains(words), "{}", found[0]);
    }
}

#[test]
fn all_wrong_annotations_are_named_together() {
    let found = problems(&[("register", ""), ("weight", "x"), ("formats", "Y"), ("name", "ok")]);
    assert_eq!(found.len(), 2, "{found:?}");
}
