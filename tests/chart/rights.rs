//! The rights that the chart gives the operator: enough, and none too many.

use serde_json::{Value, json};
use testbed::{
    Authority, Bed, EtcdCluster, EtcdConfig, Namespace, Objects, Operator, OperatorConfig, Result, Security, Validity,
    shared, until,
};

use super::TURN;
use super::helm::{chart, delete_registry, helm, kubeconfig_of, kubectl, token_of};
use super::support::{API, SOON, plain_prefix, pod, registration, wait_in_sync, wait_keys};

const ROLE_API: &str = "rbac.authorization.k8s.io/v1";

#[tokio::test]
async fn the_operator_needs_every_right_that_the_chart_gives_it_and_no_other() -> Result<()> {
    let _turn = TURN.lock().await;
    let bed = shared().await?;
    bed.apply_crds().await?;
    let home = bed.namespace("chart-rights").await?;
    let chart = chart().display().to_string();
    let options = "metrics.auth.enabled=true,rollouts.enabled=true";
    let words = ["template", "lean", &chart, "--namespace", home.name(), "--set", options];
    let rendered = helm(bed.kubeconfig(), &words)
        .await
        .unwrap_or_else(|error| panic!("{error}"));
    let taken = kubectl(bed, &["apply", "--filename=-"], &rendered).await;
    taken.unwrap_or_else(|error| panic!("{error}"));
    let kubeconfig = kubeconfig_of(bed, home.name(), "lean-leasehold").await?;
    let reader = token_of(bed, home.name(), "lean-leasehold", &[]).await;
    let start = |name: &str| {
        let mut config = OperatorConfig::new(name, env!("CARGO_BIN_EXE_leasehold"));
        config.args = vec!["--namespace".into(), home.name().into(), "--metrics-auth".into()];
        config.args.push("--peer-secret=lean-leasehold-peers".into());
        config.args.push("--readiness-gate-max-wait=60".into());
        config.kubeconfig = Some(kubeconfig.clone());
        Operator::start(bed, config)
    };

    let etcd = registry(bed, home.objects()).await?;
    let namespace = bed.namespace("chart-tenant").await?;
    namespace.create_pod(&pod("a", "orders")).await?;
    namespace
        .apply(registration("orders", &json!({"registryRef": {"name": "rights"}})))
        .await?;
    let operator = start("all-rights")?;
    operator.wait_ready(SOON).await?;
    wait_keys(&etcd, &plain_prefix(&namespace, "orders"), &["a"]).await;
    wait_in_sync(namespace.objects(), "orders", 1).await;
    // It may not read its own metrics, but it finds that out.
    let (status, reported) = operator.metrics_for(&reader).await?;
    assert_eq!(status, 403, "{reported}");
    namespace.set_ready("a", false).await?;
    wait_keys(&etcd, &plain_prefix(&namespace, "orders"), &[]).await;
    assert!(!log(bed, "all-rights").contains("forbidden"), "{}", operator.log_tail());
    operator.terminate()?;
    operator.wait_exit(SOON).await?;

    let of_cluster = format!("lean-leasehold-{}", home.name());
    let holders = [
        (bed.objects(), "ClusterRole", of_cluster.as_str()),
        (home.objects().clone(), "Role", "lean-leasehold-credentials"),
    ];
    let mut rights: Vec<(usize, Right)> = Vec::new();
    for (number, (objects, kind, role)) in holders.iter().enumerate() {
        let whole = objects.get(ROLE_API, kind, role).await?.expect("the role");
        let rules = whole["rules"].as_array().expect("rules").clone();
        rights.extend(rules.iter().flat_map(rights_of).map(|right| (number, right)));
    }
    assert!(rights.len() > 9, "{rights:?}");
    for (i, (_, right)) in rights.iter().enumerate() {
        for (number, (objects, kind, role)) in holders.iter().enumerate() {
            let others = rights.iter().filter(|(of, other)| *of == number && other != right);
            let rules: Vec<&Value> = others.map(|(_, other)| &other.rule).collect();
            let role = json!({"apiVersion": ROLE_API, "kind": kind, "metadata": {"name": role}, "rules": rules});
            objects.apply(role).await?;
        }
        // Something new to tell, for those rights that are for telling: another pod, and a registration that is refused.
        let gate = json!({"spec": {"readinessGates": [{"conditionType": "leasehold.dev/registered"}]}});
        let further = pod(&format!("further-{i}"), "orders").with(&gate);
        namespace.create_pod(&further).await?;
        let refused = registration(&format!("refused-{i}"), &json!({"registryRef": {"name": "nowhere"}}));
        namespace.apply(refused).await?;
        bed.objects().apply(record_format(i)).await?;
        annotate(&namespace, i).await?;
        // The replicas have to agree on another key.
        let empty = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "lean-leasehold-peers"}});
        home.objects().delete("v1", "Secret", "lean-leasehold-peers").await?;
        home.objects().apply(empty).await?;
        let name = format!("without-{i}");
        let operator = start(&name)?;
        let complaint = format!("cannot {} resource \"{}\"", right.verb, right.resource);
        until(&format!("the operator to say `{complaint}`"), SOON, || async {
            // It does not listen from the first moment on.
            let _ = operator.metrics_for(&reader).await;
            let log = log(bed, &name);
            log.contains(&complaint).then_some(()).ok_or(log)
        })
        .await?;
        // The next one leads at once.
        operator.terminate()?;
        operator.wait_exit(SOON).await?;
    }
    for i in 0..rights.len() {
        let name = record_format(i)["metadata"]["name"]
            .as_str()
            .expect("a name")
            .to_owned();
        bed.objects().delete(API, "RecordFormat", &name).await?;
    }
    delete_registry(bed, "rights").await
}

fn record_format(number: usize) -> Value {
    json!({
        "apiVersion": API,
        "kind": "RecordFormat",
        "metadata": {"name": format!("rights-{number}")},
        "spec": {"records": [{"name": "endpoint", "key": "{{ prefix }}/{{ id }}", "value": "{{ port }}"}]},
    })
}

/// Has the operator create, update and delete registrations of annotated Services.
async fn annotate(namespace: &Namespace, number: usize) -> Result<()> {
    let annotations = json!({"leasehold.dev/register": "rights", "leasehold.dev/formats": "Plain"});
    for (kind, annotations) in [("asked", &annotations), ("edited", &annotations), ("left", &json!({}))] {
        let name = format!("{kind}-{number}");
        let service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "annotations": annotations},
            "spec": {"ports": [{"name": "grpc", "port": 80}]},
        });
        namespace.apply(service).await?;
        if kind == "asked" {
            continue;
        }
        let service = namespace
            .objects()
            .get("v1", "Service", &name)
            .await?
            .expect("it is there");
        let owner = json!({
            "apiVersion": "v1", "kind": "Service", "name": name, "uid": service["metadata"]["uid"],
            "controller": true, "blockOwnerDeletion": false,
        });
        let kept = json!({
            "apiVersion": API, "kind": "ServiceRegistration",
            "metadata": {
                "name": name, "labels": {"app.kubernetes.io/managed-by": "leasehold"}, "ownerReferences": [owner],
            },
            "spec": {
                "registryRef": {"name": "rights"}, "service": {"name": name}, "formats": [{"type": "Plain"}], "weight": 7,
            },
        });
        namespace.apply(kept).await?;
    }
    Ok(())
}

/// One verb on one resource.
#[derive(Clone, Debug, PartialEq)]
struct Right {
    verb: String,
    resource: String,
    rule: Value,
}

fn rights_of(rule: &Value) -> Vec<Right> {
    let list = |field: &str| {
        let words = rule[field].as_array().cloned().unwrap_or_default();
        words
            .into_iter()
            .map(|word| word.as_str().expect("a word").to_owned())
            .collect::<Vec<_>>()
    };
    let mut rights = Vec::new();
    for resource in list("resources") {
        for verb in list("verbs") {
            let mut rule = rule.clone();
            rule["resources"] = json!([resource]);
            rule["verbs"] = json!([verb]);
            rights.push(Right {
                verb,
                resource: resource.clone(),
                rule,
            });
        }
    }
    rights
}

/// An etcd that serves https, and a Registry that names a Secret and a ConfigMap for it.
async fn registry(bed: &Bed, home: &Objects) -> Result<EtcdCluster> {
    let authority = Authority::new("rights");
    let security = Security {
        server: authority.server(&["127.0.0.1"], Validity::Valid),
        authority: authority.pem(),
        clients: None,
    };
    let config = EtcdConfig {
        security: Some(security),
        ..EtcdConfig::default()
    };
    let etcd = EtcdCluster::temporary_with(config).await?;
    let (ca, user) = (json!({"name": "etcd-ca"}), json!({"name": "etcd-user"}));
    let data = json!({"ca.crt": authority.pem()});
    home.apply(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": ca, "data": data}))
        .await?;
    let data = json!({"username": "leasehold", "password": "pw-of-rights"});
    home.apply(json!({"apiVersion": "v1", "kind": "Secret", "metadata": user, "stringData": data}))
        .await?;
    let spec = json!({
        "etcd": {
            "endpoints": etcd.endpoints(), "auth": {"secretRef": user},
            "tls": {"caRef": {"kind": "ConfigMap", "name": "etcd-ca"}},
        },
        "defaults": {"leaseTTLSeconds": 15},
    });
    let registry = json!({"apiVersion": API, "kind": "Registry", "metadata": {"name": "rights"}, "spec": spec});
    bed.objects().apply(registry).await?;
    Ok(etcd)
}

/// All that an operator of this name has logged, without what escapes the quotes in it.
fn log(bed: &Bed, name: &str) -> String {
    let log = std::fs::read_to_string(bed.logs().join(format!("{name}.log")));
    log.unwrap_or_default().replace('\\', "")
}
