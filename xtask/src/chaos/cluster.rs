//! What was seen of Kubernetes up to a moment, and which keys follow from it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{
    record::{Moment, Node, Pod, Registry, Service, Sight},
    wanted::{Registers, Registration},
};

/// The objects as they were seen last, by their names.
#[derive(Clone, Debug, Default)]
pub struct Cluster {
    pub pods: BTreeMap<String, Pod>,
    pub registrations: BTreeMap<String, Registration>,
    pub nodes: BTreeMap<String, Node>,
    pub services: BTreeMap<String, Service>,
    pub registries: BTreeMap<String, Registry>,
}

/// What a registration has keys for, by its name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    Pod(String),
    Node(String),
    /// The addresses of its Service.
    Addresses,
}

impl Cluster {
    /// Takes in what was seen. Returns whether it is anything new.
    pub fn take(&mut self, sight: &Sight) -> bool {
        match sight {
            Sight::Pod(name, pod) => put(&mut self.pods, name, pod.as_ref()),
            Sight::Registration(name, registration) => {
                let registration = registration.as_ref().map(|one| self.allowing(one));
                put(&mut self.registrations, name, registration.as_ref())
            }
            Sight::Node(name, node) => put(&mut self.nodes, name, node.as_ref()),
            Sight::Service(name, service) => put(&mut self.services, name, service.as_ref()),
            Sight::Registry(name, registry) => {
                let is_new = put(&mut self.registries, name, registry.as_ref());
                let allowing = |(name, one): (&String, &Registration)| (name.clone(), self.allowing(one));
                self.registrations = self.registrations.iter().map(allowing).collect();
                is_new
            }
        }
    }

    /// A registration with what its Registry allows.
    fn allowing(&self, registration: &Registration) -> Registration {
        let registry = self.registries.get(registration.registry()).cloned();
        registration.with_allowed(&registry.unwrap_or_default().node_labels)
    }

    /// The keys of a registration for a subject.
    pub fn keys(&self, registration: &str, subject: &Subject) -> BTreeMap<String, String> {
        let keys = || {
            let registration = self.registrations.get(registration)?;
            Some(match subject {
                Subject::Pod(name) => {
                    let pod = self.pods.get(name)?;
                    let node = pod.node.as_ref().and_then(|node| self.nodes.get(node));
                    registration.keys(name, pod, node)
                }
                Subject::Node(name) => {
                    let (node, service) = (self.nodes.get(name)?, self.services.get(registration.service()?)?);
                    let on = service.local.then_some(name);
                    registration.node_keys(name, node, service, self.serving(registration, on))
                }
                Subject::Addresses => {
                    let service = self.services.get(registration.service()?)?;
                    registration.address_keys(service, self.serving(registration, None))
                }
            })
        };
        keys().unwrap_or_default()
    }

    /// The number of pods that serve a registration, of those on a node or of all.
    fn serving(&self, registration: &Registration, node: Option<&String>) -> usize {
        let pods = self.pods.values();
        let serving = pods.filter(|pod| registration.selects(pod) && pod.serves());
        serving
            .filter(|pod| node.is_none() || pod.node.as_ref() == node)
            .count()
    }

    /// Since when a subject has been ready, if that is known and matters.
    pub fn ready_since(&self, subject: &Subject) -> Option<Moment> {
        match subject {
            Subject::Pod(name) => self.pods.get(name)?.since,
            Subject::Node(_) | Subject::Addresses => None,
        }
    }

    /// How long a pod must have been ready before a registration registers it.
    pub fn min_ready(&self, registration: &str) -> Duration {
        let registration = self.registrations.get(registration);
        registration.map(Registration::min_ready).unwrap_or_default()
    }

    /// The registrations and subjects whose keys may have changed with the object of a sight, which has been taken in.
    pub fn touched(&self, sight: &Sight) -> BTreeSet<(String, Subject)> {
        let mut touched = BTreeSet::new();
        for (name, registration) in &self.registrations {
            let (of_pods, of_nodes) = match registration.registers() {
                Registers::Pods | Registers::HostPorts => (true, false),
                Registers::Nodes => (false, true),
                Registers::ClusterIPs | Registers::ExternalIPs | Registers::LoadBalancers => (false, false),
            };
            let subjects: Vec<Subject> = match sight {
                Sight::Pod(pod, _) if of_pods => vec![Subject::Pod(pod.clone())],
                Sight::Registration(one, _) if of_pods && one == name => {
                    self.pods.keys().cloned().map(Subject::Pod).collect()
                }
                Sight::Node(node, _) if of_pods => {
                    let on_node = self.pods.iter().filter(|(_, pod)| pod.node.as_ref() == Some(node));
                    on_node.map(|(pod, _)| Subject::Pod(pod.clone())).collect()
                }
                Sight::Node(node, _) if of_nodes => vec![Subject::Node(node.clone())],
                Sight::Node(..) => continue,
                Sight::Registration(one, _) if one != name => continue,
                Sight::Service(one, _) if registration.service() != Some(one) => continue,
                Sight::Service(..) if of_pods => continue,
                Sight::Registry(one, _) if registration.registry() != one => continue,
                Sight::Registry(..) if of_pods => self.pods.keys().cloned().map(Subject::Pod).collect(),
                Sight::Pod(..) | Sight::Registration(..) | Sight::Service(..) | Sight::Registry(..) if of_nodes => {
                    self.nodes.keys().cloned().map(Subject::Node).collect()
                }
                Sight::Pod(..) | Sight::Registration(..) | Sight::Service(..) | Sight::Registry(..) => {
                    vec![Subject::Addresses]
                }
            };
            touched.extend(subjects.into_iter().map(|subject| (name.clone(), subject)));
        }
        touched
    }
}

fn put<T: Clone + PartialEq>(all: &mut BTreeMap<String, T>, name: &str, value: Option<&T>) -> bool {
    if all.get(name) == value {
        return false;
    }
    match value {
        Some(value) => all.insert(name.to_owned(), value.clone()),
        None => all.remove(name),
    };
    true
}
