//! What tenants do to make work for an operator.

use std::time::{Duration, Instant};

use etcd_client::{Client, Compare, CompareOp, PutOptions, Txn, TxnOp};
use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use leasehold::api::ServiceRegistration;
use serde_json::{Value, json};
use testbed::{EtcdCluster, Namespace, until};

use super::{
    PATIENCE,
    scene::{API, create, pod_name},
};
use crate::error::Result;

/// Puts in one transaction: etcd's limit is 128 operations.
const PUTS: u32 = 126;
/// Transactions at once, as many as the operator has by default.
const IN_FLIGHT: usize = 4;

fn registrations(namespace: &Namespace) -> Api<ServiceRegistration> {
    Api::namespaced(namespace.client(), namespace.name())
}

pub fn pods(namespace: &Namespace) -> Api<Pod> {
    Api::namespaced(namespace.client(), namespace.name())
}

/// A registration of the pods with the label `app`, in several formats.
fn registration(name: &str, app: &str, formats: &[&str]) -> Value {
    let formats: Vec<_> = formats.iter().map(|kind| json!({"type": kind})).collect();
    json!({"apiVersion": API, "kind": "ServiceRegistration", "metadata": {"name": name}, "spec": {
        "selector": {"matchLabels": {"app": app}}, "ports": [{"name": "grpc"}], "formats": formats,
    }})
}

/// Creates registrations `NAME-0`, `NAME-1`, ... of the pods with the label `app`.
pub async fn create_registrations(
    namespace: &Namespace,
    (name, count): (&str, u32),
    app: &str,
    formats: &[&str],
) -> Result<()> {
    let manifest = |i: u32| registration(&format!("{name}-{i}"), app, formats);
    create(&registrations(namespace), count, manifest).await
}

/// Creates registrations one after the other, so many per second.
pub async fn create_registrations_slowly(namespace: &Namespace, count: u32, app: &str, rate: u32) -> Result<()> {
    let (api, begin) = (registrations(namespace), Instant::now());
    let create = |i: u32| {
        let object = registration(&format!("bulk-{i}"), app, &["Plain", "EtcdGRPC"]);
        let (api, turn) = (&api, begin + Duration::from_secs(1) * i / rate);
        async move {
            tokio::time::sleep_until(turn.into()).await;
            let object = serde_json::from_value(object).map_err(kube::Error::SerdeError)?;
            api.create(&PostParams::default(), &object).await.map(drop)
        }
    };
    let all = stream::iter(0..count).map(create).buffer_unordered(8);
    Ok(all.try_collect::<()>().await?)
}

/// Deletes all registrations and pods of a namespace, and waits until the operator has removed their keys.
pub async fn clear(etcd: &EtcdCluster, namespace: &Namespace) -> Result<()> {
    let (now, all) = (DeleteParams::default().grace_period(0), ListParams::default());
    registrations(namespace)
        .delete_collection(&DeleteParams::default(), &all)
        .await?;
    pods(namespace).delete_collection(&now, &all).await?;
    wait_keys(etcd, namespace, 0).await.map(drop)
}

/// Waits until a namespace has so many keys in the format `Plain`; returns when.
pub async fn wait_keys(etcd: &EtcdCluster, namespace: &Namespace, count: i64) -> Result<Instant> {
    let below = format!("/services/{}/", namespace.name());
    let client = etcd.client().await?;
    let wanted = etcd_client::GetOptions::new().with_prefix().with_count_only();
    let what = format!("{count} keys below {below}");
    let found = until(&what, PATIENCE, || async {
        let answer = client.clone().get(below.as_str(), Some(wanted.clone())).await;
        match answer.map(|answer| answer.count()) {
            Ok(found) if found == count => Ok(Instant::now()),
            other => Err(format!("{other:?}")),
        }
    });
    Ok(found.await?)
}

/// Changes the readiness of two pods in turns, as fast as the API server takes it, until `enough` have been changed.
pub async fn flap(namespace: &Namespace, names: [&str; 2], enough: Duration) -> Result<u32> {
    let (mut ready, mut changes, begin) = (true, 0, Instant::now());
    while begin.elapsed() < enough {
        ready = !ready;
        for name in names {
            namespace.set_ready(name, ready).await?;
            changes += 1;
        }
    }
    Ok(changes)
}

/// Changes annotations of a pod that no registration selects.
pub async fn annotate(namespace: &Namespace, name: &str, times: u32) -> Result<()> {
    for time in 0..times {
        let change = json!({"metadata": {"annotations": {"bench": time.to_string()}}});
        pods(namespace)
            .patch(name, &PatchParams::default(), &Patch::Merge(change))
            .await?;
    }
    Ok(())
}

/// Changes the weight of all endpoints of a registration, which no record in the format `Plain` contains; returns how
/// often.
pub async fn edit(namespace: &Namespace, name: &str, enough: Duration) -> Result<u32> {
    let (mut times, begin) = (0, Instant::now());
    while begin.elapsed() < enough {
        let change = json!({"spec": {"weight": 1 + times % 2}});
        registrations(namespace)
            .patch(name, &PatchParams::default(), &Patch::Merge(change))
            .await?;
        times += 1;
    }
    Ok(times)
}

/// Deletes all pods of a namespace; returns when the last one was gone.
pub async fn delete_pods(namespace: &Namespace, count: u32) -> Result<Instant> {
    let pods = pods(namespace);
    let now = DeleteParams::default().grace_period(0);
    let delete = |i: u32| {
        let (pods, now) = (&pods, &now);
        async move { pods.delete(&pod_name(i), now).await.map(drop) }
    };
    let all = stream::iter(0..count).map(delete).buffer_unordered(16);
    all.try_collect::<()>().await?;
    Ok(Instant::now())
}

/// Changes the readiness of one pod after the other, with a pause between.
pub async fn flip_slowly(namespace: &Namespace, pause: Duration, enough: Duration) -> Result<()> {
    let (begin, mut i) = (Instant::now(), 0);
    while begin.elapsed() < enough {
        for ready in [false, true] {
            namespace.set_ready(&pod_name(i), ready).await?;
            tokio::time::sleep(pause).await;
        }
        i += 1;
    }
    Ok(())
}

/// Writes keys of another program, without a lease; returns how long it took.
pub async fn put(etcd: &Client, prefix: &str, count: u32, size: usize) -> Result<Duration> {
    write(etcd, (prefix, count), &"v".repeat(size), &[0], Puts::Plain).await
}

/// Deletes all keys below a prefix.
pub async fn clear_foreign(etcd: &Client, prefix: &str) -> Result<()> {
    let all = etcd_client::DeleteOptions::new().with_prefix();
    etcd.clone().delete(prefix, Some(all)).await?;
    Ok(())
}

/// How a key is put.
#[derive(Clone, Copy)]
pub enum Puts {
    Plain,
    /// As the operator does it: only if the key does not exist, and only if a fence holds.
    Guarded,
}

/// Writes keys on leases as the operator does, but without a thought: the same number in a transaction, as many
/// transactions at once, as many keys on a lease.
pub async fn put_leased(etcd: &Client, (prefix, count): (&str, u32), size: usize, puts: Puts) -> Result<Duration> {
    let mut leases = Vec::new();
    for _ in 0..count.div_ceil(256) {
        leases.push(etcd.clone().lease_grant(60, None).await?.id());
    }
    write(etcd, (prefix, count), &"v".repeat(size), &leases, puts).await
}

async fn write(
    etcd: &Client,
    (prefix, count): (&str, u32),
    value: &str,
    leases: &[i64],
    how: Puts,
) -> Result<Duration> {
    let fence = format!("{prefix}fence");
    if matches!(how, Puts::Guarded) {
        etcd.clone().put(&*fence, "", None).await?;
    }
    let begin = Instant::now();
    let batch = |first: u32| {
        let put = |i: u32| {
            let lease = leases[i as usize / 256 % leases.len()];
            let options = PutOptions::new().with_lease(lease);
            let key = format!("{prefix}{i:08}");
            let put = TxnOp::put(&*key, value, Some(options));
            match how {
                Puts::Plain => put,
                Puts::Guarded => TxnOp::txn(
                    Txn::new()
                        .when([Compare::create_revision(&*key, CompareOp::Equal, 0)])
                        .and_then([put])
                        .or_else([TxnOp::get(&*key, None)]),
                ),
            }
        };
        let puts: Vec<_> = (first..count.min(first + PUTS)).map(put).collect();
        let holds = match how {
            Puts::Plain => Vec::new(),
            Puts::Guarded => vec![Compare::create_revision(&*fence, CompareOp::Greater, 0)],
        };
        let mut etcd = etcd.clone();
        async move { etcd.txn(Txn::new().when(holds).and_then(puts)).await.map(drop) }
    };
    let all = stream::iter((0..count).step_by(PUTS as usize))
        .map(batch)
        .buffer_unordered(IN_FLIGHT);
    all.try_collect::<()>().await?;
    Ok(begin.elapsed())
}

/// Sums up the sizes of the statuses of a registration that are written during `load`, as JSON, in bytes.
pub async fn status_bytes<T>(
    namespace: &Namespace,
    name: &str,
    load: impl Future<Output = Result<T>>,
) -> Result<(u32, u64)> {
    let api = registrations(namespace);
    let version = api.get(name).await?.metadata.resource_version.unwrap_or_default();
    let only = kube::api::WatchParams::default().fields(&format!("metadata.name={name}"));
    let mut watch = api.watch(&only, &version).await?.boxed();
    let (mut bytes, mut writes) = (0, 0);
    let mut load = std::pin::pin!(load);
    loop {
        tokio::select! {
            event = watch.try_next() => match event? {
                Some(kube::api::WatchEvent::Modified(object)) => {
                    bytes += serde_json::to_string(&object.status).unwrap_or_default().len() as u64;
                    writes += 1;
                }
                Some(_) => {}
                None => return Err(crate::error::Error::Broken("the watch of a registration ended".to_owned())),
            },
            done = &mut load => {
                done?;
                return Ok((writes, bytes));
            }
        }
    }
}
