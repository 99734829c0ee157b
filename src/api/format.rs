//! A format of a `ServiceRegistration`: a wire format that consumers read, and its options.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A format in which the service is written. `docs/formats.md` describes the keys and values of each format.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.value) || self.type == 'Plain'")
        .message("value is for the format Plain only: leave it out, the other formats have their own values"),
    validation = Rule::new("!has(self.prefix) || self.type in ['Plain', 'EtcdGrpc', 'Custom']")
        .message("prefix is for Plain, EtcdGrpc and Custom: write key with GoZero, domain with CoreDns, and root with Kratos, Kitex, GoFrame and Traefik"),
    validation = Rule::new("!has(self.key) || self.type == 'GoZero'")
        .message("key is for the format GoZero only: leave it out, or write prefix with Plain and EtcdGrpc"),
    validation = Rule::new("!has(self.root) || self.type in ['Kratos', 'Kitex', 'GoFrame', 'CoreDns', 'Traefik']")
        .message("root is for Kratos, Kitex, GoFrame, CoreDns and Traefik: leave it out; go-micro and Hertz have a fixed one"),
    validation = Rule::new("!has(self.root) || self.type != 'GoFrame' || self.root.matches('^/[^/]+$')")
        .message("GoFrame reads keys of six segments: root must be a slash and one segment, such as /service"),
    validation = Rule::new("!has(self.root) || self.type != 'CoreDns' || !self.root.contains('/')")
        .message("CoreDNS removes one segment before it derives names from keys: root must be one segment without slashes, such as skydns"),
    validation = Rule::new("!has(self.root) || self.type != 'Traefik' || !self.root.startsWith('/')")
        .message("Traefik never reads keys that start with a slash: write root without it, such as traefik"),
    validation = Rule::new("has(self.domain) == (self.type == 'CoreDns')")
        .message("CoreDns needs domain, the name that consumers look up, such as orders.shop.svc.example.com; no other format takes it"),
    validation = Rule::new("!(has(self.ttl) || has(self.priority) || has(self.group)) || self.type == 'CoreDns'")
        .message("ttl, priority and group are fields of DNS records, for the format CoreDns only: leave them out"),
    validation = Rule::new("has(self.recordFormat) == (self.type == 'Custom')")
        .message("Custom needs recordFormat, the name of a RecordFormat (kubectl get recordformats); no other format takes it"),
    validation = Rule::new("!(has(self.protocol) || has(self.name)) || self.type == 'Traefik'")
        .message("protocol and name are for the format Traefik only: leave them out; serviceName names the service in the other formats"),
    validation = Rule::new(
        "!(has(self.deployment) || has(self.__namespace__) || has(self.versionSegment)) || self.type == 'GoFrame'"
    )
    .message("deployment, namespace and versionSegment are segments of GoFrame's keys, for the format GoFrame only: leave them out"),
)]
pub struct Format {
    /// Plain: the address as text or JSON, for confd, scripts and own code. EtcdGrpc: for the gRPC resolver of etcd's
    /// Go client. GoZero, Kratos, GoMicro, Kitex, Hertz and GoFrame: for the etcd registry of that Go framework.
    /// CoreDns: records for CoreDNS's etcd plugin. Traefik: servers of a service for Traefik's etcd provider. Custom:
    /// the records that the templates of a RecordFormat define.
    #[serde(rename = "type")]
    pub kind: FormatType,

    /// Plain and EtcdGrpc: the prefix of all records, which are written one segment below it. Custom: the prefix of all
    /// records, which are written at any depth below it. No slash at the end. Defaults to
    /// `/services/<namespace>/<service>` for Plain and Custom and to `<namespace>/<service>` for EtcdGrpc.
    ///
    /// With EtcdGrpc, consumers use the prefix as their dial target: `etcd:///shop/orders` reads the prefix
    /// `shop/orders`. A prefix that starts with a slash needs one more slash, so `/shop/orders` is dialled as
    /// `etcd:////shop/orders`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    #[x_kube(
        validation = Rule::new("size(self) > 0")
            .message("prefix must not be empty: leave it out for the default one"),
        validation = Rule::new("!self.endsWith('/')")
            .message("prefix must not end with a slash: the slash before the record's name is added"),
        validation = Rule::new("!self.contains('//')")
            .message("prefix must not contain an empty segment: write one slash where there are two"),
        validation = Rule::new(r"!self.matches('[\\s\\pZ\\pC]')")
            .message("prefix must not contain spaces or control characters"),
        validation = Rule::new("!self.matches('(^|/)[.][.]?(/|$)')")
            .message("prefix must not have a segment of dots only: consumers that clean paths never read it"),
    )]
    pub prefix: Option<String>,

    /// Custom: the name of the RecordFormat whose templates define the records.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    #[x_kube(validation = Rule::new("self.matches('^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$')")
        .message("recordFormat must be the name of a RecordFormat (kubectl get recordformats)"))]
    pub record_format: Option<String>,

    /// GoZero: the `Key` in the consumers' `EtcdConf`. Defaults to `<service>.rpc`, as goctl generates it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    #[x_kube(
        validation = Rule::new("size(self) > 0 && !self.endsWith('/') && !self.contains('//')")
            .message("key must be the Key of the consumers' EtcdConf, without a slash at the end or two in a row, such as orders.rpc"),
        validation = Rule::new(r"!self.matches('[\\s\\pZ\\pC]')")
            .message("key must not contain spaces or control characters"),
        validation = Rule::new("!self.matches('(^|/)[.][.]?(/|$)')")
            .message("key must not have a segment of dots only: consumers that clean paths never read it"),
    )]
    pub key: Option<String>,

    /// The part of the key before the service's name, for frameworks that let consumers choose it. Defaults to the
    /// framework's own default. Kratos: the registry's Namespace, `/microservices`. Kitex: the prefix,
    /// `kitex/registry-etcd`. GoFrame: GF_GSVC_PREFIX with its slash, `/service`. CoreDns: the plugin's path, `skydns`.
    /// Traefik: rootKey, `traefik`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    #[x_kube(
        validation = Rule::new("size(self) > 0 && !self.endsWith('/') && !self.contains('//')")
            .message("root must not be empty, end with a slash or have two in a row: leave it out for the framework's default"),
        validation = Rule::new(r"!self.matches('[\\s\\pZ\\pC]')")
            .message("root must not contain spaces or control characters"),
        validation = Rule::new("!self.matches('(^|/)[.][.]?(/|$)')")
            .message("root must not have a segment of dots only: consumers that clean paths never read it"),
    )]
    pub root: Option<String>,

    /// CoreDns: the name that consumers look up, such as `orders.shop.svc.example.com`, in a zone that the etcd plugin
    /// serves. Each pod has its own name below it. At most 173 characters, to leave room for the names of the pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 173))]
    #[x_kube(
        validation = Rule::new("self.matches('^[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9])?([.][a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9])?)*$')")
            .message("domain must be a DNS name in lower case without a dot at the end, such as orders.shop.svc.example.com"),
        validation = Rule::new("!self.matches('(^|[.])any([.]|$)')")
            .message("CoreDNS treats the label any as a wildcard: choose another name"),
    )]
    pub domain: Option<String>,

    /// CoreDns: the TTL of the DNS records in seconds: 1 to 86400. Defaults to 30.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self >= 1 && self <= 86400").message("ttl must be 1 to 86400 seconds"))]
    pub ttl: Option<u32>,

    /// CoreDns: the priority of the SRV records: 1 to 65535; the lowest value is preferred. Defaults to 10.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self >= 1 && self <= 65535").message("priority must be 1 to 65535: CoreDNS treats 0 as 10"))]
    pub priority: Option<u32>,

    /// CoreDns: the group of the records. If there are several groups below a name, CoreDNS answers with one of them.
    /// If unset, no group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    #[x_kube(validation = Rule::new("self.matches('^[a-zA-Z0-9._-]+$')")
        .message("group must be made of letters, digits, dots, hyphens and underscores"))]
    pub group: Option<String>,

    /// Traefik: whether the service is for HTTP, TCP or UDP routers. Defaults to Http.
    // `with`: for an optional enum the derive would print the enum's description instead of this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "TraefikProtocol")]
    pub protocol: Option<TraefikProtocol>,

    /// Traefik: the name of the service, to which routers refer as `<name>@etcd`. Defaults to `<namespace>-<service>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    #[x_kube(
        validation = Rule::new("self.matches('^[a-z0-9._-]+$')")
            .message("name must be made of lower-case letters, digits, dots, hyphens and underscores: Traefik treats names that differ only in case as equal"),
        validation = Rule::new("!self.matches('^[0-9]+$')")
            .message("name must not be a number: Traefik treats it as an index"),
    )]
    pub name: Option<String>,

    /// GoFrame: the deployment (GF_GSVC_DEPLOYMENT) of the consumers, that is, their environment. Defaults to
    /// `default`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    #[x_kube(validation = Rule::new("self.matches('^[a-zA-Z0-9._-]+$')")
        .message("deployment must be made of letters, digits, dots, hyphens and underscores"))]
    pub deployment: Option<String>,

    /// GoFrame: the namespace (GF_GSVC_NAMESPACE) of the consumers. Defaults to `default`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    #[x_kube(validation = Rule::new("self.matches('^[a-zA-Z0-9._-]+$')")
        .message("namespace must be made of letters, digits, dots, hyphens and underscores"))]
    pub namespace: Option<String>,

    /// GoFrame: the version (GF_GSVC_VERSION) that consumers request; they see no other version. Defaults to `latest`,
    /// which consumers request by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    #[x_kube(validation = Rule::new("self.matches('^[a-zA-Z0-9._-]+$')")
        .message("versionSegment must be made of letters, digits, dots, hyphens and underscores"))]
    pub version_segment: Option<String>,

    /// Plain: the value of a record. HostPort (the default): `10.0.0.7:8080`. Json: an object with address, port,
    /// portName, scheme, version, weight, zone, node, pod, namespace, service and metadata; unknown fields are omitted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "PlainValue")]
    pub value: Option<PlainValue>,

    /// The names of the ports that this format contains. If unset, all ports. Most consumers use every record that they
    /// find for a service, so list only ports whose protocol the consumers of the format can speak.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16), inner(length(max = 15)))]
    #[x_kube(
        validation = Rule::new("size(self) > 0")
            .message("a format without ports would write nothing: omit ports to write all of them"),
        validation = Rule::new("self.all(a, self.exists_one(b, a == b))")
            .message("a port is named twice: name each port of a format once"),
    )]
    pub ports: Option<Vec<String>>,
}

/// The type of a format.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum FormatType {
    /// The address as text or as JSON.
    #[default]
    Plain,
    /// For the gRPC resolver of etcd's Go client.
    EtcdGrpc,
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
    CoreDns,
    /// Servers of a service for Traefik's etcd provider.
    Traefik,
    /// The records that the templates of a RecordFormat define.
    Custom,
}

/// The value of a Plain record.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum PlainValue {
    /// `10.0.0.7:8080` or `[2001:db8::7]:8080`.
    #[default]
    HostPort,
    /// An object with all known attributes of the endpoint.
    Json,
}

/// The kind of Traefik routers that a service is for.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum TraefikProtocol {
    /// HTTP, HTTPS and gRPC.
    #[default]
    Http,
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}
