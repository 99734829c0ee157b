//! What consumers read, end to end.

use serde_json::{Value, json};
use testbed::{Event, Held, History, NewPod, Result};

use crate::bed;
use crate::support::{
    API, SOON, message, plain_prefix, pod, registration, wait_condition, wait_count, wait_events, wait_in_sync,
    wait_keys,
};

#[tokio::test]
async fn plain_json_contains_every_known_field_of_an_endpoint() -> Result<()> {
    let namespace = bed().await.namespace("json").await?;
    let prefix = format!("/json/{}/", namespace.name());
    let spec = json!({
        "ports": [{"name": "api", "port": 9090, "appProtocol": "http"}],
        "formats": [{"type": "Plain", "plain": {"value": "JSON", "prefix": prefix.trim_end_matches('/')}}],
        "version": {"fromLabel": "version"},
        "weight": 10,
        "attributes": [
            {"name": "region", "value": "eu"},
            {"name": "zone", "fromLabel": "zone"},
            {"name": "cell", "fromLabel": "example.org/cell"},
            {"name": "team", "fromLabel": "team"},
        ],
    });
    namespace.apply(registration("orders", &spec)).await?;
    let labelled = NewPod::new("a")
        .label("app", "orders")
        .label("version", "2.0")
        .label("zone", "eu-1a")
        .label("example.org/cell", "7")
        .ip("10.9.2.1");
    namespace
        .create_pod(&labelled.annotation("leasehold.dev/weight", "3"))
        .await?;
    let held = wait_keys(bed().await.registry(), &prefix, &["a"]).await;
    let value: Value = serde_json::from_str(&held[&format!("{prefix}a")].value).expect("JSON");
    assert_eq!((&value["address"], &value["port"]), (&json!("10.9.2.1"), &json!(9090)));
    assert_eq!((&value["version"], &value["weight"]), (&json!("2.0"), &json!(3)));
    assert_eq!((&value["portName"], &value["scheme"]), (&json!("api"), &json!("http")));
    assert_eq!(
        value["metadata"],
        json!({"region": "eu", "zone": "eu-1a", "cell": "7"}),
        "the pod has no label team"
    );
    let status = wait_in_sync(namespace.objects(), "orders", 1).await;
    assert_eq!(status.formats[0].variant.as_deref(), Some("JSON"));
    assert_eq!(
        (&value["namespace"], &value["service"]),
        (&json!(namespace.name()), &json!("orders"))
    );
    Ok(())
}

#[tokio::test]
async fn each_port_has_a_key_of_its_own_and_a_format_may_carry_some_of_them() -> Result<()> {
    let namespace = bed().await.namespace("ports").await?;
    let plain = format!("/ports/{}/", namespace.name());
    let grpc = format!("ports/{}/", namespace.name());
    let spec = json!({
        "ports": [{"name": "grpc"}, {"name": "web", "port": 8081}],
        "formats": [
            {"type": "Plain", "plain": {"prefix": plain.trim_end_matches('/')}},
            {"type": "EtcdGRPC", "etcdGRPC": {"prefix": grpc.trim_end_matches('/')}, "ports": ["grpc"]},
        ],
    });
    namespace.apply(registration("orders", &spec)).await?;
    namespace.create_pod(&pod("a", "orders").ip("10.9.2.2")).await?;
    let etcd = bed().await.registry();
    let held = wait_keys(etcd, &plain, &["a:grpc", "a:web"]).await;
    let values: Vec<&str> = held.values().map(|held| held.value.as_str()).collect();
    assert_eq!(values, ["10.9.2.2:8080", "10.9.2.2:8081"]);
    let held = wait_keys(etcd, &grpc, &["a"]).await;
    let value: Value = serde_json::from_str(&held[&format!("{grpc}a")].value).expect("JSON");
    assert_eq!(value["Addr"], "10.9.2.2:8080");
    let status = wait_in_sync(namespace.objects(), "orders", 1).await;
    assert_eq!(status.endpoints.len(), 2, "one pod, two endpoints");
    let records: Vec<Value> = status.formats.iter().map(|format| json!(format.records)).collect();
    assert_eq!(records, [2, 1], "two ports, and one of them alone");
    Ok(())
}

#[tokio::test]
async fn a_named_port_is_looked_up_in_each_pod() -> Result<()> {
    let namespace = bed().await.namespace("named").await?;
    namespace.apply(registration("orders", &json!({}))).await?;
    let old = NewPod::new("old")
        .label("app", "orders")
        .ip("10.9.2.3")
        .port("grpc", 8080);
    let new = NewPod::new("new")
        .label("app", "orders")
        .ip("10.9.2.4")
        .port("grpc", 9090);
    namespace.create_pod(&old).await?;
    namespace.create_pod(&new).await?;
    let prefix = plain_prefix(&namespace, "orders");
    let held = wait_keys(bed().await.registry(), &prefix, &["new", "old"]).await;
    let values: Vec<&str> = held.values().map(|held| held.value.as_str()).collect();
    assert_eq!(values, ["10.9.2.4:9090", "10.9.2.3:8080"]);
    Ok(())
}

/// Every format, each below a prefix of its own that no other test uses.
fn everything(service: &str) -> Value {
    json!({
        "serviceName": service,
        "ports": [{"name": "grpc", "appProtocol": "grpc"}],
        "formats": [
            {"type": "Plain"},
            {"type": "Plain", "plain": {"value": "JSON", "prefix": format!("/json/{service}")}},
            {"type": "EtcdGRPC"},
            {"type": "GoZero"},
            {"type": "Kratos"},
            {"type": "GoMicro"},
            {"type": "Kitex"},
            {"type": "Hertz"},
            {"type": "GoFrame"},
            {"type": "CoreDNS", "coreDNS": {"domain": format!("{service}.example.com")}},
            {"type": "Traefik"},
            {"type": "Traefik", "traefik": {"protocol": "TCP"}},
            {"type": "Traefik", "traefik": {"protocol": "UDP"}},
        ],
        "version": {"fromLabel": "version"},
        "weight": 10,
        "attributes": [{"name": "zone", "fromLabel": "zone"}],
    })
}

/// The number under which Traefik finds the server of a pod: FNV-1a of namespace, pod, port and the fields beside the
/// address.
fn server(namespace: &str, pod: &str, port: &str, fields: &str) -> u64 {
    let text = format!("{namespace}\0{pod}\0{port}\0{fields}\0");
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// What the pod `a` at 10.9.2.5 has through [`everything`].
fn expected(shop: &str, service: &str, node: &str, zone: &str) -> Vec<(String, String)> {
    let traefik = |fields| {
        let number = server(shop, "a", "grpc", fields);
        format!("services/{shop}-{service}/loadbalancer/servers/{number}")
    };
    let (http, other) = (traefik("url weight"), traefik(""));
    let instance = r#"{"network":"tcp","address":"10.9.2.5:8080","weight":10,"tags":{"zone":"eu-1a"}}"#;
    vec![
        (format!("/services/{shop}/{service}/a"), "10.9.2.5:8080".to_owned()),
        (
            format!("/json/{service}/a"),
            format!(
                r#"{{"address":"10.9.2.5","port":8080,"portName":"grpc","scheme":"grpc","version":"1.4.2","weight":10,"zone":"{zone}","node":"{node}","pod":"a","namespace":"{shop}","service":"{service}","metadata":{{"zone":"eu-1a"}}}}"#
            ),
        ),
        (
            format!("{shop}/{service}/a"),
            r#"{"Op":0,"Addr":"10.9.2.5:8080","Metadata":null}"#.to_owned(),
        ),
        (format!("{service}.rpc/a@10.9.2.5:8080"), "10.9.2.5:8080".to_owned()),
        (
            format!("/microservices/{service}/a"),
            format!(
                r#"{{"id":"a","name":"{service}","version":"1.4.2","metadata":{{"weight":"10","zone":"eu-1a"}},"endpoints":["grpc://10.9.2.5:8080?isSecure=false"]}}"#
            ),
        ),
        (
            format!("/micro/registry/{service}/a"),
            format!(
                r#"{{"name":"{service}","version":"1.4.2","metadata":null,"endpoints":null,"nodes":[{{"metadata":{{"protocol":"grpc","zone":"eu-1a"}},"id":"a","address":"10.9.2.5:8080"}}]}}"#
            ),
        ),
        (
            format!("kitex/registry-etcd/{service}/10.9.2.5:8080"),
            instance.to_owned(),
        ),
        (
            format!("hertz/registry-etcd/{service}/10.9.2.5:8080"),
            instance.to_owned(),
        ),
        (
            format!("/service/default/default/{service}/latest/10.9.2.5:8080"),
            r#"{"protocol":"grpc","insecure":true,"weight":10,"zone":"eu-1a"}"#.to_owned(),
        ),
        (
            format!("/skydns/com/example/{service}/a"),
            r#"{"host":"10.9.2.5","port":8080,"priority":10,"weight":10,"ttl":30}"#.to_owned(),
        ),
        (format!("traefik/http/{http}/url"), "h2c://10.9.2.5:8080".to_owned()),
        (format!("traefik/http/{http}/weight"), "10".to_owned()),
        (format!("traefik/tcp/{other}/address"), "10.9.2.5:8080".to_owned()),
        (format!("traefik/udp/{other}/address"), "10.9.2.5:8080".to_owned()),
    ]
}

#[tokio::test]
async fn one_registration_writes_all_formats_and_nothing_else_as_one() -> Result<()> {
    let namespace = bed().await.namespace("everything").await?;
    let (shop, service) = (namespace.name(), format!("{}-all", namespace.name()));
    let etcd = bed().await.registry();
    let history = History::watch(etcd, "", 0).await?;
    namespace.apply(registration("orders", &everything(&service))).await?;
    let labelled = pod("a", "orders").label("version", "1.4.2").label("zone", "eu-1a");
    let created = namespace.create_pod(&labelled.ip("10.9.2.5")).await?;
    let node = created.spec.and_then(|spec| spec.node_name).expect("it runs");
    let labels = created.metadata.labels.unwrap_or_default();
    let zone = labels
        .get("topology.kubernetes.io/zone")
        .expect("the apiserver tells it");
    wait_in_sync(namespace.objects(), "orders", 1).await;

    let expected = expected(shop, &service, &node, zone);
    let mut held = etcd.dump("").await?;
    held.retain(|key, _| key.contains(&service));
    let found: Vec<(&str, &str)> = held.iter().map(|(key, held)| (&**key, &*held.value)).collect();
    let mut wanted: Vec<(&str, &str)> = expected.iter().map(|(key, value)| (&**key, &**value)).collect();
    wanted.sort_unstable();
    assert_eq!(found, wanted);
    let first = held.values().next().expect("keys");
    let together = |other: &Held| (other.lease, other.create_revision) == (first.lease, first.create_revision);
    assert!(held.values().all(together), "one lease and one transaction: {held:?}");

    // Another address: where the key is another one too, it is there before the old one goes.
    namespace.set_pod_ip("a", "10.9.2.6").await?;
    let ours = |event: &&Event| event.key.contains(&service);
    // A key and its successor count twice: go-zero's, Kitex', Hertz' and GoFrame's; the weight does not change.
    let changed = expected.len() + 4 + 13;
    history
        .wait_for(|events| events.iter().filter(ours).count() == changed, SOON)
        .await?;
    let events = history.events();
    let moved: Vec<&Event> = events.iter().filter(ours).skip(expected.len()).collect();
    assert!(
        moved.iter().all(|event| event.revision == moved[0].revision),
        "{moved:?}"
    );
    let go_zero: Vec<String> = moved
        .iter()
        .filter(|event| event.key.starts_with(&format!("{service}.rpc/")))
        .map(ToString::to_string)
        .collect();
    let (put, gone) = (
        format!("put {service}.rpc/a@10.9.2.6:8080 10.9.2.6:8080"),
        format!("delete {service}.rpc/a@10.9.2.5:8080"),
    );
    assert_eq!(go_zero, [put, gone]);

    // Not ready: all of it is gone at once.
    namespace.set_ready("a", false).await?;
    history
        .wait_for(
            |events| events.iter().filter(ours).count() == changed + expected.len(),
            SOON,
        )
        .await?;
    let events = history.events();
    let gone: Vec<&Event> = events.iter().filter(ours).skip(changed).collect();
    assert!(gone.iter().all(|event| event.revision == gone[0].revision), "{gone:?}");
    let mut held = etcd.dump("").await?;
    held.retain(|key, _| key.contains(&service));
    assert!(held.is_empty(), "{held:?}");
    Ok(())
}

#[tokio::test]
async fn unsupported_value_is_reported_for_that_pod_and_format_only() -> Result<()> {
    let namespace = bed().await.namespace("no-share").await?;
    let (etcd, service) = (bed().await.registry(), format!("{}-ns", namespace.name()));
    let spec = json!({"serviceName": service, "formats": [{"type": "Plain"}, {"type": "Kitex"}]});
    namespace.apply(registration("orders", &spec)).await?;
    namespace.create_pod(&pod("a", "orders").ip("10.9.2.7")).await?;
    let drained = pod("b", "orders").annotation("leasehold.dev/weight", "0");
    namespace.create_pod(&drained.ip("10.9.2.8")).await?;
    let object = wait_condition(namespace.objects(), "orders", "Synced", "False", "EndpointsRefused").await;
    let text = message(&object, "Synced");
    assert!(
        text.contains("Kitex does not support weight 0") && text.contains("(b)"),
        "{text}"
    );
    wait_keys(etcd, &plain_prefix(&namespace, &service), &["a", "b"]).await;
    wait_keys(etcd, &format!("kitex/registry-etcd/{service}/"), &["10.9.2.7:8080"]).await;
    Ok(())
}

#[tokio::test]
async fn of_a_dual_stack_pod_each_registration_writes_the_address_of_its_family() -> Result<()> {
    let namespace = bed().await.namespace("dual").await?;
    let (etcd, domain) = (bed().await.registry(), format!("{}.example.org", namespace.name()));
    for (name, family) in [("v4", "IPv4"), ("v6", "IPv6")] {
        let spec = json!({
            "selector": {"matchLabels": {"app": "orders"}},
            "address": {"ipFamilies": [family]},
            "formats": [{"type": "EtcdGRPC"}, {"type": "CoreDNS", "coreDNS": {"domain": format!("{name}.{domain}")}}],
        });
        namespace.apply(registration(name, &spec)).await?;
    }
    namespace.create_pod(&pod("a", "orders").ip("10.9.2.9")).await?;
    namespace.set_pod_ips("a", &["10.9.2.9", "fd00::9"]).await?;
    for (name, host, host_port) in [("v4", "10.9.2.9", "10.9.2.9:8080"), ("v6", "fd00::9", "[fd00::9]:8080")] {
        let prefix = format!("{}/{name}/", namespace.name());
        let held = wait_keys(etcd, &prefix, &["a"]).await;
        assert!(held[&format!("{prefix}a")].value.contains(host_port), "{held:?}");
        let prefix = format!("/skydns/org/example/{}/{name}/", namespace.name());
        let held = wait_keys(etcd, &prefix, &["a"]).await;
        assert!(
            held[&format!("{prefix}a")]
                .value
                .contains(&format!("\"host\":\"{host}\"")),
            "{held:?}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn dual_stack_registration_writes_both_addresses_of_a_pod() -> Result<()> {
    let namespace = bed().await.namespace("both").await?;
    let (etcd, domain) = (bed().await.registry(), format!("{}.example.org", namespace.name()));
    let spec = |families: &[&str]| {
        json!({
            "selector": {"matchLabels": {"app": "orders"}},
            "address": {"ipFamilies": families},
            "formats": [{"type": "Plain"}, {"type": "CoreDNS", "coreDNS": {"domain": domain}}],
        })
    };
    namespace
        .apply(registration("orders", &spec(&["IPv4", "IPv6"])))
        .await?;
    namespace.create_pod(&pod("a", "orders").ip("10.9.2.9")).await?;
    let prefix = plain_prefix(&namespace, "orders");
    wait_keys(etcd, &prefix, &["a"]).await;
    let history = History::watch(etcd, &prefix, 0).await?;
    namespace.set_pod_ips("a", &["10.9.2.9", "fd00::9"]).await?;
    wait_events(&history, 1).await;
    history
        .assert_exactly(&[&format!("put {prefix}a_ipv6 [fd00::9]:8080")])
        .await;
    let names = format!("/skydns/org/example/{}/", namespace.name());
    let held = wait_count(etcd, &names, 2, SOON).await;
    let hosts: Vec<(&str, bool)> = held
        .iter()
        .map(|(key, held)| (&key[names.len()..], held.value.contains("\"host\":\"fd00::9\"")))
        .collect();
    // An underscore is no part of a DNS label.
    assert!(
        matches!(hosts[..], [("a", false), (second, true)] if second.starts_with("a-ipv6-")),
        "{held:?}"
    );
    let both = |object: &Value| {
        let endpoints = object["status"]["endpoints"].as_array().into_iter().flatten();
        endpoints
            .filter_map(|one| one["address"].as_str())
            .eq(["10.9.2.9", "fd00::9"])
    };
    let object = (API, "ServiceRegistration", "orders");
    let object = namespace.objects().wait(object, both, SOON).await?;
    assert_eq!(
        object["status"]["pods"]["registered"], 1,
        "one pod, whatever the number of its addresses"
    );

    // The preferred family has the name of the pod.
    namespace.apply(registration("orders", &spec(&["IPv6"]))).await?;
    wait_keys(etcd, &prefix, &["a"]).await;
    let held = etcd.dump(&prefix).await?;
    assert_eq!(held[&format!("{prefix}a")].value, "[fd00::9]:8080");
    Ok(())
}

#[tokio::test]
async fn overlapping_format_is_suppressed_until_the_other_one_is_deleted() -> Result<()> {
    let namespace = bed().await.namespace("clash").await?;
    let (root, etcd) = (namespace.name().to_owned(), bed().await.registry());
    let selector = json!({"matchLabels": {"app": "orders"}});
    let traefik = json!({"selector": selector, "formats": [{"type": "Traefik", "traefik": {"root": root}}]});
    let notes = json!({"selector": selector, "formats": [
        {"type": "Plain", "plain": {"prefix": format!("{root}/notes")}},
        {"type": "Plain", "plain": {"prefix": format!("/else/{root}")}},
    ]});
    namespace.create_pod(&pod("a", "orders").ip("10.9.2.9")).await?;
    namespace.apply(registration("edge", &traefik)).await?;
    wait_in_sync(namespace.objects(), "edge", 1).await;
    let history = History::watch(etcd, &format!("{root}/"), 0).await?;
    // One of the two formats would be read by Traefik, and the other one is written.
    namespace.apply(registration("notes", &notes)).await?;
    let object = wait_condition(namespace.objects(), "notes", "Conflict", "True", "FormatsClash").await;
    let text = message(&object, "Conflict");
    for part in [&format!("{root}/edge"), "Traefik", "formats[0]", "outside"] {
        assert!(text.contains(part), "{text}");
    }
    wait_keys(etcd, &format!("/else/{root}/"), &["a"]).await;
    history.assert_exactly(&[]).await;
    wait_condition(namespace.objects(), "edge", "Conflict", "False", "NoConflict").await;

    namespace
        .objects()
        .delete(crate::support::API, "ServiceRegistration", "edge")
        .await?;
    wait_in_sync(namespace.objects(), "notes", 1).await;
    wait_keys(etcd, &format!("{root}/notes/"), &["a"]).await;
    wait_condition(namespace.objects(), "notes", "Conflict", "False", "NoConflict").await;
    Ok(())
}
