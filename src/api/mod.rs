//! The API that users write: the kinds of `leasehold.dev/v1alpha1`, their status and conditions.
//!
//! Owns the fields, their descriptions (`kubectl explain` prints them), the validation rules and the CRD files. Must
//! not know how an object is processed: no client, no etcd, no decisions.

// Users read these descriptions.
#![warn(missing_docs)]
// Each printer column has a type and a path; the lint mistakes equal ones for duplicates.
#![allow(clippy::duplicated_attributes)]

mod access;
pub mod conditions;
mod format;
mod guard;
mod manifests;
mod record_format;
mod registry;
mod schema;
mod service_annotations;
mod service_registration;
mod status;
mod tenancy;
mod unknown_field;

pub use access::{AuthSpec, CaKind, CaReference, ObjectReference, TlsSpec};
pub use conditions::{ConditionStatus, ConditionType, Reason};
pub use format::{
    CoreDNSFormat, CustomFormat, EtcdGRPCFormat, Format, FormatType, GoFrameFormat, GoZeroFormat, KitexFormat,
    KratosFormat, PlainFormat, PlainValue, TraefikFormat, TraefikProtocol,
};
pub use guard::{Guard, GuardMode};
pub use manifests::{crds, manifests};
pub use record_format::{
    Escaping, RecordFormat, RecordFormatSpec, RecordFormatStatus, RecordPreview, RecordSample, RecordTemplate,
};
pub use registry::{
    APPROVE_REMOVALS, Defaults, EtcdSpec, Limits, Registry, RegistrySpec, RegistryStatus, ReplicaStatus,
};
pub use service_annotations::{
    ATTRIBUTES_ANNOTATION, FORMATS_ANNOTATION, MANAGED_BY, NAME_ANNOTATION, PORTS_ANNOTATION, REGISTER_ANNOTATION,
    SERVICE_WEIGHT_ANNOTATION, annotated_registry,
};
pub use service_registration::{
    Address, AddressType, Attribute, AttributeValue, DEFAULT_REGISTRY, LastEndpoint, Port, ServiceRegistration,
    ServiceRegistrationSpec, UpdatePolicy, Version,
};
pub use status::{EndpointStatus, FormatStatus, LastPort, LastSynced, PodCounts, ServiceRegistrationStatus};
pub use tenancy::{Access, AccessRule, TtlRange};
pub use unknown_field::unknown_field;

/// The oldest Kubernetes release, as (major, minor), whose kube-apiserver accepts the CRDs. The chart and the docs name
/// it too.
pub const OLDEST_KUBERNETES: (u32, u32) = (1, 31);
