//! The facts of a service that are known before there are any endpoints.

use super::RecordFormats;

/// A service as its registration describes it, with the fields that formats depend on.
#[derive(Clone, Copy, Debug)]
pub struct Service<'a> {
    /// The namespace of the registration.
    pub namespace: &'a str,
    /// The service's name, as consumers know it.
    pub name: &'a str,
    /// The ports to register.
    pub ports: &'a [ServicePort<'a>],
    /// Whether the service's endpoints have IPv6 addresses.
    pub ipv6: bool,
    /// The record formats that admins have defined, for all services.
    pub record_formats: &'a RecordFormats,
}

/// A port to register.
#[derive(Clone, Copy, Debug)]
pub struct ServicePort<'a> {
    /// The port's name in the registration.
    pub name: &'a str,
    /// The port's number; `None` if each pod has its own.
    pub number: Option<u16>,
    /// The protocol on the port.
    pub scheme: Option<&'a str>,
}
