//! EtcdGRPC: records of the gRPC resolver in etcd's Go client (`client/v3/naming`).
//!
//! One key per endpoint, by default `<namespace>/<service>/<pod>`. The resolver reads all keys below the dial target,
//! after removing one leading slash: `etcd:///shop/orders` reads `shop/orders/`.

use serde::Serialize;

use super::format_prefixes::FormatPrefixes;
use super::{FormatError, Refusal, Service, prefix};
use crate::api::EtcdGRPCFormat;
use crate::model::{Endpoint, Record};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EtcdGrpc {
    reach: FormatPrefixes,
}

impl EtcdGrpc {
    pub fn compile(spec: &EtcdGRPCFormat, service: &Service<'_>) -> Result<Self, FormatError> {
        let default = || format!("{}/{}", service.namespace, service.name);
        Ok(Self {
            reach: FormatPrefixes::exact(prefix::written_or("etcdGRPC.prefix", spec.prefix.as_deref(), default)?),
        })
    }

    pub fn reach(&self) -> &FormatPrefixes {
        &self.reach
    }

    pub fn records(&self, endpoint: &Endpoint, sole_port: bool) -> Result<Vec<Record>, Refusal> {
        let id = prefix::pod_id(endpoint, sole_port)?;
        let key = format!("{}{id}", self.reach.prefix.as_str());
        let update = Update {
            op: 0,
            addr: &endpoint.host_port(),
            metadata: (),
        };
        Ok(vec![Record::json(key, &update)])
    }
}

/// `Update` of etcd's `naming/endpoints/internal`.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Update<'a> {
    /// 0 is Add. Readers treat every put as Add.
    op: u8,
    addr: &'a str,
    /// Always null: an object here makes consumers with an older client panic (etcd#19700).
    metadata: (),
}

#[cfg(test)]
mod tests {
    use crate::api::FormatType;
    use crate::format::testing::{at, written};
    use crate::model::endpoints::orders;

    #[test]
    fn metadata_stays_null_however_much_is_known_of_the_endpoint() {
        let spec = at(FormatType::EtcdGRPC, "/shop/orders");
        let mut endpoint = orders();
        endpoint.address = "2001:db8::7".parse().unwrap();
        assert_eq!(
            written(&spec, &endpoint, false),
            [(
                "/shop/orders/orders-7d9f-abcde:grpc".to_owned(),
                r#"{"Op":0,"Addr":"[2001:db8::7]:8080","Metadata":null}"#.to_owned()
            )]
        );
    }
}
