//! Plain: the address as text, or all facts as JSON. For confd, go-kit and scripts.
//!
//! One key per endpoint, by default `/services/<namespace>/<service>/<pod>`.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;

use super::format_prefixes::FormatPrefixes;
use super::{FormatError, Refusal, Service, prefix};
use crate::api::{PlainFormat, PlainValue};
use crate::model::{Endpoint, Host, Record};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plain {
    reach: FormatPrefixes,
    value: PlainValue,
}

impl Plain {
    pub fn compile(spec: &PlainFormat, service: &Service<'_>) -> Result<Self, FormatError> {
        let default = || format!("/services/{}/{}", service.namespace, service.name);
        Ok(Self {
            reach: FormatPrefixes::exact(prefix::written_or("plain.prefix", spec.prefix.as_deref(), default)?),
            value: spec.value.unwrap_or_default(),
        })
    }

    pub fn reach(&self) -> &FormatPrefixes {
        &self.reach
    }

    /// Distinguishes the two kinds of values.
    pub fn variant(&self) -> Option<&str> {
        match self.value {
            PlainValue::HostPort => None,
            PlainValue::JSON => Some("JSON"),
        }
    }

    pub fn records(&self, endpoint: &Endpoint, sole_port: bool) -> Result<Vec<Record>, Refusal> {
        let id = prefix::pod_id(endpoint, sole_port)?;
        let key = format!("{}{id}", self.reach.prefix.as_str());
        Ok(vec![match self.value {
            PlainValue::HostPort => Record::new(key, endpoint.host_port()),
            PlainValue::JSON => Record::json(key, &json(endpoint)),
        }])
    }
}

/// The fields in the order in which they are written. Unknown facts are omitted.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Json<'a> {
    address: &'a Host,
    port: u16,
    port_name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    scheme: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    weight: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    zone: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<&'a str>,
    pod: &'a str,
    namespace: &'a str,
    service: &'a str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    metadata: &'a BTreeMap<Arc<str>, Arc<str>>,
}

fn json(endpoint: &Endpoint) -> Json<'_> {
    Json {
        address: &endpoint.address,
        port: endpoint.port,
        port_name: &endpoint.port_name,
        scheme: endpoint.scheme.as_deref(),
        version: endpoint.version.as_deref(),
        weight: endpoint.weight,
        zone: endpoint.zone.as_deref(),
        node: endpoint.node.as_deref(),
        pod: &endpoint.pod,
        namespace: &endpoint.namespace,
        service: &endpoint.service,
        metadata: &endpoint.metadata,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::testing;
    use crate::model::endpoints::orders;

    fn written(value: PlainValue, endpoint: &Endpoint) -> String {
        let value = Some(value);
        let spec = PlainFormat { prefix: None, value }.into();
        let [(_, value)] = <[_; 1]>::try_from(testing::written(&spec, endpoint, true)).expect("one record");
        value
    }

    #[test]
    fn an_ipv6_address_is_written_in_brackets() {
        let mut endpoint = orders();
        endpoint.address = "2001:db8::7".parse().unwrap();
        assert_eq!(written(PlainValue::HostPort, &endpoint), "[2001:db8::7]:8080");
    }

    #[test]
    fn json_value_contains_all_fields_in_a_stable_order() {
        assert_eq!(
            written(PlainValue::JSON, &orders()),
            r#"{"address":"10.0.0.7","port":8080,"portName":"grpc","scheme":"grpc","version":"1.4.2","weight":10,"zone":"eu-1a","node":"n1","pod":"orders-7d9f-abcde","namespace":"shop","service":"orders","metadata":{"zone":"eu-1a"}}"#
        );
    }

    #[test]
    fn json_leaves_out_what_is_unknown() {
        let endpoint = Endpoint {
            node: None,
            zone: None,
            scheme: None,
            version: None,
            weight: None,
            metadata: Arc::default(),
            ..orders()
        };
        assert_eq!(
            written(PlainValue::JSON, &endpoint),
            r#"{"address":"10.0.0.7","port":8080,"portName":"grpc","pod":"orders-7d9f-abcde","namespace":"shop","service":"orders"}"#
        );
    }
}
