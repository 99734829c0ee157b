//! Checks the Kubernetes side: whether the API server answers, whether the CRDs are current, whether the operator has
//! its permissions, and whether the clocks agree.

use std::time::Duration;

use kube::{Client, ResourceExt};
use serde_json::Value;

use super::finding::Finding;
use crate::api::{OLDEST_KUBERNETES, crds};
use crate::kube::{Features, Listing, ListingError, Right, WatchScope, clocks_apart, may};

/// The maximum difference of the clocks. With a larger difference, holds of removals end at unexpected times.
const APART: Duration = Duration::from_secs(5);

/// Checks the cluster for the user `account`, or for the current user, with the permissions that watching
/// `watch_scope` needs with these features of the operator.
pub async fn examine(
    client: &Client,
    account: Option<&str>,
    watch_scope: &WatchScope,
    features: Features,
) -> Vec<Finding> {
    let listing = Listing::new(client.clone());
    let mut findings = match listing.version().await {
        Ok(version) => vec![of_version(&version.major, &version.minor, &version.git_version)],
        // All further requests would fail too.
        Err(error) => return vec![unanswered(&error)],
    };
    findings.extend(definitions(&listing).await);
    findings.extend(rights(client, account, watch_scope, features).await);
    findings.push(match clocks_apart(client).await {
        Ok(Some(apart)) if apart > APART => Finding::warning(
            format!(
                "the clock of this machine differs from that of the kube-apiserver by {} s",
                apart.as_secs()
            ),
            "synchronize the clocks of all machines: after a takeover, a hold of removals ends by the new leader's clock",
        ),
        Ok(_) => Finding::well("no relevant difference found between the clocks of this machine and the kube-apiserver"),
        Err(error) => unanswered(&error),
    });
    findings
}

fn unanswered(error: &ListingError) -> Finding {
    Finding::problem(
        error.to_string(),
        "check the kubeconfig, the network path to the kube-apiserver, and the permissions of the current user",
    )
}

fn of_version(major: &str, minor: &str, version: &str) -> Finding {
    // Some distributions add a suffix, as in `33+`.
    let number = |text: &str| text.trim_end_matches(|c: char| !c.is_ascii_digit()).parse().ok();
    match (number(major), number(minor)) {
        (Some(major), Some(minor)) if (major, minor) < OLDEST_KUBERNETES => Finding::warning(
            format!("kube-apiserver {version} is older than the oldest release that leasehold supports"),
            format!(
                "upgrade to Kubernetes {}.{} or later",
                OLDEST_KUBERNETES.0, OLDEST_KUBERNETES.1
            ),
        ),
        _ => Finding::well(format!("kube-apiserver {version} answers")),
    }
}

async fn definitions(listing: &Listing) -> Vec<Finding> {
    let wanted = crds();
    let names: Vec<String> = wanted.iter().map(ResourceExt::name_any).collect();
    let found = match listing.definitions(&names).await {
        Ok(found) => found,
        Err(error) => {
            let what = format!("cannot read the CRDs: {error}");
            return vec![Finding::warning(
                what,
                "run this command as a user who may get customresourcedefinitions",
            )];
        }
    };
    let fix = "leasehold crds | kubectl apply --server-side -f -";
    let compare = |(wanted, found)| {
        let name = ResourceExt::name_any(wanted);
        let Some(found) = found else {
            return Finding::problem(format!("the CRD {name} is not installed"), fix);
        };
        let missing = missing_fields(&schema(wanted), &schema(&found), "");
        if missing.is_empty() {
            return Finding::well(format!("{name} is defined with all fields of this release"));
        }
        let what = format!(
            "{name} lacks the fields {}: it is from an older release",
            missing.join(", ")
        );
        Finding::problem(what, fix)
    };
    wanted.iter().zip(found).map(compare).collect()
}

fn schema(definition: &impl serde::Serialize) -> Value {
    let mut definition = serde_json::to_value(definition).unwrap_or_default();
    definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"].take()
}

/// Returns the paths of the fields that `wanted` has and `found` lacks: the API server would silently drop their
/// values.
fn missing_fields(wanted: &Value, found: &Value, path: &str) -> Vec<String> {
    let mut missing = Vec::new();
    for (name, field) in wanted["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        match found["properties"].get(name) {
            Some(there) => missing.extend(missing_fields(field, there, &path)),
            None => missing.push(path),
        }
    }
    if wanted["items"].is_object() {
        missing.extend(missing_fields(&wanted["items"], &found["items"], &format!("{path}[]")));
    }
    missing
}

async fn rights(client: &Client, account: Option<&str>, watch_scope: &WatchScope, features: Features) -> Vec<Finding> {
    let who = account.unwrap_or("the current user");
    let rights = crate::kube::rights(watch_scope, features);
    let allowed = match may(client, account, &rights).await {
        Ok(allowed) => allowed,
        Err(error) => {
            let what = format!("cannot check the permissions of {who}: {error}");
            return vec![Finding::warning(
                what,
                "run this command as a user who may create subjectaccessreviews (or selfsubjectaccessreviews, for yourself)",
            )];
        }
    };
    let denied = rights.iter().zip(&allowed).filter(|(_, allowed)| !**allowed);
    let mut findings: Vec<Finding> = denied.map(|(right, _)| missing_right(who, right)).collect();
    if findings.is_empty() {
        findings.push(Finding::well(format!(
            "{who} has all permissions that the operator needs"
        )));
    }
    findings
}

fn missing_right(who: &str, right: &Right) -> Finding {
    let object = right.name.as_ref().map(|name| format!(" {name}")).unwrap_or_default();
    let place = right
        .namespaces
        .name()
        .map(|name| format!(" in {name}"))
        .unwrap_or_default();
    let group = match right.group {
        "" => "the core group",
        group => group,
    };
    let role = match right.namespaces.name() {
        Some(_) => "Role",
        None => "ClusterRole",
    };
    Finding::problem(
        format!(
            "{who} may not {} {}{object}{place}: {}",
            right.verb, right.resource, right.without
        ),
        format!(
            "grant {} on {}{object} of {group}{place}, as the {role} of the chart does",
            right.verb, right.resource
        ),
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::finding::Grade;
    use super::*;

    #[test]
    fn old_kubernetes_version_is_a_warning_and_vendor_suffix_is_parsed() {
        assert_eq!(of_version("1", "30+", "v1.30.5-gke").grade, Grade::Warning);
        assert_eq!(of_version("1", "31+", "v1.31.5-eks").grade, Grade::Well);
        assert_eq!(of_version("1", "36", "v1.36.3").grade, Grade::Well);
    }

    #[test]
    fn fields_that_an_older_definition_lacks_are_named_however_deep_they_are() {
        let wanted = json!({"properties": {"spec": {"properties": {
            "old": {}, "new": {}, "list": {"items": {"properties": {"inner": {}}}}}}}});
        let found = json!({"properties": {"spec": {"properties": {
            "old": {}, "list": {"items": {"properties": {}}}}}}});
        assert_eq!(missing_fields(&wanted, &found, ""), [".spec.list[].inner", ".spec.new"]);
        assert_eq!(missing_fields(&found, &wanted, ""), [""; 0]);
    }
}
