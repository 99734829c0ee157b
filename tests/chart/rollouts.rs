//! The policy that adds the readiness gate and the drain period to new pods of namespaces that opt in.

use serde_json::{Value, json};
use testbed::{Namespace, NewPod, Result, shared, until};

use super::TURN;
use super::helm::{chart, helm, kubectl};
use super::support::SOON;

const GATE: &str = "leasehold.dev/registered";

/// Creates a pod with this spec beside its container. Returns what the apiserver made of it.
async fn created(namespace: &Namespace, name: &str, spec: &Value) -> Result<Value> {
    let pod = NewPod::new(name).with(&json!({"spec": spec}));
    namespace.create_pod(&pod).await?;
    let found = namespace.objects().get("v1", "Pod", name).await?;
    Ok(found.expect("it was created"))
}

fn gates(pod: &Value) -> Vec<&str> {
    let gates = pod["spec"]["readinessGates"].as_array().into_iter().flatten();
    gates.filter_map(|gate| gate["conditionType"].as_str()).collect()
}

fn hooks(pod: &Value) -> Vec<Value> {
    let containers = pod["spec"]["containers"].as_array().into_iter().flatten();
    containers.map(|container| container["lifecycle"].clone()).collect()
}

#[tokio::test]
async fn new_pods_of_namespaces_that_opt_in_get_the_gate_and_the_drain_period() -> Result<()> {
    let _turn = TURN.lock().await;
    let bed = shared().await?;
    let home = bed.namespace("chart-rollouts").await?;
    let tenant = bed.namespace("chart-rolling").await?;
    let unwatched = bed.namespace("chart-unwatched").await?;
    let watched = format!("watchNamespaces={{{}}}", tenant.name());
    let chart = chart().display().to_string();
    let mut words = vec!["template", "rolling", &chart, "--namespace", home.name()];
    words.extend(["--set", "rollouts.enabled=true,rollouts.admissionPolicy.create=true"]);
    words.extend(["--set", &watched, "--show-only", "templates/rolloutpolicy.yaml"]);
    let policy = helm(bed.kubeconfig(), &words).await;
    let policy = policy.unwrap_or_else(|error| panic!("{error}"));
    kubectl(bed, &["apply", "--filename=-"], &policy)
        .await
        .unwrap_or_else(|error| panic!("{error}"));

    for namespace in [&unwatched, &tenant] {
        let label = json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": namespace.name(), "labels": {"leasehold.dev/rollouts": "enabled"}},
        });
        bed.objects().apply(label).await?;
    }
    let sleep = |seconds: u32| json!({"preStop": {"sleep": {"seconds": seconds}}});
    // A policy takes effect a moment after it was applied.
    let mut number = 0;
    until("the policy to be in force", SOON, || {
        number += 1;
        let name = format!("probe-{number}");
        let tenant = &tenant;
        async move {
            let pod = created(tenant, &name, &json!({}))
                .await
                .map_err(|error| error.to_string())?;
            (gates(&pod) == [GATE]).then_some(()).ok_or(pod.to_string())
        }
    })
    .await?;
    let plain = created(&tenant, "plain", &json!({})).await?;
    assert_eq!((gates(&plain), hooks(&plain)), (vec![GATE], vec![sleep(5)]));

    let other = json!({"readinessGates": [{"conditionType": "lb.example.com/ready"}]});
    let gated = created(&tenant, "other-gate", &other).await?;
    assert_eq!(gates(&gated), ["lb.example.com/ready", GATE]);
    let both = json!({"readinessGates": [{"conditionType": GATE}]});
    let gated = created(&tenant, "own-gate", &both).await?;
    assert_eq!(gates(&gated), [GATE], "once");

    let brief = created(&tenant, "brief", &json!({"terminationGracePeriodSeconds": 5})).await?;
    assert_eq!((gates(&brief), hooks(&brief)), (vec![GATE], vec![Value::Null]));

    let command = json!({"exec": {"command": ["true"]}});
    let containers = json!({"containers": [
        {"name": "own", "image": "x", "lifecycle": {"preStop": command}},
        {"name": "start", "image": "x", "lifecycle": {"postStart": command}},
        {"name": "bare", "image": "x"},
    ]});
    let several = created(&tenant, "several", &containers).await?;
    let mut start = sleep(5);
    start["postStart"] = command.clone();
    assert_eq!(hooks(&several), [json!({"preStop": command}), start, sleep(5)]);

    let job = created(&tenant, "job", &json!({"restartPolicy": "OnFailure"})).await?;
    assert_eq!((gates(&job), hooks(&job)), (Vec::new(), vec![Value::Null]));
    for namespace in [&home, &unwatched] {
        let elsewhere = created(namespace, "plain", &json!({})).await?;
        assert_eq!((gates(&elsewhere), hooks(&elsewhere)), (Vec::new(), vec![Value::Null]));
    }

    kubectl(bed, &["delete", "--filename=-"], &policy)
        .await
        .unwrap_or_else(|error| panic!("{error}"));
    Ok(())
}
