//! Whether somebody may do something in a cluster, asked without doing it.

use std::time::Duration;

use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec, SubjectAccessReview,
    SubjectAccessReviewSpec,
};
use kube::api::PostParams;
use kube::{Api, Client};

use super::listing::{ListingError, answer};

/// One verb on one resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Right {
    /// What is to be done, such as `watch`.
    pub verb: &'static str,
    /// The API group, empty for the core's.
    pub group: &'static str,
    /// The resource, with its subresource after a slash if it is about one.
    pub resource: &'static str,
    /// The only object it is about, if it is about one.
    pub name: Option<&'static str>,
    /// What goes wrong without it.
    pub without: &'static str,
}

/// All that the operator has to be allowed in every namespace: what the chart gives it.
pub const RIGHTS: [Right; 15] = [
    Right::new("list", "", "pods", "no pod is known, and nothing is registered"),
    Right::new("watch", "", "pods", "pods that come and go are not heard of"),
    Right::new("list", "leasehold.dev", "serviceregistrations", "nothing is registered"),
    Right::new(
        "watch",
        "leasehold.dev",
        "serviceregistrations",
        "changes of registrations are not heard of",
    ),
    Right::new("list", "leasehold.dev", "registries", "no etcd is known"),
    Right::new(
        "watch",
        "leasehold.dev",
        "registries",
        "changes of Registries are not heard of",
    ),
    Right::new(
        "list",
        "leasehold.dev",
        "recordformats",
        "nothing is written, for formats of one's own may be missing",
    ),
    Right::new(
        "watch",
        "leasehold.dev",
        "recordformats",
        "changes of RecordFormats are not heard of",
    ),
    Right::new(
        "patch",
        "leasehold.dev",
        "recordformats/status",
        "nobody sees what a RecordFormat makes",
    ),
    Right::new(
        "list",
        "",
        "namespaces",
        "nothing is written, for rules about who may write may be missed",
    ),
    Right::new(
        "watch",
        "",
        "namespaces",
        "changes of the labels of namespaces are not heard of",
    ),
    Right::new(
        "patch",
        "leasehold.dev",
        "serviceregistrations/status",
        "nobody sees what became of a registration",
    ),
    Right::new(
        "patch",
        "leasehold.dev",
        "registries/status",
        "nobody sees how a Registry stands",
    ),
    Right::new(
        "create",
        "events.k8s.io",
        "events",
        "nobody is told of what somebody should look into",
    ),
    Right {
        name: Some("kube-system"),
        ..Right::new(
            "get",
            "",
            "namespaces",
            "the operator does not start: its UID names the cluster",
        )
    },
];

/// What it has to be allowed beside these with `--metrics-auth`.
pub const REVIEWS: [Right; 2] = [
    Right::new(
        "create",
        "authentication.k8s.io",
        "tokenreviews",
        "nobody can read the metrics, for nobody knows who asks",
    ),
    Right::new(
        "create",
        "authorization.k8s.io",
        "subjectaccessreviews",
        "nobody can read the metrics, for nobody knows who may",
    ),
];

impl Right {
    const fn new(verb: &'static str, group: &'static str, resource: &'static str, without: &'static str) -> Self {
        Self {
            verb,
            group,
            resource,
            name: None,
            without,
        }
    }

    fn attributes(&self) -> ResourceAttributes {
        let (resource, subresource) = match self.resource.split_once('/') {
            Some((resource, subresource)) => (resource, Some(subresource.to_owned())),
            None => (self.resource, None),
        };
        ResourceAttributes {
            verb: Some(self.verb.to_owned()),
            group: Some(self.group.to_owned()),
            resource: Some(resource.to_owned()),
            subresource,
            name: self.name.map(str::to_owned),
            ..ResourceAttributes::default()
        }
    }
}

/// Questions at a time.
const QUESTIONS: usize = 4;

/// Which of `rights` the user `somebody` has, or, where none is given, whoever asks. To ask about somebody else needs the
/// right to create subjectaccessreviews.
pub async fn may(client: &Client, somebody: Option<&str>, rights: &[Right]) -> Result<Vec<bool>, ListingError> {
    let questions = stream::iter(rights).map(|right| async move {
        let (attributes, params) = (Some(right.attributes()), PostParams::default());
        let doing = format!("ask whether one may {} {}", right.verb, right.resource);
        let status = match somebody {
            None => {
                let spec = SelfSubjectAccessReviewSpec {
                    resource_attributes: attributes,
                    ..SelfSubjectAccessReviewSpec::default()
                };
                let review = SelfSubjectAccessReview {
                    spec,
                    ..SelfSubjectAccessReview::default()
                };
                answer(&doing, Api::all(client.clone()).create(&params, &review))
                    .await?
                    .status
            }
            Some(user) => {
                let spec = SubjectAccessReviewSpec {
                    resource_attributes: attributes,
                    user: Some(user.to_owned()),
                    groups: Some(groups_of(user)),
                    ..SubjectAccessReviewSpec::default()
                };
                let review = SubjectAccessReview {
                    spec,
                    ..SubjectAccessReview::default()
                };
                answer(&doing, Api::all(client.clone()).create(&params, &review))
                    .await?
                    .status
            }
        };
        Ok(status.is_some_and(|status| status.allowed))
    });
    questions.buffered(QUESTIONS).try_collect().await
}

/// The groups that the apiserver puts a user in by its name.
fn groups_of(user: &str) -> Vec<String> {
    let mut groups = vec!["system:authenticated".to_owned()];
    if let Some((namespace, _)) = user
        .strip_prefix("system:serviceaccount:")
        .and_then(|rest| rest.split_once(':'))
    {
        groups.push("system:serviceaccounts".to_owned());
        groups.push(format!("system:serviceaccounts:{namespace}"));
    }
    groups
}

/// How far the clock here is from that of the apiserver, to a second; none if it does not say what time it is.
pub async fn clocks_apart(client: &Client) -> Result<Option<Duration>, ListingError> {
    let doing = "ask what time it is";
    let request = http::Request::get("/version").body(kube::client::Body::empty());
    let request = request.expect("a path is a request");
    let told = answer(doing, client.send(request)).await?;
    let date = told
        .headers()
        .get(http::header::DATE)
        .and_then(|date| date.to_str().ok());
    let theirs = date.and_then(|date| jiff::fmt::rfc2822::parse(date).ok());
    let now = jiff::Timestamp::now();
    Ok(theirs.map(|theirs| now.duration_since(theirs.timestamp()).unsigned_abs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_is_in_the_groups_of_its_namespace_and_a_person_is_not() {
        assert_eq!(
            groups_of("system:serviceaccount:leasehold:operator"),
            [
                "system:authenticated",
                "system:serviceaccounts",
                "system:serviceaccounts:leasehold"
            ]
        );
        assert_eq!(groups_of("jane"), ["system:authenticated"]);
    }

    #[test]
    fn a_subresource_is_asked_about_as_one() {
        let attributes = RIGHTS[11].attributes();
        assert_eq!(attributes.resource.as_deref(), Some("serviceregistrations"));
        assert_eq!(attributes.subresource.as_deref(), Some("status"));
    }
}
