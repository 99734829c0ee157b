//! Access rules: checks a Registry's rules against a namespace's labels and against each key to be written.
//!
//! A rule applies as a whole: one and the same rule must allow the namespace, the format, the time to live and the key.
//! Everything else is denied. The denial gives the reason of the rules that come closest, and what to do about it.

use std::sync::Arc;

use crate::api::FormatType;
use crate::index::Selector;
use crate::model::{Prefix, listed};

/// The placeholder for the namespace's name in a prefix.
const NAMESPACE: &str = "{{namespace}}";

/// How many prefixes or names a reason lists before it only counts the others.
const NAMED: usize = 3;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Each rule allows something; no rule takes anything away.
    pub rules: Vec<Rule>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    pub name: Arc<str>,
    /// The namespaces that the rule applies to.
    pub namespaces: Selector,
    /// The prefixes that the rule allows, with a placeholder for the namespace's name; all keys if none.
    pub prefixes: Option<Vec<Arc<str>>>,
    /// The formats that the rule allows, all if none.
    pub formats: Option<Vec<FormatType>>,
    /// The shortest and the longest time to live that the rule allows, in seconds; any if none.
    pub ttl: Option<(u32, u32)>,
    /// How many keys each namespace may have, any number if none.
    pub keys: Option<usize>,
}

/// What the rules of a Registry allow one namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamespacePolicy {
    namespace: Arc<str>,
    /// The rules that apply to the namespace, with its name filled in.
    rules: Vec<Rule>,
}

/// How many keys a namespace may have in a Registry.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Quota {
    pub keys: usize,
    /// The rule that sets the limit.
    pub rule: Arc<str>,
}

/// The keys that one format of one registration may write.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum PrefixGrant {
    /// All keys: the Registry has no rules.
    #[default]
    Free,
    /// Keys below one of these prefixes; all keys if one of the rules limits no prefixes.
    Within(Arc<GrantedPrefixes>),
    /// No keys, for this reason.
    Nowhere(Arc<Denial>),
}

/// The prefixes below which a namespace may write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrantedPrefixes {
    namespace: Arc<str>,
    /// The rules that allow it.
    rules: Vec<Arc<str>>,
    /// The allowed prefixes, all keys if none.
    prefixes: Option<Vec<Arc<str>>>,
}

/// Why something may not be written, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Denial {
    /// No rule applies to the namespace.
    #[error(
        "no rule of the Registry's spec.access is for the namespace {0}: ask an admin of the Registry for one, or to label the namespace for one"
    )]
    Namespace(Arc<str>),
    /// No rule for the namespace allows the format.
    #[error(
        "{rules} of the Registry's spec.access does not let the namespace {namespace} write the format {}: write {allowed}, or ask an admin of the Registry",
        .format.as_str()
    )]
    Format {
        /// The rules that apply to the namespace, as text.
        rules: String,
        namespace: Arc<str>,
        format: FormatType,
        /// The allowed formats, as text.
        allowed: String,
    },
    /// No rule that allows the format allows the time to live.
    #[error(
        "{rules} of the Registry's spec.access does not let the namespace {namespace} have a TTL of {ttl} s: set spec.leaseTTLSeconds to {allowed}, or ask an admin of the Registry"
    )]
    Ttl {
        /// The rules that allow the format, as text.
        rules: String,
        namespace: Arc<str>,
        /// In seconds.
        ttl: u32,
        /// The allowed times to live, as text.
        allowed: String,
    },
    /// No rule that allows the rest allows the key.
    #[error(
        "{rules} of the Registry's spec.access does not let the namespace {namespace} write {key}: write below {allowed}, or ask an admin of the Registry"
    )]
    Prefix {
        /// The rules that allow the rest, as text.
        rules: String,
        namespace: Arc<str>,
        /// The key, or the prefix of all keys.
        key: String,
        /// The allowed prefixes, as text.
        allowed: String,
    },
    /// The key is in the bookkeeping of a Registry.
    #[error("the Registry {0} keeps its bookkeeping there: use a prefix outside of its metaPrefix")]
    Bookkeeping(Arc<str>),
    /// A key that some consumers may take for another one.
    #[error(
        "the key {key:?} may be taken for another one by programs that clean paths, and the Registry has rules about keys (spec.access): use ASCII letters, digits and signs, and no segment that is empty or of dots only"
    )]
    Unclean { key: String },
}

impl Policy {
    /// Returns what the rules allow `namespace`. `label` looks up the namespace's labels by key.
    pub fn namespace_policy<'a>(
        &self,
        namespace: &Arc<str>,
        label: impl Fn(&str) -> Option<&'a str>,
    ) -> NamespacePolicy {
        let rules = self.rules.iter().filter(|rule| rule.namespaces.matches(&label));
        let fill = |prefix: &Arc<str>| Arc::from(prefix.replace(NAMESPACE, namespace));
        let filled = |rule: &Rule| Rule {
            prefixes: rule.prefixes.as_ref().map(|all| all.iter().map(fill).collect()),
            ..rule.clone()
        };
        NamespacePolicy {
            namespace: namespace.clone(),
            rules: rules.map(filled).collect(),
        }
    }
}

impl NamespacePolicy {
    /// Returns the keys that a registration of this namespace may write in `format`, on leases of `ttl` seconds.
    pub fn pass(&self, format: FormatType, ttl: u32) -> PrefixGrant {
        let namespace = self.namespace.clone();
        let nowhere = |denial| PrefixGrant::Nowhere(Arc::new(denial));
        if self.rules.is_empty() {
            return nowhere(Denial::Namespace(namespace));
        }
        let allows_format = |rule: &&Rule| rule.formats.as_ref().is_none_or(|all| all.contains(&format));
        let of_format: Vec<&Rule> = self.rules.iter().filter(allows_format).collect();
        if of_format.is_empty() {
            let mut allowed: Vec<String> = Vec::new();
            for format in self.rules.iter().filter_map(|rule| rule.formats.as_ref()).flatten() {
                let name = format!("{format:?}");
                if !allowed.contains(&name) {
                    allowed.push(name);
                }
            }
            return nowhere(Denial::Format {
                rules: rules(&self.rules.iter().collect::<Vec<_>>()),
                namespace,
                format,
                allowed: listed(&allowed, NAMED, "or"),
            });
        }
        let allows_ttl = |rule: &&Rule| rule.ttl.is_none_or(|(min, max)| (min..=max).contains(&ttl));
        let of_ttl: Vec<&Rule> = of_format.iter().copied().filter(allows_ttl).collect();
        if of_ttl.is_empty() {
            let ranges = of_format.iter().filter_map(|rule| rule.ttl);
            let allowed: Vec<String> = ranges.map(|(min, max)| format!("{min} to {max}")).collect();
            return nowhere(Denial::Ttl {
                rules: rules(&of_format),
                namespace,
                ttl,
                allowed: listed(&allowed, NAMED, "or"),
            });
        }
        let prefixes: Option<Vec<&Vec<Arc<str>>>> = of_ttl.iter().map(|rule| rule.prefixes.as_ref()).collect();
        PrefixGrant::Within(Arc::new(GrantedPrefixes {
            namespace,
            rules: of_ttl.iter().map(|rule| rule.name.clone()).collect(),
            prefixes: prefixes.map(|all| all.into_iter().flatten().cloned().collect()),
        }))
    }

    /// How many keys the namespace may have, any number if none. The most generous rule counts.
    pub fn quota(&self) -> Option<Quota> {
        let quotas: Option<Vec<Quota>> = self.rules.iter().map(Rule::quota).collect();
        quotas?.into_iter().max_by_key(|quota| quota.keys)
    }
}

impl Rule {
    fn quota(&self) -> Option<Quota> {
        let rule = self.name.clone();
        self.keys.map(|keys| Quota { keys, rule })
    }
}

impl PrefixGrant {
    pub fn check(&self, key: &str) -> Result<(), Denial> {
        let reach = match self {
            Self::Free => return Ok(()),
            Self::Nowhere(denial) => return Err((**denial).clone()),
            Self::Within(reach) => reach,
        };
        if !is_clean(key) {
            return Err(Denial::Unclean { key: key.to_owned() });
        }
        let allowed = |prefixes: &Vec<Arc<str>>| prefixes.iter().any(|prefix| lies_below(key, prefix));
        if reach.prefixes.as_ref().is_none_or(allowed) {
            return Ok(());
        }
        Err(reach.denial(key))
    }

    /// Whether every key below `prefix` may be written, apart from keys that are not clean.
    pub fn allows_all(&self, prefix: &Prefix) -> bool {
        self.check(prefix.as_str().trim_end_matches('/')).is_ok()
    }

    /// Whether some key below `prefix` may be written, as far as the prefix alone shows.
    pub fn check_prefix(&self, prefix: &Prefix) -> Result<(), Denial> {
        let within = |reach: &GrantedPrefixes| {
            let inner = |granted: &Arc<str>| prefix.contains(granted) && is_clean(granted);
            reach.prefixes.iter().flatten().any(inner)
        };
        let outer = prefix.as_str().trim_end_matches('/');
        match self.check(outer) {
            Err(_) if matches!(self, Self::Within(reach) if is_clean(outer) && within(reach)) => Ok(()),
            reported => reported,
        }
    }
}

impl GrantedPrefixes {
    fn denial(&self, key: &str) -> Denial {
        Denial::Prefix {
            rules: named_rules(&self.rules),
            namespace: self.namespace.clone(),
            key: key.to_owned(),
            allowed: listed(self.prefixes.iter().flatten(), NAMED, "or"),
        }
    }
}

/// Whether every program that reads `key` takes it for the same key: no empty segment, no `.` or `..`, and only
/// printable ASCII.
fn is_clean(key: &str) -> bool {
    let segments = key.strip_prefix('/').unwrap_or(key).split('/');
    key.bytes().all(|byte| byte.is_ascii_graphic())
        && segments.into_iter().all(|segment| !matches!(segment, "" | "." | ".."))
}

/// Whether `key` is `prefix` or lies below it, compared by segments. Everything that starts with a slash is below `/`.
fn lies_below(key: &str, prefix: &str) -> bool {
    let rest = key.strip_prefix(prefix.trim_end_matches('/'));
    !prefix.is_empty() && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn rules(rules: &[&Rule]) -> String {
    let names: Vec<Arc<str>> = rules.iter().map(|rule| rule.name.clone()).collect();
    named_rules(&names)
}

fn named_rules(names: &[Arc<str>]) -> String {
    listed(names.iter().map(|name| format!("the rule {name}")), NAMED, "and")
}

#[cfg(test)]
mod tests;
