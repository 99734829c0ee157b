//! A compiled format: checked, and ready to write endpoints.

use crate::api;
use crate::api::FormatType;
use crate::model::Prefix;

use super::core_dns::CoreDns;
use super::custom::Custom;
use super::etcd_grpc::EtcdGrpc;
use super::format_prefixes::FormatPrefixes;
use super::go_frame::GoFrame;
use super::go_micro::GoMicro;
use super::go_zero::GoZero;
use super::hertz::Hertz;
use super::kitex::Kitex;
use super::kratos::Kratos;
use super::plain::Plain;
use super::prefix::{has_blank, is_dots};
use super::reading::{Dialect, Reading};
use super::traefik::Traefik;
use super::{FormatError, Refusal, Service, ServicePort};
use crate::model::{Endpoint, Record};

/// Maximum length of a key, in bytes.
pub const MAX_KEY: usize = 1024;

/// Maximum length of a value, in bytes.
pub const MAX_VALUE: usize = 64 * 1024;

/// A format of one registration, checked and ready to write endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Format {
    kind: FormatType,
    wire: Wire,
    /// The names of the ports that the format carries; `None` for all.
    ports: Option<Box<[Box<str>]>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Wire {
    Plain(Plain),
    EtcdGrpc(EtcdGrpc),
    GoZero(GoZero),
    Kratos(Kratos),
    GoMicro(GoMicro),
    Kitex(Kitex),
    Hertz(Hertz),
    GoFrame(GoFrame),
    CoreDns(CoreDns),
    Traefik(Traefik),
    Custom(Custom),
}

impl Format {
    /// Checks `spec`, fills in defaults and compiles the format for `service`.
    pub fn compile(spec: &api::Format, service: &Service<'_>) -> Result<Self, FormatError> {
        if service.name.is_empty() || service.name.contains('/') || has_blank(service.name) || is_dots(service.name) {
            return Err(FormatError::ServiceName(service.name.to_owned()));
        }
        if let Some(field) = misplaced(spec) {
            let format = spec.kind.as_str();
            return Err(FormatError::Misplaced { field, format });
        }
        if spec.ports.as_ref().is_some_and(Vec::is_empty) {
            return Err(FormatError::NoPorts);
        }
        let wire = match spec.kind {
            FormatType::Plain => Wire::Plain(Plain::compile(&options(spec.plain.as_ref()), service)?),
            FormatType::EtcdGRPC => Wire::EtcdGrpc(EtcdGrpc::compile(&options(spec.etcd_grpc.as_ref()), service)?),
            FormatType::GoZero => Wire::GoZero(GoZero::compile(&options(spec.go_zero.as_ref()), service)?),
            FormatType::Kratos => Wire::Kratos(Kratos::compile(&options(spec.kratos.as_ref()), service)?),
            FormatType::GoMicro => Wire::GoMicro(GoMicro::compile(service)?),
            FormatType::Kitex => Wire::Kitex(Kitex::compile(&options(spec.kitex.as_ref()), service)?),
            FormatType::Hertz => Wire::Hertz(Hertz::compile(service)?),
            FormatType::GoFrame => Wire::GoFrame(GoFrame::compile(&options(spec.go_frame.as_ref()), service)?),
            FormatType::CoreDNS => Wire::CoreDns(CoreDns::compile(spec.core_dns.as_ref())?),
            FormatType::Traefik => Wire::Traefik(Traefik::compile(&options(spec.traefik.as_ref()), service)?),
            FormatType::Custom => Wire::Custom(Custom::compile(spec.custom.as_ref(), service)?),
        };
        let ports = spec
            .ports
            .as_ref()
            .map(|names| names.iter().map(|name| name.as_str().into()).collect());
        let kind = spec.kind;
        let format = Self { kind, wire, ports };
        format.check(service.ports)?;
        Ok(format)
    }

    /// Compiles all formats of a registration. Fails if one format would write where the consumers of another read.
    pub fn compile_all(specs: &[api::Format], service: &Service<'_>) -> Result<Vec<Self>, FormatError> {
        let mut formats: Vec<Self> = Vec::with_capacity(specs.len());
        for spec in specs {
            let format = Self::compile(spec, service)?;
            for earlier in &formats {
                for (outer, inner) in [(earlier, &format), (&format, earlier)] {
                    let alike = outer.reading().dialect == inner.reading().dialect;
                    if let Some(read) = outer.reach().covers(inner.reach(), alike) {
                        return Err(FormatError::Nested {
                            outer: read.to_owned(),
                            inner: inner.prefix().as_str().to_owned(),
                        });
                    }
                }
            }
            formats.push(format);
        }
        Ok(formats)
    }

    /// Checks that consumers can dial the ports of this format.
    fn check(&self, ports: &[ServicePort<'_>]) -> Result<(), FormatError> {
        let carried: Vec<&ServicePort<'_>> = ports.iter().filter(|port| self.carries(port.name)).collect();
        for port in &carried {
            match &self.wire {
                Wire::GoMicro(_) => GoMicro::check(port)?,
                Wire::Traefik(traefik) => traefik.check(port)?,
                _ => {}
            }
        }
        let by_address = match &self.wire {
            Wire::Kitex(_) => Kitex::CONSUMER,
            Wire::Hertz(_) => Hertz::CONSUMER,
            Wire::GoFrame(_) => GoFrame::CONSUMER,
            Wire::Custom(custom) => return custom.check(&carried),
            _ => return Ok(()),
        };
        for (i, first) in carried.iter().enumerate() {
            let same = |second: &&&ServicePort<'_>| first.number.is_some() && first.number == second.number;
            if let Some(second) = carried[i + 1..].iter().find(same) {
                return Err(FormatError::SamePort {
                    consumer: by_address,
                    first: first.name.to_owned(),
                    second: second.name.to_owned(),
                });
            }
        }
        Ok(())
    }

    pub fn kind(&self) -> FormatType {
        self.kind
    }

    /// Returns the prefix of all keys of this format.
    pub fn prefix(&self) -> &Prefix {
        &self.reach().prefix
    }

    /// Whether consumers of this format fail on foreign keys in `prefix`.
    pub fn reads(&self, prefix: &Prefix) -> bool {
        prefix.as_str().starts_with(&*self.reach().realm)
    }

    /// Returns what overlap checks against other formats need.
    pub fn reading(&self) -> Reading {
        let variant = match &self.wire {
            Wire::Plain(plain) => plain.variant(),
            Wire::Traefik(traefik) => traefik.variant(),
            Wire::Custom(custom) => Some(custom.name()),
            _ => None,
        };
        let dialect = Dialect {
            kind: self.kind,
            variant: variant.map(Into::into),
        };
        Reading::of(dialect, self.reach())
    }

    fn reach(&self) -> &FormatPrefixes {
        match &self.wire {
            Wire::Plain(plain) => plain.reach(),
            Wire::EtcdGrpc(etcd_grpc) => etcd_grpc.reach(),
            Wire::GoZero(go_zero) => go_zero.reach(),
            Wire::Kratos(kratos) => kratos.reach(),
            Wire::GoMicro(go_micro) => go_micro.reach(),
            Wire::Kitex(kitex) => kitex.reach(),
            Wire::Hertz(hertz) => hertz.reach(),
            Wire::GoFrame(go_frame) => go_frame.reach(),
            Wire::CoreDns(core_dns) => core_dns.reach(),
            Wire::Traefik(traefik) => traefik.reach(),
            Wire::Custom(custom) => custom.reach(),
        }
    }

    /// Whether this format writes endpoints of the port `port_name`.
    pub fn carries(&self, port_name: &str) -> bool {
        self.ports
            .as_ref()
            .is_none_or(|ports| ports.iter().any(|port| &**port == port_name))
    }

    /// Returns the records of an endpoint. `sole_port`: this format carries exactly one port of the registration, so
    /// keys do not contain the port's name.
    pub fn record(&self, endpoint: &Endpoint, sole_port: bool) -> Result<Vec<Record>, Refusal> {
        let records = match &self.wire {
            Wire::Plain(plain) => plain.records(endpoint, sole_port),
            Wire::EtcdGrpc(etcd_grpc) => etcd_grpc.records(endpoint, sole_port),
            Wire::GoZero(go_zero) => go_zero.records(endpoint, sole_port),
            Wire::Kratos(kratos) => kratos.records(endpoint, sole_port),
            Wire::GoMicro(go_micro) => go_micro.records(endpoint, sole_port),
            Wire::Kitex(kitex) => kitex.records(endpoint),
            Wire::Hertz(hertz) => hertz.records(endpoint),
            Wire::GoFrame(go_frame) => go_frame.records(endpoint),
            Wire::CoreDns(core_dns) => core_dns.records(endpoint, sole_port),
            Wire::Traefik(traefik) => traefik.records(endpoint),
            Wire::Custom(custom) => custom.records(endpoint, sole_port),
        }?;
        for record in &records {
            if record.key.len() > MAX_KEY {
                return Err(Refusal::KeyTooLong(record.key.len()));
            }
            if record.value.len() > MAX_VALUE {
                return Err(Refusal::ValueTooLong(record.value.len()));
            }
        }
        Ok(records)
    }
}

/// Returns the options of a format, or the defaults.
fn options<T: Clone + Default>(member: Option<&T>) -> T {
    member.cloned().unwrap_or_default()
}

/// Returns a member that is set although it belongs to another type.
fn misplaced(spec: &api::Format) -> Option<&'static str> {
    let members = [
        ("plain", spec.plain.is_some(), FormatType::Plain),
        ("etcdGRPC", spec.etcd_grpc.is_some(), FormatType::EtcdGRPC),
        ("goZero", spec.go_zero.is_some(), FormatType::GoZero),
        ("kratos", spec.kratos.is_some(), FormatType::Kratos),
        ("kitex", spec.kitex.is_some(), FormatType::Kitex),
        ("goFrame", spec.go_frame.is_some(), FormatType::GoFrame),
        ("coreDNS", spec.core_dns.is_some(), FormatType::CoreDNS),
        ("traefik", spec.traefik.is_some(), FormatType::Traefik),
        ("custom", spec.custom.is_some(), FormatType::Custom),
    ];
    let wrong = members.iter().find(|(_, is_set, kind)| *is_set && *kind != spec.kind);
    wrong.map(|(member, ..)| *member)
}

#[cfg(test)]
mod tests;
