//! `RecordFormat`: a custom wire format, defined by templates for keys and values.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{AttributeValue, schema};

/// The templates of the records that every endpoint has.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[kube(
    group = "leasehold.dev",
    version = "v1alpha1",
    kind = "RecordFormat",
    plural = "recordformats",
    shortname = "rfmt",
    category = "leasehold",
    status = "RecordFormatStatus",
    derive = "PartialEq",
    doc = "A RecordFormat is a wire format for consumers that none of the built-in ones suits: templates for the keys and values of an endpoint, written by an admin. A ServiceRegistration uses it as {type: Custom, custom: {recordFormatRef: {name: <name>}}}.",
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
    #[schemars(length(min = 1, max = 8))]
    #[x_kube(
        merge_strategy = ListMerge::Map(vec!["name".into()]),
        validation = Rule::new("self.all(a, self.exists_one(b, a.key == b.key))")
            .message("two records have the same key template: each record of an endpoint needs its own key"),
    )]
    pub records: Vec<RecordTemplate>,

    /// How expressions in value templates are printed. JSON (the default): each expression is printed as a quoted JSON
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
    /// The record's name, which messages use, such as `endpoint`.
    #[schemars(length(max = 63))]
    #[x_kube(validation = Rule::new("self.matches('^[a-zA-Z0-9]([a-zA-Z0-9._-]*[a-zA-Z0-9])?$')")
        .message("a record's name is made of letters, digits, dots, hyphens and underscores"))]
    pub name: String,

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

    /// The template of the value, in Jinja syntax, such as `{"host": {{ address }}, "port": {{ port }}}`. The variables
    /// are prefix, id, namespace, service, pod, node, zone, address, family (IPv4 or IPv6), port, portName, hostPort,
    /// scheme (the port's appProtocol), version, weight, and metadata with the attributes by name, such as
    /// `metadata.team`. An unknown node, zone, scheme, version or weight is none.
    #[schemars(length(max = 16384))]
    pub value: String,
}

/// How expressions in value templates are printed.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Escaping {
    /// As JSON; the whole value must be JSON.
    #[default]
    JSON,
    /// Unchanged.
    None,
}

/// Attributes of the sample endpoint that the templates are tested with.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct RecordSample {
    /// The attributes that registrations with this format are expected to have, up to 64. Templates read them in
    /// `metadata`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub attributes: Vec<AttributeValue>,
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
    /// continue with the previous templates. Ready: the same as Accepted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Vec<Condition>,
}

/// One record of the sample endpoint.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct RecordPreview {
    /// The record's name.
    pub name: String,
    /// The record's key.
    pub key: String,
    /// The record's value, cut to 4096 bytes.
    pub value: String,
}
