//! Converts a Registry's `spec.access` for `plan`, and applies it and `spec.nodeLabels` to registrations.

use std::sync::Arc;

use super::compile::{Compiled, selector};
use super::source::Obstacle;
use crate::api::{AccessRule, RegistrySpec};
use crate::index::{NamespaceCache, REGION_LABEL, ZONE_LABEL};
use crate::model::Prefix;
use crate::plan::{NamespacePolicy, Policy, PrefixGrant, Quota, Rule};

/// The result of a Registry's rules for a registration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Prefixes where the registration may write no keys or only some. Its other keys there are removed.
    pub forbidden: Vec<(Prefix, PrefixGrant)>,
    /// Why some formats may not be written at all.
    pub denial: Option<String>,
    /// Maximum number of keys of the namespace.
    pub quota: Option<Quota>,
}

/// Returns the rules of `registry`; none if it has no `spec.access`. An invalid rule allows nothing: it is older than
/// the admission rule that would reject it.
fn policy(registry: &RegistrySpec) -> Option<Policy> {
    let rules = registry.access.as_ref()?.rules.iter().filter_map(rule);
    Some(Policy { rules: rules.collect() })
}

fn rule(rule: &AccessRule) -> Option<Rule> {
    let prefixes = rule.prefixes.as_ref();
    Some(Rule {
        name: rule.name.as_str().into(),
        namespaces: selector(&rule.namespace_selector).ok()?,
        prefixes: prefixes.map(|all| all.iter().map(|prefix| prefix.as_str().into()).collect()),
        formats: rule.formats.clone(),
        ttl: rule
            .lease_ttl
            .as_ref()
            .map(|range| (range.min_seconds, range.max_seconds)),
        keys: rule.keys_per_namespace.and_then(|keys| usize::try_from(keys).ok()),
    })
}

impl Compiled {
    /// Applies the rules of `registry` to the registration, given the labels of the namespaces. Afterwards the formats
    /// write only what the rules allow, and only labels of nodes that the Registry allows are published.
    ///
    /// The rules also apply to the previous spec: records that they do not allow are not kept.
    pub fn submit(&mut self, registry: &RegistrySpec, namespaces: &NamespaceCache) -> Verdict {
        if let Some(previous) = &mut self.previous {
            previous.submit(registry, namespaces);
        }
        let policy = policy(registry);
        let namespace = &self.registration.reference.namespace;
        let namespace_policy = policy.as_ref().and_then(|policy| {
            let labels = namespaces.labels(namespace)?;
            Some(policy.namespace_policy(namespace, |key| labels.get(key).map(String::as_str)))
        });
        self.unsure = policy.is_some() && namespace_policy.is_none();
        let ttl = self.ttl.unwrap_or(registry.defaults.lease_ttl_seconds);
        let mut verdict = Verdict {
            quota: namespace_policy.as_ref().and_then(NamespacePolicy::quota),
            ..Verdict::default()
        };
        let mut denials: Vec<String> = Vec::new();
        for binding in &mut self.bindings {
            let prefix = binding.format.prefix();
            binding.pass = namespace_policy.as_ref().map_or(PrefixGrant::Free, |namespace_policy| {
                let pass = namespace_policy.pass(binding.format.kind(), ttl);
                match pass.check_prefix(prefix) {
                    Ok(()) => pass,
                    Err(denial) => PrefixGrant::Nowhere(Arc::new(denial)),
                }
            });
            if let PrefixGrant::Nowhere(denial) = &binding.pass {
                let message = denial.to_string();
                if !denials.contains(&message) {
                    denials.push(message);
                }
            }
            if !binding.pass.allows_all(prefix) {
                verdict.forbidden.push((prefix.clone(), binding.pass.clone()));
            }
        }
        verdict.denial = (!denials.is_empty()).then(|| denials.join("; "));
        self.missing = self.allow_node_labels(&registry.node_labels);
        verdict
    }

    /// Publishes those of the requested labels of nodes that the Registry allows. Returns an obstacle if there are others.
    fn allow_node_labels(&mut self, allowed: &[String]) -> Option<Obstacle> {
        let is_allowed = |(_, label): &(Arc<str>, Arc<str>)| {
            matches!(&**label, ZONE_LABEL | REGION_LABEL) || allowed.iter().any(|allowed| **allowed == **label)
        };
        let (allowed, denied): (Vec<_>, Vec<_>) = self.node_labels.iter().cloned().partition(is_allowed);
        self.registration.node_labels = allowed;
        (!denied.is_empty()).then(|| Obstacle::node_labels_denied(&self.registration.registry, &denied))
    }
}
