//! The HTTP server that shows metrics and health.

use std::future::{Future, IntoFuture};
use std::io;

use axum::Router;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::routing::get;
use tokio::net::TcpListener;

use super::health::Health;
use super::metrics::Exposition;

/// Answers on `listener` until `shutdown` ends; returns an error when connections can no longer be accepted.
///
/// - `/metrics`: all metrics, as OpenMetrics text.
/// - `/healthz`: 200 while the process runs tasks. It says nothing of its peers: a restart would not mend them.
/// - `/readyz`: 200, or 503 with what is waited for. See [`Health`] for the rule.
pub async fn serve(
    listener: TcpListener,
    health: Health,
    exposition: Exposition,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    let metrics = move || async move { ([(CONTENT_TYPE, Exposition::CONTENT_TYPE)], exposition.text()) };
    let readyz = move || async move {
        match health.ready() {
            Ok(()) => (StatusCode::OK, "ok\n".to_owned()),
            Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {reason}\n")),
        }
    };
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz));
    // Not axum's graceful shutdown: that waits for every open connection, and answers here take no time.
    tokio::select! {
        ended = axum::serve(listener, router).into_future() => ended,
        () = shutdown => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;
    use tokio::sync::oneshot;

    use super::super::health::RegistryHealth;
    use super::super::metrics::Metrics;
    use super::*;

    /// Head and body of the answer to `GET path`.
    async fn ask(server: SocketAddr, path: &str) -> (String, String) {
        let mut stream = TcpStream::connect(server).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.to_owned(), body.to_owned())
    }

    #[tokio::test]
    async fn metrics_and_health_are_shown_until_the_shutdown() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = listener.local_addr().unwrap();
        let (metrics, exposition) = Metrics::new();
        let health = Health::new();
        let (stop, stopped) = oneshot::channel::<()>();
        let shutdown = async { drop(stopped.await) };
        let task = tokio::spawn(serve(listener, health.clone(), exposition, shutdown));

        let (head, body) = ask(server, "/healthz").await;
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        assert_eq!(body, "ok\n");

        metrics.registry("default").set_leader(true);
        let (head, body) = ask(server, "/metrics").await;
        assert!(head.contains("content-type: application/openmetrics-text"), "{head}");
        assert!(body.contains("leasehold_leader{registry=\"default\"} 1\n"), "{body}");
        assert!(body.ends_with("# EOF\n"), "{body}");

        let (head, body) = ask(server, "/readyz").await;
        assert!(head.starts_with("HTTP/1.1 503"), "{head}");
        assert!(body.starts_with("not ready: waiting for"), "{body}");
        health.set_registry("default", RegistryHealth::Leading);
        health.set_caches_complete(true);
        assert!(ask(server, "/readyz").await.0.starts_with("HTTP/1.1 200"));
        assert!(ask(server, "/nothing").await.0.starts_with("HTTP/1.1 404"));

        // A connection that never asks anything does not hold up the end.
        let _idle = TcpStream::connect(server).await.unwrap();
        stop.send(()).unwrap();
        task.await.unwrap().unwrap();
        TcpStream::connect(server).await.unwrap_err();
    }
}
