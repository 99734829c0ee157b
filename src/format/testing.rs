//! Test data for formats: the service of `tests/data/wire-vectors.txt`, and formats of that service.

use super::{Format, FormatError, RecordFormats, Service, ServicePort};
use crate::api::{self, FormatType};
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
