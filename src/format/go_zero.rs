//! GoZero: records of go-zero's zrpc clients (`core/discov`).
//!
//! One key per endpoint, `<key>/<pod>@<address>`; the value is the address. Clients up to v1.10.3 lose an endpoint
//! whose value changes under its key. So the key contains the address: a new address is a new key, and the old key is
//! deleted in the same transaction.

use super::format_prefixes::FormatPrefixes;
use super::{FormatError, Refusal, Service, prefix};
use crate::api::GoZeroFormat;
use crate::model::{Endpoint, Record};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GoZero {
    reach: FormatPrefixes,
}

impl GoZero {
    pub fn compile(spec: &GoZeroFormat, service: &Service<'_>) -> Result<Self, FormatError> {
        let prefix = prefix::written_or("goZero.key", spec.key.as_deref(), || format!("{}.rpc", service.name))?;
        Ok(Self {
            reach: FormatPrefixes::exact(prefix),
        })
    }

    pub fn reach(&self) -> &FormatPrefixes {
        &self.reach
    }

    pub fn records(&self, endpoint: &Endpoint, sole_port: bool) -> Result<Vec<Record>, Refusal> {
        let address = endpoint.host_port();
        let id = prefix::pod_id(endpoint, sole_port)?;
        let key = format!("{}{id}@{address}", self.reach.prefix.as_str());
        Ok(vec![Record::new(key, address)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::testing::written;
    use crate::model::endpoints::orders;

    #[test]
    fn another_address_is_another_key() {
        let key = Some("shop/orders.rpc".to_owned());
        let spec = GoZeroFormat { key }.into();
        let mut endpoint = orders();
        endpoint.address = "2001:db8::7".parse().unwrap();
        assert_eq!(
            written(&spec, &endpoint, false),
            [(
                "shop/orders.rpc/orders-7d9f-abcde:grpc@[2001:db8::7]:8080".to_owned(),
                "[2001:db8::7]:8080".to_owned()
            )]
        );
    }
}
