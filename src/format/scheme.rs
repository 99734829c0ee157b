//! The protocol of a port, as a consumer names it.

use crate::model::Endpoint;

/// Returns the protocol of a port: the scheme; without a scheme, the port's name if that is a protocol that the
/// consumer knows; otherwise the consumer's default.
pub fn spoken<'a>(scheme: Option<&'a str>, port_name: &'a str, known: &[&str], default: &'a str) -> &'a str {
    match scheme {
        Some(scheme) => scheme,
        None if known.contains(&port_name) => port_name,
        None => default,
    }
}

/// Returns [`spoken`] for the port of `endpoint`.
pub fn spoken_at<'a>(endpoint: &'a Endpoint, known: &[&str], default: &'a str) -> &'a str {
    spoken(endpoint.scheme.as_deref(), &endpoint.port_name, known, default)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_without_a_scheme_speaks_what_its_name_says() {
        let known = ["grpc", "http"];
        assert_eq!(spoken(Some("h2c"), "http", &known, "grpc"), "h2c");
        assert_eq!(spoken(None, "http", &known, "grpc"), "http");
        assert_eq!(spoken(None, "admin", &known, "grpc"), "grpc");
    }
}
