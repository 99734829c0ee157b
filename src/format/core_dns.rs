//! CoreDNS: records of CoreDNS's etcd plugin, which uses the SkyDNS format.
//!
//! One key per endpoint, `/<root>/<labels of the domain, reversed>/<pod>`; with several ports, the port's name is one
//! more segment. A query for a name returns all records in its subtree, and one invalid value there fails the whole
//! answer.

use serde::Serialize;

use super::format_prefixes::FormatPrefixes;
use super::{FormatError, Refusal, prefix};
use crate::api::CoreDNSFormat;
use crate::model::{Endpoint, Host, Record, fnv64};

const CONSUMER: &str = "CoreDNS";
/// Maximum length of a DNS label.
const MAX_LABEL: usize = 63;
/// Maximum length of the domain: with a label for the pod and one for the port before it, a name has at most 253
/// characters.
const MAX_DOMAIN: usize = 253 - (MAX_LABEL + 1) - (15 + 1);

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CoreDns {
    reach: FormatPrefixes,
    ttl: u32,
    priority: u32,
    group: Option<Box<str>>,
}

impl CoreDns {
    pub fn compile(spec: Option<&CoreDNSFormat>) -> Result<Self, FormatError> {
        let Some(spec) = spec else {
            return Err(FormatError::Missing {
                field: "coreDNS.domain",
                format: "CoreDNS",
                what: "the name that consumers look up, such as orders.shop.svc.example.com",
            });
        };
        let domain = &spec.domain;
        let wrong = |field, value: &str, problem| {
            let value = value.to_owned();
            Err(FormatError::Field { field, value, problem })
        };
        if domain.len() > MAX_DOMAIN {
            return wrong("coreDNS.domain", domain, "is too long: shorten it to 173 characters");
        }
        if !domain.split('.').all(|label| is_label(label, b"_")) {
            let problem =
                "is not a lower-case DNS name such as orders.shop.svc.example.com: write it without a dot at the end";
            return wrong("coreDNS.domain", domain, problem);
        }
        if domain.split('.').any(|label| label == "any") {
            return wrong(
                "coreDNS.domain",
                domain,
                "has the label any, which CoreDNS treats as a wildcard: choose another",
            );
        }
        let root = prefix::root("coreDNS.root", spec.root.as_deref(), "skydns")?;
        if root.contains('/') {
            let problem =
                "must be one segment without slashes, such as skydns: CoreDNS removes one to derive names from keys";
            return wrong("coreDNS.root", root, problem);
        }
        let ttl = spec.ttl_seconds.unwrap_or(30);
        if !(1..=86_400).contains(&ttl) {
            return wrong("coreDNS.ttlSeconds", &ttl.to_string(), "must be 1 to 86400 seconds");
        }
        let priority = spec.priority.unwrap_or(10);
        if !(1..=65_535).contains(&priority) {
            return wrong("coreDNS.priority", &priority.to_string(), "must be 1 to 65535");
        }
        let group = spec
            .group
            .as_deref()
            .map(|group| prefix::name("coreDNS.group", Some(group), ""))
            .transpose()?;
        let labels: Vec<&str> = domain.rsplit('.').collect();
        let prefix = prefix::composed("coreDNS.root", &format!("/{root}/{}", labels.join("/")))?;
        Ok(Self {
            reach: FormatPrefixes::within(prefix, &format!("/{root}/")),
            ttl,
            priority,
            group: group.map(Into::into),
        })
    }

    pub fn reach(&self) -> &FormatPrefixes {
        &self.reach
    }

    pub fn records(&self, endpoint: &Endpoint, sole_port: bool) -> Result<Vec<Record>, Refusal> {
        if endpoint.weight == Some(0) {
            return Err(Refusal::NoShare {
                consumer: CONSUMER,
                limit: "it answers with a weight of 1 or more",
            });
        }
        let mut key = format!(
            "{}{}",
            self.reach.prefix.as_str(),
            label(prefix::segment("pod", &endpoint.name())?)
        );
        if !sole_port {
            key.push('/');
            key.push_str(&label(prefix::segment("port", &endpoint.port_name)?));
        }
        let service = Written {
            host: &endpoint.address,
            port: endpoint.port,
            priority: self.priority,
            weight: endpoint.weight,
            ttl: self.ttl,
            group: self.group.as_deref(),
        };
        Ok(vec![Record::json(key, &service)])
    }
}

/// Whether `text` is a lower-case DNS label. Bytes of `more` are allowed, too, but not at the end of a longer label.
fn is_label(text: &str, more: &[u8]) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = text.as_bytes();
    bytes.len() <= MAX_LABEL
        && bytes.first().is_some_and(|first| plain(*first) || more.contains(first))
        && (bytes.last().is_some_and(|last| plain(*last)) || bytes.len() == 1)
        && bytes
            .iter()
            .all(|byte| plain(*byte) || *byte == b'-' || more.contains(byte))
}

/// Returns `name` unchanged if it is a label. Otherwise returns a similar label with a hash, which keeps different
/// names different.
fn label(name: &str) -> String {
    if is_label(name, b"") && name != "any" {
        return name.to_owned();
    }
    let similar = name.chars().map(|c| match c.to_ascii_lowercase() {
        c @ ('a'..='z' | '0'..='9') => c,
        _ => '-',
    });
    let similar: String = similar.take(MAX_LABEL - 17).collect();
    let similar = similar.trim_matches('-');
    let separator = if similar.is_empty() { "" } else { "-" };
    format!("{similar}{separator}{:016x}", fnv64(&[name]))
}

/// A `Service` of SkyDNS.
#[derive(Serialize)]
struct Written<'a> {
    /// CoreDNS answers with an alias (CNAME) if this is a host name.
    host: &'a Host,
    port: u16,
    priority: u32,
    /// CoreDNS treats a missing weight as 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    weight: Option<u32>,
    /// Always written: CoreDNS before 1.12.4 derives a missing TTL from the lease ID.
    ttl: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<&'a str>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::FormatType;
    use crate::format::testing::{compile, core_dns as at, of, written};
    use crate::model::endpoints::orders;

    #[test]
    fn all_fields_are_written_and_ipv6_address_has_no_brackets() {
        let spec = CoreDNSFormat {
            root: Some("dns".to_owned()),
            ttl_seconds: Some(5),
            priority: Some(20),
            group: Some("blue".to_owned()),
            ..at("orders.example.com")
        };
        let mut endpoint = orders();
        endpoint.address = "2001:db8::7".parse().unwrap();
        endpoint.weight = None;
        assert_eq!(
            written(&spec.into(), &endpoint, false),
            [(
                "/dns/com/example/orders/orders-7d9f-abcde/grpc".to_owned(),
                r#"{"host":"2001:db8::7","port":8080,"priority":20,"ttl":5,"group":"blue"}"#.to_owned()
            )]
        );
    }

    #[test]
    fn a_pod_s_name_that_is_no_label_becomes_one_of_its_own() {
        let long = "x".repeat(253);
        let names = ["web-0.eu", "web-0-eu", "any", &long, &long[1..], "-", "Web", "ö"];
        let labels: std::collections::HashSet<String> = names.iter().map(|name| label(name)).collect();
        assert_eq!(labels.len(), names.len(), "{labels:?}");
        assert!(labels.iter().all(|label| is_label(label, b"")), "{labels:?}");
        assert!(label("web-0.eu").starts_with("web-0-eu-"));
    }

    #[test]
    fn what_coredns_would_not_find_is_refused_with_what_to_write() {
        let error = compile(&of(FormatType::CoreDNS)).unwrap_err().to_string();
        assert!(error.contains("needs coreDNS.domain"), "{error}");
        let long = "a.".repeat(86) + "aa";
        let cases = [
            (at("Orders.example.com"), "lower-case"),
            (at("orders.example.com."), "without a dot at the end"),
            (at(""), "is not a lower-case DNS name"),
            (at("a..b"), "is not a lower-case DNS name"),
            (at("any.example.com"), "treats as a wildcard"),
            (at(&long), "shorten it to 173"),
            (
                CoreDNSFormat {
                    root: Some("skydns/ka".to_owned()),
                    ..at("a.b")
                },
                "one segment without slashes",
            ),
            (
                CoreDNSFormat {
                    ttl_seconds: Some(0),
                    ..at("a.b")
                },
                "1 to 86400",
            ),
            (
                CoreDNSFormat {
                    priority: Some(0),
                    ..at("a.b")
                },
                "1 to 65535",
            ),
        ];
        for (spec, expected) in cases {
            let error = compile(&spec.into()).unwrap_err().to_string();
            assert!(error.contains(expected), "{error} / {expected}");
        }
        let endpoint = Endpoint {
            weight: Some(0),
            ..orders()
        };
        let refusal = compile(&at("a.b").into()).unwrap().record(&endpoint, true).unwrap_err();
        assert!(
            refusal.to_string().contains("CoreDNS does not support weight 0"),
            "{refusal}"
        );
    }
}
