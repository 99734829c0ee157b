//! Keeps the key by which the replicas of an installation authenticate each other. The key is in a Secret of the
//! operator's own namespace; the first replica that finds none generates it.
//!
//! The installation (the chart) creates the Secret itself: RBAC cannot limit `create` to one name, but can limit `get`
//! and `patch`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use serde_json::json;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::client::MANAGER;
use crate::model::Backoff;
use crate::peer::{KeyState, PeerKey};
use crate::telemetry::{Calls, Metrics, Outcome, Peer};

/// The entry in the Secret's data.
const ENTRY: &str = "key";
/// Time-out of one request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Pauses before the key is read again after a failure: the first, and the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Minimum time between two reads because another replica presents a different key.
const MIN_REREAD_INTERVAL: Duration = Duration::from_secs(5);
/// Further wait before the next read while no replica presents a different key.
const RESYNC_INTERVAL: Duration = Duration::from_mins(5);

/// Keeps `key` equal to the Secret `name`, until `shutdown`. Reads the Secret again when `key_mismatch` is notified, at the
/// earliest `MIN_REREAD_INTERVAL` after the last successful read.
pub async fn keep_peer_key(
    client: Client,
    (namespace, name): (Arc<str>, String),
    metrics: Metrics,
    key: watch::Sender<KeyState>,
    key_mismatch: Arc<Notify>,
    shutdown: CancellationToken,
) {
    let api: Api<Secret> = Api::namespaced(client, &namespace);
    let keep = async {
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        loop {
            match read(&api, &name, &metrics.calls).await {
                Ok(found) => {
                    backoff.reset();
                    metrics.set_peer_key(true);
                    let found = KeyState::Known(found);
                    key.send_if_modified(|known| {
                        let is_new = *known != found;
                        if is_new {
                            info!(secret = %name, "using the peer key of this Secret");
                            *known = found;
                        }
                        is_new
                    });
                    sleep(MIN_REREAD_INTERVAL).await;
                    tokio::select! {
                        () = key_mismatch.notified() => {}
                        () = sleep(RESYNC_INTERVAL) => {}
                    }
                }
                Err(cause) => {
                    let pause = backoff.next_pause();
                    // A known key stays: a failed read does not mean that the key has changed.
                    key.send_if_modified(|known| {
                        let is_new = matches!(known, KeyState::Pending);
                        if is_new || pause == LONGEST_PAUSE {
                            warn!(
                                namespace = %namespace, secret = %name, %cause,
                                "no peer key: replicas do not connect to each other, and a crashed leader is replaced \
                                 only when its session expires; create this Secret and allow the operator to get and \
                                 patch it"
                            );
                        }
                        if is_new || matches!(known, KeyState::Missing(_)) {
                            *known = KeyState::Missing(cause);
                        }
                        is_new
                    });
                    sleep(pause).await;
                }
            }
        }
    };
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = keep => {}
    }
}

/// Returns the key in the Secret. Generates and writes a key if the Secret has none. The error says why there is no
/// key.
async fn read(api: &Api<Secret>, name: &str, calls: &Calls) -> Result<PeerKey, String> {
    let secret = call(calls, "get_peer_key", api.get(name)).await?;
    let version = secret.resource_version().unwrap_or_default();
    if let Some(ByteString(bytes)) = secret.data.unwrap_or_default().remove(ENTRY) {
        let wrong = || {
            format!(
                "the entry {ENTRY} of the Secret {name} has {} bytes instead of 32: delete this entry",
                bytes.len()
            )
        };
        return PeerKey::read(&bytes).ok_or_else(wrong);
    }
    let key = PeerKey::random();
    let entry = BTreeMap::from([(ENTRY, ByteString(key.bytes().to_vec()))]);
    // The write is conditional on the resourceVersion: a second replica gets a conflict, and reads the first one's key
    // on its next attempt.
    let patch = Patch::Merge(json!({"metadata": {"resourceVersion": version}, "data": entry}));
    let parameters = PatchParams {
        field_manager: Some(MANAGER.to_owned()),
        ..PatchParams::default()
    };
    call(calls, "write_peer_key", api.patch(name, &parameters, &patch)).await?;
    Ok(key)
}

async fn call<T>(
    calls: &Calls,
    name: &'static str,
    request: impl Future<Output = kube::Result<T>>,
) -> Result<T, String> {
    let started = Instant::now();
    let (outcome, result) = match timeout(REQUEST_TIMEOUT, request).await {
        Ok(Ok(answer)) => (Outcome::Ok, Ok(answer)),
        Ok(Err(kube::Error::Api(status))) => {
            let refused = matches!(status.code, 403 | 404 | 409);
            let outcome = if refused { Outcome::Refused } else { Outcome::Error };
            (outcome, Err(status.message.clone()))
        }
        Ok(Err(error)) => (Outcome::Error, Err(error.to_string())),
        Err(_) => (Outcome::Timeout, Err(format!("no answer within {REQUEST_TIMEOUT:?}"))),
    };
    calls.observe(Peer::Apiserver, name, outcome, started.elapsed());
    result
}
