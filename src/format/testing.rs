//! Test data for formats: the service of `tests/data/wire-vectors.txt`, and formats of that service.

use super::{Format, FormatError, RecordFormats, Service, ServicePort};
use crate::api::{
    self, CoreDNSFormat, CustomFormat, EtcdGRPCFormat, FormatType, GoFrameFormat, GoZeroFormat, KitexFormat,
    KratosFormat, PlainFormat, PlainValue, TraefikFormat,
};
use crate::model::Endpoint;

/// The port of the service's endpoint.
pub const PORTS: [ServicePort<'static>; 1] = [ServicePort {
    name: "grpc",
    number: None,
    scheme: Some("grpc"),
}];

static NONE: RecordFormats = RecordFormats::new();

/// The service of the endpoint in `endpoint.rs`.
pub const ORDERS: Service<'static> = Service {
    namespace: "shop",
    name: "orders",
    ports: &PORTS,
    ipv6: false,
    record_formats: &NONE,
};

/// Returns a format with all fields at their defaults.
pub fn of(kind: FormatType) -> api::Format {
    api::Format {
        kind,
        ..api::Format::default()
    }
}

/// Returns a format with this prefix.
pub fn at(kind: FormatType, prefix: &str) -> api::Format {
    let prefix = Some(prefix.to_owned());
    let mut spec = of(kind);
    match kind {
        FormatType::Plain => spec.plain = Some(PlainFormat { prefix, value: None }),
        FormatType::EtcdGRPC => spec.etcd_grpc = Some(EtcdGRPCFormat { prefix }),
        kind => panic!("{kind:?} has no prefix"),
    }
    spec
}

/// Returns a format with this root.
pub fn rooted(kind: FormatType, root: &str) -> api::Format {
    let root = Some(root.to_owned());
    let mut spec = of(kind);
    match kind {
        FormatType::Kratos => spec.kratos = Some(KratosFormat { root }),
        FormatType::Kitex => spec.kitex = Some(KitexFormat { root }),
        FormatType::GoFrame => {
            spec.go_frame = Some(GoFrameFormat {
                root,
                ..GoFrameFormat::default()
            });
        }
        FormatType::Traefik => {
            spec.traefik = Some(TraefikFormat {
                root,
                ..TraefikFormat::default()
            });
        }
        kind => panic!("{kind:?} has no root of its own"),
    }
    spec
}

/// Returns the format Plain with JSON.
pub fn json() -> api::Format {
    let value = Some(PlainValue::JSON);
    let plain = PlainFormat { prefix: None, value };
    plain.into()
}

macro_rules! format_of {
    ($($options:ty, $kind:ident, $member:ident;)+) => {
        $(impl From<$options> for api::Format {
            fn from(options: $options) -> Self {
                Self { $member: Some(options), ..of(FormatType::$kind) }
            }
        })+
    };
}

format_of! {
    PlainFormat, Plain, plain;
    GoZeroFormat, GoZero, go_zero;
    GoFrameFormat, GoFrame, go_frame;
    CoreDNSFormat, CoreDNS, core_dns;
    TraefikFormat, Traefik, traefik;
    CustomFormat, Custom, custom;
}

/// Returns the format CoreDNS with this domain.
pub fn core_dns(domain: &str) -> CoreDNSFormat {
    CoreDNSFormat {
        domain: domain.to_owned(),
        ..CoreDNSFormat::default()
    }
}

pub fn compile(spec: &api::Format) -> Result<Format, FormatError> {
    Format::compile(spec, &ORDERS)
}

pub fn compile_v6(spec: &api::Format) -> Result<Format, FormatError> {
    Format::compile(spec, &Service { ipv6: true, ..ORDERS })
}

/// Returns the keys and values of an endpoint.
pub fn written(spec: &api::Format, endpoint: &Endpoint, sole_port: bool) -> Vec<(String, String)> {
    let records = compile(spec)
        .expect("a good format")
        .record(endpoint, sole_port)
        .expect("a good endpoint");
    let text = |value: &[u8]| String::from_utf8(value.to_vec()).expect("UTF-8");
    records
        .iter()
        .map(|record| (record.key.to_string(), text(&record.value)))
        .collect()
}
