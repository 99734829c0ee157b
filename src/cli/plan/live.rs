//! Plans against a live cluster and the Registry's etcd. Only reads both.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::Path;
use std::time::Duration;

use kube::ResourceExt;
use tokio::time::timeout;

use super::error::Error;
use super::manifests::Manifests;
use super::{Compared, Plan, reference};
use crate::api::{AddressType, FormatType, RecordFormat, Registry, RegistrySpec, ServiceRegistration};
use crate::backend::etcd::Connection;
use crate::backend::{Access, Timeouts};
use crate::cli::entry::{Closed, access};
use crate::controller::{ClusterState, Outcome, Preview, Refusal};
use crate::kube::{Listing, WatchScope};
use crate::model::RegistrationRef;
use crate::telemetry::Calls;

/// The time-out for reading the cluster's id from the API server.
const PATIENCE: Duration = Duration::from_secs(10);

pub async fn find(
    mut manifests: Manifests,
    kubeconfig: Option<&Path>,
    namespace: Option<&str>,
    operator_namespace: &str,
) -> Result<Plan, Error> {
    let client = crate::kube::connect(kubeconfig)?;
    manifests.settle(namespace.unwrap_or(client.default_namespace()))?;
    let cluster_id = crate::kube::cluster_id(client.clone(), PATIENCE, Calls::default());
    let cluster_id = timeout(PATIENCE, cluster_id).await.map_err(|_| Error::NoCluster)?;
    let listing = Listing::new(client);
    let mut present = listing.registrations(&WatchScope::default()).await?;
    // Where no status records when a prefix was claimed, the older registration has claimed it first.
    present.sort_by_key(ResourceExt::creation_timestamp);
    let all = present.iter().chain(&manifests.registrations);
    // The user needs permission to list RecordFormats only if a registration uses one. Default formats may.
    let uses_one = |one: &ServiceRegistration| {
        let mut formats = one.spec.formats.iter();
        one.spec.formats.is_empty() || formats.any(|format| format.kind == FormatType::Custom)
    };
    let record_formats = if all.into_iter().any(uses_one) {
        listing.record_formats().await?
    } else {
        Vec::new()
    };
    let mut by_registry: BTreeMap<String, Wanted> = BTreeMap::new();
    let mut order: Vec<RegistrationRef> = Vec::new();
    for registration in &manifests.registrations {
        let reference = reference(registration);
        let former = present.iter().find(|one| self::reference(one) == reference);
        if manifests.is_annotated(&reference) && former.is_some_and(|former| former.owning_service().is_none()) {
            let service = reference.name.to_string();
            return Err(Error::Taken { service });
        }
        let admitted = listing.admitted(registration).await?;
        by_registry
            .entry(admitted.spec.registry_ref.name.clone())
            .or_default()
            .given
            .push(admitted);
        order.push(reference);
    }
    for registry in &manifests.registries {
        let name = registry.name_any();
        let others = present.iter().filter(|one| one.spec.registry_ref.name == name);
        let others = others.filter(|one| !order.contains(&reference(one))).cloned().collect();
        let wanted = by_registry.entry(name).or_default();
        wanted.others = others;
        wanted.registry = Some(listing.admitted_registry(registry).await?);
    }
    if by_registry.is_empty() {
        return Err(Error::Nothing);
    }
    let (mut outcomes, mut refused, mut other_etcd) = (Vec::new(), Vec::new(), Vec::new());
    for (name, wanted) in by_registry {
        let present_registry = listing.registry(&name).await?;
        let registry = match &wanted.registry {
            Some(registry) => registry.clone(),
            None => present_registry.clone().ok_or_else(|| Error::NoRegistry {
                registration: wanted
                    .given
                    .first()
                    .map(|one| reference(one).to_string())
                    .unwrap_or_default(),
                registry: name.clone(),
            })?,
        };
        let closed = |cause| match cause {
            Closed::Cluster(cause) => Error::Cluster(cause),
            Closed::Wrong(cause) => Error::Credentials {
                registry: name.clone(),
                cause,
            },
        };
        // The operator uses other settings of the etcd only after it has tested them.
        let former = present_registry.map_or_else(|| registry.spec.clone(), |present| present.spec);
        if former.etcd != registry.spec.etcd {
            other_etcd.push(name.clone());
        }
        let access = access(&listing, &former, operator_namespace).await.map_err(closed)?;
        let registry = (&registry, &former, &access);
        let files = (&manifests, &record_formats[..]);
        let found = in_registry(&listing, &cluster_id, registry, files, &wanted, &present);
        let (found, rejected) = Box::pin(found).await?;
        outcomes.extend(found);
        refused.extend(rejected);
    }
    let place = |outcome: &Outcome| order.iter().position(|wanted| *wanted == outcome.registration);
    outcomes.retain(|outcome| place(outcome).is_some() || outcome.changes_anything());
    outcomes.sort_by_key(|outcome| place(outcome).unwrap_or(usize::MAX));
    Ok(Plan {
        outcomes,
        refused,
        other_etcd,
        compared: Compared::Etcd,
    })
}

/// What is to be planned in one Registry.
#[derive(Default)]
struct Wanted {
    /// The registrations in the files.
    given: Vec<ServiceRegistration>,
    /// The other registrations in the cluster, if the Registry is in the files.
    others: Vec<ServiceRegistration>,
    /// The Registry in the files.
    registry: Option<Registry>,
}

impl Wanted {
    fn all(&self) -> impl Iterator<Item = &ServiceRegistration> {
        self.given.iter().chain(&self.others)
    }
}

/// Returns the outcomes of registrations that all use this Registry, and which of those in the cluster the operator would
/// reject because of it. `former` is the spec of the present Registry.
async fn in_registry(
    listing: &Listing,
    cluster_id: &str,
    (registry, former, access): (&Registry, &RegistrySpec, &Access),
    (manifests, record_formats): (&Manifests, &[RecordFormat]),
    wanted: &Wanted,
    present: &[ServiceRegistration],
) -> Result<(Vec<Outcome>, Vec<(RegistrationRef, Refusal)>), Error> {
    let name = registry.name_any();
    let of_registry = |one: &&ServiceRegistration| one.spec.registry_ref.name == name;
    let present: Vec<&ServiceRegistration> = present.iter().filter(of_registry).collect();
    let shown: Vec<&ServiceRegistration> = wanted.all().collect();
    let mut cluster = cluster_state(listing, present.iter().copied(), &shown).await?;
    manifests.apply_to(&mut cluster);
    let change = Change {
        record_formats,
        manifests,
        wanted,
        registry: &registry.spec,
    };
    // Whatever the access rules allow: the labels of all namespaces would have to be read.
    let open = RegistrySpec {
        access: None,
        ..former.clone()
    };
    let mut all = Preview::new(cluster_id, &name, open, cluster.clone());
    change.apply(&mut all, &present, |spec| spec.access = None);
    let concerned = all.concerned(&shown.iter().map(|one| reference(one)).collect());
    let is_concerned = |one: &&ServiceRegistration| concerned.contains(&reference(one));
    let (present, unconcerned): (Vec<&ServiceRegistration>, Vec<_>) = present.into_iter().partition(is_concerned);
    let namespaces = present.iter().chain(&shown).copied().filter_map(ResourceExt::namespace);
    let namespaces: BTreeSet<String> = namespaces.collect();
    for namespace in &namespaces {
        cluster.pods.extend(listing.pods(namespace).await?);
    }
    // What the registrations have by the present Registry is compared with what they would have by the one in the files.
    let mut preview = Preview::new(cluster_id, &name, former.clone(), cluster);
    if former.access.is_some() || registry.spec.access.is_some() {
        for namespace in &namespaces {
            preview.settle(listing.namespace(namespace).await?);
        }
    }
    let pods = unconcerned.iter().filter_map(|one| one.status.as_ref()?.pods.as_ref());
    let registered = pods.map(|pods| usize::try_from(pods.registered).unwrap_or(usize::MAX));
    preview.add_endpoints(registered.sum());
    let (rejected_before, rejected) = change.apply(&mut preview, &present, |_| ());
    let is_given = |one: &RegistrationRef| wanted.given.iter().any(|given| reference(given) == *one);
    if let Some(place) = rejected.iter().position(|(one, _)| is_given(one)) {
        let (registration, cause) = rejected.into_iter().nth(place).expect("it was found there");
        let registration = registration.to_string();
        return Err(Error::Refused { registration, cause });
    }
    read(&mut preview, access)
        .await
        .map_err(|cause| Error::Etcd { registry: name, cause })?;
    let is_accepted = |one: &RegistrationRef| rejected.iter().all(|(other, _)| other != one);
    let accepted: Vec<RegistrationRef> = shown.iter().map(|one| reference(one)).filter(is_accepted).collect();
    let is_new = |(one, _): &(RegistrationRef, Refusal)| !rejected_before.contains(one);
    let outcomes = preview.outcomes(&accepted).await;
    Ok((outcomes, rejected.into_iter().filter(is_new).collect()))
}

/// The change of one Registry and its registrations that the files describe.
struct Change<'a> {
    /// The RecordFormats in the cluster.
    record_formats: &'a [RecordFormat],
    manifests: &'a Manifests,
    wanted: &'a Wanted,
    registry: &'a RegistrySpec,
}

impl Change<'_> {
    /// Adds what is `present` to the preview, then the change, with a Registry that `amend` has amended. Returns the
    /// registrations that are rejected before the change, and those that are rejected after it.
    fn apply(
        &self,
        preview: &mut Preview,
        present: &[&ServiceRegistration],
        amend: fn(&mut RegistrySpec),
    ) -> (HashSet<RegistrationRef>, Vec<(RegistrationRef, Refusal)>) {
        for format in self.record_formats {
            preview.add_record_format(format);
        }
        // The operator does not carry out a rejected registration either.
        let before = present.iter().filter(|one| preview.register(one).is_err());
        let before = before.map(|one| reference(one)).collect();
        for format in &self.manifests.record_formats {
            preview.add_record_format(format);
        }
        let mut registry = self.registry.clone();
        amend(&mut registry);
        preview.reconfigure(registry);
        let register = |one| Some((reference(one), preview.register(one).err()?));
        (before, self.wanted.all().filter_map(register).collect())
    }
}

/// Lists the Services and nodes that these registrations need: the user needs permission for no others.
async fn cluster_state<'a>(
    listing: &Listing,
    present: impl Iterator<Item = &'a ServiceRegistration>,
    wanted: &[&'a ServiceRegistration],
) -> Result<ClusterState, Error> {
    let mut cluster = ClusterState::default();
    let mut namespaces = BTreeSet::new();
    // Values of other registrations are not shown.
    let mut needs_nodes = wanted.iter().any(|registration| registration.spec.uses_node_labels());
    for registration in present.chain(wanted.iter().copied()) {
        let spec = &registration.spec;
        if spec.service.is_some() {
            namespaces.extend(registration.namespace());
        }
        needs_nodes |= spec.address.kind == AddressType::NodePort;
    }
    for namespace in &namespaces {
        for service in listing.services(namespace).await? {
            cluster.add_service(service);
        }
        for slice in listing.endpoint_slices(namespace).await? {
            cluster.add_slice(slice);
        }
    }
    // Zones come from nodes, too. Without permission for these, the preview shows the zones that pods know.
    match listing.nodes().await {
        Ok(nodes) => cluster.nodes = nodes,
        Err(error) if needs_nodes => return Err(error.into()),
        Err(_) => {}
    }
    Ok(cluster)
}

/// Reads the relevant prefixes of the Registry's etcd, all at one revision, into the preview.
async fn read(preview: &mut Preview, access: &Access) -> crate::backend::etcd::Result<()> {
    let connection = Connection::new(access, Timeouts::default(), Calls::default()).await?;
    let mut revision = None;
    for prefix in preview.prefixes() {
        let snapshot = match connection.range(&prefix, revision).await {
            Ok(snapshot) => snapshot,
            Err(error) => return Err(connection.explain(error).await),
        };
        revision = Some(snapshot.revision);
        preview.observe(prefix, snapshot.revision, snapshot.entries);
    }
    Ok(())
}
