//! The HTTP server for metrics and health. It bounds the size and the duration of requests.

use std::convert::Infallible;
use std::future::Future;
use std::io::{self, ErrorKind};
use std::net::IpAddr;
use std::time::Duration;

use axum::http::header::{AUTHORIZATION, CONNECTION, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderValue, Request, StatusCode};
use axum::routing::get;
use axum::{Extension, Router};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinSet, yield_now};
use tokio::time::{sleep, timeout};
use tower::ServiceExt;

use super::connections::{Activity, Connections, network};
use super::gate::{Gate, Refusal};
use super::health::Health;
use super::metrics::Exposition;

/// The time-out for receiving the head of a request, for the first and for every further request of a connection.
const HEAD: Duration = Duration::from_secs(5);
/// The maximum lifetime of a connection. Clients then open another one.
const LIFE: Duration = Duration::from_mins(1);
/// The maximum size of a request head, in bytes. Responses may be larger.
const HEAD_BYTES: usize = 16 << 10;
/// The maximum number of open connections. For a further one, idle connections are closed: see [`Connections`].
const CONNECTIONS: usize = 256;
/// The pause after a local failure to accept, such as too many open files.
const PAUSE: Duration = Duration::from_secs(1);

/// Serves requests on `listener` until `shutdown` ends. The constants above bound the cost of a request.
///
/// - `/metrics`: all metrics as OpenMetrics text; if there is a `gate`, only for callers that it admits.
/// - `/healthz`: 200 while the process runs tasks. It does not depend on peers, because a restart would not help.
/// - `/readyz`: 200, or 503 with what readiness waits for. See [`Health`] for the rules.
pub async fn serve(
    listener: TcpListener,
    health: Health,
    exposition: Exposition,
    gate: Option<Gate>,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    let metrics = move |Extension(Caller(address)): Extension<Caller>, headers: HeaderMap| async move {
        if let Some(gate) = gate {
            gate.admit(headers.get(AUTHORIZATION), address).await?;
        }
        Ok::<_, Refusal>(([(CONTENT_TYPE, Exposition::CONTENT_TYPE)], exposition.recent().await))
    };
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
    // On shutdown, open connections are not drained: responses take almost no time.
    tokio::select! {
        never = accept(&listener, &router) => match never {},
        () = shutdown => Ok(()),
    }
}

/// The address that a request comes from.
#[derive(Clone, Copy)]
struct Caller(IpAddr);

/// Accepts connections. All connections end when this future is dropped.
async fn accept(listener: &TcpListener, router: &Router) -> Infallible {
    let (mut tasks, mut connections) = (JoinSet::new(), Connections::new(CONNECTIONS));
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                while tasks.try_join_next().is_some() {}
                if connections.make_room() {
                    // Under a flood of connections, let those that were accepted send their requests first.
                    yield_now().await;
                }
                let activity = connections.activity();
                let address = network(peer.ip());
                let answered = answer(stream, Caller(address), router.clone(), activity.clone());
                connections.add(address, activity, tasks.spawn(timeout(LIFE, answered)));
            }
            // The client has disconnected already.
            Err(error) if matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset) => {}
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection for metrics and health");
                sleep(PAUSE).await;
            }
        }
    }
}

async fn answer(stream: TcpStream, caller: Caller, router: Router, activity: Activity) {
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(caller);
        let (router, activity) = (router.clone(), activity.clone());
        async move {
            let is_last = activity.begin();
            let mut response = router.oneshot(request).await?;
            if is_last {
                let headers = response.headers_mut();
                headers.insert(CONNECTION, HeaderValue::from_static("close"));
            }
            activity.end();
            Ok::<_, Infallible>(response)
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    // A client that disconnects or times out gets no response; there is nothing else to do.
    let _ = connection.await;
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;
    use tokio::sync::oneshot;

    use super::super::gate::Judgement;
    use super::super::health::RegistryHealth;
    use super::super::metrics::Metrics;
    use super::*;

    /// Returns the head and the body of the response to `GET path`.
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
        let task = tokio::spawn(serve(listener, health.clone(), exposition, None, shutdown));

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

        // A connection that never sends a request does not delay the shutdown.
        let _idle = TcpStream::connect(server).await.unwrap();
        stop.send(()).unwrap();
        task.await.unwrap().unwrap();
        TcpStream::connect(server).await.unwrap_err();
    }

    #[tokio::test]
    async fn behind_a_gate_are_the_metrics_and_nothing_else() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = listener.local_addr().unwrap();
        let (_metrics, exposition) = Metrics::new();
        let gate = Gate::new(Box::new(|_| Box::pin(std::future::ready(Judgement::Unauthenticated))));
        tokio::spawn(serve(
            listener,
            Health::new(),
            exposition,
            Some(gate),
            std::future::pending(),
        ));
        let (head, body) = ask(server, "/metrics").await;
        assert!(head.starts_with("HTTP/1.1 401"), "{head}");
        assert!(head.contains("www-authenticate: Bearer"), "{head}");
        assert!(body.contains("send the bearer token of an account"), "{body}");
        assert!(!body.contains("leasehold_"), "{body}");
        assert!(ask(server, "/healthz").await.0.starts_with("HTTP/1.1 200"));
        assert!(ask(server, "/readyz").await.0.starts_with("HTTP/1.1 503"));
    }

    /// Whether the server answers a probe in time.
    async fn probe(server: SocketAddr) -> bool {
        let answered = timeout(Duration::from_secs(5), async {
            let mut stream = TcpStream::connect(server).await.ok()?;
            let request = format!("GET /healthz HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await.ok()?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.ok()?;
            answer.starts_with("HTTP/1.1 200").then_some(())
        });
        answered.await.is_ok_and(|answered| answered.is_some())
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn p10_idle_connections_do_not_starve_probes() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = listener.local_addr().unwrap();
        let (_metrics, exposition) = Metrics::new();
        tokio::spawn(serve(listener, Health::new(), exposition, None, std::future::pending()));
        let mut strangers = JoinSet::new();
        for _ in 0..400 {
            strangers.spawn(async move {
                // Clients whose connection is closed reconnect at once.
                loop {
                    if let Ok(mut stream) = TcpStream::connect(server).await {
                        let _ = stream.read(&mut [0]).await;
                    }
                    yield_now().await;
                }
            });
        }
        // Until all clients are connected.
        sleep(Duration::from_millis(200)).await;
        let mut failed = 0;
        for _ in 0..60 {
            failed += usize::from(!probe(server).await);
        }
        assert_eq!(failed, 0, "of 60 probes");
    }

    #[tokio::test]
    async fn p10_invalid_tokens_starve_neither_probes_nor_readers() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = listener.local_addr().unwrap();
        let (_metrics, exposition) = Metrics::new();
        let judge = |token: crate::secret::SecretString| -> futures::future::BoxFuture<'static, Judgement> {
            let judgement = match token.reveal() {
                "good" => Judgement::Allowed,
                _ => Judgement::Unauthenticated,
            };
            Box::pin(std::future::ready(judgement))
        };
        let gate = Some(Gate::new(Box::new(judge)));
        tokio::spawn(serve(listener, Health::new(), exposition, gate, std::future::pending()));
        let show = async |token: &str| {
            let mut stream = TcpStream::connect(server).await.unwrap();
            let request = format!(
                "GET /metrics HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\nAuthorization: Bearer {token}\r\n\r\n"
            );
            stream.write_all(request.as_bytes()).await.unwrap();
            stream
        };
        let read = async |mut stream: TcpStream| {
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            answer
        };
        assert!(read(show("good").await).await.starts_with("HTTP/1.1 200"));
        let mut strangers = Vec::new();
        for number in 0..300 {
            strangers.push(show(&format!("bad-{number}")).await);
        }
        let mut failed = 0;
        for _ in 0..20 {
            failed += usize::from(!probe(server).await);
            failed += usize::from(!read(show("good").await).await.starts_with("HTTP/1.1 200"));
        }
        assert_eq!(failed, 0, "of 20 probes and 20 readers");
        let answer = read(strangers.pop().expect("the last stranger")).await;
        assert!(
            answer.starts_with("HTTP/1.1 503") && answer.contains("retry-after: 1"),
            "{answer}"
        );
    }

    #[tokio::test]
    async fn a_connection_makes_so_many_requests_and_no_more() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = listener.local_addr().unwrap();
        let (_metrics, exposition) = Metrics::new();
        tokio::spawn(serve(listener, Health::new(), exposition, None, std::future::pending()));
        let mut stream = TcpStream::connect(server).await.unwrap();
        let request = format!("GET /healthz HTTP/1.1\r\nHost: {server}\r\n\r\n");
        // The server may close the connection before all requests are sent.
        let _ = stream.write_all(request.repeat(150).as_bytes()).await;
        let mut answers = Vec::new();
        let _ = stream.read_to_end(&mut answers).await;
        let answers = String::from_utf8_lossy(&answers);
        assert!(answers.matches("HTTP/1.1 200").count() <= 100, "{answers}");
        assert_eq!(answers.matches("connection: close").count(), 1, "{answers}");
    }

    #[tokio::test]
    async fn oversized_and_slow_requests_do_not_block_other_clients() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = listener.local_addr().unwrap();
        let (_metrics, exposition) = Metrics::new();
        tokio::spawn(serve(listener, Health::new(), exposition, None, std::future::pending()));

        let begin = tokio::time::Instant::now();
        let mut slow = TcpStream::connect(server).await.unwrap();
        slow.write_all(b"GET /healthz HTTP/1.1\r\nHost: a").await.unwrap();
        let mut idle = Vec::new();
        for _ in 0..50 {
            idle.push(TcpStream::connect(server).await.unwrap());
        }
        assert!(ask(server, "/healthz").await.0.starts_with("HTTP/1.1 200"));

        let mut long = TcpStream::connect(server).await.unwrap();
        let question = format!(
            "GET /healthz HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n",
            "x".repeat(4 * HEAD_BYTES)
        );
        // The server may close the connection before all of the request is sent.
        let _ = long.write_all(question.as_bytes()).await;
        let mut answer = Vec::new();
        let _ = long.read_to_end(&mut answer).await;
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer}");

        let mut answer = Vec::new();
        timeout(LIFE, slow.read_to_end(&mut answer))
            .await
            .expect("the server closes the connection")
            .unwrap();
        assert!(begin.elapsed() >= HEAD, "{:?}", begin.elapsed());
        let answer = String::from_utf8_lossy(&answer);
        assert!(!answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(ask(server, "/healthz").await.0.starts_with("HTTP/1.1 200"));
    }
}
