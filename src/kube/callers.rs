//! Authenticates and authorizes readers of `/metrics` by asking the API server, as kube-rbac-proxy does.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::FutureExt;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, UserInfo};
use k8s_openapi::api::authorization::v1::{NonResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::time::{Instant, timeout};

use crate::secret::SecretString;
use crate::telemetry::{Calls, Judge, Judgement, Outcome, Peer};

/// Time-out of one review.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);
/// The non-resource URL, as RBAC names it.
const PATH: &str = "/metrics";

/// Returns a judge that authenticates callers of `/metrics` (TokenReview) and authorizes them (SubjectAccessReview for
/// the non-resource URL). With an audience, the judge accepts only tokens issued for that audience.
pub fn judge(client: Client, audience: Option<String>, calls: Calls) -> Judge {
    let callers = Arc::new(Callers {
        client,
        audiences: audience.map(|audience| vec![audience]),
        calls,
        failure_logged: AtomicBool::new(false),
    });
    Box::new(move |token| {
        let callers = callers.clone();
        async move { callers.review(token).await }.boxed()
    })
}

struct Callers {
    client: Client,
    audiences: Option<Vec<String>>,
    calls: Calls,
    /// Whether the failure of reviews has been logged. One log line per failure is enough, since callers return again
    /// and again.
    failure_logged: AtomicBool,
}

impl Callers {
    async fn review(&self, token: SecretString) -> Judgement {
        match self.find_out(token).await {
            Ok(judgement) => {
                self.failure_logged.store(false, Ordering::Relaxed);
                judgement
            }
            Err(cause) => {
                if !self.failure_logged.swap(true, Ordering::Relaxed) {
                    tracing::warn!(
                        cause,
                        "cannot review who may read the metrics; only clients that were allowed before are served: check \
                         that the kube-apiserver answers, and that the operator may create tokenreviews and \
                         subjectaccessreviews (the chart grants this with metrics.auth.enabled)"
                    );
                }
                Judgement::Undecided
            }
        }
    }

    async fn find_out(&self, token: SecretString) -> Result<Judgement, String> {
        let Some(user) = self.owner(token).await? else {
            return Ok(Judgement::Unauthenticated);
        };
        let name = user.username.clone().unwrap_or_default();
        Ok(if self.may_read(user).await? {
            Judgement::Allowed
        } else {
            Judgement::Forbidden(name.into())
        })
    }

    /// Returns the user that the token belongs to.
    async fn owner(&self, token: SecretString) -> Result<Option<UserInfo>, String> {
        let spec = TokenReviewSpec {
            token: Some(token.reveal().to_owned()),
            audiences: self.audiences.clone(),
        };
        let review = TokenReview {
            spec,
            ..TokenReview::default()
        };
        let api: Api<TokenReview> = Api::all(self.client.clone());
        let params = PostParams::default();
        let review = self.request("create_tokenreview", api.create(&params, &review)).await?;
        let status = review.status.unwrap_or_default();
        // An API server that does not know audiences returns none: then nothing shows that the token was issued for
        // the operator.
        let is_for_us = self.audiences.as_ref().is_none_or(|wanted| {
            let accepted = status.audiences.unwrap_or_default();
            wanted.iter().any(|audience| accepted.contains(audience))
        });
        let user = status.user.filter(|user| user.username.is_some());
        Ok(user.filter(|_| status.authenticated == Some(true) && is_for_us))
    }

    async fn may_read(&self, user: UserInfo) -> Result<bool, String> {
        let spec = SubjectAccessReviewSpec {
            user: user.username,
            uid: user.uid,
            groups: user.groups,
            extra: user.extra,
            non_resource_attributes: Some(NonResourceAttributes {
                path: Some(PATH.to_owned()),
                verb: Some("get".to_owned()),
            }),
            ..SubjectAccessReviewSpec::default()
        };
        let review = SubjectAccessReview {
            spec,
            ..SubjectAccessReview::default()
        };
        let api: Api<SubjectAccessReview> = Api::all(self.client.clone());
        let params = PostParams::default();
        let review = self.request("create_subjectaccessreview", api.create(&params, &review));
        let status = review.await?.status;
        Ok(status.is_some_and(|status| status.allowed))
    }

    /// Sends a request with a time-out, and counts its outcome.
    async fn request<T>(
        &self,
        call: &'static str,
        request: impl Future<Output = kube::Result<T>>,
    ) -> Result<T, String> {
        let start = Instant::now();
        let (outcome, answer) = match timeout(REQUEST_TIMEOUT, request).await {
            Ok(Ok(answer)) => (Outcome::Ok, Ok(answer)),
            Ok(Err(kube::Error::Api(answer))) => (Outcome::Refused, Err(answer.to_string())),
            Ok(Err(error)) => (Outcome::Error, Err(error.to_string())),
            Err(_) => (Outcome::Timeout, Err(format!("no answer within {REQUEST_TIMEOUT:?}"))),
        };
        self.calls.observe(Peer::Apiserver, call, outcome, start.elapsed());
        answer
    }
}
