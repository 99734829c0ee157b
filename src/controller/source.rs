//! Resolves what a registration names, the labels of pods or a Service, into what the index selects and registers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::compile::{Invalid, References, selector};
use crate::api::{self, AddressType, LastPort, Reason, ServiceRegistrationSpec};
use crate::index::{
    Address, EndpointSlice, NodeTarget, Operator, Port, PortTarget, Requirement, Selector, Service, ServicePort,
    ServiceType, SlicePort, Target, TargetPort,
};
use crate::model::{Families, Family, Host, Protocol, listed};

/// What a registration selects and registers.
#[derive(Clone, Debug)]
pub struct Resolved {
    pub selector: Selector,
    pub publish_not_ready: bool,
    pub target: Target,
    pub ports: Vec<Port>,
    /// The ports as they were found in the Service.
    pub service_ports: Vec<LastPort>,
    /// Why nothing, or not everything, can be registered now.
    pub obstacle: Option<Obstacle>,
}

/// Why a Service cannot be registered as the registration asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Obstacle {
    pub reason: Reason,
    /// Describes the problem and what to do about it.
    pub message: String,
}

impl Obstacle {
    pub fn nodes_unknown() -> Self {
        Self {
            reason: Reason::NodesUnknown,
            message:
                "The operator cannot list the nodes of the cluster: give its service account the rights to list and \
                      watch nodes, as the chart does. Registered keys stay until then."
                    .to_owned(),
        }
    }

    /// Returns the reason and the message.
    pub fn condition(&self) -> (Reason, &str) {
        (self.reason, &self.message)
    }

    /// The Registry `registry` does not allow the labels of nodes that these attributes are from. The other facts of
    /// the endpoints are registered.
    pub fn node_labels_denied(registry: &str, denied: &[(Arc<str>, Arc<str>)]) -> Self {
        let attributes = listed(denied.iter().map(|(name, _)| name), NAMED, "and");
        let labels: BTreeSet<&Arc<str>> = denied.iter().map(|(_, label)| label).collect();
        let labels = listed(labels, NAMED, "and");
        Self {
            reason: Reason::AccessDenied,
            message: format!(
                "No record contains the attributes {attributes}, because the Registry \"{registry}\" does not allow \
                 registrations to publish the labels {labels} of nodes: ask an admin of the Registry to add these to its \
                 spec.nodeLabels, or remove the attributes. Everything else is registered."
            ),
        }
    }

    fn unusable(message: String) -> Self {
        let reason = Reason::ServiceUnusable;
        Self { reason, message }
    }
}

/// How many attributes or labels a message lists before it only counts the others.
const NAMED: usize = 3;

/// Maximum length of a port's name, as for the names of container ports.
pub const MAX_PORT_NAME: usize = 15;
/// The name of a Service's only port if it has none.
pub const UNNAMED_PORT: &str = "default";

/// Resolves the pods or the Service that `spec` names. `last` are the ports that were found in the Service when the spec
/// was carried out; they replace those that the Service has now.
pub fn resolve(
    spec: &ServiceRegistrationSpec,
    namespace: &str,
    references: References<'_>,
    last: &[LastPort],
) -> Result<Resolved, Invalid> {
    let Some(name) = spec.service.as_ref().map(|service| service.name.as_str()) else {
        return of_pods(spec);
    };
    let Some(service) = references.services.get(namespace, name) else {
        let message = format!("The Service \"{name}\" does not exist: create it, or name another one in spec.service.");
        let reason = Reason::ServiceNotFound;
        return Ok(nothing(
            last.iter().map(of_last).collect(),
            Some(Obstacle { reason, message }),
        ));
    };
    let mut obstacle = unfit(spec.address.kind, spec.address.families(), service);
    let service_ports = if last.is_empty() {
        let (ports, missing) = ports_of(spec, service);
        obstacle = obstacle.or(missing);
        ports
    } else {
        last.to_vec()
    };
    let ports: Vec<Port> = service_ports.iter().map(of_last).collect();
    if ports.is_empty() || service.kind == ServiceType::ExternalName {
        return Ok(nothing(ports, obstacle));
    }
    let slices = || {
        references
            .slices
            .in_namespace(namespace)
            .filter(|slice| slice.service == name)
    };
    let selector = if service.selector.is_empty() {
        nothing_selector()
    } else {
        Selector {
            match_labels: service.selector.clone(),
            match_expressions: Vec::new(),
        }
    };
    // Without a selector, the EndpointSlices say whether there is a ready endpoint.
    let ready = service.selector.is_empty().then(|| {
        let mut endpoints = slices().flat_map(|slice| &slice.endpoints);
        endpoints.any(|endpoint| endpoint.ready || service.publish_not_ready && !endpoint.terminating)
    });
    let hosts = |hosts: Vec<Host>| Target::Addresses(addresses(hosts, spec.address.families(), ready));
    let target = match spec.address.kind {
        AddressType::PodIP if service.selector.is_empty() => Target::Addresses(of_slices(
            slices(),
            &ports,
            spec.address.families(),
            service.publish_not_ready,
        )),
        AddressType::PodIP => Target::Pods,
        AddressType::HostIP => Target::HostPorts,
        AddressType::NodePort => Target::Nodes(NodeTarget {
            local: service.local_traffic && ready.is_none(),
            address_types: spec.address.node_address_types(),
            ready,
        }),
        AddressType::LoadBalancer => hosts(service.ingress.clone()),
        AddressType::ClusterIP => {
            let addresses = service.cluster_ips.of_all(spec.address.families());
            hosts(addresses.map(|(_, address)| Host::Ip(address)).collect())
        }
        AddressType::ExternalIP => hosts(service.external_ips.iter().copied().map(Host::Ip).collect()),
    };
    Ok(Resolved {
        selector,
        publish_not_ready: service.publish_not_ready,
        target,
        ports,
        service_ports,
        obstacle,
    })
}

fn of_pods(spec: &ServiceRegistrationSpec) -> Result<Resolved, Invalid> {
    let selector = spec.selector.as_ref().map(selector).transpose()?.unwrap_or_default();
    if selector.match_labels.is_empty() && selector.match_expressions.is_empty() {
        return Err(Invalid::EmptySelector);
    }
    let target = match spec.address.kind {
        AddressType::PodIP => Target::Pods,
        AddressType::HostIP => Target::HostPorts,
        other => return Err(Invalid::NeedsService(other.as_str())),
    };
    Ok(Resolved {
        selector,
        publish_not_ready: false,
        target,
        ports: spec.ports.iter().map(port).collect::<Result<_, _>>()?,
        service_ports: Vec::new(),
        obstacle: None,
    })
}

/// Selects and registers nothing.
fn nothing(ports: Vec<Port>, obstacle: Option<Obstacle>) -> Resolved {
    Resolved {
        selector: nothing_selector(),
        publish_not_ready: false,
        target: Target::Pods,
        ports,
        service_ports: Vec::new(),
        obstacle,
    }
}

fn nothing_selector() -> Selector {
    let never = Requirement {
        key: "".into(),
        operator: Operator::In(BTreeSet::new()),
    };
    Selector {
        match_expressions: vec![never],
        ..Selector::default()
    }
}

/// Returns why the Service has no address of this type and these families.
fn unfit(kind: AddressType, families: Families, service: &Service) -> Option<Obstacle> {
    let (name, of_service) = (&service.name, service.kind.as_str());
    if service.kind == ServiceType::ExternalName {
        return Some(Obstacle::unusable(format!(
            "The Service \"{name}\" is of the type ExternalName and has no endpoints: name a Service with pods or EndpointSlices."
        )));
    }
    let is_of_family = |host: &Host| is_of(host, families);
    let message = match kind {
        AddressType::HostIP if service.selector.is_empty() => {
            format!("address.type HostIP needs pods, and the Service \"{name}\" has no selector: use the type PodIP.")
        }
        AddressType::NodePort if service.ports.iter().all(|port| port.node_port.is_none()) => format!(
            "address.type NodePort: the Service \"{name}\" of the type {of_service} has no node ports: give it the type NodePort or LoadBalancer."
        ),
        AddressType::LoadBalancer if service.kind != ServiceType::LoadBalancer => format!(
            "address.type LoadBalancer: the Service \"{name}\" is of the type {of_service}: give it the type LoadBalancer."
        ),
        AddressType::LoadBalancer if !service.ingress.iter().any(is_of_family) => {
            return Some(Obstacle {
                reason: Reason::AddressPending,
                message: format!(
                    "The load balancer of the Service \"{name}\" has no {families} address and no host name yet: see `kubectl describe service {name}`."
                ),
            });
        }
        AddressType::ClusterIP if service.cluster_ips.of_all(families).next().is_none() => format!(
            "address.type ClusterIP: the Service \"{name}\" has no {families} cluster IP: use another family, or the type PodIP for a headless Service."
        ),
        AddressType::ExternalIP
            if !service
                .external_ips
                .iter()
                .copied()
                .map(Host::Ip)
                .any(|host| is_of_family(&host)) =>
        {
            format!(
                "address.type ExternalIP: the Service \"{name}\" lists no {families} address in spec.externalIPs: add one."
            )
        }
        _ => return None,
    };
    Some(Obstacle::unusable(message))
}

/// Returns the ports to register, and why some of them are missing.
fn ports_of(spec: &ServiceRegistrationSpec, service: &Service) -> (Vec<LastPort>, Option<Obstacle>) {
    let mut obstacle = None;
    let mut ports = Vec::new();
    let mut add = |name: &str, app_protocol: Option<String>, port: &ServicePort| {
        let Some(target) = target(spec, service, port) else {
            let message = format!(
                "The port \"{name}\" of the Service \"{}\" has no node port.",
                service.name
            );
            obstacle.get_or_insert(Obstacle::unusable(message));
            return;
        };
        ports.push(LastPort {
            name: name.to_owned(),
            port: target,
            protocol: port.protocol,
            app_protocol: app_protocol.or_else(|| app_protocol_of(port)),
        });
    };
    if spec.ports.is_empty() {
        for port in &service.ports {
            let name = if port.name.is_empty() {
                UNNAMED_PORT
            } else {
                &*port.name
            };
            add(name, None, port);
        }
    }
    let mut unknown = Vec::new();
    for asked in &spec.ports {
        match find(asked, service) {
            Some(port) => add(&asked.name, asked.app_protocol.clone(), port),
            None => unknown.push(asked.name.as_str()),
        }
    }
    let too_long = ports
        .iter()
        .find(|port| port.name.len() > MAX_PORT_NAME)
        .map(|port| port.name.clone());
    ports.retain(|port| port.name.len() <= MAX_PORT_NAME);
    if let Some(name) = too_long {
        obstacle = Some(Obstacle::unusable(format!(
            "The name of the port \"{name}\" is longer than {MAX_PORT_NAME} characters: list it in spec.ports under a shorter name."
        )));
    } else if let Some(name) = unknown.first() {
        obstacle = Some(Obstacle::unusable(format!(
            "The Service \"{}\" has no port that spec.ports[].port of \"{name}\" means: write the name or the number of one of its ports.",
            service.name
        )));
    } else if service.ports.is_empty() {
        let message = format!("The Service \"{}\" has no ports: list them in its spec.", service.name);
        obstacle = Some(Obstacle::unusable(message));
    }
    (ports, obstacle)
}

/// Finds the port of the Service that a registration asks for by name or number.
fn find<'a>(asked: &api::Port, service: &'a Service) -> Option<&'a ServicePort> {
    let is_it = |port: &&ServicePort| match &asked.port {
        Some(IntOrString::Int(number)) => i32::from(port.number) == *number,
        Some(IntOrString::String(name)) => *port.name == **name,
        None => *port.name == *asked.name,
    };
    let fits = |port: &&ServicePort| asked.protocol.is_none_or(|protocol| protocol == port.protocol);
    let found = service.ports.iter().filter(is_it).filter(fits);
    found.min_by_key(|port| port.protocol)
}

/// Returns the port that consumers connect to, or its name in the pods or EndpointSlices; none if there is no node port.
fn target(spec: &ServiceRegistrationSpec, service: &Service, port: &ServicePort) -> Option<IntOrString> {
    let number = |number: u16| IntOrString::Int(number.into());
    Some(match spec.address.kind {
        AddressType::PodIP if service.selector.is_empty() => IntOrString::String(port.name.to_string()),
        AddressType::PodIP | AddressType::HostIP => match &port.target {
            TargetPort::Number(target) => number(*target),
            TargetPort::Name(name) => IntOrString::String(name.to_string()),
        },
        AddressType::NodePort => number(port.node_port?),
        AddressType::LoadBalancer | AddressType::ClusterIP | AddressType::ExternalIP => number(port.number),
    })
}

/// Returns the application protocol in the form of `spec.ports[].appProtocol`; none if it has another form.
fn app_protocol_of(port: &ServicePort) -> Option<String> {
    let text = port.app_protocol.as_ref()?;
    let text = text.strip_prefix("kubernetes.io/").unwrap_or(text).to_ascii_lowercase();
    let is_letter = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "+.-".contains(c);
    let is_fit = text.starts_with(|c: char| c.is_ascii_lowercase()) && text.chars().all(is_letter) && text.len() <= 32;
    is_fit.then_some(text)
}

fn of_last(port: &LastPort) -> Port {
    Port {
        name: port.name.as_str().into(),
        target: match &port.port {
            IntOrString::Int(number) => PortTarget::Number(u16::try_from(*number).unwrap_or_default()),
            IntOrString::String(name) => PortTarget::Name {
                name: name.as_str().into(),
                protocol: Some(port.protocol),
            },
        },
        scheme: port.app_protocol.as_deref().map(Into::into),
    }
}

fn is_of(host: &Host, families: Families) -> bool {
    host.ip().is_none_or(|ip| families.contains(Family::of(ip)))
}

/// Returns the addresses of the families, and the host names.
fn addresses(hosts: Vec<Host>, families: Families, ready: Option<bool>) -> Arc<[Address]> {
    let mut seen = BTreeSet::new();
    let hosts = hosts.into_iter().filter(|host| is_of(host, families));
    let hosts = hosts.filter(|host| seen.insert(host.clone()));
    let address = |host: Host| Address {
        name: endpoint_name(&host),
        host,
        ready,
        node: None,
        zone: None,
        ports: None,
    };
    sorted(hosts.map(address).collect())
}

/// Sorts by name; of two addresses of one name the first counts.
fn sorted(mut addresses: Vec<Address>) -> Arc<[Address]> {
    addresses.sort_by(|a, b| a.name.cmp(&b.name));
    addresses.dedup_by(|later, first| later.name == first.name);
    addresses.into()
}

/// Returns the endpoints of EndpointSlices, each once.
fn of_slices<'a>(
    slices: impl Iterator<Item = &'a EndpointSlice>,
    ports: &[Port],
    families: Families,
    publish_not_ready: bool,
) -> Arc<[Address]> {
    let mut slices: Vec<&EndpointSlice> = slices.collect();
    slices.sort_by(|a, b| a.name.cmp(&b.name));
    let number = |slice: &EndpointSlice, port: &Port| {
        let PortTarget::Name { name, protocol } = &port.target else {
            return None;
        };
        let is_it =
            |port: &&SlicePort| port.name == *name && protocol.is_none_or(|wanted: Protocol| wanted == port.protocol);
        slice.ports.iter().find(is_it).map(|port| port.number)
    };
    let mut addresses: BTreeMap<&Host, Address> = BTreeMap::new();
    for slice in slices {
        let numbers: Arc<[Option<u16>]> = ports.iter().map(|port| number(slice, port)).collect();
        // A terminating endpoint leaves at once, as a terminating pod does.
        let staying = slice.endpoints.iter().filter(|endpoint| !endpoint.terminating);
        for endpoint in staying.filter(|endpoint| is_of(&endpoint.host, families)) {
            let is_ready = endpoint.ready || publish_not_ready;
            let address = || Address {
                name: endpoint_name(&endpoint.host),
                host: endpoint.host.clone(),
                ready: Some(is_ready),
                node: endpoint.node.clone(),
                zone: endpoint.zone.clone(),
                ports: Some(numbers.clone()),
            };
            // While an endpoint moves to another slice it is in both.
            let known = addresses.entry(&endpoint.host).or_insert_with(address);
            if is_ready && known.ready != Some(true) {
                *known = address();
            } else if known.ready == Some(is_ready)
                && let Some(ports) = &known.ports
            {
                // Mirrored Endpoints with several subsets have a slice for each set of ports.
                let all = ports.iter().zip(&*numbers).map(|(port, other)| port.or(*other));
                known.ports = Some(all.collect());
            }
        }
    }
    sorted(addresses.into_values().collect())
}

/// Returns the name of an endpoint that is no pod. Kubernetes writes addresses in DNS names in the same way.
fn endpoint_name(host: &Host) -> Arc<str> {
    host.to_string().replace(['.', ':'], "-").into()
}

fn port(port: &api::Port) -> Result<Port, Invalid> {
    let by_name = |name: &str| PortTarget::Name {
        name: name.into(),
        protocol: port.protocol,
    };
    let target = match &port.port {
        Some(IntOrString::Int(number)) => {
            let valid = u16::try_from(*number).ok().filter(|number| *number > 0);
            PortTarget::Number(valid.ok_or(Invalid::PortNumber(*number))?)
        }
        Some(IntOrString::String(name)) => by_name(name),
        None => by_name(&port.name),
    };
    Ok(Port {
        name: port.name.as_str().into(),
        target,
        scheme: port.app_protocol.as_deref().map(Into::into),
    })
}

#[cfg(test)]
mod tests;
