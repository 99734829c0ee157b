//! The connections of the watches: HTTP/2 with pings, as client-go has them, so that a connection that carries nothing any
//! more is noticed although its watches are idle.
//!
//! Where HTTP/2 is not to be had (an API server behind a proxy, kube's clients), nothing tells an idle watch from a dead
//! one but its end. There the watches last [`WATCH_WITHOUT_PINGS`].

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::{Request, Response, Uri, Version};
use hyper_rustls::{FixedServerNameResolver, HttpsConnectorBuilder};
use hyper_timeout::TimeoutConnector;
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use kube::client::{Body, ClientBuilder, ConfigExt};
use kube::{Client, Config, Error};
use tower::util::{ServiceExt, option_layer};
use tower::{Layer, service_fn};
use tracing::warn;

use super::client::{BoxError, ClientError, Endpoint};

/// Seconds after which the API server ends a watch, and the next watch continues at the same resourceVersion. Before it,
/// one object is listed: see [`super::watch_connection`].
pub(super) const WATCH: u32 = 60;
/// The same without pings. A watch that the API server has not ended 5 s later is dead, even if its connection looks
/// healthy.
const WATCH_WITHOUT_PINGS: u32 = 10;
/// A connection that has received nothing for this long sends a ping.
const PING: Duration = Duration::from_secs(5);
/// A connection on which a ping is not answered within this time is dead.
const PONG: Duration = Duration::from_secs(10);
/// Longest time without data, answers to pings included, on a connection that works.
pub(super) const DEAD_AFTER: Duration = Duration::from_secs(15);
/// Watches on one connection. Each needs a second stream for a moment, and an API server allows 250 in all.
const WATCHES: usize = 100;

/// Makes clients for watches. Only so many watches share a connection as the API server allows.
pub struct WatchClients {
    endpoint: Endpoint,
    client: Client,
    /// Watches that got `client`.
    given: usize,
}

impl WatchClients {
    pub(super) fn new(endpoint: Endpoint) -> Result<Self, ClientError> {
        Ok(Self {
            client: endpoint.watch_client()?,
            endpoint,
            given: 0,
        })
    }

    /// Returns the client for one more watch.
    pub(super) fn client(&mut self) -> Client {
        if self.given == WATCHES {
            match self.endpoint.watch_client() {
                Ok(client) => (self.client, self.given) = (client, 0),
                Err(cause) => warn!(%cause, "cannot open one more connection for watches; they share the present one"),
            }
        }
        self.given += 1;
        self.client.clone()
    }
}

impl Endpoint {
    fn watch_client(&self) -> Result<Client, ClientError> {
        let mut config = self.config.clone();
        config.read_timeout = Some(DEAD_AFTER);
        let client = match &self.proxy {
            // Hyper's connectors for proxies are not worth a second copy of what kube makes of them.
            Some(_) => self.client_with(config)?,
            None => http2_client(&config).map_err(|cause| ClientError::Client(Box::new(cause)))?,
        };
        Ok(with_watches_that_end_in_time(client))
    }
}

/// Returns what kube makes of `config`, with HTTP/2 where the API server has it.
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
        .build(connector);
    let client = config.extra_headers_layer()?.layer(client.map_err(BoxError::from));
    let client = option_layer(config.auth_layer()?).layer(client);
    let client = config.base_uri_layer().layer(client);
    Ok(ClientBuilder::new(client, config.default_namespace.clone()).build())
}

/// Shortens watches while `client` has no HTTP/2 connection.
fn with_watches_that_end_in_time(client: Client) -> Client {
    let namespace = client.default_namespace().to_owned();
    let has_pings = Arc::new(AtomicBool::new(false));
    let service = service_fn(move |mut request: Request<Body>| {
        let (client, has_pings) = (client.clone(), has_pings.clone());
        async move {
            if !has_pings.load(Ordering::Relaxed)
                && let Some(shorter) = shortened(request.uri())
            {
                *request.uri_mut() = shorter;
            }
            let answer: Response<Body> = client.send(request).await?;
            has_pings.store(answer.version() == Version::HTTP_2, Ordering::Relaxed);
            Ok::<_, Error>(answer)
        }
    });
    ClientBuilder::new(service, namespace).build()
}

/// Returns `uri` with the time that a watch may last without pings; `None` if it is not that of a watch.
fn shortened(uri: &Uri) -> Option<Uri> {
    let query = uri.query()?;
    let is_watch = query.split('&').any(|field| field == "watch=true");
    let (long, short) = (
        format!("timeoutSeconds={WATCH}"),
        format!("timeoutSeconds={WATCH_WITHOUT_PINGS}"),
    );
    let fields = query.split('&').map(|field| if field == long { &short } else { field });
    let query: Vec<&str> = is_watch.then(|| fields.collect())?;
    format!("{}?{}", uri.path(), query.join("&")).parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_watch_is_shortened() {
        for (uri, expected) in [
            (
                "/api/v1/pods?&watch=true&timeoutSeconds=60&allowWatchBookmarks=true&resourceVersion=42",
                Some("/api/v1/pods?&watch=true&timeoutSeconds=10&allowWatchBookmarks=true&resourceVersion=42"),
            ),
            ("/api/v1/pods?&limit=500&timeoutSeconds=60", None),
            ("/api/v1/pods", None),
        ] {
            let found = shortened(&uri.parse().unwrap());
            assert_eq!(found.map(|uri| uri.to_string()).as_deref(), expected, "{uri}");
        }
    }
}
