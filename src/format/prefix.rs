//! Checks of prefixes and of the segments of keys.
//!
//! Admission has checked the users' input already, but an object may be older than the rule that would reject it now.

use super::{FormatError, Refusal};
use crate::model::{Endpoint, Prefix};

/// Maximum length of a prefix that users write, in bytes. With the longest pod and port names below it, a key stays
/// below [`super::compiled::MAX_KEY`].
const MAX_PREFIX: usize = 512;

/// Maximum length of a prefix that is composed of a root and names, in bytes.
const MAX_COMPOSED: usize = 720;

/// Maximum length of a name that users write for one segment, in bytes.
const MAX_NAME: usize = 320;

/// Returns the checked prefix that the user wrote in `field`, or the format's `default`.
pub fn written_or(
    field: &'static str,
    written: Option<&str>,
    default: impl FnOnce() -> String,
) -> Result<Prefix, FormatError> {
    match written {
        Some(prefix) => checked(field, prefix, MAX_PREFIX).map(Prefix::below),
        None => composed(field, &default()),
    }
}

/// Returns a checked prefix that was composed of parts; an error names `field`.
pub fn composed(field: &'static str, prefix: &str) -> Result<Prefix, FormatError> {
    checked(field, prefix, MAX_COMPOSED).map(Prefix::below)
}

/// Returns the part of a framework's keys before the service's name: as written in `field`, or `default`.
pub fn root<'a>(field: &'static str, written: Option<&'a str>, default: &'a str) -> Result<&'a str, FormatError> {
    checked(field, written.unwrap_or(default), MAX_PREFIX)
}

/// Returns one key segment that the user wrote in `field`, or `default`.
pub fn name<'a>(field: &'static str, written: Option<&'a str>, default: &'a str) -> Result<&'a str, FormatError> {
    let name = written.unwrap_or(default);
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if name.is_empty() || name.len() > MAX_NAME || !name.bytes().all(good) || is_dots(name) {
        return Err(FormatError::Field {
            field,
            value: name.to_owned(),
            problem: "cannot be part of a key: write letters, digits, dots, hyphens and underscores",
        });
    }
    Ok(name)
}

fn checked<'a>(field: &'static str, prefix: &'a str, max: usize) -> Result<&'a str, FormatError> {
    let problem = if prefix.is_empty() {
        "must not be empty: leave it out for the default one"
    } else if prefix.len() > max {
        return Err(FormatError::PrefixTooLong {
            length: prefix.len(),
            max,
        });
    } else if prefix.ends_with('/') {
        "must not end with a slash: the slash before the record's name is added"
    } else if prefix.contains("//") {
        "must not contain an empty segment: write one slash where there are two"
    } else if has_blank(prefix) {
        "must not contain spaces or control characters"
    } else if prefix.split('/').any(is_dots) {
        "must not have a segment of dots only: consumers that clean paths never read it"
    } else {
        return Ok(prefix);
    };
    Err(FormatError::Prefix {
        field,
        prefix: prefix.to_owned(),
        problem,
    })
}

/// Returns the endpoint's name, if the format carries one port. Otherwise returns the names of endpoint and port,
/// separated by a colon, which neither name can contain.
pub fn pod_id(endpoint: &Endpoint, sole_port: bool) -> Result<String, Refusal> {
    let name = endpoint.name();
    let pod = segment("pod", &name)?;
    if sole_port {
        return Ok(pod.to_owned());
    }
    let port = segment("port", &endpoint.port_name)?;
    Ok(format!("{pod}:{port}"))
}

/// Returns `name` if it can be one segment of a key.
pub fn segment<'a>(what: &'static str, name: &'a str) -> Result<&'a str, Refusal> {
    if !is_segment(name) {
        return Err(Refusal::Name {
            what,
            name: name.to_owned(),
        });
    }
    Ok(name)
}

/// Whether `name` can be one segment of a key, or a part of a segment before or after a colon.
fn is_segment(name: &str) -> bool {
    !name.is_empty() && !name.contains(['/', ':']) && !has_blank(name) && !is_dots(name)
}

/// Whether `segment` means the directory itself or its parent when a path is cleaned.
pub fn is_dots(segment: &str) -> bool {
    segment == "." || segment == ".."
}

/// Whether `text` contains whitespace or control characters.
pub fn has_blank(text: &str) -> bool {
    text.chars().any(|c| c.is_whitespace() || c.is_control())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(prefix: &str) -> Result<Prefix, FormatError> {
        written_or("prefix", Some(prefix), || unreachable!("a prefix is written"))
    }

    #[test]
    fn a_prefix_may_or_may_not_start_with_a_slash() {
        assert_eq!(written("/services/orders").unwrap().as_str(), "/services/orders/");
        assert_eq!(written("orders.rpc").unwrap().as_str(), "orders.rpc/");
    }

    #[test]
    fn a_prefix_that_admission_would_refuse_is_refused_with_what_to_write() {
        let long = "x".repeat(MAX_PREFIX + 1);
        let cases = [
            ("", "leave it out"),
            ("/", "must not end with a slash"),
            ("/services/", "must not end with a slash"),
            ("/services//orders", "write one slash where there are two"),
            ("//services", "write one slash where there are two"),
            ("/services/my orders", "spaces or control characters"),
            ("/services/\u{7}", "spaces or control characters"),
            ("/services/\u{2003}x", "spaces or control characters"),
            ("/services/../leasehold", "a segment of dots only"),
            (".", "a segment of dots only"),
            (&long, "shorten it to 512 bytes"),
        ];
        for (prefix, expected) in cases {
            let error = written(prefix).expect_err(prefix).to_string();
            assert!(error.contains(expected), "{prefix:?}: {error}");
        }
    }
}
