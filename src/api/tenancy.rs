//! `Registry.spec.access`: which namespaces may write which keys.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use super::format::FormatType;
use super::schema;

/// Access rules for namespaces. Keys that no rule allows are not written.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Access {
    /// The rules, up to 32. A key is written if one rule allows all of it: the namespace, the format, the TTL and the
    /// key. With an empty list, no namespace may write.
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub rules: Vec<AccessRule>,
}

/// What the selected namespaces may write. Rules add up: a rule never takes away what another rule allows.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct AccessRule {
    /// The rule's name. Conditions refer to the rule by it.
    #[schemars(length(max = 63))]
    #[x_kube(
        validation = Rule::new("self.matches('^[a-z0-9]([a-z0-9-]*[a-z0-9])?$')")
            .message("name must be made of lower-case letters, digits and hyphens, such as shops"),
    )]
    pub name: String,

    /// The namespaces that the rule applies to, selected by their labels. An empty selector selects all namespaces.
    #[schemars(schema_with = "schema::namespace_selector")]
    pub namespace_selector: LabelSelector,

    /// The prefixes below which keys are allowed, up to 64. `/services/shop` allows `/services/shop/orders` but not
    /// `/services/shop-two/orders`. `{{namespace}}` is replaced by the namespace's name; `/` allows all keys that start
    /// with a slash. If unset, all keys are allowed except those below metaPrefix.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 256)))]
    #[x_kube(
        merge_strategy = ListMerge::Set,
        validation = Rule::new("self.all(p, p == '/' || !p.endsWith('/'))")
            .message("a prefix must not end with a slash: it allows only keys below it in any case"),
        validation = Rule::new("self.all(p, !p.contains('//'))")
            .message("a prefix must not contain an empty segment: write one slash where there are two"),
        validation = Rule::new("self.all(p, p.matches('^[!-~]*$'))")
            .message("a prefix must be made of ASCII letters, digits and signs, without spaces or control characters"),
        validation = Rule::new("self.all(p, !p.matches('(^|/)[.][.]?(/|$)'))")
            .message("a prefix must not have a segment of dots only: some consumers clean paths, others do not"),
        validation = Rule::new("self.all(p, !p.matches('[{}]') || !p.replace('{{namespace}}', '').matches('[{}]'))")
            .message("{{namespace}} is the only placeholder: write no other braces"),
    )]
    pub prefixes: Option<Vec<String>>,

    /// The formats that are allowed. If unset, all formats.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 32))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub formats: Option<Vec<FormatType>>,

    /// The lease TTLs that keys may have. If unset, every TTL that a registration can request.
    #[serde(default, rename = "leaseTTL", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "TtlRange")]
    pub lease_ttl: Option<TtlRange>,

    /// The maximum number of keys that each of these namespaces may have in this etcd. If unset, there is no limit.
    /// Existing keys stay; free capacity is given to older registrations first. If several rules apply to a namespace,
    /// the highest limit counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub keys_per_namespace: Option<u32>,
}

/// The shortest and the longest TTL that is allowed.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.minSeconds <= self.maxSeconds").message("leaseTTL.minSeconds must not be above leaseTTL.maxSeconds"),
)]
pub struct TtlRange {
    /// The shortest TTL in seconds. Defaults to 5.
    #[serde(default = "shortest")]
    #[schemars(range(min = 5, max = 299))]
    pub min_seconds: u32,
    /// The longest TTL in seconds. Defaults to 299.
    #[serde(default = "longest")]
    #[schemars(range(min = 5, max = 299))]
    pub max_seconds: u32,
}

fn shortest() -> u32 {
    5
}

fn longest() -> u32 {
    299
}
