//! Stands between the operator and the apiserver, speaks HTTP with both, and meddles with what is said.

use std::path::PathBuf;
use std::sync::Arc;

use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{self, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
use kube::Client;
use serde_json::{Value, json};
use testbed::Result;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::Turn;

/// What becomes of a request.
pub enum Meddle {
    /// It is passed on, and so is the answer.
    Pass,
    /// It is passed on with this in place of what was asked for.
    Ask(String),
    /// It is answered with this instead.
    Refuse(StatusCode),
    /// It is passed on, and the list that comes back is cut to this number of objects, as if it were complete.
    Only(usize),
}

/// Given path and query of each request.
type Meddler = Arc<dyn Fn(&str) -> Meddle + Send + Sync>;

#[derive(Clone)]
struct Proxy {
    client: Client,
    meddler: Meddler,
    cut: CancellationToken,
}

/// Starts one, and returns a kubeconfig that leads through it. `cut` ends the answers that are under way then.
pub async fn between(
    turn: &Turn,
    name: &str,
    cut: CancellationToken,
    meddler: impl Fn(&str) -> Meddle + Send + Sync + 'static,
) -> Result<PathBuf> {
    let proxy = Proxy {
        client: turn.bed.operator_client().await?,
        meddler: Arc::new(meddler),
        cut,
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let near = format!("http://{}", listener.local_addr().expect("an address"));
    tokio::spawn(async move { axum::serve(listener, axum::Router::new().fallback(pass).with_state(proxy)).await });
    turn.bed.operator_kubeconfig_by(name, &near)
}

async fn pass(State(proxy): State<Proxy>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let mut uri = parts.uri.to_string();
    let mut most = None;
    match (proxy.meddler)(&uri) {
        Meddle::Pass => {}
        Meddle::Ask(other) => uri = other,
        Meddle::Refuse(status) => return refusal(status),
        Meddle::Only(count) => most = Some(count),
    }
    let body = to_bytes(body, usize::MAX).await.expect("a request");
    let mut passed = http::Request::builder().method(parts.method).uri(uri);
    for name in [header::CONTENT_TYPE, header::ACCEPT] {
        if let Some(value) = parts.headers.get(&name) {
            passed = passed.header(name, value);
        }
    }
    let passed = passed.body(kube::client::Body::from(body.to_vec())).expect("a request");
    let answer = match proxy.client.send(passed).await {
        Ok(answer) => answer,
        Err(error) => return (StatusCode::BAD_GATEWAY, error.to_string()).into_response(),
    };
    let (parts, body) = answer.into_parts();
    let body = Body::new(body);
    if let Some(most) = most {
        let list = to_bytes(body, usize::MAX).await.expect("an answer");
        return ([(header::CONTENT_TYPE, "application/json")], shortened(&list, most)).into_response();
    }
    let pieces = body.into_data_stream();
    // What is asked for after the cut is answered as a whole.
    let body = if proxy.cut.is_cancelled() {
        Body::from_stream(pieces)
    } else {
        Body::from_stream(pieces.take_until(proxy.cut.clone().cancelled_owned()))
    };
    Response::from_parts(parts, body)
}

fn refusal(status: StatusCode) -> Response {
    let reason = if status == StatusCode::GONE {
        "Expired"
    } else {
        "InternalError"
    };
    let reported = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": "made up by the test", "reason": reason, "code": status.as_u16(),
    });
    (
        status,
        [(header::CONTENT_TYPE, "application/json")],
        reported.to_string(),
    )
        .into_response()
}

/// A list of the first objects only, which says that there are no more.
fn shortened(list: &[u8], most: usize) -> String {
    let mut list: Value = serde_json::from_slice(list).expect("a list");
    list["items"].as_array_mut().expect("its items").truncate(most);
    let metadata = list["metadata"].as_object_mut().expect("its metadata");
    metadata.remove("continue");
    metadata.remove("remainingItemCount");
    list.to_string()
}
