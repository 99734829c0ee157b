//! `RecordFormat`: a wire format of one's own, as templates for keys and values.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::schema;

/// The records that every endpoint has, as templates.
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
    /// The records of each endpoint, up to 8. All of them are kept in step.
    #[schemars(length(max = 8))]
    #[x_kube(
        validation = Rule::new("size(self) > 0")
            .message("name at least one record, with templates for its key and its value"),
        validation = Rule::new("self.all(a, !has(a.name) || self.exists_one(b, has(b.name) && a.name == b.name))")
            .message("two records have the same name: give each its own, or none"),
        validation = Rule::new("self.all(a, self.exists_one(b, a.key == b.key))")
            .message("two records have the same key template: the records of an endpoint need keys of their own"),
    )]
    pub records: Vec<RecordTemplate>,

    /// How what a value's template prints is written. Json (the default): each expression becomes a JSON text with its
    /// quotes, a number or null, so that no label can break the value, and the whole has to be JSON. None: as it is.
    /// Keys are always written as they are.
    #[serde(default)]
    pub escaping: Escaping,

    /// What the endpoint that the templates are tried with has, beyond what every endpoint has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sample: Option<RecordSample>,
}

/// One record of an endpoint.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct RecordTemplate {
    /// A name for messages. Left out, the record goes by its number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    #[x_kube(validation = Rule::new("self.matches('^[a-zA-Z0-9]([a-zA-Z0-9._-]*[a-zA-Z0-9])?$')")
        .message("a record's name is made of letters, digits, dots, hyphens and underscores"))]
    pub name: Option<String>,

    /// The template of the key, in Jinja's language, such as `{{ prefix }}/{{ id }}`. The key has to lie below
    /// `prefix`, which the registration chooses, and to be another one for every endpoint: `id` is made for that.
    #[schemars(length(max = 1024))]
    #[x_kube(
        validation = Rule::new("self.contains('prefix')")
            .message("a key lies below the registration's prefix: begin its template with {{ prefix }}/, such as {{ prefix }}/{{ id }}"),
        validation = Rule::new(r"!self.matches('[\\n\\r]')")
            .message("a key is one line: write its template on one"),
    )]
    pub key: String,

    /// The template of the value, in Jinja's language, such as `{"host": {{ address }}, "port": {{ port }}}`.
    /// `docs/consumers/custom.md` tells what there is to print.
    #[schemars(length(max = 16384))]
    pub value: String,
}

/// How what a template prints is written.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Escaping {
    /// As JSON, and the whole has to be JSON.
    #[default]
    Json,
    /// As it is.
    None,
}

/// What the endpoint has that templates are tried with.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct RecordSample {
    /// Its metadata: what registrations that use this format are expected to tell in theirs. At most 64 entries.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::string_map")]
    pub metadata: BTreeMap<String, String>,
}

/// What became of the templates.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct RecordFormatStatus {
    /// The generation of the spec that this status describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The records of a sample endpoint.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub preview: Vec<RecordPreview>,
    /// Accepted: the templates make sense. If not, where and why, with line and column; registrations then go on with
    /// the templates before.
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
    /// Its key.
    pub key: String,
    /// Its value, up to 4096 bytes of it.
    pub value: String,
}
