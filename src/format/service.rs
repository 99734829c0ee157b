//! What is known of a service before there are any endpoints.

use super::RecordFormats;

/// A service as its registration describes it, as far as a format may depend on it.
#[derive(Clone, Copy, Debug)]
pub struct Service<'a> {
    /// The namespace of the registration.
    pub namespace: &'a str,
    /// The service's name, as consumers know it.
    pub name: &'a str,
    /// The ports to register.
    pub ports: &'a [ServicePort<'a>],
    /// Whether its endpoints have IPv6 addresses.
    pub ipv6: bool,
    /// The record formats there are: those of admins, for all services.
    pub record_formats: &'a RecordFormats,
}

/// A port to register.
#[derive(Clone, Copy, Debug)]
pub struct ServicePort<'a> {
    /// Its name in the registration.
    pub name: &'a str,
    /// Its number, unless each pod has its own.
    pub number: Option<u16>,
    /// The protocol spoken on it.
    pub scheme: Option<&'a str>,
}
