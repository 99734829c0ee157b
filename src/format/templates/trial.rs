//! Tries templates before they are used. A sample endpoint shows what they print. Other possible endpoints show whether
//! each endpoint gets keys that no other endpoint has.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use super::{TemplateError, Templates};
use crate::api::{RecordFormatSpec, RecordPreview};
use crate::format::ServicePort;
use crate::model::{Endpoint, Host, Prefix, Record};

/// The prefix of the sample endpoint.
const PREFIX: &str = "/services/shop/orders";

/// Maximum length of a value in the preview, in bytes.
const SHOWN: usize = 4096;

/// Stand-in for a port number that differs by pod; the port at index n gets this number plus n.
const UNKNOWN_PORT: u16 = 30_000;

/// Returns the records of the sample endpoint. Fails if another possible endpoint has one of its keys.
pub fn preview(templates: &Templates) -> Result<Vec<RecordPreview>, TemplateError> {
    let prefix = Prefix::below(PREFIX);
    let sample = sample(&templates.spec);
    let print = |endpoint: &Endpoint| templates.print(endpoint, &endpoint.pod, &prefix);
    let records = print(&sample)?;
    for other in others(&sample) {
        if let Some(key) = shared(&records, &print(&other)?) {
            let reported = |endpoint: &Endpoint| format!("the pod {} at {}", endpoint.pod, endpoint.host_port());
            return Err(TemplateError::SameKey {
                first: reported(&sample),
                second: reported(&other),
                key,
            });
        }
    }
    let shown = |(record, template): (&Record, &crate::api::RecordTemplate)| {
        let value = String::from_utf8_lossy(&record.value);
        RecordPreview {
            name: template.name.clone(),
            key: record.key.to_string(),
            value: value[..value.floor_char_boundary(SHOWN)].to_owned(),
        }
    };
    Ok(records.iter().zip(&templates.spec.records).map(shown).collect())
}

/// Returns the names of two `ports` that would share a key in one pod, and that key; `None` if all keys differ. The
/// format carries all of `ports`.
pub fn shared_by_ports(
    templates: &Templates,
    ports: &[&ServicePort<'_>],
    prefix: &Prefix,
) -> Option<(String, String, String)> {
    let sample = sample(&templates.spec);
    let records_of = |(at, port): (usize, &&ServicePort<'_>)| {
        let number = u16::try_from(at).unwrap_or_default() + UNKNOWN_PORT;
        let endpoint = Endpoint {
            port: port.number.unwrap_or(number),
            port_name: port.name.into(),
            scheme: port.scheme.map(Into::into),
            ..sample.clone()
        };
        let id = format!("{}:{}", endpoint.pod, endpoint.port_name);
        // A template that fails for the sample may work for the pods. If it fails for them, too, each refused endpoint
        // reports that.
        templates.print(&endpoint, &id, prefix).ok()
    };
    let records: Vec<Option<Vec<Record>>> = ports.iter().enumerate().map(records_of).collect();
    for (i, first) in records.iter().enumerate() {
        for (j, second) in records.iter().enumerate().skip(i + 1) {
            let both = first.as_deref().zip(second.as_deref());
            if let Some(key) = both.and_then(|(first, second)| shared(first, second)) {
                return Some((ports[i].name.to_owned(), ports[j].name.to_owned(), key));
            }
        }
    }
    None
}

/// Returns a key that both lists contain.
fn shared(a: &[Record], b: &[Record]) -> Option<String> {
    let both = a.iter().find(|record| b.iter().any(|other| other.key == record.key));
    both.map(|record| record.key.to_string())
}

/// Returns an endpoint with all facts.
fn sample(spec: &RecordFormatSpec) -> Endpoint {
    let metadata: BTreeMap<Arc<str>, Arc<str>> = spec
        .sample
        .iter()
        .flat_map(|sample| &sample.attributes)
        .map(|attribute| (attribute.name.as_str().into(), attribute.value.as_str().into()))
        .collect();
    Endpoint {
        namespace: "shop".into(),
        service: "orders".into(),
        pod: "orders-7d9f-abcde".into(),
        node: Some("n1".into()),
        zone: Some("eu-1a".into()),
        address: ADDRESS,
        second_family: None,
        port: 8080,
        port_name: "grpc".into(),
        scheme: Some("grpc".into()),
        version: Some("1.4.2".into()),
        weight: Some(10),
        metadata: Arc::new(metadata),
    }
}

const ADDRESS: Host = Host::Ip(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 7)));

/// Returns other possible pods of the service: a pod of the same ReplicaSet, a pod of another revision in another
/// subnet, and a pod that shares the host network with the sample.
fn others(sample: &Endpoint) -> [Endpoint; 3] {
    let ip = |ip: Ipv4Addr| Host::Ip(ip.into());
    let other = |pod: &str, address: Host, port: u16| Endpoint {
        pod: pod.into(),
        address,
        port,
        ..sample.clone()
    };
    [
        other("orders-7d9f-abcdf", ip(Ipv4Addr::new(10, 0, 0, 8)), sample.port),
        other("orders-8c4d-abcde", ip(Ipv4Addr::new(10, 0, 1, 7)), sample.port),
        other("orders-7d9f-abcdg", sample.address.clone(), sample.port + 1),
    ]
}
