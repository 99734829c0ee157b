//! Authenticates and authorizes readers of the metrics. Callers send a bearer token; the [`Judge`] decides about it,
//! and its answers are cached for a short time.
//!
//! Unknown callers are cheap: the number of concurrent queries about them is limited, each occupies its slot for at
//! least [`SLOT`], known readers have separate slots, and the cache is bounded.

mod answers;
mod waiting;

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::http::header::{RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use futures::future::BoxFuture;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{Instant, sleep_until, timeout};

use self::answers::{Answers, Digest, Known};
use self::waiting::Waiting;
use crate::secret::SecretString;

/// The maximum time that a caller waits, for a slot and for the answer together.
const REVIEW_TIMEOUT: Duration = Duration::from_secs(5);
/// The number of concurrent queries about unknown callers.
const STRANGERS: usize = 4;
/// The number of concurrent queries about callers whose permission has to be renewed.
const FORMER_READERS: usize = 2;
/// The minimum time for which an unknown caller occupies a slot. With [`STRANGERS`] this allows 20 queries a second.
const SLOT: Duration = Duration::from_millis(200);

/// The decision about a caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judgement {
    Allowed,
    /// The token is not valid.
    Unauthenticated,
    /// The token is valid, but its user may not read the metrics.
    Forbidden(Arc<str>),
    /// The judge could not decide.
    Undecided,
}

/// Decides whether the owner of a token may read the metrics.
pub type Judge = Box<dyn Fn(SecretString) -> BoxFuture<'static, Judgement> + Send + Sync>;

/// Admits callers or rejects them. Clones share the state.
#[derive(Clone)]
pub struct Gate(Arc<Inner>);

struct Inner {
    judge: Judge,
    answers: Mutex<Answers>,
    strangers: Arc<Semaphore>,
    waiting: Waiting,
    former_readers: Arc<Semaphore>,
}

/// Why a caller is rejected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    NoToken,
    Unauthenticated,
    Forbidden(Arc<str>),
    Undecided,
    TooMany,
}

impl Gate {
    pub fn new(judge: Judge) -> Self {
        Self(Arc::new(Inner {
            judge,
            answers: Mutex::default(),
            strangers: Arc::new(Semaphore::new(STRANGERS)),
            waiting: Waiting::default(),
            former_readers: Arc::new(Semaphore::new(FORMER_READERS)),
        }))
    }

    /// Admits a caller from `address` with this `Authorization` header, or returns why it is rejected.
    pub(super) async fn admit(&self, authorization: Option<&HeaderValue>, address: IpAddr) -> Result<(), Refusal> {
        let token = authorization.and_then(bearer).ok_or(Refusal::NoToken)?;
        let caller = Digest::of(token);
        let token = SecretString::from(token.to_owned());
        let known = self.look_up(caller);
        let was_reader = known == Known::FormerReader;
        let judgement = match known {
            Known::Reader => return Ok(()),
            Known::Unauthenticated => return Err(Refusal::Unauthenticated),
            Known::Forbidden(user) => return Err(Refusal::Forbidden(user)),
            Known::FormerReader | Known::NotCached => {
                let _place = match self.0.waiting.take(address) {
                    _ if was_reader => None,
                    None => return Err(Refusal::TooMany),
                    place => place,
                };
                let judged = timeout(REVIEW_TIMEOUT, self.ask(caller, token, was_reader)).await;
                judged.unwrap_or(Judgement::Undecided)
            }
        };
        match judgement {
            Judgement::Allowed => Ok(()),
            Judgement::Undecided if was_reader => Ok(()),
            Judgement::Undecided => Err(Refusal::Undecided),
            Judgement::Unauthenticated => Err(Refusal::Unauthenticated),
            Judgement::Forbidden(user) => Err(Refusal::Forbidden(user)),
        }
    }

    async fn ask(&self, caller: Digest, token: SecretString, was_reader: bool) -> Judgement {
        let of = if was_reader {
            &self.0.former_readers
        } else {
            &self.0.strangers
        };
        let place = of.clone().acquire_owned().await.expect("the semaphore is never closed");
        let begin = Instant::now();
        // A query for the same token may have ended meanwhile.
        match self.look_up(caller) {
            Known::Reader => return Judgement::Allowed,
            Known::Unauthenticated => return Judgement::Unauthenticated,
            Known::Forbidden(user) => return Judgement::Forbidden(user),
            Known::FormerReader | Known::NotCached => {}
        }
        let (sender, receiver) = oneshot::channel();
        let gate = self.clone();
        // A caller that disconnects must not free its slot, and the answer is cached nevertheless.
        tokio::spawn(async move {
            let judged = timeout(REVIEW_TIMEOUT, (gate.0.judge)(token)).await;
            let judgement = judged.unwrap_or(Judgement::Undecided);
            gate.answers().record(caller, &judgement, Instant::now());
            // The caller may have disconnected.
            let _ = sender.send(judgement);
            if !was_reader {
                sleep_until(begin + SLOT).await;
            }
            drop(place);
        });
        receiver.await.unwrap_or(Judgement::Undecided)
    }

    fn look_up(&self, caller: Digest) -> Known {
        self.answers().look_up(caller, Instant::now())
    }

    fn answers(&self) -> MutexGuard<'_, Answers> {
        // After a panic, at worst one answer is missing.
        self.0.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the bearer token of an `Authorization` header, if it has one.
fn bearer(authorization: &HeaderValue) -> Option<&str> {
    let (scheme, token) = authorization.to_str().ok()?.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let how = "send the bearer token of an account that may get the non-resource URL /metrics; the chart's ClusterRole \
                   ...-metrics-reader grants that permission";
        match self {
            Self::NoToken => {
                let text = format!("the request has no bearer token: {how}\n");
                (StatusCode::UNAUTHORIZED, [(WWW_AUTHENTICATE, "Bearer")], text).into_response()
            }
            Self::Unauthenticated => {
                let text = format!("the token is invalid or has expired: {how}\n");
                (StatusCode::UNAUTHORIZED, [(WWW_AUTHENTICATE, "Bearer")], text).into_response()
            }
            Self::Forbidden(user) => {
                let text = format!(
                    "{user} may not get the non-resource URL /metrics: bind it to a ClusterRole that allows that, such as \
                     the chart's ...-metrics-reader\n"
                );
                (StatusCode::FORBIDDEN, text).into_response()
            }
            Self::Undecided => {
                let text = "the caller could not be authorized, because the kube-apiserver gave no answer or too many \
                            callers are waiting: retry, and see leasehold's log for the cause\n";
                (StatusCode::SERVICE_UNAVAILABLE, [(RETRY_AFTER, "5")], text).into_response()
            }
            Self::TooMany => {
                let text = "too many callers with unknown tokens: retry\n";
                (StatusCode::SERVICE_UNAVAILABLE, [(RETRY_AFTER, "1")], text).into_response()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use futures::FutureExt;
    use futures::future::{Either, join_all};

    use super::*;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn show(token: &str) -> HeaderValue {
        HeaderValue::from_str(&format!("Bearer {token}")).unwrap()
    }

    /// A judge that allows tokens that begin with `good`, unless it is unavailable. Counts the queries.
    fn gate() -> (Gate, Arc<AtomicUsize>, Arc<AtomicBool>) {
        let (reviews, away) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let (count, gone) = (reviews.clone(), away.clone());
        let judge = move |token: SecretString| {
            count.fetch_add(1, Ordering::Relaxed);
            let judgement = match token.reveal() {
                _ if gone.load(Ordering::Relaxed) => Judgement::Undecided,
                token if token.starts_with("good") => Judgement::Allowed,
                token if token.starts_with("poor") => Judgement::Forbidden("poor".into()),
                _ => Judgement::Unauthenticated,
            };
            std::future::ready(judgement).boxed()
        };
        (Gate::new(Box::new(judge)), reviews, away)
    }

    /// Caches a judgement of this age.
    fn remember(gate: &Gate, token: &str, judgement: &Judgement, age: Duration) {
        let then = Instant::now()
            .checked_sub(age)
            .expect("the machine has been up for a while");
        gate.answers().record(Digest::of(token), judgement, then);
    }

    #[tokio::test]
    async fn review_results_are_cached_for_a_limited_time() {
        let (gate, reviews, _) = gate();
        for _ in 0..3 {
            assert_eq!(gate.admit(Some(&show("good")), HERE).await, Ok(()));
            assert_eq!(
                gate.admit(Some(&show("bad")), HERE).await,
                Err(Refusal::Unauthenticated)
            );
            let refused = gate.admit(Some(&show("poor")), HERE).await;
            assert_eq!(refused, Err(Refusal::Forbidden("poor".into())));
        }
        assert_eq!(reviews.load(Ordering::Relaxed), 3);
        remember(&gate, "good", &Judgement::Allowed, answers::FRESH);
        assert_eq!(gate.admit(Some(&show("good")), HERE).await, Ok(()));
        assert_eq!(gate.admit(Some(&show("good")), HERE).await, Ok(()));
        assert_eq!(reviews.load(Ordering::Relaxed), 4);
    }

    #[tokio::test]
    async fn malformed_authorization_header_is_not_reviewed() {
        let (gate, reviews, _) = gate();
        assert_eq!(gate.admit(None, HERE).await, Err(Refusal::NoToken));
        for odd in ["Bearer", "Bearer ", "good", "Basic good", ""] {
            let header = HeaderValue::from_static(odd);
            assert_eq!(gate.admit(Some(&header), HERE).await, Err(Refusal::NoToken), "{odd}");
        }
        assert_eq!(reviews.load(Ordering::Relaxed), 0);
        assert_eq!(
            gate.admit(Some(&HeaderValue::from_static("bearer  good")), HERE).await,
            Ok(())
        );
    }

    #[tokio::test]
    async fn review_outage_admits_only_recently_allowed_callers() {
        let (gate, reviews, away) = gate();
        away.store(true, Ordering::Relaxed);
        remember(&gate, "good", &Judgement::Allowed, answers::FRESH);
        assert_eq!(gate.admit(Some(&show("good")), HERE).await, Ok(()));
        assert_eq!(reviews.load(Ordering::Relaxed), 1);
        assert_eq!(gate.admit(Some(&show("good-2")), HERE).await, Err(Refusal::Undecided));
        remember(&gate, "good", &Judgement::Allowed, answers::GRACE);
        assert_eq!(gate.admit(Some(&show("good")), HERE).await, Err(Refusal::Undecided));
        away.store(false, Ordering::Relaxed);
        assert_eq!(gate.admit(Some(&show("good")), HERE).await, Ok(()));
    }

    #[tokio::test]
    async fn flood_of_unknown_callers_does_not_delay_a_known_reader() {
        let (gate, reviews, _) = gate();
        remember(&gate, "good", &Judgement::Allowed, answers::FRESH);
        let tokens: Vec<_> = (0..1000).map(|number| show(&format!("bad-{number}"))).collect();
        let mut flood = Box::pin(join_all(tokens.iter().map(|token| gate.admit(Some(token), HERE))));
        assert!(flood.as_mut().now_or_never().is_none());
        let good = show("good");
        let reader = gate.admit(Some(&good), HERE);
        let first = futures::future::select(flood, Box::pin(reader)).await;
        let Either::Right((read, flood)) = first else {
            panic!("the flood ended before the reader was admitted")
        };
        assert_eq!(read, Ok(()));
        let results = flood.await;
        let sent_away = results
            .iter()
            .filter(|result| **result == Err(Refusal::TooMany))
            .count();
        assert_eq!(sent_away, 1000 - waiting::OF_ONE, "rejected at once; the others waited");
        let reviews = reviews.load(Ordering::Relaxed);
        assert_eq!(reviews, waiting::OF_ONE + 1, "the waiting strangers and the reader");
    }

    #[tokio::test]
    async fn invalid_tokens_from_one_address_leave_room_for_another_reader() {
        let (gate, _, _) = gate();
        let tokens: Vec<_> = (0..1000).map(|number| show(&format!("bad-{number}"))).collect();
        let mut flood = Box::pin(join_all(tokens.iter().map(|token| gate.admit(Some(token), HERE))));
        assert!(flood.as_mut().now_or_never().is_none());
        let elsewhere = [10, 0, 0, 7].into();
        let good = show("good");
        let reader = gate.admit(Some(&good), elsewhere);
        let (_, read) = futures::future::join(flood, reader).await;
        assert_eq!(read, Ok(()));
    }
}
