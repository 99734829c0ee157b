//! GoMicro: records of go-micro's etcd registry (`registry/etcd`).
//!
//! One key per endpoint, `/micro/registry/<service>/<pod>`; its last segment is the node's id. A change overwrites the
//! value of the same key: consumers' watchers take only the first event of each watch response, so a new key in place
//! of an old one would leave them with both.

use std::collections::BTreeMap;

use serde::Serialize;

use super::facts::facts;
use super::format_prefixes::FormatPrefixes;
use super::scheme::{spoken, spoken_at};
use super::{FormatError, Refusal, Service, ServicePort, prefix};
use crate::model::{Endpoint, Record};

const CONSUMER: &str = "go-micro";
/// Schemes that go-micro clients speak, and the `protocol` written for each.
const KNOWN: [(&str, &str); 5] = [
    ("grpc", "grpc"),
    ("grpcs", "grpc"),
    ("http", "http"),
    ("https", "http"),
    ("mucp", "mucp"),
];
const SPEAKS: &str = "grpc, grpcs, http, https and mucp";
const REALM: &str = "/micro/registry/";

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GoMicro {
    reach: FormatPrefixes,
}

impl GoMicro {
    pub fn compile(service: &Service<'_>) -> Result<Self, FormatError> {
        let prefix = prefix::composed("serviceName", &format!("{REALM}{}", service.name))?;
        Ok(Self {
            reach: FormatPrefixes::within(prefix, REALM),
        })
    }

    pub fn check(port: &ServicePort<'_>) -> Result<(), FormatError> {
        let scheme = spoken(port.scheme, port.name, &KNOWN.map(|known| known.0), "grpc");
        match protocol(scheme) {
            Some(_) => Ok(()),
            None => Err(FormatError::Scheme {
                consumer: CONSUMER,
                port: port.name.to_owned(),
                scheme: scheme.to_owned(),
                speaks: SPEAKS,
            }),
        }
    }

    pub fn reach(&self) -> &FormatPrefixes {
        &self.reach
    }

    pub fn records(&self, endpoint: &Endpoint, sole_port: bool) -> Result<Vec<Record>, Refusal> {
        let id = prefix::pod_id(endpoint, sole_port)?;
        let scheme = spoken_at(endpoint, &KNOWN.map(|known| known.0), "grpc");
        let Some(protocol) = protocol(scheme) else {
            return Err(Refusal::Scheme {
                consumer: CONSUMER,
                scheme: scheme.to_owned(),
                speaks: SPEAKS,
            });
        };
        // Without this entry, a consumer's RPC client falls back to the codecs of former versions.
        let mut metadata = facts(endpoint);
        metadata.insert("protocol", protocol);
        let key = format!("{}{id}", self.reach.prefix.as_str());
        let written = Written {
            name: &endpoint.service,
            version: endpoint.version.as_deref().unwrap_or_default(),
            metadata: (),
            endpoints: (),
            nodes: [Node {
                metadata,
                id: &id,
                address: endpoint.host_port(),
            }],
        };
        Ok(vec![Record::json(key, &written)])
    }
}

fn protocol(scheme: &str) -> Option<&'static str> {
    KNOWN.iter().find(|known| known.0 == scheme).map(|known| known.1)
}

/// `Service` of go-micro's `registry`. Consumers take metadata and endpoints of the service from any of its keys, so no
/// key sets them.
#[derive(Serialize)]
struct Written<'a> {
    name: &'a str,
    version: &'a str,
    metadata: (),
    endpoints: (),
    nodes: [Node<'a>; 1],
}

#[derive(Serialize)]
struct Node<'a> {
    metadata: BTreeMap<&'a str, &'a str>,
    id: &'a str,
    address: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::FormatType;
    use crate::format::testing::{compile, of, written};
    use crate::model::endpoints::orders;

    #[test]
    fn unsupported_scheme_is_rejected_with_its_name() {
        let endpoint = Endpoint {
            scheme: Some("dubbo".into()),
            ..orders()
        };
        let format = compile(&of(FormatType::GoMicro)).unwrap();
        let refusal = format.record(&endpoint, true).unwrap_err().to_string();
        assert!(refusal.contains("go-micro does not speak \"dubbo\""), "{refusal}");
    }

    #[test]
    fn https_scheme_and_unknown_version_are_written_as_clients_expect() {
        let endpoint = Endpoint {
            scheme: Some("https".into()),
            version: None,
            ..orders()
        };
        assert_eq!(
            written(&of(FormatType::GoMicro), &endpoint, false),
            [(
                "/micro/registry/orders/orders-7d9f-abcde:grpc".to_owned(),
                r#"{"name":"orders","version":"","metadata":null,"endpoints":null,"nodes":[{"metadata":{"protocol":"http","zone":"eu-1a"},"id":"orders-7d9f-abcde:grpc","address":"10.0.0.7:8080"}]}"#.to_owned()
            )]
        );
    }
}
