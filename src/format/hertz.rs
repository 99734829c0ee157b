//! Hertz: records of Hertz's etcd resolver (`hertz-contrib/registry/etcd`): Kitex's records below a fixed prefix.

use super::format_prefixes::FormatPrefixes;
use super::{FormatError, Refusal, Service, kitex, prefix};
use crate::model::{Endpoint, Record};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hertz {
    reach: FormatPrefixes,
}

impl Hertz {
    pub const CONSUMER: &str = "Hertz";

    pub fn compile(service: &Service<'_>) -> Result<Self, FormatError> {
        let prefix = prefix::composed("serviceName", &format!("hertz/registry-etcd/{}", service.name))?;
        Ok(Self {
            reach: FormatPrefixes::exact(prefix),
        })
    }

    pub fn reach(&self) -> &FormatPrefixes {
        &self.reach
    }

    pub fn records(&self, endpoint: &Endpoint) -> Result<Vec<Record>, Refusal> {
        kitex::instance(&self.reach, endpoint, Self::CONSUMER)
    }
}
