//! An API server for tests that answers from a function.

use std::sync::{Arc, Mutex};

use http::Method;
use kube::Client;
use serde_json::Value;

/// The requests that arrived, each as method and path, and their bodies.
pub type Arrived = Arc<Mutex<Vec<(Method, String, Value)>>>;

/// A client whose API server gives these answers, each a status and a body, to the requests of each method and path,
/// and the requests that arrived.
pub fn answering(answer: impl Fn(&Method, &str) -> (u16, Value) + Send + Sync + 'static) -> (Client, Arrived) {
    let arrived = Arrived::default();
    let (log, answer) = (Arc::clone(&arrived), Arc::new(answer));
    let service = tower::service_fn(move |request: http::Request<kube::client::Body>| {
        let (log, answer) = (Arc::clone(&log), Arc::clone(&answer));
        async move {
            let (parts, body) = request.into_parts();
            let body = body.collect_bytes().await.expect("a body");
            let path = parts.uri.path().to_owned();
            let (code, answer) = answer(&parts.method, &path);
            let body = serde_json::from_slice(&body).unwrap_or_default();
            log.lock().expect("no panic").push((parts.method, path, body));
            let answer = kube::client::Body::from(answer.to_string().into_bytes());
            Ok::<_, std::convert::Infallible>(http::Response::builder().status(code).body(answer).expect("an answer"))
        }
    });
    (Client::new(service, "default"), arrived)
}
