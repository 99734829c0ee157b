//! A format of a `ServiceRegistration`: a wire format that consumers read, and its options.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ObjectReference, schema};

/// A format in which the service is written: its type, and the options of that type in the member of the same name.
/// `docs/formats.md` describes the keys and values of each format.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.plain) || self.type == 'Plain'")
        .message("plain has the options of type Plain: write those of another type in the member of its name, such as etcdGRPC for EtcdGRPC"),
    validation = Rule::new("!has(self.etcdGRPC) || self.type == 'EtcdGRPC'")
        .message("etcdGRPC has the options of type EtcdGRPC: write those of another type in the member of its name, such as plain for Plain"),
    validation = Rule::new("!has(self.goZero) || self.type == 'GoZero'")
        .message("goZero has the options of type GoZero: write those of another type in the member of its name, such as plain for Plain"),
    validation = Rule::new("!has(self.kratos) || self.type == 'Kratos'")
        .message("kratos has the options of type Kratos: write those of another type in the member of its name, such as kitex for Kitex"),
    validation = Rule::new("!has(self.kitex) || self.type == 'Kitex'")
        .message("kitex has the options of type Kitex: write those of another type in the member of its name, such as kratos for Kratos"),
    validation = Rule::new("!has(self.goFrame) || self.type == 'GoFrame'")
        .message("goFrame has the options of type GoFrame: write those of another type in the member of its name, such as kratos for Kratos"),
    validation = Rule::new("has(self.coreDNS) == (self.type == 'CoreDNS')")
        .message("type CoreDNS needs coreDNS with the domain that consumers look up, such as coreDNS: {domain: orders.shop.svc.example.com}; other types do not take it"),
    validation = Rule::new("!has(self.traefik) || self.type == 'Traefik'")
        .message("traefik has the options of type Traefik: write those of another type in the member of its name, such as coreDNS for CoreDNS"),
    validation = Rule::new("has(self.custom) == (self.type == 'Custom')")
        .message("type Custom needs custom with the name of a RecordFormat (kubectl get recordformats), such as custom: {recordFormatRef: {name: my-format}}; other types do not take it"),
)]
pub struct Format {
    /// Plain: the address as text or JSON, for confd, scripts and own code. EtcdGRPC: for the gRPC resolver of etcd's
    /// Go client. GoZero, Kratos, GoMicro, Kitex, Hertz and GoFrame: for the etcd registry of that Go framework.
    /// CoreDNS: records for CoreDNS's etcd plugin. Traefik: servers of a service for Traefik's etcd provider. Custom:
    /// the records that the templates of a RecordFormat define. GoMicro and Hertz have no options.
    #[serde(rename = "type")]
    pub kind: FormatType,

    /// The options of type Plain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "PlainFormat")]
    pub plain: Option<PlainFormat>,

    /// The options of type EtcdGRPC.
    #[serde(default, rename = "etcdGRPC", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "EtcdGRPCFormat")]
    pub etcd_grpc: Option<EtcdGRPCFormat>,

    /// The options of type GoZero.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "GoZeroFormat")]
    pub go_zero: Option<GoZeroFormat>,

    /// The options of type Kratos.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "KratosFormat")]
    pub kratos: Option<KratosFormat>,

    /// The options of type Kitex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "KitexFormat")]
    pub kitex: Option<KitexFormat>,

    /// The options of type GoFrame: segments of its keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "GoFrameFormat")]
    pub go_frame: Option<GoFrameFormat>,

    /// The options of type CoreDNS, which requires them.
    #[serde(default, rename = "coreDNS", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "CoreDNSFormat")]
    pub core_dns: Option<CoreDNSFormat>,

    /// The options of type Traefik.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "TraefikFormat")]
    pub traefik: Option<TraefikFormat>,

    /// The options of type Custom, which requires them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "CustomFormat")]
    pub custom: Option<CustomFormat>,

    /// The names of the ports that this format contains, up to 16. If unset, all ports. Most consumers use every record
    /// that they find for a service, so list only ports whose protocol the consumers of the format can speak.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 16), inner(length(max = 15)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub ports: Option<Vec<String>>,
}

/// The options of type Plain.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct PlainFormat {
    /// The prefix of all records, which are written one segment below it. No slash at the end. Defaults to
    /// `/services/<namespace>/<service>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::prefix")]
    pub prefix: Option<String>,

    /// The value of a record. HostPort (the default): `10.0.0.7:8080`. JSON: an object with address, port, portName,
    /// scheme (the port's appProtocol), version, weight, zone, node, pod, namespace, service and metadata (the
    /// attributes); unknown fields are omitted.
    // `with`: for an optional enum the derive would print the enum's description instead of this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "PlainValue")]
    pub value: Option<PlainValue>,
}

/// The options of type EtcdGRPC.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct EtcdGRPCFormat {
    /// The prefix of all records, which are written one segment below it. No slash at the end. Defaults to
    /// `<namespace>/<service>`.
    ///
    /// Consumers use the prefix as their dial target: `etcd:///shop/orders` reads the prefix `shop/orders`. A prefix
    /// that starts with a slash needs one more slash, so `/shop/orders` is dialled as `etcd:////shop/orders`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::prefix")]
    pub prefix: Option<String>,
}

/// The options of type GoZero.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct GoZeroFormat {
    /// The `Key` in the consumers' `EtcdConf`. Defaults to `<service>.rpc`, as goctl generates it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    #[x_kube(
        validation = Rule::new("!self.endsWith('/') && !self.contains('//')")
            .message("key must be the Key of the consumers' EtcdConf, without a slash at the end or two in a row, such as orders.rpc"),
        validation = Rule::new(r"!self.matches('[\\s\\pZ\\pC]')")
            .message("key must not contain spaces or control characters"),
        validation = Rule::new("!self.matches('(^|/)[.][.]?(/|$)')")
            .message("key must not have a segment of dots only: consumers that clean paths never read it"),
    )]
    pub key: Option<String>,
}

/// The options of type Kratos.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct KratosFormat {
    /// The part of the key before the service's name: the Namespace of the consumers' registry. Defaults to
    /// `/microservices`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::root")]
    pub root: Option<String>,
}

/// The options of type Kitex.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct KitexFormat {
    /// The part of the key before the service's name: the prefix of the consumers' resolver. Defaults to
    /// `kitex/registry-etcd`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::root")]
    pub root: Option<String>,
}

/// The options of type GoFrame: segments of its keys.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct GoFrameFormat {
    /// The first segment of the keys with its slash, as the consumers' GF_GSVC_PREFIX. Defaults to `/service`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::root")]
    #[x_kube(
        validation = Rule::new("self.matches('^/[^/]+$')")
            .message("GoFrame reads keys of six segments: root must be a slash and one segment, such as /service"),
    )]
    pub root: Option<String>,

    /// The deployment (GF_GSVC_DEPLOYMENT) of the consumers, that is, their environment. Defaults to `default`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    #[x_kube(validation = Rule::new("self.matches('^[a-zA-Z0-9._-]+$')")
        .message("deployment must be made of letters, digits, dots, hyphens and underscores"))]
    pub deployment: Option<String>,

    /// The namespace (GF_GSVC_NAMESPACE) of the consumers. Defaults to `default`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    #[x_kube(validation = Rule::new("self.matches('^[a-zA-Z0-9._-]+$')")
        .message("namespace must be made of letters, digits, dots, hyphens and underscores"))]
    pub namespace: Option<String>,

    /// The version (GF_GSVC_VERSION) that consumers request; they see no other version. Defaults to `latest`, which
    /// consumers request by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    #[x_kube(validation = Rule::new("self.matches('^[a-zA-Z0-9._-]+$')")
        .message("version must be made of letters, digits, dots, hyphens and underscores"))]
    pub version: Option<String>,
}

/// The options of type CoreDNS.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct CoreDNSFormat {
    /// The name that consumers look up, such as `orders.shop.svc.example.com`, in a zone that the etcd plugin serves.
    /// Each pod has its own name below it. At most 173 characters, to leave room for the names of the pods.
    #[schemars(length(max = 173))]
    #[x_kube(
        validation = Rule::new("self.matches('^[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9])?([.][a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9])?)*$')")
            .message("domain must be a DNS name in lower case without a dot at the end, such as orders.shop.svc.example.com"),
        validation = Rule::new("!self.matches('(^|[.])any([.]|$)')")
            .message("CoreDNS treats the label any as a wildcard: choose another name"),
    )]
    pub domain: String,

    /// The path of the etcd plugin. Defaults to `skydns`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::root")]
    #[x_kube(
        validation = Rule::new("!self.contains('/')")
            .message("CoreDNS removes one segment before it derives names from keys: root must be one segment without slashes, such as skydns"),
    )]
    pub root: Option<String>,

    /// The TTL of the DNS records in seconds. Defaults to 30.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 86_400))]
    pub ttl_seconds: Option<u32>,

    /// The priority of the SRV records; the lowest value is preferred. CoreDNS treats 0 as 10. Defaults to 10.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65_535))]
    pub priority: Option<u32>,

    /// The group of the records. If there are several groups below a name, CoreDNS answers with one of them. If unset,
    /// no group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    #[x_kube(validation = Rule::new("self.matches('^[a-zA-Z0-9._-]+$')")
        .message("group must be made of letters, digits, dots, hyphens and underscores"))]
    pub group: Option<String>,
}

/// The options of type Traefik.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct TraefikFormat {
    /// The rootKey of the etcd provider. Defaults to `traefik`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::root")]
    #[x_kube(
        validation = Rule::new("!self.startsWith('/')")
            .message("Traefik never reads keys that start with a slash: write root without it, such as traefik"),
    )]
    pub root: Option<String>,

    /// Whether the service is for HTTP, TCP or UDP routers. Defaults to HTTP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "TraefikProtocol")]
    pub protocol: Option<TraefikProtocol>,

    /// The name of the service, to which routers refer as `<name>@etcd`. Defaults to `<namespace>-<service>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    #[x_kube(
        validation = Rule::new("self.matches('^[a-z0-9._-]+$')")
            .message("serviceName must be made of lower-case letters, digits, dots, hyphens and underscores: Traefik treats names that differ only in case as equal"),
        validation = Rule::new("!self.matches('^[0-9]+$')")
            .message("serviceName must not be a number: Traefik treats it as an index"),
    )]
    pub service_name: Option<String>,
}

/// The options of type Custom.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct CustomFormat {
    /// The RecordFormat whose templates define the records (`kubectl get recordformats`).
    pub record_format_ref: ObjectReference,

    /// The prefix of all records, which are written at any depth below it. No slash at the end. Defaults to
    /// `/services/<namespace>/<service>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::prefix")]
    pub prefix: Option<String>,
}

/// The type of a format.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FormatType {
    /// The address as text or as JSON.
    #[default]
    Plain,
    /// For the gRPC resolver of etcd's Go client.
    EtcdGRPC,
    /// For go-zero's zrpc clients.
    GoZero,
    /// For the etcd registry of Kratos.
    Kratos,
    /// For the etcd registry of go-micro.
    GoMicro,
    /// For the etcd resolver of Kitex.
    Kitex,
    /// For the etcd resolver of Hertz.
    Hertz,
    /// For the etcd registry of GoFrame.
    GoFrame,
    /// Records for CoreDNS's etcd plugin.
    CoreDNS,
    /// Servers of a service for Traefik's etcd provider.
    Traefik,
    /// The records that the templates of a RecordFormat define.
    Custom,
}

impl FormatType {
    /// Returns the text used in specs and in the status.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Plain => "Plain",
            Self::EtcdGRPC => "EtcdGRPC",
            Self::GoZero => "GoZero",
            Self::Kratos => "Kratos",
            Self::GoMicro => "GoMicro",
            Self::Kitex => "Kitex",
            Self::Hertz => "Hertz",
            Self::GoFrame => "GoFrame",
            Self::CoreDNS => "CoreDNS",
            Self::Traefik => "Traefik",
            Self::Custom => "Custom",
        }
    }
}

/// The value of a Plain record.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum PlainValue {
    /// `10.0.0.7:8080` or `[2001:db8::7]:8080`.
    #[default]
    HostPort,
    /// An object with all known attributes of the endpoint.
    JSON,
}

/// The kind of Traefik routers that a service is for.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum TraefikProtocol {
    /// HTTP, HTTPS and gRPC.
    #[default]
    HTTP,
    /// TCP.
    TCP,
    /// UDP.
    UDP,
}
