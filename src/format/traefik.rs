//! Traefik: servers of a service, as Traefik's etcd provider reads them.
//!
//! Keys below `<root>/<protocol>/services/<name>/loadbalancer/servers/<number>/`: `url` and optionally `weight` for
//! HTTP, `address` for TCP and UDP. The number is a hash of pod and port; Traefik accepts any numbers, with gaps. If
//! any key below the root is an unknown field, Traefik accepts no more updates.
//!
//! A weight without a url is a server that cannot be dialled, so both records are written and removed together, on one
//! lease. Therefore a server with a weight has another number than the same server without. If the weight were added to
//! an existing url, that url's lease might have no room for the weight. The weight would then be on another lease, and
//! the url's lease might expire first.

use super::format_prefixes::FormatPrefixes;
use super::scheme::{spoken, spoken_at};
use super::{FormatError, Refusal, Service, ServicePort, prefix};
use crate::api::{TraefikFormat, TraefikProtocol};
use crate::model::{Endpoint, Record, fnv64};

const CONSUMER: &str = "Traefik";
/// Default of `rootKey`.
const ROOT: &str = "traefik";
/// Schemes that an HTTP service can speak, and the URL scheme for each.
const KNOWN: [(&str, &str); 5] = [
    ("http", "http"),
    ("https", "https"),
    ("grpc", "h2c"),
    ("h2c", "h2c"),
    ("grpcs", "https"),
];
const SPEAKS: &str = "http, https, grpc, grpcs and h2c";

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Traefik {
    reach: FormatPrefixes,
    protocol: TraefikProtocol,
}

impl Traefik {
    pub fn compile(spec: &TraefikFormat, service: &Service<'_>) -> Result<Self, FormatError> {
        let wrong = |field, value: &str, problem| {
            let value = value.to_owned();
            Err(FormatError::Field { field, value, problem })
        };
        let root = prefix::root("traefik.root", spec.root.as_deref(), ROOT)?;
        if root.starts_with('/') {
            return wrong(
                "traefik.root",
                root,
                "starts with a slash, and Traefik never reads such keys: write it without",
            );
        }
        let default = format!("{}-{}", service.namespace, service.name);
        let name = prefix::name("traefik.serviceName", spec.service_name.as_deref(), &default)?;
        if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
            let problem =
                "has capitals, and Traefik treats names that differ only in case as equal: write it in lower case";
            return wrong("traefik.serviceName", name, problem);
        }
        if name.bytes().all(|byte| byte.is_ascii_digit()) {
            return wrong(
                "traefik.serviceName",
                name,
                "is a number, which Traefik treats as an index: add a letter",
            );
        }
        let protocol = spec.protocol.unwrap_or_default();
        let segment = match protocol {
            TraefikProtocol::HTTP => "http",
            TraefikProtocol::TCP => "tcp",
            TraefikProtocol::UDP => "udp",
        };
        let prefix = format!("{root}/{segment}/services/{name}/loadbalancer/servers");
        Ok(Self {
            reach: FormatPrefixes::within(prefix::composed("traefik.root", &prefix)?, &format!("{root}/")),
            protocol,
        })
    }

    pub fn check(&self, port: &ServicePort<'_>) -> Result<(), FormatError> {
        let scheme = spoken(port.scheme, port.name, &KNOWN.map(|known| known.0), "http");
        if self.protocol == TraefikProtocol::HTTP && url_scheme(scheme).is_none() {
            return Err(FormatError::Scheme {
                consumer: CONSUMER,
                port: port.name.to_owned(),
                scheme: scheme.to_owned(),
                speaks: SPEAKS,
            });
        }
        Ok(())
    }

    pub fn reach(&self) -> &FormatPrefixes {
        &self.reach
    }

    /// Returns the root, unless it is the default one. Each root has its own Traefik provider, which fails on records that another root
    /// puts below its own. So records of two roots are of different kinds.
    pub fn variant(&self) -> Option<&str> {
        Some(self.reach.realm.trim_end_matches('/')).filter(|root| *root != ROOT)
    }

    pub fn records(&self, endpoint: &Endpoint) -> Result<Vec<Record>, Refusal> {
        let (name, port) = (endpoint.name(), &endpoint.port_name);
        let weight = endpoint.weight.filter(|_| self.protocol == TraefikProtocol::HTTP);
        let fields = if weight.is_some() { "url weight" } else { "" };
        let number = fnv64(&[&endpoint.namespace, &name, port, fields]);
        let field = |name: &str| format!("{}{number}/{name}", self.reach.prefix.as_str());
        if self.protocol != TraefikProtocol::HTTP {
            return Ok(vec![Record::new(field("address"), endpoint.host_port())]);
        }
        let scheme = spoken_at(endpoint, &KNOWN.map(|known| known.0), "http");
        let Some(scheme) = url_scheme(scheme) else {
            return Err(Refusal::Scheme {
                consumer: CONSUMER,
                scheme: scheme.to_owned(),
                speaks: SPEAKS,
            });
        };
        let url = format!("{scheme}://{}", endpoint.host_port());
        let mut records = vec![Record::new(field("url"), url)];
        if let Some(weight) = weight {
            records.push(Record::new(field("weight"), weight.to_string()));
        }
        Ok(records)
    }
}

fn url_scheme(scheme: &str) -> Option<&'static str> {
    KNOWN.iter().find(|known| known.0 == scheme).map(|known| known.1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::FormatType;
    use crate::format::testing::{compile, of, written};
    use crate::model::endpoints::orders;

    #[test]
    fn tcp_and_udp_have_an_address_and_no_weight() {
        for (protocol, segment) in [(TraefikProtocol::TCP, "tcp"), (TraefikProtocol::UDP, "udp")] {
            let spec = TraefikFormat {
                root: Some("edge/traefik".to_owned()),
                protocol: Some(protocol),
                service_name: Some("orders".to_owned()),
            };
            let mut endpoint = orders();
            endpoint.address = "2001:db8::7".parse().unwrap();
            // A scheme without a URL form does not matter here.
            endpoint.scheme = Some("redis".into());
            let number = fnv64(&["shop", "orders-7d9f-abcde", "grpc", ""]);
            assert_eq!(
                written(&spec.into(), &endpoint, true),
                [(
                    format!("edge/traefik/{segment}/services/orders/loadbalancer/servers/{number}/address"),
                    "[2001:db8::7]:8080".to_owned()
                )]
            );
        }
    }

    #[test]
    fn a_server_without_a_weight_has_one_key_and_another_number() {
        let weighed = written(&of(FormatType::Traefik), &orders(), true);
        let endpoint = Endpoint {
            weight: None,
            scheme: None,
            port_name: "web".into(),
            ..orders()
        };
        let records = written(&of(FormatType::Traefik), &endpoint, true);
        assert_eq!(records.len(), 1);
        assert_eq!(records[0].1, "http://10.0.0.7:8080");
        assert!(weighed.iter().all(|(key, _)| *key != records[0].0), "{weighed:?}");
    }

    #[test]
    fn what_would_break_the_provider_is_refused_with_what_to_write() {
        let with = |root: Option<&str>, name: Option<&str>| TraefikFormat {
            root: root.map(str::to_owned),
            protocol: None,
            service_name: name.map(str::to_owned),
        };
        let cases = [
            (with(Some("/traefik"), None), "write it without"),
            (with(None, Some("42")), "add a letter"),
            (with(None, Some("Orders")), "in lower case"),
            (with(None, Some("a/b")), "letters, digits"),
        ];
        for (spec, expected) in cases {
            let error = compile(&spec.into()).unwrap_err().to_string();
            assert!(error.contains(expected), "{error} / {expected}");
        }
        let endpoint = Endpoint {
            scheme: Some("redis".into()),
            ..orders()
        };
        let refusal = compile(&of(FormatType::Traefik))
            .unwrap()
            .record(&endpoint, true)
            .unwrap_err();
        assert!(
            refusal.to_string().contains("Traefik does not speak \"redis\""),
            "{refusal}"
        );
    }
}
