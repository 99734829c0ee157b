//! A format, checked and ready to write endpoints.

use crate::api;
use crate::api::FormatType;
use crate::plan::Scope;

use super::etcd_grpc::EtcdGrpc;
use super::plain::Plain;
use super::prefix::has_blank;
use super::{Endpoint, Record};

/// The longest key that is written, in bytes.
pub const MAX_KEY: usize = 1024;

/// The longest value that is written, in bytes.
pub const MAX_VALUE: usize = 64 * 1024;

/// Why a format of a registration cannot be used. Nothing is written in it until the registration is changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// The text of the prefix is not one that keys can have.
    #[error("prefix {prefix:?} {problem}")]
    Prefix {
        /// The prefix as written.
        prefix: String,
        /// What is wrong with it, and what to write instead.
        problem: &'static str,
    },
    /// The prefix leaves no room for the records' names.
    #[error("a prefix of {length} bytes is too long: shorten it to {max} bytes")]
    PrefixTooLong {
        /// Its length in bytes.
        length: usize,
        /// The longest that is taken, in bytes.
        max: usize,
    },
    /// The service's name cannot be a segment of a key.
    #[error(
        "service name {0:?} cannot be part of a key: set serviceName to letters, digits, dots, hyphens and underscores"
    )]
    ServiceName(String),
    /// `value` is set on a format that has values of its own.
    #[error("value is for the format Plain only: leave it out")]
    ValueNotPlain,
    /// `ports` is there but empty.
    #[error("a format without ports would write nothing: leave ports out to carry all of them")]
    NoPorts,
    /// The consumers of one format would read the records of another.
    #[error("what is written below {inner:?} would be read below {outer:?} too: give each format a prefix of its own")]
    Nested {
        /// The prefix that reaches over the other.
        outer: String,
        /// The prefix that lies in it, or is equal to it.
        inner: String,
    },
}

/// Why one endpoint cannot be written. The other endpoints of the registration are.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A name cannot be a segment of a key.
    #[error("the {what}'s name {name:?} cannot be part of a key: rename the {what}")]
    Name {
        /// Whose name it is.
        what: &'static str,
        /// The name.
        name: String,
    },
    /// The key would be too long.
    #[error("its key would have {0} bytes, more than {MAX_KEY}: shorten the format's prefix")]
    KeyTooLong(usize),
    /// The value would be too long.
    #[error("its value would have {0} bytes, more than {MAX_VALUE}: shorten the registration's metadata")]
    ValueTooLong(usize),
}

/// A format, checked and ready to write endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Format {
    wire: Wire,
    /// The ports carried, all if none.
    ports: Option<Box<[Box<str>]>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Wire {
    Plain(Plain),
    EtcdGrpc(EtcdGrpc),
}

impl Format {
    /// Checks `spec`, fills in what it leaves out and makes it ready. `service` is the service's name as consumers
    /// know it, `namespace` that of the registration.
    pub fn compile(spec: &api::Format, namespace: &str, service: &str) -> Result<Self, FormatError> {
        if service.is_empty() || service.contains('/') || has_blank(service) {
            return Err(FormatError::ServiceName(service.to_owned()));
        }
        if spec.value.is_some() && spec.kind != FormatType::Plain {
            return Err(FormatError::ValueNotPlain);
        }
        if spec.ports.as_ref().is_some_and(Vec::is_empty) {
            return Err(FormatError::NoPorts);
        }
        let wire = match spec.kind {
            FormatType::Plain => Wire::Plain(Plain::compile(spec, namespace, service)?),
            FormatType::EtcdGrpc => Wire::EtcdGrpc(EtcdGrpc::compile(spec, namespace, service)?),
        };
        let ports = spec
            .ports
            .as_ref()
            .map(|names| names.iter().map(|name| name.as_str().into()).collect());
        Ok(Self { wire, ports })
    }

    /// Compiles all formats of a registration, of which none may write where the consumers of another read.
    pub fn compile_all(specs: &[api::Format], namespace: &str, service: &str) -> Result<Vec<Self>, FormatError> {
        let mut formats: Vec<Self> = Vec::with_capacity(specs.len());
        for spec in specs {
            let format = Self::compile(spec, namespace, service)?;
            for earlier in &formats {
                let (a, b) = (earlier.scope().prefix(), format.scope().prefix());
                let (outer, inner) = if a.len() <= b.len() { (a, b) } else { (b, a) };
                if inner.starts_with(outer) {
                    return Err(FormatError::Nested {
                        outer: outer.to_owned(),
                        inner: inner.to_owned(),
                    });
                }
            }
            formats.push(format);
        }
        Ok(formats)
    }

    /// Where all keys of this format lie.
    pub fn scope(&self) -> &Scope {
        match &self.wire {
            Wire::Plain(plain) => plain.scope(),
            Wire::EtcdGrpc(etcd_grpc) => etcd_grpc.scope(),
        }
    }

    /// Whether endpoints of the port that goes by `port_name` are written in this format.
    pub fn carries(&self, port_name: &str) -> bool {
        self.ports
            .as_ref()
            .is_none_or(|ports| ports.iter().any(|port| &**port == port_name))
    }

    /// The records of an endpoint. `sole_port` says that this format carries exactly one port of the registration:
    /// keys then do without the port's name.
    pub fn record(&self, endpoint: &Endpoint, sole_port: bool) -> Result<Vec<Record>, Refusal> {
        let records = match &self.wire {
            Wire::Plain(plain) => plain.records(endpoint, sole_port),
            Wire::EtcdGrpc(etcd_grpc) => etcd_grpc.records(endpoint, sole_port),
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use super::*;
    use crate::api::PlainValue;
    use crate::format::endpoint::tests::orders;

    fn spec(kind: FormatType) -> api::Format {
        api::Format {
            kind,
            prefix: None,
            value: None,
            ports: None,
        }
    }

    fn at(kind: FormatType, prefix: &str) -> api::Format {
        api::Format {
            prefix: Some(prefix.to_owned()),
            ..spec(kind)
        }
    }

    /// The one key and value of a format in the vectors that were read by unmodified consumers.
    fn vector(name: &str) -> (&'static str, &'static str) {
        let lines: Vec<&str> = include_str!("../../tests/data/wire-vectors.txt").lines().collect();
        let start = lines.iter().position(|line| *line == name).expect(name);
        let key = lines[start + 1].strip_prefix("  K ").expect("a key follows");
        let value = lines[start + 2].strip_prefix("  V ").expect("a value follows");
        (key, value)
    }

    #[test]
    fn what_is_written_is_what_unmodified_consumers_have_read() {
        for (name, kind) in [("plain", FormatType::Plain), ("etcd-grpc", FormatType::EtcdGrpc)] {
            let format = Format::compile(&spec(kind), "shop", "orders").unwrap();
            let records = format.record(&orders(), true).unwrap();
            let written: Vec<_> = records
                .iter()
                .map(|record| (&*record.key, std::str::from_utf8(&record.value).unwrap()))
                .collect();
            assert_eq!(written, [vector(name)], "{name}");
        }
    }

    #[test]
    fn a_format_carries_the_ports_it_names_and_all_when_it_names_none() {
        let all = Format::compile(&spec(FormatType::Plain), "shop", "orders").unwrap();
        assert!(all.carries("grpc") && all.carries("8080"));
        let ports = Some(vec!["grpc".to_owned()]);
        let one = Format::compile(
            &api::Format {
                ports,
                ..spec(FormatType::Plain)
            },
            "shop",
            "orders",
        )
        .unwrap();
        assert!(one.carries("grpc") && !one.carries("http"));
    }

    #[test]
    fn a_format_that_admission_would_refuse_is_refused_with_what_to_write() {
        let value = api::Format {
            value: Some(PlainValue::Json),
            ..spec(FormatType::EtcdGrpc)
        };
        let ports = api::Format {
            ports: Some(Vec::new()),
            ..spec(FormatType::Plain)
        };
        assert_eq!(
            Format::compile(&value, "shop", "orders"),
            Err(FormatError::ValueNotPlain)
        );
        assert_eq!(Format::compile(&ports, "shop", "orders"), Err(FormatError::NoPorts));
        for service in ["", "a/b", "a b"] {
            let error = Format::compile(&spec(FormatType::Plain), "shop", service).unwrap_err();
            assert_eq!(error, FormatError::ServiceName(service.to_owned()));
        }
    }

    #[test]
    fn no_format_may_write_where_the_consumers_of_another_read() {
        let compile = |specs: &[api::Format]| Format::compile_all(specs, "shop", "orders");
        let nested = |outer: &str, inner: &str| {
            Err(FormatError::Nested {
                outer: outer.to_owned(),
                inner: inner.to_owned(),
            })
        };
        let (plain, grpc) = (FormatType::Plain, FormatType::EtcdGrpc);
        assert_eq!(compile(&[spec(plain), spec(grpc)]).map(|formats| formats.len()), Ok(2));
        assert_eq!(
            compile(&[at(plain, "/a"), at(plain, "/ab")]).map(|formats| formats.len()),
            Ok(2)
        );
        assert_eq!(compile(&[at(plain, "/a/b"), at(grpc, "/a")]), nested("/a/", "/a/b/"));
        assert_eq!(
            compile(&[spec(grpc), at(plain, "shop/orders")]),
            nested("shop/orders/", "shop/orders/")
        );
    }

    #[test]
    fn an_endpoint_too_large_for_etcd_is_refused_and_told_its_size() {
        let json = api::Format {
            value: Some(PlainValue::Json),
            ..spec(FormatType::Plain)
        };
        let format = Format::compile(&json, "shop", "orders").unwrap();
        let mut endpoint = orders();
        endpoint.metadata = Arc::new(BTreeMap::from([("x".into(), "y".repeat(MAX_VALUE).into())]));
        assert!(matches!(format.record(&endpoint, true), Err(Refusal::ValueTooLong(size)) if size > MAX_VALUE));
        let mut endpoint = orders();
        endpoint.pod = "p".repeat(MAX_KEY).into();
        assert!(matches!(format.record(&endpoint, true), Err(Refusal::KeyTooLong(size)) if size > MAX_KEY));
    }

    #[test]
    fn a_name_that_would_leave_its_segment_is_refused() {
        let format = Format::compile(&spec(FormatType::Plain), "shop", "orders").unwrap();
        for name in ["", "a/b", "a:b", "a b"] {
            let mut endpoint = orders();
            endpoint.pod = name.into();
            assert!(
                matches!(format.record(&endpoint, true), Err(Refusal::Name { what: "pod", .. })),
                "{name:?}"
            );
            let mut endpoint = orders();
            endpoint.port_name = name.into();
            assert!(
                matches!(format.record(&endpoint, false), Err(Refusal::Name { what: "port", .. })),
                "{name:?}"
            );
        }
    }
}
