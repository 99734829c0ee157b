//! Lists the permissions that the operator needs, and asks the API server whether a user has them. Also measures the
//! clock difference to the API server.

use std::time::Duration;

use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec, SubjectAccessReview,
    SubjectAccessReviewSpec,
};
use kube::api::PostParams;
use kube::{Api, Client};

use super::listing::{ListingError, answer};
use super::watch_scope::{
    ENDPOINT_SLICES, NAMESPACES, NODES, PODS, RECORD_FORMATS, REGISTRATIONS, REGISTRIES, SERVICES, WatchScope,
};
use crate::model::NamespaceScope;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Right {
    /// The verb, such as `watch`.
    pub verb: &'static str,
    /// The API group, empty for the core group.
    pub group: &'static str,
    /// The resource, with its subresource after a slash.
    pub resource: &'static str,
    pub namespaces: NamespaceScope,
    /// The name of the object, if the right is limited to one.
    pub name: Option<String>,
    /// The consequence of not having the right.
    pub without: &'static str,
}

const OURS: &str = "leasehold.dev";
const DISCOVERY: &str = "discovery.k8s.io";

/// The optional features of the operator that need rights of their own.
#[derive(Clone, Copy, Debug, Default)]
pub struct Features {
    /// `--metrics-auth`
    pub metrics_auth: bool,
    /// `--service-annotations`
    pub service_annotations: bool,
    /// `--readiness-gate-max-wait`
    pub readiness_gates: bool,
}

/// Returns all rights that the operator needs in `watch_scope` with these features. The chart grants the same.
pub fn rights(watch_scope: &WatchScope, features: Features) -> Vec<Right> {
    let of_cluster = |(verb, group, resource, without)| Right::new(verb, group, resource, without);
    let mut rights: Vec<Right> = OF_CLUSTER.into_iter().map(of_cluster).collect();
    rights.push(Right {
        name: Some("kube-system".to_owned()),
        ..Right::new(
            "get",
            "",
            NAMESPACES,
            "the operator does not start, because the UID of kube-system identifies the cluster",
        )
    });
    for namespaces in watch_scope.scopes() {
        rights.extend(OF_NAMESPACES.map(|(verb, group, resource, without)| Right {
            namespaces: namespaces.clone(),
            ..Right::new(verb, group, resource, without)
        }));
        if features.service_annotations {
            rights.extend(OF_ANNOTATIONS.map(|verb| Right {
                namespaces: namespaces.clone(),
                ..Right::new(verb, OURS, REGISTRATIONS, WITHOUT_ANNOTATIONS)
            }));
        }
        if features.readiness_gates {
            rights.push(Right {
                namespaces: namespaces.clone(),
                ..OPEN_GATES
            });
        }
        rights.extend(OF_LABELS.map(|(verb, without)| Right {
            name: namespaces.name().map(str::to_owned),
            ..Right::new(verb, "", NAMESPACES, without)
        }));
    }
    if features.metrics_auth {
        rights.extend(REVIEWS);
    }
    rights
}

/// Verb, group, resource and the consequence of not having the right: for cluster-scoped kinds, and for kinds in any
/// namespace.
const OF_CLUSTER: [(&str, &str, &str, &str); 9] = [
    ("list", OURS, REGISTRIES, "the operator knows no Registry"),
    ("watch", OURS, REGISTRIES, "changes of Registries are missed"),
    (
        "list",
        OURS,
        RECORD_FORMATS,
        "nothing is written, because RecordFormats may be missing",
    ),
    ("watch", OURS, RECORD_FORMATS, "changes of RecordFormats are missed"),
    (
        "list",
        "",
        NODES,
        "no address of the type NodePort is registered, and endpoints may lack their zone and labels of their node",
    ),
    ("watch", "", NODES, "changes of nodes are missed"),
    ("patch", OURS, "recordformats/status", "RecordFormats get no status"),
    ("patch", OURS, "registries/status", "Registries get no status"),
    ("create", "events.k8s.io", "events", "no Events are published"),
];
/// The same for each watched namespace scope.
const OF_NAMESPACES: [(&str, &str, &str, &str); 9] = [
    ("list", "", PODS, "no pod is known, and nothing is registered"),
    ("watch", "", PODS, "changes of pods are missed"),
    (
        "list",
        "",
        SERVICES,
        "nothing is written, because registrations may name Services",
    ),
    ("watch", "", SERVICES, "changes of Services are missed"),
    (
        "list",
        DISCOVERY,
        ENDPOINT_SLICES,
        "nothing is written, because registrations may name Services without a selector",
    ),
    (
        "watch",
        DISCOVERY,
        ENDPOINT_SLICES,
        "changes of EndpointSlices are missed",
    ),
    ("list", OURS, REGISTRATIONS, "nothing is registered"),
    ("watch", OURS, REGISTRATIONS, "changes of registrations are missed"),
    (
        "patch",
        OURS,
        "serviceregistrations/status",
        "registrations get no status",
    ),
];
/// Verbs on registrations with `--service-annotations`, and the consequence of not having one of them.
const OF_ANNOTATIONS: [&str; 3] = ["create", "update", "delete"];
const WITHOUT_ANNOTATIONS: &str = "the annotations of Services are not carried out";
/// Verbs on Namespace objects, which are cluster-scoped.
const OF_LABELS: [(&str, &str); 2] = [
    (
        "list",
        "nothing is written, because access rules may depend on labels of namespaces",
    ),
    ("watch", "changes of labels of namespaces are missed"),
];

/// The additional rights that `--metrics-auth` needs.
const REVIEWS: [Right; 2] = [
    Right::new(
        "create",
        "authentication.k8s.io",
        "tokenreviews",
        "the metrics cannot be read, because clients cannot be authenticated",
    ),
    Right::new(
        "create",
        "authorization.k8s.io",
        "subjectaccessreviews",
        "the metrics cannot be read, because clients cannot be authorized",
    ),
];

/// The right to open readiness gates.
const OPEN_GATES: Right = Right::new(
    "patch",
    "",
    "pods/status",
    "pods with the readiness gate leasehold.dev/registered never become ready",
);

impl Right {
    const fn new(verb: &'static str, group: &'static str, resource: &'static str, without: &'static str) -> Self {
        Self {
            verb,
            group,
            resource,
            namespaces: NamespaceScope::Cluster,
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
            name: self.name.clone(),
            namespace: self.namespaces.name().map(str::to_owned),
            ..ResourceAttributes::default()
        }
    }
}

/// Requests in flight at a time.
const QUESTIONS: usize = 4;

/// Returns which of `rights` `user` has, or the client's own user if `None`. To ask about another user, the client
/// needs the right to create subjectaccessreviews.
pub async fn may(client: &Client, user: Option<&str>, rights: &[Right]) -> Result<Vec<bool>, ListingError> {
    let questions = stream::iter(rights).map(|right| async move {
        let (attributes, params) = (Some(right.attributes()), PostParams::default());
        let doing = format!("check the permission to {} {}", right.verb, right.resource);
        let status = match user {
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

/// Returns the groups that the API server derives from a user's name.
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

/// Returns the difference between the local clock and the API server's, to a second; `None` if the answer has no date.
pub async fn clocks_apart(client: &Client) -> Result<Option<Duration>, ListingError> {
    let doing = "get the time of the kube-apiserver";
    let request = http::Request::get("/version").body(kube::client::Body::empty());
    let request = request.expect("a valid path makes a request");
    let response = answer(doing, client.send(request)).await?;
    let date = response
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
        let right = Right::new("patch", OURS, "serviceregistrations/status", "it has no status");
        let attributes = right.attributes();
        assert_eq!(attributes.resource.as_deref(), Some("serviceregistrations"));
        assert_eq!(attributes.subresource.as_deref(), Some("status"));
    }

    /// Returns verb, resource, namespace and name of each right to watch.
    fn seen(namespaces: &[&str]) -> Vec<String> {
        let names: Vec<String> = namespaces.iter().map(|name| (*name).to_owned()).collect();
        let rights = rights(&WatchScope::of(&names), Features::default()).into_iter();
        let seen = rights.filter(|right| right.verb == "watch");
        let described = seen.map(|right| {
            let attributes = right.attributes();
            let [namespace, name] = [attributes.namespace, attributes.name].map(Option::unwrap_or_default);
            format!("{} {namespace} {name}", right.resource)
        });
        described.collect()
    }

    #[test]
    fn service_annotations_need_three_more_permissions_in_each_namespace() {
        let scope = WatchScope::of(&["bank".to_owned(), "shop".to_owned()]);
        let features = Features {
            service_annotations: true,
            ..Features::default()
        };
        let all = rights(&scope, features);
        let fewer = rights(&scope, Features::default());
        let added: Vec<(&str, Option<&str>)> = all
            .iter()
            .filter(|right| !fewer.contains(right))
            .map(|right| (right.verb, right.namespaces.name()))
            .collect();
        let expected = ["bank", "shop"].map(|namespaces| OF_ANNOTATIONS.map(|verb| (verb, Some(namespaces))));
        assert_eq!(added, expected.concat());
    }

    #[test]
    fn cluster_scope_requires_cluster_wide_permissions() {
        assert_eq!(
            seen(&[]),
            [
                "registries  ",
                "recordformats  ",
                "nodes  ",
                "pods  ",
                "services  ",
                "endpointslices  ",
                "serviceregistrations  ",
                "namespaces  "
            ]
        );
    }

    #[test]
    fn namespace_scope_requires_permissions_in_its_namespaces_only() {
        assert_eq!(
            seen(&["bank", "shop"]),
            [
                "registries  ",
                "recordformats  ",
                "nodes  ",
                "pods bank ",
                "services bank ",
                "endpointslices bank ",
                "serviceregistrations bank ",
                "namespaces  bank",
                "pods shop ",
                "services shop ",
                "endpointslices shop ",
                "serviceregistrations shop ",
                "namespaces  shop",
            ]
        );
    }
}
