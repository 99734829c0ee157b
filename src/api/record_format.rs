//! `RecordFormat`: a custom wire format, defined by templates for keys and values.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::schema;

/// The templates of the records that every endpoint has.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[kube(
    group = "leasehold.dev",
    version = "v1alpha1",
    kind = "RecordFormat",
    plural = "recordformats",
    status = "RecordFormatStatus",
    derive = "PartialEq",
    doc = "A RecordFormat is a wire format for consumers that none of the built-in ones suits: templates for the keys and values of an endpoint, written by an admin. A ServiceRegistration uses it as {type: Custom, recordFormat: <name>}.",
    printcolumn(
        name = "ACCEPTED",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Accepted\")].status"
    ),
    printcolumn(name = "KEY", type_ = "string", json_path = ".status.preview[0].key"),
    printcolumn(name = "AGE", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(
        name = "REASON",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Accepted\")].reason",
        priority = 1
    ),
    printcolumn(
        name = "MESSAGE",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Accepted\")].message",
        priority = 1
    )
)]
#[serde(rename_all = "camelCase")]
pub struct RecordFormatSpec {
    /// The records of each endpoint, up to 8. All of them are kept in sync.
    #[schemars(length(max = 8))]
    #[x_kube(
        validation = Rule::new("size(self) > 0")
            .message("name at least one record, with templates for its key and its value"),
        validation = Rule::new("self.all(a, !has(a.name) || self.exists_one(b, has(b.name) && a.name == b.name))")
            .message("two records have the same name: give each its own, or none"),
        validation = Rule::new("self.all(a, self.exists_one(b, a.key == b.key))")
            .message("two records have the same key template: each record of an endpoint needs its own key"),
    )]
    pub records: Vec<RecordTemplate>,

    /// How expressions in value templates are printed. Json (the default): each expression is printed as a quoted JSON
    /// string, a number or null, so that no label can break the value, and the whole value must be JSON. None:
    /// expressions are printed unchanged. In keys, expressions are always printed unchanged.
    #[serde(default)]
    pub escaping: Escaping,

    /// Attributes of the sample endpoint that the templates are tested with, in addition to those that every endpoint
    /// has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sample: Option<RecordSample>,
}

/// The template of one record.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct RecordTemplate {
    /// A name for use in messages. If unset, messages use the record's number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    #[x_kube(validation = Rule::new("self.matches('^[a-zA-Z0-9]([a-zA-Z0-9._-]*[a-zA-Z0-9])?$')")
        .message("a record's name is made of letters, digits, dots, hyphens and underscores"))]
    pub name: Option<String>,

    /// The template of the key, in Jinja syntax, such as `{{ prefix }}/{{ id }}`. The key must be below `prefix`, which
    /// the registration chooses, and must differ for every endpoint; `id` serves this purpose.
    #[schemars(length(max = 1024))]
    #[x_kube(
        validation = Rule::new("self.contains('prefix')")
            .message("a key lies below the registration's prefix: begin its template with {{ prefix }}/, such as {{ prefix }}/{{ id }}"),
        validation = Rule::new(r"!self.matches('[\\n\\r]')")
            .message("a key is one line: write its template on one"),
    )]
    pub key: String,

    /// The template of the value, in Jinja syntax, such as `{"host": {{ address }}, "port": {{ port }}}`.
    /// `docs/consumers/custom.md` lists the available variables.
    #[schemars(length(max = 16384))]
    pub value: String,
}

/// How expressions in value templates are printed.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Escaping {
    /// As JSON; the whole value must be JSON.
    #[default]
    Json,
    /// Unchanged.
    None,
}

/// Attributes of the sample endpoint that the templates are tested with.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct RecordSample {
    /// The metadata that registrations with this format are expected to have. At most 64 entries.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::string_map")]
    pub metadata: BTreeMap<String, String>,
}

/// The result of checking the templates.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct RecordFormatStatus {
    /// The generation of the spec that this status describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The records of a sample endpoint.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub preview: Vec<RecordPreview>,
    /// Accepted: the templates are valid. If not, the message gives the cause with line and column, and registrations
    /// continue with the previous templates.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// One record of the sample endpoint.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct RecordPreview {
    /// The record's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The record's key.
    pub key: String,
    /// The record's value, cut to 4096 bytes.
    pub value: String,
}
