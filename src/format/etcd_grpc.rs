//! EtcdGrpc: what the gRPC resolver of etcd's Go client reads (`client/v3/naming`).
//!
//! One key per endpoint, `<namespace>/<service>/<pod>` unless a prefix is written. The resolver reads everything
//! below the dial target, from which it takes one leading slash: `etcd:///shop/orders` reads `shop/orders/`.

use serde::Serialize;

use super::{Endpoint, FormatError, Record, Refusal, prefix};
use crate::api;
use crate::plan::Scope;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EtcdGrpc {
    scope: Scope,
}

impl EtcdGrpc {
    pub fn compile(spec: &api::Format, namespace: &str, service: &str) -> Result<Self, FormatError> {
        Ok(Self {
            scope: prefix::scope(spec.prefix.as_deref(), || format!("{namespace}/{service}"))?,
        })
    }

    pub fn scope(&self) -> &Scope {
        &self.scope
    }

    pub fn records(&self, endpoint: &Endpoint, sole_port: bool) -> Result<Vec<Record>, Refusal> {
        let key = prefix::pod_key(&self.scope, endpoint, sole_port)?;
        let update = Update {
            op: 0,
            addr: &endpoint.host_port(),
            metadata: (),
        };
        let value = serde_json::to_vec(&update).expect("text, a number and null");
        Ok(vec![Record {
            key,
            value: value.into(),
        }])
    }
}

/// `Update` of etcd's `naming/endpoints/internal`.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Update<'a> {
    /// 0 is Add, which readers take a put for in any case.
    op: u8,
    addr: &'a str,
    /// Always null: an object here makes consumers with an older client panic (etcd#19700).
    metadata: (),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::FormatType;
    use crate::format::endpoint::tests::orders;

    #[test]
    fn metadata_stays_null_however_much_is_known_of_the_endpoint() {
        let prefix = Some("/shop/orders".to_owned());
        let spec = api::Format {
            kind: FormatType::EtcdGrpc,
            prefix,
            value: None,
            ports: None,
        };
        let mut endpoint = orders();
        endpoint.address = "2001:db8::7".parse().unwrap();
        let records = EtcdGrpc::compile(&spec, "shop", "orders")
            .unwrap()
            .records(&endpoint, false)
            .unwrap();
        assert_eq!(&*records[0].key, "/shop/orders/orders-7d9f-abcde:grpc");
        assert_eq!(
            &*records[0].value,
            br#"{"Op":0,"Addr":"[2001:db8::7]:8080","Metadata":null}"#
        );
    }
}
