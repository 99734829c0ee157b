//! Kratos: records of Kratos' etcd registry (`contrib/registry/etcd`).
//!
//! One key per endpoint, `<root>/<service>/<pod>`. Consumers read all keys that start with `<root>/<service>`, without
//! a slash after it, and select instances by name. One value among these that is not the JSON object of an instance
//! fails the whole list.

use std::collections::BTreeMap;

use serde::Serialize;

use super::facts::facts;
use super::format_prefixes::FormatPrefixes;
use super::scheme::spoken_at;
use super::{FormatError, Refusal, Service, prefix};
use crate::api::KratosFormat;
use crate::model::{Endpoint, Record};

/// Schemes that Kratos' own servers speak.
const KNOWN: [&str; 4] = ["grpc", "grpcs", "http", "https"];

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kratos {
    reach: FormatPrefixes,
}

impl Kratos {
    pub fn compile(spec: &KratosFormat, service: &Service<'_>) -> Result<Self, FormatError> {
        let root = prefix::root("kratos.root", spec.root.as_deref(), "/microservices")?;
        let reads = format!("{root}/{}", service.name);
        Ok(Self {
            reach: FormatPrefixes::reading(prefix::composed("kratos.root", &reads)?, &reads).by_name(),
        })
    }

    pub fn reach(&self) -> &FormatPrefixes {
        &self.reach
    }

    pub fn records(&self, endpoint: &Endpoint, sole_port: bool) -> Result<Vec<Record>, Refusal> {
        let id = prefix::pod_id(endpoint, sole_port)?;
        let key = format!("{}{id}", self.reach.prefix.as_str());
        let mut metadata = facts(endpoint);
        let weight = endpoint.weight.map(|weight| weight.to_string());
        if let Some(weight) = &weight {
            metadata.insert("weight", weight);
        }
        let scheme = spoken_at(endpoint, &KNOWN, "grpc");
        let is_secure = matches!(scheme, "grpcs" | "https");
        let instance = Instance {
            id: &id,
            name: &endpoint.service,
            version: endpoint.version.as_deref().unwrap_or_default(),
            metadata,
            endpoints: [format!("{scheme}://{}?isSecure={is_secure}", endpoint.host_port())],
        };
        Ok(vec![Record::json(key, &instance)])
    }
}

/// `ServiceInstance` of Kratos' `registry`.
#[derive(Serialize)]
struct Instance<'a> {
    id: &'a str,
    name: &'a str,
    version: &'a str,
    /// Strings only: a number fails the whole list.
    metadata: BTreeMap<&'a str, &'a str>,
    endpoints: [String; 1],
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::FormatType;
    use crate::format::testing::{rooted, written};
    use crate::model::endpoints::orders;

    #[test]
    fn what_is_unknown_is_empty_and_never_null() {
        let endpoint = Endpoint {
            zone: None,
            version: None,
            weight: None,
            scheme: Some("https".into()),
            metadata: std::sync::Arc::default(),
            address: "2001:db8::7".parse().unwrap(),
            ..orders()
        };
        let spec = rooted(FormatType::Kratos, "/prod/services");
        assert_eq!(
            written(&spec, &endpoint, false),
            [(
                "/prod/services/orders/orders-7d9f-abcde:grpc".to_owned(),
                r#"{"id":"orders-7d9f-abcde:grpc","name":"orders","version":"","metadata":{},"endpoints":["https://[2001:db8::7]:8080?isSecure=true"]}"#.to_owned()
            )]
        );
    }
}
