//! The facts of an endpoint that a template can print. `docs/consumers/custom.md` describes them.

use std::collections::BTreeMap;
use std::sync::Arc;

use minijinja::Value;

use crate::model::{Endpoint, Host, Prefix};

/// Returns the facts of `endpoint` below `prefix`. `id` distinguishes the endpoint from the others of the service. An
/// unknown fact is `none`, so that a misspelt name, which is undefined, still gives an error.
pub fn context(endpoint: &Endpoint, id: &str, prefix: &Prefix) -> Value {
    let Endpoint {
        namespace,
        service,
        pod,
        node,
        zone,
        address,
        second_family: _,
        port,
        port_name,
        scheme,
        version,
        weight,
        metadata,
    } = endpoint;
    let optional = |text: &Option<Arc<str>>| text.as_ref().map_or(Value::from(()), Value::from);
    let metadata: BTreeMap<Arc<str>, Value> = metadata
        .iter()
        .map(|(name, value)| (name.clone(), Value::from(value)))
        .collect();
    let prefix = prefix.as_str();
    let facts: BTreeMap<&str, Value> = BTreeMap::from([
        ("prefix", Value::from(prefix.strip_suffix('/').unwrap_or(prefix))),
        ("id", Value::from(id)),
        ("namespace", Value::from(namespace)),
        ("service", Value::from(service)),
        ("pod", Value::from(pod)),
        ("node", optional(node)),
        ("zone", optional(zone)),
        ("address", Value::from(address.to_string())),
        ("family", family(address)),
        ("port", Value::from(*port)),
        ("portName", Value::from(port_name)),
        ("hostPort", Value::from(endpoint.host_port())),
        ("scheme", optional(scheme)),
        ("version", optional(version)),
        ("weight", weight.map_or(Value::from(()), Value::from)),
        ("metadata", Value::from(metadata)),
    ]);
    Value::from(facts)
}

fn family(address: &Host) -> Value {
    match address.ip() {
        Some(ip) if ip.is_ipv6() => Value::from("IPv6"),
        Some(_) => Value::from("IPv4"),
        None => Value::from(()),
    }
}
