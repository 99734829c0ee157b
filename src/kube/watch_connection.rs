//! The connection of one watch: the time since the API server last answered, and whether the API server was restored to
//! an older state.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::{Request, Response, Uri, header};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ListMeta;
use kube::client::{Body, ClientBuilder};
use kube::{Client, Error};
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tower::service_fn;

use super::watches::WatchEvent;
use crate::model::WatchTarget;

/// Time-out for the start of a watch. A healthy API server answers at once.
const ANSWER: Duration = Duration::from_secs(10);
/// Requests the metadata of objects only.
const NAMES: &str = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";

/// The state of one watch connection.
#[derive(Debug)]
pub(super) struct WatchConnection {
    target: WatchTarget,
    event_sender: mpsc::Sender<WatchEvent>,
    last_received: Mutex<Instant>,
    forgetful: AtomicBool,
}

/// The part of a list that carries its resourceVersion.
#[derive(Debug, Deserialize)]
struct List {
    metadata: ListMeta,
}

impl WatchConnection {
    /// Returns the connection on which `target` is watched, and a client that sends through `client` and observes the
    /// answers. Sends a bookmark whenever a watch begins.
    pub(super) fn open(
        client: Client,
        target: WatchTarget,
        event_sender: mpsc::Sender<WatchEvent>,
    ) -> (Arc<Self>, Client) {
        let line = Arc::new(Self {
            target,
            event_sender,
            last_received: Mutex::new(Instant::now()),
            forgetful: AtomicBool::new(false),
        });
        let namespace = client.default_namespace().to_owned();
        let listening = {
            let line = line.clone();
            service_fn(move |request: Request<Body>| {
                let (line, client) = (line.clone(), client.clone());
                async move { line.send(&client, request).await }
            })
        };
        (line, ClientBuilder::new(listening, namespace).build())
    }

    /// Records that the API server has just answered or sent an event for this target.
    pub(super) fn record_receipt(&self) {
        *self.last_received.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// Returns the time since the last call of [`Self::record_receipt`].
    pub(super) fn silent_for(&self) -> Duration {
        self.last_received
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .elapsed()
    }

    /// Returns whether the API server was found restored to an older state since the last call.
    pub(super) fn take_forgetful(&self) -> bool {
        self.forgetful.swap(false, Ordering::Relaxed)
    }

    async fn send(&self, client: &Client, request: Request<Body>) -> Result<Response<Body>, Error> {
        let answer = match watched_from(request.uri()) {
            None => client.send(request).await?,
            Some(version) => {
                let watch = async {
                    let asked = std::time::Instant::now();
                    let present = self.compare(client, request.uri(), version).await?;
                    // Everything before `version` has been sent already, since the next watch is requested only after
                    // that. Bookmarks advance the version as well, so the checkpoint keeps up on idle kinds, too. If
                    // the receiver is closed, the operator is shutting down.
                    let reached = WatchEvent::Bookmark {
                        target: self.target.clone(),
                        version,
                        present: present.map(|present| (present, asked)),
                    };
                    let _ = self.event_sender.send(reached).await;
                    client.send(request).await
                };
                let late = |_| Error::Service(format!("no answer within {ANSWER:?}").into());
                timeout(ANSWER, watch).await.map_err(late)??
            }
        };
        if answer.status().is_success() {
            self.record_receipt();
        }
        Ok(answer)
    }

    /// Returns the API server's present resourceVersion, if that is a number. Fails if that version is older than
    /// `version`, which happens after the API server's etcd was restored from a backup. A watch from `version` would
    /// then deliver nothing, without an error, until the API server's versions have reached `version` again.
    async fn compare(&self, client: &Client, uri: &Uri, version: u64) -> Result<Option<u64>, Error> {
        let request = Request::get(one_of(uri)).header(header::ACCEPT, NAMES).body(Vec::new());
        let list: List = client.request(request.map_err(Error::HttpError)?).await?;
        let now = list.metadata.resource_version.unwrap_or_default();
        let present: Option<u64> = now.parse().ok();
        if present.is_some_and(|present| present < version) {
            self.forgetful.store(true, Ordering::Relaxed);
            let cause =
                format!("the kube-apiserver is at version {now}, but was at {version} before: its etcd was restored");
            return Err(Error::Service(cause.into()));
        }
        Ok(present)
    }
}

/// Returns the version from which a request wants to watch; `None` if the request is no watch, or the version is no
/// number.
fn watched_from(uri: &Uri) -> Option<u64> {
    let fields = || uri.query().unwrap_or_default().split('&');
    fields().find(|field| *field == "watch=true")?;
    fields().find_map(|field| field.strip_prefix("resourceVersion=")?.parse().ok())
}

/// Returns the path that lists one of the objects watched at `uri`. Keeps the field selector, since the client may be
/// allowed to see only the selected objects.
fn one_of(uri: &Uri) -> String {
    let mut fields = uri.query().unwrap_or_default().split('&');
    let selected = fields.find(|field| field.starts_with("fieldSelector="));
    let selected = selected.map(|field| format!("&{field}")).unwrap_or_default();
    format!("{}?limit=1{selected}", uri.path())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_request_is_recognized_and_names_its_version() {
        for (uri, version) in [
            (
                "/api/v1/pods?&watch=true&timeoutSeconds=15&resourceVersion=42",
                Some(42),
            ),
            ("/api/v1/pods?&watch=true&resourceVersion=opaque", None),
            ("/api/v1/pods?&limit=500&resourceVersion=42", None),
            ("/api/v1/pods", None),
        ] {
            assert_eq!(watched_from(&uri.parse().unwrap()), version, "{uri}");
        }
    }

    #[test]
    fn list_request_uses_the_selectors_of_the_watch() {
        for (uri, expected) in [
            ("/api/v1/pods?&watch=true&resourceVersion=42", "/api/v1/pods?limit=1"),
            (
                "/api/v1/namespaces?&watch=true&fieldSelector=metadata.name%3Dshop&resourceVersion=42",
                "/api/v1/namespaces?limit=1&fieldSelector=metadata.name%3Dshop",
            ),
        ] {
            assert_eq!(one_of(&uri.parse().unwrap()), expected);
        }
    }
}
