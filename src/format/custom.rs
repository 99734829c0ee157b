//! Custom: records as the templates of a `RecordFormat` define them.
//!
//! Keys are below a prefix that the registration chooses, by default `/services/<namespace>/<service>`. The printed
//! text is checked for every endpoint.

use std::sync::Arc;

use super::format_prefixes::FormatPrefixes;
use super::templates::{Templates, shared_by_ports};
use super::{FormatError, Refusal, Service, ServicePort, prefix};
use crate::api::CustomFormat;
use crate::model::{Endpoint, Record};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Custom {
    reach: FormatPrefixes,
    templates: Arc<Templates>,
}

impl Custom {
    pub fn compile(spec: Option<&CustomFormat>, service: &Service<'_>) -> Result<Self, FormatError> {
        let Some(spec) = spec else {
            return Err(FormatError::Missing {
                field: "custom.recordFormatRef",
                format: "Custom",
                what: "the name of a RecordFormat",
            });
        };
        let default = || format!("/services/{}/{}", service.namespace, service.name);
        let prefix = prefix::written_or("custom.prefix", spec.prefix.as_deref(), default)?;
        Ok(Self {
            reach: FormatPrefixes::exact(prefix),
            templates: service.record_formats.get(&spec.record_format_ref.name)?.clone(),
        })
    }

    /// Checks that no two of the ports share a key.
    pub fn check(&self, ports: &[&ServicePort<'_>]) -> Result<(), FormatError> {
        match shared_by_ports(&self.templates, ports, &self.reach.prefix) {
            None => Ok(()),
            Some((first, second, key)) => Err(FormatError::SharedByPorts {
                name: self.templates.name().to_owned(),
                first,
                second,
                key,
            }),
        }
    }

    /// Returns the RecordFormat's name.
    pub fn name(&self) -> &str {
        self.templates.name()
    }

    pub fn reach(&self) -> &FormatPrefixes {
        &self.reach
    }

    pub fn records(&self, endpoint: &Endpoint, sole_port: bool) -> Result<Vec<Record>, Refusal> {
        let id = prefix::pod_id(endpoint, sole_port)?;
        let records = self.templates.print(endpoint, &id, &self.reach.prefix);
        records.map_err(|cause| Refusal::RecordFormat {
            name: self.templates.name().to_owned(),
            cause: Box::new(cause),
        })
    }
}
