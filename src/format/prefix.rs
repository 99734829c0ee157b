//! The prefix below which a format writes, and the names of the records there.

use super::{Endpoint, FormatError, Refusal};
use crate::plan::{Key, Scope};

/// The longest prefix, in bytes. With the longest names of a pod and a port below it, a key stays below
/// [`super::compiled::MAX_KEY`].
const MAX_PREFIX: usize = 512;

/// The scope below the prefix that the user wrote, or below the format's `default`.
///
/// Admission has checked the prefix, but an object may be older than the rule that would refuse it now.
pub fn scope(written: Option<&str>, default: impl FnOnce() -> String) -> Result<Scope, FormatError> {
    let prefix = written.map_or_else(default, str::to_owned);
    let problem = if prefix.is_empty() {
        "must not be empty: leave it out for the default one"
    } else if prefix.len() > MAX_PREFIX {
        return Err(FormatError::PrefixTooLong {
            length: prefix.len(),
            max: MAX_PREFIX,
        });
    } else if prefix.ends_with('/') {
        "must not end with a slash: the slash before the record's name is added"
    } else if prefix.contains("//") {
        "must not contain an empty segment: write one slash where there are two"
    } else if has_blank(&prefix) {
        "must not contain spaces or control characters"
    } else {
        return Ok(Scope::below(&prefix));
    };
    Err(FormatError::Prefix { prefix, problem })
}

/// The key of an endpoint whose record goes by the pod's name. A name alone does when the format carries one port;
/// otherwise the port's name is added after a colon, which neither name can contain.
pub fn pod_key(scope: &Scope, endpoint: &Endpoint, sole_port: bool) -> Result<Key, Refusal> {
    let pod = segment("pod", &endpoint.pod)?;
    let prefix = scope.prefix();
    if sole_port {
        return Ok(format!("{prefix}{pod}").into());
    }
    let port = segment("port", &endpoint.port_name)?;
    Ok(format!("{prefix}{pod}:{port}").into())
}

/// `name` if it can be one segment of a key.
fn segment<'a>(what: &'static str, name: &'a str) -> Result<&'a str, Refusal> {
    if name.is_empty() || name.contains(['/', ':']) || has_blank(name) {
        return Err(Refusal::Name {
            what,
            name: name.to_owned(),
        });
    }
    Ok(name)
}

/// Whether `text` contains what is not seen or separates words.
pub fn has_blank(text: &str) -> bool {
    text.chars().any(|c| c.is_whitespace() || c.is_control())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(prefix: &str) -> Result<Scope, FormatError> {
        scope(Some(prefix), || unreachable!("a prefix is written"))
    }

    #[test]
    fn a_prefix_may_or_may_not_start_with_a_slash() {
        assert_eq!(written("/services/orders").unwrap().prefix(), "/services/orders/");
        assert_eq!(written("orders.rpc").unwrap().prefix(), "orders.rpc/");
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
            (&long, "shorten it to 512 bytes"),
        ];
        for (prefix, expected) in cases {
            let error = written(prefix).expect_err(prefix).to_string();
            assert!(error.contains(expected), "{prefix:?}: {error}");
        }
    }
}
