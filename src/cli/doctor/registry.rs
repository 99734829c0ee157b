//! Checks each Registry: whether its members answer and agree, whether leases and keys can be written, and which
//! registrations report errors.

use std::collections::{BTreeMap, BTreeSet};

use kube::ResourceExt;

use super::finding::{Chapter, Finding};
use super::releases;
use crate::api::{Registry, ServiceRegistration};
use crate::backend::Timeouts;
use crate::backend::etcd::{self, Connection, EndpointFault, Error, Role, Status, lease_id};
use crate::cli::entry::access;
use crate::controller::{ClusterState, Preview};
use crate::kube::{Listing, WatchScope};
use crate::telemetry::Calls;

/// The used database size that is close to etcd's default quota of 2 GiB.
const LARGE: i64 = 1700 << 20;
/// The maximum number of registrations that are listed one by one.
const MAX_LISTED: usize = 10;

/// Checks the Registry named `only`, or all Registries.
pub async fn examine(listing: &Listing, only: Option<&str>, namespace: &str, watch_scope: &WatchScope) -> Vec<Chapter> {
    let unknown = |what: String| Chapter {
        about: "Registries".to_owned(),
        findings: vec![Finding::problem(
            what,
            "run this command as a user who may list registries and serviceregistrations",
        )],
    };
    let (registries, registrations) = match (listing.registries().await, listing.registrations(watch_scope).await) {
        (Ok(registries), Ok(registrations)) => (registries, registrations),
        (Err(error), _) | (_, Err(error)) => return vec![unknown(error.to_string())],
    };
    let wanted = |registry: &&Registry| only.is_none_or(|only| registry.name_any() == only);
    let mut chapters = Vec::new();
    for registry in registries.iter().filter(wanted) {
        let name = registry.name_any();
        let its = |one: &&ServiceRegistration| one.spec.registry_ref.name == name;
        let its: Vec<&ServiceRegistration> = registrations.iter().filter(its).collect();
        let prefixes = prefixes(listing, registry, &its).await;
        let mut findings = asked(listing, registry, namespace, &prefixes).await;
        findings.extend(of_conditions(registry));
        findings.extend(complaints(&its));
        chapters.push(Chapter {
            about: match &registry.spec.class {
                Some(class) => format!("Registry {name} of the class {class}"),
                None => format!("Registry {name}"),
            },
            findings,
        });
    }
    let names: BTreeSet<String> = registries.iter().map(ResourceExt::name_any).collect();
    let missing = match only {
        Some(only) if !names.contains(only) => Some(format!("there is no Registry {only:?}")),
        None if names.is_empty() => Some("there is no Registry, so nothing is registered".to_owned()),
        _ => None,
    };
    if let Some(what) = missing {
        chapters.push(Chapter {
            about: "Registries".to_owned(),
            findings: vec![Finding::problem(
                what,
                "create a Registry with the endpoints of your etcd",
            )],
        });
    }
    chapters
}

/// Returns the least-privilege role that the operator's user needs for the Registry `name`.
pub async fn role(listing: &Listing, name: &str, watch_scope: &WatchScope) -> Result<Role, super::Error> {
    let registry = listing.registry(name).await?;
    let registry = registry.ok_or_else(|| super::Error::NoRegistry(name.to_owned()))?;
    let registrations = listing.registrations(watch_scope).await?;
    let its = |one: &&ServiceRegistration| one.spec.registry_ref.name == name;
    let its: Vec<&ServiceRegistration> = registrations.iter().filter(its).collect();
    Ok(role_of(&registry, &prefixes(listing, &registry, &its).await))
}

fn role_of(registry: &Registry, prefixes: &BTreeSet<String>) -> Role {
    etcd::role(&registry.spec.etcd.meta_prefix, prefixes)
}

/// Returns the prefixes of the registrations that can be carried out, as far as they are known.
async fn prefixes(listing: &Listing, registry: &Registry, its: &[&ServiceRegistration]) -> BTreeSet<String> {
    // The prefixes do not depend on pods and Services.
    let cluster = ClusterState::default();
    let mut preview = Preview::new("", &registry.name_any(), registry.spec.clone(), cluster);
    // If the RecordFormats cannot be listed, the prefixes of their records are omitted.
    for format in listing.record_formats().await.unwrap_or_default() {
        preview.add_record_format(&format);
    }
    for registration in its {
        // A registration that cannot be carried out reports this in its own conditions.
        let _ = preview.register(registration);
    }
    let data = preview.prefixes().into_iter().map(|prefix| prefix.as_str().to_owned());
    data.filter(|prefix| !prefix.starts_with(&registry.spec.etcd.meta_prefix))
        .collect()
}

/// Queries the Registry's etcd from this machine, whose network path may differ from the operator's.
async fn asked(listing: &Listing, registry: &Registry, namespace: &str, prefixes: &BTreeSet<String>) -> Vec<Finding> {
    let access = match access(listing, &registry.spec, namespace).await {
        Ok(access) => access,
        Err(cause) => {
            let what = format!("no usable credentials for its etcd: {cause}");
            return vec![Finding::problem(
                what,
                "see docs/access.md, and set --operator-namespace to the namespace of its Secrets",
            )];
        }
    };
    let connection = match Connection::new(&access, Timeouts::default(), Calls::default()).await {
        Ok(connection) => connection,
        Err(error) => return vec![problem(&error)],
    };
    let members = connection.status_of_each().await;
    let mut findings = of_members(&members);
    if members.iter().all(|(_, status)| status.is_err()) {
        return findings;
    }
    for prefix in role_of(registry, prefixes).prefixes() {
        findings.push(match connection.may_write(&format!("{prefix}doctor")).await {
            Ok(()) => Finding::well(format!("etcd allows writing keys below {prefix}")),
            Err(Error::PermissionDenied { .. }) => Finding::problem(
                format!("etcd denies writing keys below {prefix}"),
                format!("etcdctl role grant-permission ROLE --prefix=true readwrite {prefix}"),
            ),
            Err(error) => problem(&error),
        });
    }
    let ttl = registry.spec.defaults.lease_ttl_seconds;
    findings.push(match connection.grant(lease_id(), ttl).await {
        Ok(granted) if granted > i64::from(ttl) => Finding::warning(
            format!("etcd grants leases of {granted} s instead of {ttl} s: without an operator, keys expire later"),
            "raise spec.defaults.leaseTTLSeconds to at least the granted TTL, or lower the election timeout of etcd, which limits the TTL",
        ),
        Ok(_) => Finding::well(format!("leases of {ttl} s are granted")),
        Err(error) => problem(&error),
    });
    findings
}

fn problem(error: &Error) -> Finding {
    // The text of an error names what to check after its last colon, so it is printed as a whole.
    Finding::problem(error.to_string(), "follow the advice in the message")
}

fn of_members(members: &[(String, crate::backend::etcd::Result<Status>)]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut clusters: BTreeMap<u64, Vec<&str>> = BTreeMap::new();
    let one_answers = members.iter().any(|(_, status)| status.is_ok());
    let serves = |status: &crate::backend::etcd::Result<Status>| status.as_ref().is_ok_and(|status| !status.is_learner);
    let one_serves = members.iter().any(|(_, status)| serves(status));
    for (endpoint, status) in members {
        let status = match status {
            Ok(status) => status,
            Err(error) if one_answers => {
                let fix = "restore the member, or remove it from spec.etcd.endpoints; other members are used meanwhile";
                findings.push(Finding::warning(error.to_string(), fix));
                continue;
            }
            Err(error) => {
                findings.push(problem(error));
                continue;
            }
        };
        clusters.entry(status.cluster_id).or_default().push(endpoint);
        if status.is_learner {
            let what = format!("{endpoint} is a learner, which serves no requests");
            let fix = format!(
                "run `etcdctl member promote {:x}`, or remove it from spec.etcd.endpoints",
                status.member_id
            );
            findings.push(if one_serves {
                Finding::warning(what, fix)
            } else {
                Finding::problem(what, fix)
            });
        }
        findings.extend(releases::findings(endpoint, &status.version));
        if !status.has_leader {
            let what = format!("{endpoint} knows no leader of its cluster and accepts no writes");
            findings.push(Finding::problem(
                what,
                "check that a majority of the members run and reach each other",
            ));
        }
        if status.is_corrupt {
            let fault = EndpointFault::Corrupt.describe(endpoint);
            findings.push(Finding::problem(fault, "follow the advice in the message"));
        }
        if status.is_full {
            let what = format!("the database of {endpoint} is full (alarm NOSPACE): it accepts no puts");
            let fix = "compact and defragment it or raise its quota, then run `etcdctl alarm disarm`";
            findings.push(Finding::problem(what, fix));
        } else if status.db_bytes > LARGE {
            let what = format!("the database of {endpoint} uses {} MiB", status.db_bytes >> 20);
            let fix =
                "the quota is 2 GiB unless --quota-backend-bytes is set: compact and defragment it, or raise the quota";
            findings.push(Finding::warning(what, fix));
        }
    }
    if clusters.len() > 1 {
        let of_each: Vec<_> = clusters
            .iter()
            .map(|(id, endpoints)| format!("{} to {id:x}", endpoints.join(", ")))
            .collect();
        let what = format!(
            "the endpoints belong to {} different etcd clusters ({}): the operator uses only one of them",
            clusters.len(),
            of_each.join("; ")
        );
        findings.push(Finding::problem(
            what,
            "name members of one cluster only, and create a Registry for each other cluster",
        ));
    }
    findings
}

/// Returns findings from the conditions that the operator reports on the Registry.
fn of_conditions(registry: &Registry) -> Vec<Finding> {
    let conditions = registry.status.as_ref().map(|status| status.conditions.as_slice());
    let Some(conditions) = conditions.filter(|conditions| !conditions.is_empty()) else {
        let (what, flag) = match &registry.spec.class {
            Some(class) => (
                format!("no operator of the class {class}"),
                format!("with --class {class}"),
            ),
            None => ("no operator without a class".to_owned(), "without --class".to_owned()),
        };
        let fix = format!("check that an operator runs {flag}, and read its log: kubectl logs deployment/leasehold");
        return vec![Finding::problem(format!("{what} has reported on this Registry"), fix)];
    };
    let is_bad = |kind: &str, status: &str| match kind {
        "RemovalsHeld" => status == "True",
        // It repeats the condition that is not met.
        "Ready" => false,
        _ => status == "False",
    };
    let bad = conditions
        .iter()
        .filter(|condition| is_bad(&condition.type_, &condition.status));
    let mut findings: Vec<Finding> = bad
        .map(|condition| {
            let what = format!(
                "the operator reports {}={}: {}",
                condition.type_, condition.status, condition.message
            );
            Finding::problem(what, "follow the advice in the message")
        })
        .collect();
    if findings.is_empty() {
        let leader = registry.status.as_ref().and_then(|status| status.leader.as_deref());
        findings.push(match leader {
            Some(leader) => Finding::well(format!("the operator serves this Registry; {leader} leads")),
            None => Finding::warning(
                "no replica leads this Registry",
                "wait for ten seconds; if there is still no leader, read the logs of the replicas",
            ),
        });
    }
    findings
}

/// Returns the registrations that are not carried out as written.
fn complaints(registrations: &[&ServiceRegistration]) -> Vec<Finding> {
    let mut bad = Vec::new();
    for registration in registrations {
        let conditions = || registration.status.iter().flat_map(|status| &status.conditions);
        // The first condition that matches explains the others.
        let wrong = [("Accepted", "False"), ("Conflict", "True"), ("Synced", "False")];
        let is = |kind: &str, status: &str| conditions().find(|one| one.type_ == kind && one.status == status);
        if let Some(condition) = wrong.into_iter().find_map(|(kind, status)| is(kind, status)) {
            let (namespace, name) = (registration.namespace().unwrap_or_default(), registration.name_any());
            bad.push(format!(
                "{namespace}/{name}: {} ({})",
                condition.message, condition.reason
            ));
        }
    }
    if bad.is_empty() {
        return vec![Finding::well(format!(
            "{} registrations, none reports a problem",
            registrations.len()
        ))];
    }
    let more = bad.len().saturating_sub(MAX_LISTED);
    let fix = "follow the advice in the message; kubectl get svcreg -A -o wide lists all registrations";
    let mut findings: Vec<Finding> = bad
        .into_iter()
        .take(MAX_LISTED)
        .map(|what| Finding::warning(what, fix))
        .collect();
    if more > 0 {
        findings.push(Finding::warning(format!("{more} more with problems"), fix));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::finding::{Grade, worst};
    use super::*;

    fn status(cluster_id: u64) -> Status {
        Status {
            version: "3.6.15".to_owned(),
            cluster_id,
            revision: 1,
            db_bytes: 20 << 10,
            has_leader: true,
            is_full: false,
            is_corrupt: false,
            is_learner: false,
            member_id: 1,
        }
    }

    #[test]
    fn failed_condition_is_one_finding_and_ready_does_not_repeat_it() {
        let condition = |kind: &str, status: &str| {
            serde_json::json!({
                "type": kind, "status": status, "reason": "R", "message": "m",
                "lastTransitionTime": "2026-11-29T00:00:00Z",
            })
        };
        let findings = |conditions: Vec<serde_json::Value>| {
            let object = serde_json::json!({
                "apiVersion": "leasehold.dev/v1alpha1", "kind": "Registry", "metadata": {"name": "default"},
                "spec": {"etcd": {"endpoints": []}}, "status": {"leader": "a", "conditions": conditions},
            });
            let found = of_conditions(&serde_json::from_value(object).expect("decodes"));
            found.into_iter().map(|finding| finding.what).collect::<Vec<_>>()
        };
        let down = findings(vec![condition("Ready", "False"), condition("Connected", "False")]);
        assert_eq!(down, ["the operator reports Connected=False: m"]);
        let held = findings(vec![condition("Ready", "True"), condition("RemovalsHeld", "True")]);
        assert_eq!(held, ["the operator reports RemovalsHeld=True: m"]);
        let well = findings(vec![condition("Ready", "True"), condition("RemovalsHeld", "False")]);
        assert_eq!(well, ["the operator serves this Registry; a leads"]);
    }

    fn grade(members: Vec<crate::backend::etcd::Result<Status>>) -> Grade {
        let named = members.into_iter().enumerate();
        let named: Vec<_> = named.map(|(i, member)| (format!("http://e{i}:2379"), member)).collect();
        worst(&[Chapter {
            about: String::new(),
            findings: of_members(&named),
        }])
    }

    fn away() -> Error {
        Error::Unreachable {
            endpoints: "http://e:2379".to_owned(),
            cause: "connection refused".to_owned(),
        }
    }

    #[test]
    fn one_unreachable_member_is_a_warning_and_all_members_a_problem() {
        assert_eq!(grade(vec![Ok(status(1)), Ok(status(1))]), Grade::Well);
        assert_eq!(grade(vec![Ok(status(1)), Err(away())]), Grade::Warning);
        assert_eq!(grade(vec![Err(away()), Err(away())]), Grade::Problem);
    }

    #[test]
    fn a_learner_among_members_is_a_warning_and_alone_a_problem() {
        let learner = || Status {
            is_learner: true,
            ..status(1)
        };
        assert_eq!(grade(vec![Ok(learner()), Ok(status(1))]), Grade::Warning);
        assert_eq!(grade(vec![Ok(learner()), Err(away())]), Grade::Problem);
    }

    #[test]
    fn mixed_clusters_full_database_and_lost_leader_are_problems() {
        assert_eq!(grade(vec![Ok(status(1)), Ok(status(2))]), Grade::Problem);
        let full = Status {
            is_full: true,
            ..status(1)
        };
        assert_eq!(grade(vec![Ok(full)]), Grade::Problem);
        let corrupt = Status {
            is_corrupt: true,
            ..status(1)
        };
        assert_eq!(grade(vec![Ok(corrupt)]), Grade::Problem);
        let lost = Status {
            has_leader: false,
            ..status(1)
        };
        assert_eq!(grade(vec![Ok(lost)]), Grade::Problem);
        let large = Status {
            db_bytes: 1900 << 20,
            ..status(1)
        };
        assert_eq!(grade(vec![Ok(large)]), Grade::Warning);
    }
}
