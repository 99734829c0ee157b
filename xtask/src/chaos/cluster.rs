//! What was seen of Kubernetes up to a moment, and which keys follow from it.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    record::{Node, Pod, Sight},
    wanted::Registration,
};

/// The objects as they were seen last, by their names.
#[derive(Clone, Debug, Default)]
pub struct Cluster {
    pub pods: BTreeMap<String, Pod>,
    pub registrations: BTreeMap<String, Registration>,
    pub nodes: BTreeMap<String, Node>,
}

/// What a registration has keys for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// A pod, by its name.
    Pod(String),
}

impl Cluster {
    /// Takes in what was seen. Returns whether it is anything new.
    pub fn take(&mut self, sight: &Sight) -> bool {
        match sight {
            Sight::Pod(name, pod) => put(&mut self.pods, name, pod.as_ref()),
            Sight::Registration(name, registration) => put(&mut self.registrations, name, registration.as_ref()),
            Sight::Node(name, node) => put(&mut self.nodes, name, node.as_ref()),
        }
    }

    /// The keys of a registration for a subject.
    pub fn keys(&self, registration: &str, subject: &Subject) -> BTreeMap<String, String> {
        let Some(registration) = self.registrations.get(registration) else {
            return BTreeMap::new();
        };
        match subject {
            Subject::Pod(name) => self.pods.get(name).map(|pod| {
                let node = pod.node.as_ref().and_then(|node| self.nodes.get(node));
                registration.keys(name, pod, node)
            }),
        }
        .unwrap_or_default()
    }

    /// The registrations and subjects whose keys may have changed with the object of a sight, which has been taken in.
    pub fn touched(&self, sight: &Sight) -> BTreeSet<(String, Subject)> {
        let of_pod = |pod: &String| {
            let subject = Subject::Pod(pod.clone());
            self.registrations.keys().map(move |one| (one.clone(), subject.clone()))
        };
        match sight {
            Sight::Pod(name, _) => of_pod(name).collect(),
            Sight::Registration(name, _) => {
                let pods = self.pods.keys().map(|pod| Subject::Pod(pod.clone()));
                pods.map(|subject| (name.clone(), subject)).collect()
            }
            Sight::Node(name, _) => {
                let on_node = self.pods.iter().filter(|(_, pod)| pod.node.as_ref() == Some(name));
                on_node.flat_map(|(pod, _)| of_pod(pod)).collect()
            }
        }
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
