//! What users write: the kinds of `leasehold.dev/v1alpha1`, their status and conditions.
//!
//! Owns the fields, their descriptions (`kubectl explain` prints them), what admission rejects, and the CRD files.
//! Knows nothing of what becomes of an object: no client, no etcd, no decisions.

// Users read these descriptions.
#![warn(missing_docs)]
// Each printer column has a type and a path; the lint takes equal ones for repetition.
#![allow(clippy::duplicated_attributes)]

mod access;
pub mod conditions;
mod format;
mod guard;
mod manifests;
mod record_format;
mod registry;
mod schema;
mod service_registration;
mod status;
mod tenancy;

pub use access::{AuthSpec, CaKey, SecretName, TlsSpec};
pub use conditions::{ConditionStatus, ConditionType, Reason};
pub use format::{Format, FormatType, PlainValue, TraefikProtocol};
pub use guard::{Guard, GuardMode};
pub use manifests::{crds, manifests};
pub use record_format::{
    Escaping, RecordFormat, RecordFormatSpec, RecordFormatStatus, RecordPreview, RecordSample, RecordTemplate,
};
pub use registry::{APPROVE_REMOVALS, Limits, Registry, RegistrySpec, RegistryStatus, ReplicaStatus};
pub use service_registration::{
    Address, AddressType, Family, LastEndpoint, Metadata, Port, Protocol, ServiceRegistration, ServiceRegistrationSpec,
    Version,
};
pub use status::{EndpointStatus, FormatStatus, LastSynced, ServiceRegistrationStatus};
pub use tenancy::{Access, AccessRule, TtlRange};

/// The oldest release of Kubernetes, major and minor, whose kube-apiserver takes the definitions. The chart and the docs
/// name it, too.
pub const OLDEST_KUBERNETES: (u32, u32) = (1, 31);
