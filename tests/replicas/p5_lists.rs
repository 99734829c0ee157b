//! P5, for an apiserver that answers with errors: a list that breaks off and a watch that is gone empty nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{self, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
use kube::Client;
use serde_json::json;
use testbed::{History, Operator, OperatorConfig, Result, until};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::Turn;
use crate::support::{SOON, wait_count, wait_events};

/// Stands between the operator and the apiserver, speaks HTTP with both, and makes every list of several pages.
#[derive(Clone)]
struct Proxy {
    client: Client,
    trouble: Arc<Trouble>,
}

#[derive(Default)]
struct Trouble {
    on: AtomicBool,
    /// Ends the watches that are open when trouble begins.
    cut: CancellationToken,
    broken_lists: AtomicUsize,
    gone_watches: AtomicUsize,
}

impl Trouble {
    fn begin(&self) {
        self.on.store(true, Ordering::SeqCst);
        self.cut.cancel();
    }

    /// The apiserver's answer to a request in trouble, if that is not the usual one.
    fn answer(&self, query: &str) -> Option<StatusCode> {
        let (count, status) = if query.contains("continue=") {
            (&self.broken_lists, StatusCode::INTERNAL_SERVER_ERROR)
        } else if query.contains("watch=true") {
            (&self.gone_watches, StatusCode::GONE)
        } else {
            return None;
        };
        self.on.load(Ordering::SeqCst).then(|| {
            count.fetch_add(1, Ordering::SeqCst);
            status
        })
    }
}

async fn pass(State(proxy): State<Proxy>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let uri = parts.uri.to_string().replace("limit=500", "limit=2");
    if let Some(status) = proxy.trouble.answer(&uri) {
        let reason = if status == StatusCode::GONE {
            "Expired"
        } else {
            "InternalError"
        };
        let told = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": "made up by the test", "reason": reason, "code": status.as_u16(),
        });
        return (status, [(header::CONTENT_TYPE, "application/json")], told.to_string()).into_response();
    }
    let body = to_bytes(body, usize::MAX).await.expect("a request");
    let mut passed = http::Request::builder().method(parts.method).uri(uri);
    for name in [header::CONTENT_TYPE, header::ACCEPT] {
        if let Some(value) = parts.headers.get(&name) {
            passed = passed.header(name, value);
        }
    }
    let passed = passed.body(kube::client::Body::from(body.to_vec())).expect("a request");
    match proxy.client.send(passed).await {
        Ok(answer) => {
            let (parts, body) = answer.into_parts();
            let pieces = Body::new(body).into_data_stream();
            let cut = proxy.trouble.cut.clone();
            let open = !cut.is_cancelled();
            // What is asked for after the cut is answered as a whole.
            let body = if open {
                Body::from_stream(pieces.take_until(cut.cancelled_owned()))
            } else {
                Body::from_stream(pieces)
            };
            Response::from_parts(parts, body)
        }
        Err(error) => (StatusCode::BAD_GATEWAY, error.to_string()).into_response(),
    }
}

#[tokio::test]
async fn p5_lists_that_break_off_on_page_two_and_watches_that_are_gone_cost_no_key() -> Result<()> {
    let turn = Turn::take("p5-lists", 1, 30).await?;
    turn.register(&["orders"]).await?;
    turn.deploy(5).await?;
    let trouble = Arc::new(Trouble::default());
    let proxy = Proxy {
        client: turn.bed.client(),
        trouble: trouble.clone(),
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let near = format!("http://{}", listener.local_addr().expect("an address"));
    tokio::spawn(async move { axum::serve(listener, axum::Router::new().fallback(pass).with_state(proxy)).await });
    let kubeconfig = std::fs::read_to_string(turn.bed.kubeconfig()).expect("it is there");
    let begin = kubeconfig.find("https://").expect("a server");
    let rest = &kubeconfig[begin + "https://".len()..];
    let far = rest.find(|c: char| !c.is_ascii_digit() && !".:".contains(c));
    let rerouted = format!("{}{near}{}", &kubeconfig[..begin], &rest[far.unwrap_or(rest.len())..]);
    let through = turn.bed.logs().join("p5-lists.kubeconfig");
    std::fs::write(&through, rerouted).expect("writable");

    let mut config = OperatorConfig::new("operator-0", env!("CARGO_BIN_EXE_leasehold"));
    config.kubeconfig = Some(through);
    let operator = Operator::start(turn.bed, config)?;
    operator.wait_ready(SOON).await?;
    wait_count(&turn.etcd, "/services/", 5, SOON).await;
    let history = History::watch(&turn.etcd, "/services/", 0).await?;

    trouble.begin();
    until(
        "lists to break off and watches to be gone",
        Duration::from_mins(1),
        || async {
            let counts = [&trouble.broken_lists, &trouble.gone_watches].map(|count| count.load(Ordering::SeqCst));
            if counts.iter().all(|count| *count >= 5) {
                Ok(())
            } else {
                Err(format!("{counts:?}"))
            }
        },
    )
    .await?;
    history.assert_silent().await;
    trouble.on.store(false, Ordering::SeqCst);
    let pod = turn.some_pod().await?;
    turn.namespace.set_ready(&pod, false).await?;
    wait_events(&history, 1).await;
    let events: Vec<String> = history.settled().await?.iter().map(ToString::to_string).collect();
    assert_eq!(events, [format!("delete {}{pod}", turn.plain("orders"))]);
    operator.process().alive()
}
