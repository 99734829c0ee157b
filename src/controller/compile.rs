//! Compiles what the user wrote into what the index and the planner need, or returns why that is impossible.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU16;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};
use kube::ResourceExt;
use serde::Serialize;
use serde_json::{Map, Value};

use super::overlaps::SuppressedFormat;
use super::source::{Obstacle, Resolved, resolve};
use crate::api::{self, LastPort, LastSynced, Reason, RecordFormatSpec, RegistrySpec, ServiceRegistration};
use crate::format::{Format, FormatError, Reading, RecordFormats, Service, ServicePort, Templates};
use crate::index::{
    self, EndpointSlice, Index, ObjectCache, Operator, PodView, PortTarget, Requirement, Selector,
    Service as KubeService, Target,
};
use crate::model::{Family, Prefix, RegistrationRef};
use crate::plan::{Denial, DesiredPod, EndpointKind, FormatBinding, PrefixGrant, RegistrationSettings};

/// A registration that can be applied.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "the facts are independent")]
pub struct Compiled {
    /// The part that the index needs.
    pub registration: index::Registration,
    pub bindings: Vec<FormatBinding>,
    /// The formats that are suppressed because they overlap another registration's, with their positions among all
    /// formats.
    pub suppressed: Vec<(FormatBinding, SuppressedFormat)>,
    /// The requested TTL in seconds; the Registry's TTL if none.
    pub ttl: Option<u32>,
    /// Renew the leases, but change nothing.
    pub suspended: bool,
    /// Keep the last endpoint if all pods that exist are merely not ready.
    pub keep_last: bool,
    /// The spec before the last change, until the newest spec is known to be applied.
    pub previous: Option<Box<Compiled>>,
    /// The part of the spec that determines keys and values, as the user wrote it.
    pub identity: Arc<LastSynced>,
    /// The Registry has access rules, and the labels of the namespace are not known yet: change nothing until they are.
    pub unsure: bool,
    /// The formats overlap the metaPrefix of a Registry that was added or changed later: change nothing.
    pub frozen: bool,
    /// The names of attributes with the node labels that hold their values, as the spec asks for them. The Registry decides
    /// which of them come into force, as `registration.node_labels`.
    pub node_labels: Vec<(Arc<str>, Arc<str>)>,
    /// The Service that the registration names.
    pub service_name: Option<Arc<str>>,
    /// Why nothing, or not everything, of the Service that it names can be registered now.
    pub obstacle: Option<Obstacle>,
    /// Why attributes are in no record, although everything else is registered.
    pub missing: Option<Obstacle>,
}

/// The objects that registrations refer to.
#[derive(Clone, Copy)]
pub struct References<'a> {
    pub record_formats: &'a RecordFormats,
    /// The formats that the Registry gives to registrations without any.
    pub default_formats: &'a [api::Format],
    pub services: &'a ObjectCache<KubeService>,
    /// The EndpointSlices that Kubernetes' own controller does not write.
    pub slices: &'a ObjectCache<EndpointSlice>,
}

/// A format that overlaps the metaPrefix of a Registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reserved {
    /// The prefix of its keys.
    pub prefix: Prefix,
    pub registry: Arc<str>,
    pub meta_prefix: String,
}

/// Why a registration cannot be applied. Admission rejects most of these cases, but an object may be older than the
/// rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// An empty selector would register every pod of the namespace.
    #[error("spec.selector is empty: name at least one label in matchLabels")]
    EmptySelector,
    #[error("the address type {0} belongs to a Service: write spec.service instead of spec.selector")]
    NeedsService(&'static str),
    #[error("spec.selector has the unknown operator {0:?}: use In, NotIn, Exists or DoesNotExist")]
    SelectorOperator(String),
    #[error("spec.ports has the invalid port number {0}: use a number from 1 to 65535")]
    PortNumber(i32),
    /// Two ports have the same name.
    #[error("spec.ports has two ports with the name {0:?}: give each port a unique name")]
    PortTwice(Arc<str>),
    /// A format lists a port that the registration does not have.
    #[error("spec.formats is missing, and the Registry has no spec.defaults.formats: list at least one format")]
    NoFormats,
    #[error("spec.formats lists the port {0:?}, which is not in spec.ports: add it there")]
    UnknownPort(String),
    #[error("spec.formats: {0}")]
    Format(#[from] FormatError),
}

impl Invalid {
    /// Returns the condition reason.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Format(FormatError::NoRecordFormat(_)) => Reason::RecordFormatNotFound,
            Self::Format(FormatError::RecordFormatBroken { .. } | FormatError::SharedByPorts { .. }) => {
                Reason::RecordFormatUnusable
            }
            _ => Reason::InvalidSpec,
        }
    }
}

pub fn reference(registration: &ServiceRegistration) -> RegistrationRef {
    RegistrationRef::new(registration.namespace().unwrap_or_default(), registration.name_any())
}

/// Compiles `registration` with what it refers to.
pub fn compile(registration: &ServiceRegistration, references: References<'_>) -> Result<Compiled, Invalid> {
    compile_with(registration, references, &[])
}

/// Compiles `registration`. `last` are the ports that were found in its Service when the spec was carried out; without
/// them, those that the Service has now are used.
fn compile_with(
    registration: &ServiceRegistration,
    references: References<'_>,
    last: &[LastPort],
) -> Result<Compiled, Invalid> {
    let spec = &registration.spec;
    let reference = reference(registration);
    let service = registration.service_name();
    let Resolved {
        selector,
        publish_not_ready,
        target,
        ports,
        service_ports,
        obstacle,
    } = resolve(spec, &reference.namespace, references, last)?;
    let names: BTreeMap<&Arc<str>, usize> = ports.iter().zip(0..).map(|(port, place)| (&port.name, place)).collect();
    if let Some((port, _)) = ports.iter().zip(0..).find(|(port, place)| names[&port.name] != *place) {
        return Err(Invalid::PortTwice(port.name.clone()));
    }
    let formats = match &spec.formats[..] {
        [] => references.default_formats,
        own => own,
    };
    if formats.is_empty() {
        return Err(Invalid::NoFormats);
    }
    let mut bindings = Vec::with_capacity(formats.len());
    for listed in formats.iter().filter_map(|format| format.ports.as_ref()).flatten() {
        if obstacle.is_none() && !ports.iter().any(|port| *port.name == **listed) {
            return Err(Invalid::UnknownPort(listed.clone()));
        }
    }
    let known: Vec<ServicePort<'_>> = ports.iter().map(known_port).collect();
    let known = Service {
        namespace: &reference.namespace,
        name: service,
        ports: &known,
        ipv6: spec.address.families().contains(Family::IPv6),
        record_formats: references.record_formats,
    };
    for format in Format::compile_all(formats, &known)? {
        let sole_port = ports.iter().filter(|port| format.carries(&port.name)).count() == 1;
        let pass = PrefixGrant::Free;
        bindings.push(FormatBinding {
            format,
            sole_port,
            pass,
        });
    }
    let created = registration.metadata.creation_timestamp.as_ref();
    let attributes = |value: fn(&api::Attribute) -> Option<&String>| {
        let pair = move |attribute: &api::Attribute| -> Option<(Arc<str>, Arc<str>)> {
            Some((attribute.name.as_str().into(), value(attribute)?.as_str().into()))
        };
        spec.attributes.iter().filter_map(pair)
    };
    Ok(Compiled {
        registration: index::Registration {
            reference,
            uid: registration.uid().unwrap_or_default().into(),
            created: created.map_or(0, |time| time.0.as_second()),
            generation: registration.metadata.generation.unwrap_or_default(),
            selector,
            publish_not_ready,
            min_ready_seconds: NonZeroU16::new(spec.min_ready_seconds),
            target,
            registry: spec.registry_ref.name.as_str().into(),
            service: service.into(),
            ports,
            families: spec.address.families(),
            weight: spec.weight,
            version_label: spec.version.as_ref().map(|version| version.from_label.as_str().into()),
            metadata: Arc::new(attributes(|attribute| attribute.value.as_ref()).collect()),
            metadata_labels: attributes(|attribute| attribute.from_label.as_ref()).collect(),
            node_labels: Vec::new(),
        },
        bindings,
        suppressed: Vec::new(),
        ttl: spec.lease_ttl_seconds,
        suspended: spec.update_policy == api::UpdatePolicy::Frozen,
        keep_last: spec.last_endpoint == api::LastEndpoint::Keep,
        previous: None,
        identity: Arc::new(identity(
            registration,
            formats,
            references.record_formats,
            service_ports,
        )),
        unsure: false,
        frozen: false,
        node_labels: attributes(|attribute| attribute.from_node_label.as_ref()).collect(),
        service_name: spec.service.as_ref().map(|service| service.name.as_str().into()),
        obstacle,
        missing: None,
    })
}

/// The fields of the spec that determine keys and values.
const DECIDING: [&str; 7] = [
    "serviceName",
    "ports",
    "address",
    "formats",
    "version",
    "weight",
    "attributes",
];

/// Returns the part of `registration` that determines keys and values, and the RecordFormats that it uses.
fn identity(
    registration: &ServiceRegistration,
    formats: &[api::Format],
    record_formats: &RecordFormats,
    service_ports: Vec<LastPort>,
) -> LastSynced {
    let mut spec = fields(&registration.spec);
    spec.retain(|field, _| DECIDING.contains(&&**field));
    spec.insert(
        "formats".to_owned(),
        formats.iter().map(fields).map(Value::Object).collect(),
    );
    let names = formats
        .iter()
        .filter_map(|format| Some(&*format.custom.as_ref()?.record_format_ref.name));
    let known = names.filter_map(|name| Some((name.to_owned(), fields(record_formats.get(name).ok()?.spec()).into())));
    LastSynced {
        generation: registration.metadata.generation.unwrap_or_default(),
        record_formats: known.collect(),
        service_ports,
        spec,
    }
}

fn fields(object: &impl Serialize) -> Map<String, Value> {
    match serde_json::to_value(object) {
        Ok(Value::Object(fields)) => fields,
        _ => Map::new(),
    }
}

/// Compiles `registration` with the spec `last`, which was applied before. Returns none if that spec is no longer
/// valid.
pub fn compile_last(
    registration: &ServiceRegistration,
    last: &LastSynced,
    references: References<'_>,
) -> Option<Compiled> {
    let mut spec = fields(&registration.spec);
    spec.retain(|field, _| !DECIDING.contains(&&**field));
    spec.extend(last.spec.clone());
    let before = ServiceRegistration {
        metadata: registration.metadata.clone(),
        spec: serde_json::from_value(spec.into()).ok()?,
        status: None,
    };
    let mut record_formats = RecordFormats::new();
    for (name, spec) in &last.record_formats {
        let spec: RecordFormatSpec = serde_json::from_value(spec.clone()).ok()?;
        record_formats.set(name, Templates::compile(name, &spec));
    }
    let references = References {
        record_formats: &record_formats,
        ..references
    };
    compile_with(&before, references, &last.service_ports).ok()
}

impl Compiled {
    /// Returns the input of the overlap check for all formats, in the order of the spec. A format that the Registry's
    /// rules do not allow gets none: it must not suppress other formats.
    ///
    /// The formats of the previous spec follow. Those with the same prefixes as a current format get none.
    pub fn readings(&self) -> Vec<Option<Reading>> {
        let allowed =
            |binding: &FormatBinding| !self.unsure && !self.frozen && binding.pass.allows_all(binding.format.prefix());
        let reading = |binding: &FormatBinding| allowed(binding).then(|| binding.format.reading());
        let mut readings: Vec<Option<Reading>> = self.all_outlets().iter().map(reading).collect();
        if let Some(previous) = &self.previous {
            for reading in previous.readings() {
                let is_known = reading.is_some() && readings.contains(&reading);
                readings.push(reading.filter(|_| !is_known && !self.frozen));
            }
        }
        readings
    }

    /// Suppresses these formats, numbered as in [`Self::readings`], and no others.
    pub fn suppress(&mut self, suppressed: &[SuppressedFormat]) {
        let all = self.all_outlets();
        if let Some(previous) = &mut self.previous {
            let count = all.len();
            let of_previous = suppressed.iter().filter_map(|suppressed| {
                let format = suppressed.format.checked_sub(count)?;
                let reason = suppressed.reason.clone();
                Some(SuppressedFormat { format, reason })
            });
            previous.suppress(&of_previous.collect::<Vec<_>>());
        }
        (self.bindings, self.suppressed) = (Vec::new(), Vec::new());
        for (place, binding) in all.into_iter().enumerate() {
            match suppressed.iter().find(|suppressed| suppressed.format == place) {
                Some(suppressed) => self.suppressed.push((binding, suppressed.clone())),
                None => self.bindings.push(binding),
            }
        }
    }

    /// Returns the suppressed formats, numbered as in [`Self::readings`].
    pub fn all_suppressed(&self) -> impl Iterator<Item = SuppressedFormat> {
        let count = self.bindings.len() + self.suppressed.len();
        let mine = self.suppressed.iter().map(|(_, suppressed)| suppressed.clone());
        let of_previous = self.previous.iter().flat_map(|previous| &previous.suppressed);
        mine.chain(of_previous.map(move |(_, suppressed)| SuppressedFormat {
            format: suppressed.format + count,
            reason: suppressed.reason.clone(),
        }))
    }

    /// Whether formats are suppressed that the previous spec did not have.
    pub fn is_newly_suppressed(&self) -> bool {
        let before = self.previous.iter().flat_map(|previous| &previous.suppressed);
        let before: Vec<&Format> = before.map(|(binding, _)| &binding.format).collect();
        self.suppressed
            .iter()
            .any(|(binding, _)| !before.contains(&&binding.format))
    }

    /// Whether pods get other records than with `former` although the index sees no difference: a RecordFormat has
    /// changed, or the previous spec that is kept.
    pub fn rewrites(&self, former: &Self) -> bool {
        let before = |compiled: &Self| {
            let previous = compiled.previous.as_deref();
            previous.map(|previous| (previous.registration.clone(), previous.bindings.clone()))
        };
        let keeps_other = self.previous.is_some() && before(self) != before(former);
        self.registration == former.registration && (self.bindings != former.bindings || keeps_other)
    }

    /// Returns the records of the pod `name` by the previous spec, if that spec is kept and the pod is ready.
    pub fn previously(&self, index: &Index, name: &str) -> Option<DesiredPod> {
        let previous = self.previous.as_ref()?;
        let pod = index.view_if_ready_as(&previous.registration, name)?;
        DesiredPod::of(PodView::Ready(pod), &previous.bindings)
    }

    /// Returns what it registers.
    pub fn kind(&self) -> EndpointKind {
        match (&self.registration.target, self.service_name.is_some()) {
            (Target::Nodes(_), _) => EndpointKind::Nodes,
            (Target::Addresses(_), _) => EndpointKind::Addresses,
            (Target::Pods | Target::HostPorts, true) => EndpointKind::ServicePods,
            (Target::Pods | Target::HostPorts, false) => EndpointKind::SelectedPods,
        }
    }

    /// Whether the spec, or the previous one that is kept, asks for labels of nodes.
    pub fn uses_node_labels(&self) -> bool {
        let previous = self.previous.as_deref();
        !self.node_labels.is_empty() || previous.is_some_and(Self::uses_node_labels)
    }

    /// Returns why formats are suppressed.
    pub fn suppression_reasons(&self) -> Vec<String> {
        self.suppressed
            .iter()
            .map(|(_, suppressed)| suppressed.reason.clone())
            .collect()
    }

    fn all_outlets(&self) -> Vec<FormatBinding> {
        let mut all = self.bindings.clone();
        // Suppressed formats are in the order of their positions.
        for (binding, suppressed) in &self.suppressed {
            all.insert(suppressed.format, binding.clone());
        }
        all
    }

    /// Returns the settings that the planner needs.
    pub fn settings(&self, registry: &RegistrySpec) -> RegistrationSettings {
        RegistrationSettings {
            created: self.registration.created,
            ttl: self.ttl.unwrap_or(registry.defaults.lease_ttl_seconds),
            suspended: self.suspended || self.unsure || self.frozen,
            keep_last: self.keep_last,
            // Where nothing may be written, nothing is read: the keys there may belong to other clients.
            prefixes: self.prefixes(),
        }
    }

    fn prefixes(&self) -> Vec<Prefix> {
        let bindings = self.bindings.iter();
        let bindings = bindings.chain(self.previous.iter().flat_map(|previous| &previous.bindings));
        let mut prefixes: Vec<Prefix> = Vec::new();
        for binding in bindings.filter(|binding| !matches!(binding.pass, PrefixGrant::Nowhere(_))) {
            if !prefixes.contains(binding.format.prefix()) {
                prefixes.push(binding.format.prefix().clone());
            }
        }
        prefixes
    }

    /// Forbids every format whose keys may be inside `bookkeeping`, the records of `registry`. Returns the prefix as a
    /// forbidden one.
    pub fn keep_out(&mut self, bookkeeping: Prefix, registry: Arc<str>) -> (Prefix, PrefixGrant) {
        let nowhere = PrefixGrant::Nowhere(Arc::new(Denial::Bookkeeping(registry)));
        for binding in &mut self.bindings {
            let prefix = binding.format.prefix();
            if bookkeeping.contains(prefix.as_str()) || prefix.contains(bookkeeping.as_str()) {
                binding.pass = nowhere.clone();
            }
        }
        (bookkeeping, nowhere)
    }

    /// Returns the first format whose keys may be inside a metaPrefix of `registries` or around it, or whose consumers
    /// would read it. The etcd cluster of a Registry does not matter: several Registries may name the same one.
    pub fn reserved<'a>(&self, registries: impl Iterator<Item = (&'a str, &'a RegistrySpec)>) -> Option<Reserved> {
        let suppressed = self.suppressed.iter().map(|(binding, _)| binding);
        let formats: Vec<&Format> = self
            .bindings
            .iter()
            .chain(suppressed)
            .map(|binding| &binding.format)
            .collect();
        let overlap = |(registry, spec): (&str, &RegistrySpec)| {
            let meta = Prefix::below(&spec.etcd.meta_prefix);
            let reaches = |format: &&&Format| format.reads(&meta) || meta.contains(format.prefix().as_str());
            let format = formats.iter().find(reaches)?;
            Some(Reserved {
                prefix: format.prefix().clone(),
                registry: registry.into(),
                meta_prefix: spec.etcd.meta_prefix.clone(),
            })
        };
        registries
            .filter_map(overlap)
            .min_by(|a, b| a.registry.cmp(&b.registry))
    }
}

fn known_port(port: &index::Port) -> ServicePort<'_> {
    let number = match port.target {
        PortTarget::Number(number) => Some(number),
        PortTarget::Name { .. } => None,
    };
    ServicePort {
        name: &port.name,
        number,
        scheme: port.scheme.as_deref(),
    }
}

pub(super) fn selector(selector: &LabelSelector) -> Result<Selector, Invalid> {
    let labels = selector.match_labels.iter().flatten();
    let expressions = selector.match_expressions.iter().flatten();
    Ok(Selector {
        match_labels: labels
            .map(|(key, value)| (key.as_str().into(), value.as_str().into()))
            .collect(),
        match_expressions: expressions.map(requirement).collect::<Result<_, _>>()?,
    })
}

fn requirement(requirement: &LabelSelectorRequirement) -> Result<Requirement, Invalid> {
    let values = || -> BTreeSet<Arc<str>> {
        let values = requirement.values.iter().flatten();
        values.map(|value| value.as_str().into()).collect()
    };
    let operator = match requirement.operator.as_str() {
        "In" => Operator::In(values()),
        "NotIn" => Operator::NotIn(values()),
        "Exists" => Operator::Exists,
        "DoesNotExist" => Operator::DoesNotExist,
        other => return Err(Invalid::SelectorOperator(other.to_owned())),
    };
    Ok(Requirement {
        key: requirement.key.as_str().into(),
        operator,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::Protocol;

    fn compile(registration: &ServiceRegistration) -> Result<Compiled, Invalid> {
        let references = References {
            record_formats: &RecordFormats::new(),
            default_formats: &[],
            services: &ObjectCache::default(),
            slices: &ObjectCache::default(),
        };
        super::compile(registration, references)
    }

    fn registration(patch: &Value) -> ServiceRegistration {
        let mut object = json!({
            "apiVersion": "leasehold.dev/v1alpha1", "kind": "ServiceRegistration",
            "metadata": {"name": "orders", "namespace": "shop"},
            "spec": {
                "selector": {"matchLabels": {"app": "orders"}},
                "ports": [{"name": "grpc"}, {"name": "web", "port": 8080}],
                "formats": [{"type": "Plain"}, {"type": "EtcdGRPC", "ports": ["grpc"]}]
            }
        });
        for (field, value) in patch.as_object().expect("an object of spec fields") {
            object["spec"][field] = value.clone();
        }
        serde_json::from_value(object).expect("decodes")
    }

    fn registry() -> RegistrySpec {
        serde_json::from_value(json!({"etcd": {"endpoints": ["http://127.0.0.1:2379"]}})).expect("decodes")
    }

    #[test]
    fn a_format_that_carries_one_port_needs_no_port_in_its_keys() {
        let compiled = compile(&registration(&json!({}))).unwrap();
        let sole: Vec<bool> = compiled.bindings.iter().map(|binding| binding.sole_port).collect();
        assert_eq!(sole, [false, true]);
    }

    #[test]
    fn a_registration_without_a_ttl_takes_the_one_of_its_registry() {
        assert_eq!(
            compile(&registration(&json!({}))).unwrap().settings(&registry()).ttl,
            30
        );
        let own = registration(&json!({"leaseTTLSeconds": 60}));
        assert_eq!(compile(&own).unwrap().settings(&registry()).ttl, 60);
    }

    #[test]
    fn a_port_without_a_target_is_the_container_port_of_its_name() {
        let ports = json!({"ports": [
            {"name": "grpc", "protocol": "TCP", "appProtocol": "h2c"}, {"name": "web", "port": 8080},
            {"name": "admin", "port": "http"},
        ]});
        let compiled = compile(&registration(&ports)).unwrap();
        let named = |name: &str, protocol| PortTarget::Name {
            name: name.into(),
            protocol,
        };
        let port = |name: &str, target, scheme: Option<&str>| index::Port {
            name: name.into(),
            target,
            scheme: scheme.map(Into::into),
        };
        assert_eq!(
            compiled.registration.ports,
            [
                port("grpc", named("grpc", Some(Protocol::Tcp)), Some("h2c")),
                port("web", PortTarget::Number(8080), None),
                port("admin", named("http", None), None),
            ]
        );
    }

    #[test]
    fn attributes_are_values_or_come_from_labels_under_their_own_names() {
        let attributes = json!({"attributes": [
            {"name": "team", "value": "payments"},
            {"name": "zone", "fromLabel": "topology.kubernetes.io/zone"},
            {"name": "cell", "fromNodeLabel": "example.org/rack"},
        ]});
        let compiled = compile(&registration(&attributes)).unwrap();
        assert_eq!(compiled.node_labels, [("cell".into(), "example.org/rack".into())]);
        let registration = compiled.registration;
        assert_eq!(registration.node_labels, [], "the Registry has not allowed any yet");
        assert_eq!(
            *registration.metadata,
            BTreeMap::from([("team".into(), "payments".into())])
        );
        assert_eq!(
            registration.metadata_labels,
            [("zone".into(), "topology.kubernetes.io/zone".into())]
        );
    }

    #[test]
    fn zero_min_ready_seconds_are_none() {
        let seconds = |spec| compile(&registration(&spec)).unwrap().registration.min_ready_seconds;
        assert_eq!(seconds(json!({})), None);
        assert_eq!(seconds(json!({"minReadySeconds": 0})), None);
        assert_eq!(seconds(json!({"minReadySeconds": 3600})), NonZeroU16::new(3600));
    }

    #[test]
    fn only_the_fields_that_determine_records_are_recorded_as_applied() {
        let frozen = json!({
            "updatePolicy": "Frozen", "leaseTTLSeconds": 60, "attributes": [{"name": "team", "value": "payments"}],
        });
        let compiled = compile(&registration(&frozen)).unwrap();
        assert!(compiled.suspended && compiled.settings(&registry()).suspended);
        let recorded: Vec<&String> = compiled.identity.spec.keys().collect();
        assert_eq!(recorded, ["address", "attributes", "formats", "ports"]);
        assert_eq!(compiled.identity.spec["attributes"], frozen["attributes"]);
    }

    #[test]
    fn a_prefix_may_not_reach_into_the_bookkeeping_nor_around_it() {
        for prefix in ["/leasehold", "/leasehold/x"] {
            let compiled = compile(&registration(
                &json!({"formats": [{"type": "Plain", "plain": {"prefix": prefix}}]}),
            ))
            .unwrap();
            assert!(reserved(&compiled, &registry()).is_some(), "{prefix}");
        }
        let beside = registration(&json!({"formats": [{"type": "Plain", "plain": {"prefix": "/leasehold-demo"}}]}));
        assert_eq!(reserved(&compile(&beside).unwrap(), &registry()), None);
    }

    fn reserved(compiled: &Compiled, registry: &RegistrySpec) -> Option<Reserved> {
        compiled.reserved([("default", registry)].into_iter())
    }

    #[test]
    fn a_prefix_may_not_reach_into_the_bookkeeping_of_any_registry() {
        let at = |meta: &str| -> RegistrySpec {
            serde_json::from_value(json!({"etcd": {"endpoints": ["http://127.0.0.1:2379"], "metaPrefix": meta}}))
                .expect("decodes")
        };
        let (a, b) = (at("/meta-a/"), at("/meta-b/"));
        for prefix in ["/meta-a", "/meta-a/c1/registries/a", "/meta-a/c1/leases"] {
            let formats = json!({"formats": [{"type": "Plain", "plain": {"prefix": prefix}}]});
            let compiled = compile(&registration(&formats)).unwrap();
            let found = compiled.reserved([("b", &b), ("a", &a)].into_iter()).expect(prefix);
            assert_eq!((&*found.registry, &*found.meta_prefix), ("a", "/meta-a/"));
            assert_eq!(compiled.reserved([("b", &b)].into_iter()), None);
        }
        let outside = registration(&json!({"formats": [{"type": "Plain", "plain": {"prefix": "/meta-c"}}]}));
        assert_eq!(
            compile(&outside).unwrap().reserved([("b", &b), ("a", &a)].into_iter()),
            None
        );
    }

    #[test]
    fn what_admission_would_refuse_is_refused_here_too() {
        let cases = [
            (json!({"selector": {}}), Invalid::EmptySelector),
            (
                json!({"ports": [{"name": "web", "port": 70000}]}),
                Invalid::PortNumber(70000),
            ),
            (
                json!({"ports": [{"name": "grpc"}, {"name": "web", "port": 80}, {"name": "grpc", "protocol": "UDP"}]}),
                Invalid::PortTwice("grpc".into()),
            ),
            (
                json!({"formats": [{"type": "Plain", "ports": ["nope"]}]}),
                Invalid::UnknownPort("nope".to_owned()),
            ),
            (
                json!({"selector": {"matchExpressions": [{"key": "a", "operator": "Like"}]}}),
                Invalid::SelectorOperator("Like".to_owned()),
            ),
        ];
        for (patch, expected) in cases {
            assert_eq!(compile(&registration(&patch)).unwrap_err(), expected);
        }
    }
}
