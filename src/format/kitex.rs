//! Kitex: records of Kitex's etcd resolver (`kitex-contrib/registry-etcd`).
//!
//! One key per endpoint, `<root>/<service>/<address>`. Clients read the address from the value.

use std::collections::BTreeMap;

use serde::Serialize;

use super::facts::facts;
use super::format_prefixes::FormatPrefixes;
use super::{FormatError, Refusal, Service, prefix};
use crate::api::KitexFormat;
use crate::model::{Endpoint, Record};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kitex {
    reach: FormatPrefixes,
}

impl Kitex {
    pub const CONSUMER: &str = "Kitex";

    pub fn compile(spec: &KitexFormat, service: &Service<'_>) -> Result<Self, FormatError> {
        let root = prefix::root("kitex.root", spec.root.as_deref(), "kitex/registry-etcd")?;
        let prefix = prefix::composed("kitex.root", &format!("{root}/{}", service.name))?;
        Ok(Self {
            reach: FormatPrefixes::exact(prefix),
        })
    }

    pub fn reach(&self) -> &FormatPrefixes {
        &self.reach
    }

    pub fn records(&self, endpoint: &Endpoint) -> Result<Vec<Record>, Refusal> {
        instance(&self.reach, endpoint, Self::CONSUMER)
    }
}

/// Returns the record of an endpoint below the prefix of `reach`. Hertz reads the same records.
pub fn instance(reach: &FormatPrefixes, endpoint: &Endpoint, consumer: &'static str) -> Result<Vec<Record>, Refusal> {
    let weight = match endpoint.weight {
        Some(0) => {
            let limit = "its clients treat it as 10";
            return Err(Refusal::NoShare { consumer, limit });
        }
        weight => weight.unwrap_or(DEFAULT_WEIGHT),
    };
    let address = endpoint.host_port();
    let key = format!("{}{address}", reach.prefix.as_str());
    let instance = Instance {
        network: "tcp",
        address: &address,
        weight,
        tags: facts(endpoint),
    };
    Ok(vec![Record::json(key, &instance)])
}

/// The weight that clients assume for an instance without one.
const DEFAULT_WEIGHT: u32 = 10;

/// `instanceInfo` of the registry.
#[derive(Serialize)]
struct Instance<'a> {
    network: &'a str,
    address: &'a str,
    /// A number: clients skip an instance whose weight is a string.
    weight: u32,
    tags: BTreeMap<&'a str, &'a str>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::FormatType;
    use crate::format::testing::{compile, of, rooted, written};
    use crate::model::endpoints::orders;

    #[test]
    fn a_weight_that_is_unknown_is_the_framework_s_own() {
        let spec = rooted(FormatType::Kitex, "prod/kitex");
        let endpoint = Endpoint {
            weight: None,
            zone: None,
            metadata: std::sync::Arc::default(),
            address: "2001:db8::7".parse().unwrap(),
            ..orders()
        };
        assert_eq!(
            written(&spec, &endpoint, false),
            [(
                "prod/kitex/orders/[2001:db8::7]:8080".to_owned(),
                r#"{"network":"tcp","address":"[2001:db8::7]:8080","weight":10,"tags":{}}"#.to_owned()
            )]
        );
    }

    #[test]
    fn no_share_of_the_traffic_is_no_record() {
        let endpoint = Endpoint {
            weight: Some(0),
            ..orders()
        };
        for kind in [FormatType::Kitex, FormatType::Hertz] {
            let refusal = compile(&of(kind))
                .unwrap()
                .record(&endpoint, true)
                .unwrap_err()
                .to_string();
            assert!(refusal.contains("does not support weight 0"), "{refusal}");
        }
    }
}
