//! What the tests of the running operator share: registrations in few words, and waiting for what should become of them.

#![allow(dead_code, reason = "each test binary uses its own part")]

use std::collections::BTreeMap;
use std::time::Duration;

use leasehold::api::ServiceRegistrationStatus;
use serde_json::{Value, json};
use testbed::{Bed, EtcdCluster, Held, History, Namespace, NewPod, Objects, Operator, OperatorConfig, until};

/// For what takes milliseconds, on a machine that is busy with other tests.
pub const SOON: Duration = Duration::from_mins(1);

pub const API: &str = "leasehold.dev/v1alpha1";

/// Starts an operator of this tree on `bed`. It has only begun.
pub fn operator(bed: &Bed, name: &str) -> Operator {
    let config = OperatorConfig::new(name, env!("CARGO_BIN_EXE_leasehold"));
    Operator::start(bed, config).expect("an operator starts")
}

/// Starts an operator that serves the readiness gate `leasehold.dev/registered`. It has only begun.
pub async fn operator_with_gates(bed: &Bed, name: &str) -> testbed::Result<Operator> {
    bed.allow_pod_status().await?;
    let mut config = OperatorConfig::new(name, env!("CARGO_BIN_EXE_leasehold"));
    config.args = ["--readiness-gate-max-wait", "60"].map(Into::into).to_vec();
    Operator::start(bed, config)
}

/// A registration of `spec` merged into: pods labelled `app: NAME`, their container port `grpc`, as Plain text.
pub fn registration(name: &str, spec: &Value) -> Value {
    let mut object = json!({
        "apiVersion": API,
        "kind": "ServiceRegistration",
        "metadata": {"name": name},
        "spec": {
            "selector": {"matchLabels": {"app": name}},
            "ports": [{"name": "grpc"}],
            "formats": [{"type": "Plain"}],
        },
    });
    for (field, value) in spec.as_object().expect("fields of spec") {
        object["spec"][field] = value.clone();
    }
    object
}

/// A ready pod labelled `app: APP` with the container port `grpc`.
pub fn pod(name: &str, app: &str) -> NewPod {
    NewPod::new(name).label("app", app).port("grpc", 8080)
}

/// The default prefix of a service in the format Plain.
pub fn plain_prefix(namespace: &Namespace, service: &str) -> String {
    format!("/services/{}/{service}/", namespace.name())
}

/// Waits until `etcd` holds exactly these keys below `prefix`, given without it, and returns them.
pub async fn wait_keys(etcd: &EtcdCluster, prefix: &str, expected: &[&str]) -> BTreeMap<String, Held> {
    let what = format!("exactly {expected:?} below {prefix}");
    let found = until(&what, SOON, || async {
        let held = etcd.dump(prefix).await.map_err(|error| error.to_string())?;
        let names: Vec<&str> = held.keys().map(|key| &key[prefix.len()..]).collect();
        if names == expected {
            Ok(held)
        } else {
            Err(format!("there are {names:?}"))
        }
    });
    found.await.unwrap_or_else(|error| panic!("{error}"))
}

/// Waits until `etcd` holds this many keys below `prefix`, and returns them.
pub async fn wait_count(etcd: &EtcdCluster, prefix: &str, count: usize, patience: Duration) -> BTreeMap<String, Held> {
    let what = format!("{count} keys below {prefix}");
    let found = until(&what, patience, || async {
        let held = etcd.dump(prefix).await.map_err(|error| error.to_string())?;
        if held.len() == count {
            Ok(held)
        } else {
            Err(format!("there are {}", held.len()))
        }
    });
    found.await.unwrap_or_else(|error| panic!("{error}"))
}

/// Waits until a history has this many events, and returns them as text.
pub async fn wait_events(history: &History, count: usize) -> Vec<String> {
    let events = history.wait_for(|events| events.len() >= count, SOON).await;
    let events = events.unwrap_or_else(|error| panic!("{error}"));
    events.iter().map(ToString::to_string).collect()
}

/// Status and reason of a condition; empty when there is none.
pub fn condition(object: &Value, kind: &str) -> (String, String) {
    let all = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let found = all
        .into_iter()
        .find(|condition| condition["type"] == kind)
        .unwrap_or_default();
    let text = |field: &str| found[field].as_str().unwrap_or_default().to_owned();
    (text("status"), text("reason"))
}

/// The message of a condition.
pub fn message(object: &Value, kind: &str) -> String {
    let all = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let found = all
        .into_iter()
        .find(|condition| condition["type"] == kind)
        .unwrap_or_default();
    found["message"].as_str().unwrap_or_default().to_owned()
}

/// Waits until a condition of a registration has this status and reason, and returns the object.
pub async fn wait_condition(objects: &Objects, name: &str, kind: &str, status: &str, reason: &str) -> Value {
    let registration = (API, "ServiceRegistration", name);
    let wanted = (status.to_owned(), reason.to_owned());
    let found = objects
        .wait(registration, |object| condition(object, kind) == wanted, SOON)
        .await;
    found.unwrap_or_else(|error| panic!("waiting for {kind}={status} {reason}: {error}"))
}

/// Waits until a registration is in sync, all `pods` of it registered, and returns its status.
pub async fn wait_in_sync(objects: &Objects, name: &str, pods: u32) -> ServiceRegistrationStatus {
    let registration = (API, "ServiceRegistration", name);
    let in_sync = |object: &Value| condition(object, "Synced").1 == "InSync" && is_reported(object, pods, pods);
    let found = objects.wait(registration, in_sync, SOON).await;
    let mut found = found.unwrap_or_else(|error| panic!("waiting for {name} to be in sync: {error}"));
    serde_json::from_value(found["status"].take()).expect("a status")
}

/// Whether a registration's status tells that of its pods so many are registered and so many ready.
pub fn is_reported(object: &Value, registered: u32, ready: u32) -> bool {
    let pods = &object["status"]["pods"];
    (&pods["registered"], &pods["ready"]) == (&json!(registered), &json!(ready))
}

/// Waits until a registration's Synced has this reason, and so many of so many ready pods are registered. An earlier
/// report on fewer pods may have the same reason.
pub async fn wait_reported(objects: &Objects, name: &str, reason: &str, (registered, ready): (u32, u32)) {
    let reported = |object: &Value| condition(object, "Synced").1 == reason && is_reported(object, registered, ready);
    let found = objects.wait((API, "ServiceRegistration", name), reported, SOON).await;
    found.unwrap_or_else(|error| panic!("waiting for {name} to tell {reason} and {registered} of {ready}: {error}"));
}

/// An object's resourceVersion.
pub async fn version(objects: &Objects, kind: &str, name: &str) -> String {
    let object = objects.get(API, kind, name).await.expect("the apiserver answers");
    object.expect("it is there")["metadata"]["resourceVersion"]
        .as_str()
        .expect("a version")
        .to_owned()
}

/// Waits until an Event about an object is there that has this reason and says so.
pub async fn wait_event(objects: &Objects, about: (&str, &str), reason: &str, note: &str) -> testbed::Result<Value> {
    let what = format!("an Event {reason} about {about:?} that tells {note:?}");
    until(&what, SOON, || async {
        let all = objects.list("events.k8s.io/v1", "Event").await;
        let all = all.map_err(|error| error.to_string())?;
        let is_it = |event: &&Value| {
            let regarding = &event["regarding"];
            (&regarding["kind"], &regarding["name"]) == (&json!(about.0), &json!(about.1))
                && event["reason"] == reason
                && event["note"].as_str().is_some_and(|text| text.contains(note))
        };
        let found = all.iter().find(is_it).cloned();
        let others = || {
            all.iter()
                .map(|event| format!("{} {}: {}", event["regarding"], event["reason"], event["note"]))
        };
        found.ok_or_else(|| others().collect::<Vec<_>>().join("\n"))
    })
    .await
}

/// Waits until `/readyz` of an operator says no, in these words.
pub async fn wait_unready(operator: &Operator, words: &str, patience: Duration) -> testbed::Result<()> {
    let what = format!("{} not to be ready: {words}", operator.name());
    until(&what, patience, || async {
        match operator.readiness().await {
            Ok((503, reported)) if reported.contains(words) => Ok(()),
            Ok((status, reported)) => Err(format!("/readyz says {status}: {reported}")),
            Err(error) => Err(error.to_string()),
        }
    })
    .await
}

/// Checks that at every revision of `history` as many pods have a record somewhere as have one at its beginning, where
/// these keys end so. A pod's name is the last segment of its keys; keys of the value `foreign` do not count.
pub async fn assert_never_fewer(history: &History, beginning: &[&str], foreign: &str) -> testbed::Result<()> {
    let name = |key: &str| key.rsplit('/').next().unwrap_or_default().to_owned();
    let mut held: std::collections::BTreeSet<(String, String)> = std::collections::BTreeSet::new();
    for key in beginning {
        held.insert((name(key), (*key).to_owned()));
    }
    let names = |held: &std::collections::BTreeSet<(String, String)>| {
        let names: std::collections::BTreeSet<String> = held.iter().map(|(name, _)| name.clone()).collect();
        names
    };
    let expected = names(&held);
    let events = history.settled().await?;
    for (i, event) in events.iter().enumerate() {
        let pod = name(&event.key);
        match &event.kind {
            testbed::Kind::Put { value, .. } if value != foreign => drop(held.insert((pod, event.key.clone()))),
            testbed::Kind::Put { .. } => {}
            testbed::Kind::Delete => held.retain(|(_, key)| !event.key.ends_with(key.as_str())),
        }
        let is_last = events.get(i + 1).is_none_or(|next| next.revision != event.revision);
        if is_last {
            let there = names(&held);
            assert!(
                there.is_superset(&expected),
                "after {event} only {there:?} of {expected:?} have a record"
            );
        }
    }
    Ok(())
}
