//! The connections of watches: HTTP/2 with pings, as in client-go, so that a dead connection is noticed although its watches
//! are idle.
//!
//! Behind a proxy, and where the API server has no HTTP/2, a dead connection is noticed only because a watch does not end
//! in time. There, watches last [`WATCH_WITHOUT_PINGS`].

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::{Stream, stream};
use http::{Request, Response, Uri, Version};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Bytes, Frame};
use hyper_rustls::{FixedServerNameResolver, HttpsConnectorBuilder};
use hyper_timeout::TimeoutConnector;
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use kube::client::{Body, ClientBuilder, ConfigExt};
use kube::{Client, Config, Error};
use tokio::time::timeout;
use tower::util::{ServiceExt, option_layer};
use tower::{Layer, service_fn};
use tracing::warn;

use super::client::{BoxError, ClientError, Endpoint, SILENCE};

/// Seconds after which the API server ends a watch, and the next watch continues at the same resourceVersion. Before each
/// watch, the operator lists one object: see [`super::watch_connection`].
pub(super) const WATCH: u32 = 60;
/// The same without pings.
const WATCH_WITHOUT_PINGS: u32 = 10;
/// How late the end of a watch may be.
const MARGIN: Duration = Duration::from_secs(5);
/// A connection that has received nothing for this long sends a ping.
const PING: Duration = Duration::from_secs(5);
/// A connection on which a ping is not answered within this time is dead.
const PONG: Duration = Duration::from_secs(10);
/// After this time without data, answers to pings included, a connection is dead.
pub(super) const DEAD_AFTER: Duration = Duration::from_secs(15);
/// Watches on one connection. The API server allows 100 streams by default.
const WATCHES: usize = 50;
/// Bytes that a watch may have in flight while the operator does not read them. The connection allows it to each watch, so
/// that a slow one does not stop the others.
const WINDOW: u32 = 256 * 1024;

/// Makes clients for watches. Only so many watches share a connection as the API server allows.
pub struct WatchClients {
    endpoint: Endpoint,
    client: Client,
    /// The number of watches that use `client`.
    watch_count: usize,
}

impl WatchClients {
    pub(super) fn new(endpoint: Endpoint) -> Result<Self, ClientError> {
        Ok(Self {
            client: endpoint.watch_client()?,
            endpoint,
            watch_count: 0,
        })
    }

    /// Returns the client for one more watch.
    pub(super) fn client(&mut self) -> Client {
        if self.watch_count >= WATCHES {
            match self.endpoint.watch_client() {
                Ok(client) => (self.client, self.watch_count) = (client, 0),
                Err(cause) => warn!(%cause, "cannot open one more connection for watches; they share the present one"),
            }
        }
        self.watch_count += 1;
        self.client.clone()
    }
}

impl Endpoint {
    fn watch_client(&self) -> Result<Client, ClientError> {
        let client = match &self.proxy {
            // Only kube's client supports proxies.
            Some(_) => self.client()?,
            None => http2_client(&self.config).map_err(|cause| ClientError::Client(Box::new(cause)))?,
        };
        Ok(with_timeouts(client))
    }
}

/// Returns a client as kube would build it from `config`, but with HTTP/2 if the API server has it, and without kube's
/// retries: watches are retried anyway.
fn http2_client(config: &Config) -> Result<Client, Error> {
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    let mut https = HttpsConnectorBuilder::new()
        .with_tls_config(config.rustls_client_config()?)
        .https_or_http();
    if let Some(name) = &config.tls_server_name {
        let name = name
            .clone()
            .try_into()
            .map_err(|cause| Error::Service(Box::new(cause)))?;
        https = https.with_server_name_resolver(FixedServerNameResolver::new(name));
    }
    let mut connector = TimeoutConnector::new(https.enable_all_versions().wrap_connector(connector));
    connector.set_connect_timeout(config.connect_timeout);
    connector.set_read_timeout(config.read_timeout);
    connector.set_reset_reader_on_write(config.reset_reader_on_write);
    let client: legacy::Client<_, Body> = legacy::Client::builder(TokioExecutor::new())
        .timer(TokioTimer::new())
        .http2_keep_alive_interval(PING)
        .http2_keep_alive_timeout(PONG)
        .http2_initial_stream_window_size(WINDOW)
        .http2_initial_connection_window_size(WINDOW * u32::try_from(WATCHES).expect("few"))
        .build(connector);
    let client = config.extra_headers_layer()?.layer(client.map_err(BoxError::from));
    let client = option_layer(config.auth_layer()?).layer(client);
    let client = config.base_uri_layer().layer(client);
    Ok(ClientBuilder::new(client, config.default_namespace.clone()).build())
}

/// Limits how long an answer, and each part of it, may take, and shortens watches while `client` has no HTTP/2 connection.
fn with_timeouts(client: Client) -> Client {
    let namespace = client.default_namespace().to_owned();
    let has_pings = Arc::new(AtomicBool::new(false));
    let service = service_fn(move |mut request: Request<Body>| {
        let (client, has_pings) = (client.clone(), has_pings.clone());
        async move {
            let is_watch = is_watch(request.uri());
            if !has_pings.load(Ordering::Relaxed)
                && let Some(shorter) = shortened(request.uri())
            {
                *request.uri_mut() = shorter;
            }
            let answer = timeout(SILENCE, client.send(request));
            let answer: Response<Body> = answer.await.map_err(|_| late(SILENCE))??;
            let is_http2 = answer.version() == Version::HTTP_2;
            has_pings.store(is_http2, Ordering::Relaxed);
            let most = match (is_watch, is_http2) {
                (false, _) => SILENCE,
                (true, true) => Duration::from_secs(WATCH.into()) + MARGIN,
                (true, false) => DEAD_AFTER,
            };
            Ok::<_, BoxError>(answer.map(|body| with_timeout_between_frames(body, most)))
        }
    });
    ClientBuilder::new(service, namespace).build()
}

/// Returns `body`, which fails when nothing arrives for longer than `most`. A stalled stream of an HTTP/2 connection is
/// noticed by this alone: the connection answers pings.
fn with_timeout_between_frames<B>(
    body: B,
    most: Duration,
) -> StreamBody<impl Stream<Item = Result<Frame<Bytes>, BoxError>>>
where
    B: hyper::body::Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    StreamBody::new(stream::unfold(Some(Box::pin(body)), move |body| async move {
        let mut body = body?;
        match timeout(most, body.frame()).await {
            Ok(frame) => Some((frame?.map_err(Into::into), Some(body))),
            Err(_) => Some((Err(late(most)), None)),
        }
    }))
}

fn late(most: Duration) -> BoxError {
    format!("the kube-apiserver sent nothing for {most:?}").into()
}

fn is_watch(uri: &Uri) -> bool {
    let mut fields = uri.query().unwrap_or_default().split('&');
    fields.any(|field| field == "watch=true")
}

/// Returns `uri` with the time that a watch may last without pings; `None` if it is not that of a watch.
fn shortened(uri: &Uri) -> Option<Uri> {
    let query = uri.query().filter(|_| is_watch(uri))?;
    let (long, short) = (
        format!("timeoutSeconds={WATCH}"),
        format!("timeoutSeconds={WATCH_WITHOUT_PINGS}"),
    );
    let fields = query.split('&').map(|field| if field == long { &short } else { field });
    let query: Vec<&str> = fields.collect();
    format!("{}?{}", uri.path(), query.join("&")).parse().ok()
}

#[cfg(test)]
mod tests {
    use futures::StreamExt;
    use kube::api::WatchParams;

    use super::*;

    #[tokio::test]
    async fn body_that_stalls_fails() {
        let begun = stream::iter([Ok::<_, BoxError>(Frame::data(Bytes::from("{}")))]);
        let stalled = StreamBody::new(begun.chain(stream::pending()));
        let mut body = Box::pin(with_timeout_between_frames(stalled, Duration::from_millis(20)));
        assert!(body.frame().await.is_some_and(|frame| frame.is_ok()));
        assert!(body.frame().await.is_some_and(|frame| frame.is_err()), "it stalls");
        assert!(body.frame().await.is_none(), "it has ended");
    }

    #[test]
    fn only_a_watch_is_shortened() {
        let pods = kube::core::Request::new("/api/v1/pods");
        let watch = pods
            .watch(&WatchParams::default().timeout(WATCH), "42")
            .expect("a request");
        let watch = watch.uri().to_string();
        assert!(watch.contains("timeoutSeconds=60"), "{watch}");
        for (uri, expected) in [
            ("/api/v1/pods?&limit=500&timeoutSeconds=60", None),
            ("/api/v1/pods", None),
            (
                watch.as_str(),
                Some(watch.replace("timeoutSeconds=60", "timeoutSeconds=10")),
            ),
        ] {
            let found = shortened(&uri.parse().unwrap());
            assert_eq!(found.map(|uri| uri.to_string()), expected, "{uri}");
        }
    }
}
