//! GoFrame: records of GoFrame's etcd registry (`contrib/registry/etcd`).
//!
//! One key per endpoint, `<root>/<deployment>/<namespace>/<service>/<version segment>/<address>`. Only the key contains
//! the address; the value is metadata. Consumers group keys by the part before the address, and use the metadata of the
//! first key for all.

use std::collections::BTreeMap;

use serde::Serialize;

use super::facts::facts;
use super::format_prefixes::FormatPrefixes;
use super::scheme::spoken_at;
use super::{FormatError, Refusal, Service, prefix};
use crate::api::GoFrameFormat;
use crate::model::{Endpoint, Record};

/// Schemes that GoFrame speaks.
const KNOWN: [&str; 4] = ["grpc", "grpcs", "http", "https"];
/// Written for an endpoint without a weight, since consumers that select by weight would never select it.
const DEFAULT_WEIGHT: u32 = 1;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GoFrame {
    reach: FormatPrefixes,
}

impl GoFrame {
    pub const CONSUMER: &str = "GoFrame";
    pub const NO_IPV6: &str = "its clients panic on them";

    pub fn compile(spec: &GoFrameFormat, service: &Service<'_>) -> Result<Self, FormatError> {
        if service.ipv6 {
            return Err(FormatError::Ipv6 {
                consumer: Self::CONSUMER,
                limit: Self::NO_IPV6,
            });
        }
        let root = prefix::root("goFrame.root", spec.root.as_deref(), "/service")?;
        if root.strip_prefix('/').is_none_or(|segment| segment.contains('/')) {
            return Err(FormatError::Field {
                field: "goFrame.root",
                value: root.to_owned(),
                problem: "is not what GoFrame reads: write a slash and one segment, such as /service",
            });
        }
        let deployment = prefix::name("goFrame.deployment", spec.deployment.as_deref(), "default")?;
        let namespace = prefix::name("goFrame.namespace", spec.namespace.as_deref(), "default")?;
        let version = prefix::name("goFrame.version", spec.version.as_deref(), "latest")?;
        let reads = format!("{root}/{deployment}/{namespace}/{}/{version}", service.name);
        Ok(Self {
            reach: FormatPrefixes::reading(prefix::composed("goFrame.root", &reads)?, &reads),
        })
    }

    pub fn reach(&self) -> &FormatPrefixes {
        &self.reach
    }

    pub fn records(&self, endpoint: &Endpoint) -> Result<Vec<Record>, Refusal> {
        let consumer = Self::CONSUMER;
        if endpoint.address.is_ipv6() {
            let limit = Self::NO_IPV6;
            return Err(Refusal::Ipv6 { consumer, limit });
        }
        if endpoint.weight == Some(0) {
            let limit = "its clients read one weight for all endpoints";
            return Err(Refusal::NoShare { consumer, limit });
        }
        let protocol = spoken_at(endpoint, &KNOWN, "grpc");
        let mut facts = facts(endpoint);
        for ours in ["protocol", "insecure", "weight"] {
            facts.remove(ours);
        }
        let metadata = Metadata {
            protocol,
            insecure: !matches!(protocol, "grpcs" | "https"),
            weight: endpoint.weight.unwrap_or(DEFAULT_WEIGHT),
            facts,
        };
        let key = format!("{}{}", self.reach.prefix.as_str(), endpoint.host_port());
        Ok(vec![Record::json(key, &metadata)])
    }
}

/// Writes the keys that GoFrame defines first.
#[derive(Serialize)]
struct Metadata<'a> {
    protocol: &'a str,
    insecure: bool,
    weight: u32,
    #[serde(flatten)]
    facts: BTreeMap<&'a str, &'a str>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::FormatType;
    use crate::format::testing::{compile, compile_v6, of, rooted, written};
    use crate::model::endpoints::orders;

    #[test]
    fn every_segment_can_be_chosen_and_none_can_be_doubled() {
        let spec = GoFrameFormat {
            root: Some("/gf".to_owned()),
            deployment: Some("prod".to_owned()),
            namespace: Some("shop".to_owned()),
            version: Some("v2".to_owned()),
        };
        let mut endpoint = orders();
        endpoint.weight = None;
        endpoint.metadata = std::sync::Arc::new([("insecure".into(), "x".into())].into());
        assert_eq!(
            written(&spec.into(), &endpoint, false),
            [(
                "/gf/prod/shop/orders/v2/10.0.0.7:8080".to_owned(),
                r#"{"protocol":"grpc","insecure":true,"weight":1,"zone":"eu-1a"}"#.to_owned()
            )]
        );
        for root in ["service", "/a/b", "a/b"] {
            let error = compile(&rooted(FormatType::GoFrame, root)).unwrap_err();
            assert!(error.to_string().contains("a slash and one segment"), "{error}");
        }
        let namespace = GoFrameFormat {
            namespace: Some("a/b".to_owned()),
            ..GoFrameFormat::default()
        };
        let error = compile(&namespace.into()).unwrap_err();
        assert!(error.to_string().contains("namespace \"a/b\""), "{error}");
    }

    #[test]
    fn an_ipv6_address_never_reaches_a_client() {
        let error = compile_v6(&of(FormatType::GoFrame)).unwrap_err().to_string();
        assert!(error.contains("GoFrame cannot read IPv6"), "{error}");
        let endpoint = Endpoint {
            address: "2001:db8::7".parse().unwrap(),
            ..orders()
        };
        let refusal = compile(&of(FormatType::GoFrame))
            .unwrap()
            .record(&endpoint, true)
            .unwrap_err();
        assert!(
            refusal.to_string().contains("GoFrame cannot read the IPv6"),
            "{refusal}"
        );
    }

    #[test]
    fn one_pod_s_weight_of_0_does_not_take_the_others_away() {
        let endpoint = Endpoint {
            weight: Some(0),
            ..orders()
        };
        let refusal = compile(&of(FormatType::GoFrame))
            .unwrap()
            .record(&endpoint, true)
            .unwrap_err();
        assert!(refusal.to_string().contains("one weight for all"), "{refusal}");
    }
}
