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
    #[serde(default)]
    #[schemars(length(max = 32))]
    #[x_kube(
        validation = Rule::new("self.all(a, self.exists_one(b, a.name == b.name))")
            .message("two rules have the same name: give each a name of its own"),
    )]
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
    pub namespaces: LabelSelector,

    /// The prefixes below which keys are allowed, up to 64. `/services/shop` allows `/services/shop/orders` but not
    /// `/services/shop-two/orders`. `{{namespace}}` is replaced by the namespace's name; `/` allows all keys that start
    /// with a slash. If unset, all keys are allowed except those below metaPrefix.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64), inner(length(max = 256)))]
    #[x_kube(
        validation = Rule::new("self.all(p, size(p) > 0)")
            .message("a prefix is empty: write one such as /services/{{namespace}}, or leave prefixes out to allow all keys"),
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
    #[schemars(length(max = 32))]
    #[x_kube(validation = Rule::new("size(self) > 0").message("name at least one format, or leave formats out to allow all of them"))]
    pub formats: Option<Vec<FormatType>>,

    /// The TTLs that keys may have. If unset, every TTL that a registration can request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "TtlRange")]
    pub ttl_seconds: Option<TtlRange>,

    /// The maximum number of keys that each of these namespaces may have in this etcd: 1 to 1000000. If unset, there is
    /// no limit. Existing keys stay; free capacity is given to older registrations first. If several rules apply to a
    /// namespace, the highest limit counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self >= 1 && self <= 1000000").message("keysPerNamespace must be 1 to 1000000; leave it out for any number"))]
    pub keys_per_namespace: Option<u32>,
}

/// The shortest and the longest TTL that is allowed.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.min <= self.max").message("ttlSeconds.min must not be above ttlSeconds.max"),
    validation = Rule::new("self.min >= 5 && self.max <= 299").message("ttlSeconds must lie within 5 to 299, as registrations do"),
)]
pub struct TtlRange {
    /// The shortest TTL in seconds. Defaults to 5.
    #[serde(default = "shortest")]
    pub min: u32,
    /// The longest TTL in seconds. Defaults to 299.
    #[serde(default = "longest")]
    pub max: u32,
}

fn shortest() -> u32 {
    5
}

fn longest() -> u32 {
    299
}
