//! What is spoken on a port, in a consumer's words.

use super::Endpoint;

/// What is spoken on a port: its scheme; where it has none, its name if that is the name of a protocol that the
/// consumer knows; else what the consumer takes for granted.
pub fn spoken<'a>(scheme: Option<&'a str>, port_name: &'a str, known: &[&str], default: &'a str) -> &'a str {
    match scheme {
        Some(scheme) => scheme,
        None if known.contains(&port_name) => port_name,
        None => default,
    }
}

/// [`spoken`] on the port of `endpoint`.
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
