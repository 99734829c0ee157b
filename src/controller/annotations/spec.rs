//! Turns the annotations of a Service into the spec of its registration.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::api::{
    ATTRIBUTES_ANNOTATION, Address, Attribute, FORMATS_ANNOTATION, Format, FormatType, LastEndpoint, NAME_ANNOTATION,
    ObjectReference, PORTS_ANNOTATION, Port, REGISTER_ANNOTATION, SERVICE_WEIGHT_ANNOTATION, ServiceRegistrationSpec,
    UpdatePolicy, annotated_registry, unknown_field,
};
use crate::controller::source::{MAX_PORT_NAME, UNNAMED_PORT};
use crate::index::Service;
use crate::model::listed;

/// The format types without required options, whose name is sufficient.
const SIMPLE: [FormatType; 9] = [
    FormatType::Plain,
    FormatType::EtcdGRPC,
    FormatType::GoZero,
    FormatType::Kratos,
    FormatType::GoMicro,
    FormatType::Kitex,
    FormatType::Hertz,
    FormatType::GoFrame,
    FormatType::Traefik,
];
/// All annotations that a Service may have.
const KNOWN: [&str; 6] = [
    REGISTER_ANNOTATION,
    NAME_ANNOTATION,
    FORMATS_ANNOTATION,
    PORTS_ANNOTATION,
    SERVICE_WEIGHT_ANNOTATION,
    ATTRIBUTES_ANNOTATION,
];
/// Maximum length of the value of one annotation, in bytes.
const MAX_LENGTH: usize = 16 * 1024;
/// Limits of the ServiceRegistration.
const MAX_ITEMS: usize = 16;
const MAX_ATTRIBUTES: usize = 64;
const MAX_WEIGHT: u32 = 65_535;
const MAX_SERVICE_NAME: usize = 253;
const MAX_ATTRIBUTE_NAME: usize = 317;
const MAX_ATTRIBUTE_VALUE: usize = 256;

/// What is wrong with an annotation, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{annotation}: {message}")]
pub struct Problem {
    /// The name of the annotation.
    pub annotation: String,
    pub message: String,
}

impl Problem {
    fn new(annotation: &str, message: impl Into<String>) -> Self {
        let (annotation, message) = (annotation.to_owned(), message.into());
        Self { annotation, message }
    }
}

/// Returns the spec of the registration that the annotations of `service` ask for; none if they ask for none.
pub fn desired(service: &Service) -> Option<Result<ServiceRegistrationSpec, Vec<Problem>>> {
    let registry = annotated_registry(&service.annotations)?;
    let mut problems = Vec::new();
    for (name, value) in &service.annotations {
        if !KNOWN.contains(&name.as_str()) {
            let message = format!(
                "there is no such annotation of a Service: use {}",
                listed(KNOWN, 10, "or")
            );
            problems.push(Problem::new(name, message));
        } else if value.len() > MAX_LENGTH {
            let message = format!("its value is longer than {MAX_LENGTH} bytes: write a ServiceRegistration instead");
            problems.push(Problem::new(name, message));
        }
    }
    if !problems.is_empty() {
        return Some(Err(problems));
    }
    let mut reader = Reader {
        annotations: &service.annotations,
        problems,
    };
    if !is_object_name(registry) {
        let message = format!("{registry:?} cannot be the name of a Registry: write one from `kubectl get registries`");
        reader.problems.push(Problem::new(REGISTER_ANNOTATION, message));
    }
    let spec = ServiceRegistrationSpec {
        registry_ref: ObjectReference {
            name: registry.to_owned(),
        },
        service_name: reader.read(NAME_ANNOTATION, service_name),
        selector: None,
        service: Some(ObjectReference {
            name: service.name.clone(),
        }),
        ports: reader
            .read(PORTS_ANNOTATION, |text| ports(text, service))
            .unwrap_or_default(),
        address: Address::default(),
        formats: reader.read(FORMATS_ANNOTATION, formats).unwrap_or_default(),
        version: None,
        weight: reader.read(SERVICE_WEIGHT_ANNOTATION, weight),
        attributes: reader.read(ATTRIBUTES_ANNOTATION, attributes).unwrap_or_default(),
        lease_ttl_seconds: None,
        min_ready_seconds: 0,
        last_endpoint: LastEndpoint::default(),
        update_policy: UpdatePolicy::default(),
    };
    Some(if reader.problems.is_empty() {
        Ok(spec)
    } else {
        Err(reader.problems)
    })
}

/// Reads annotations, and collects what is wrong with them.
struct Reader<'a> {
    annotations: &'a BTreeMap<String, String>,
    problems: Vec<Problem>,
}

impl Reader<'_> {
    /// Parses the value of the annotation `name`; none if it is absent or wrong.
    fn read<T>(&mut self, name: &str, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        let text = self.annotations.get(name)?.trim();
        let parsed = match text {
            "" => Err("its value is empty: write a value, or remove the annotation to get the default".to_owned()),
            text => parse(text),
        };
        parsed
            .map_err(|message| self.problems.push(Problem::new(name, message)))
            .ok()
    }
}

/// Whether `text` may be the name of a custom resource.
fn is_object_name(text: &str) -> bool {
    let is_label = |label: &str| {
        let is_inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        !label.is_empty() && label.bytes().all(is_inner) && !label.starts_with('-') && !label.ends_with('-')
    };
    text.len() <= 253 && text.split('.').all(is_label)
}

fn service_name(text: &str) -> Result<String, String> {
    let is_inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    if text.len() > MAX_SERVICE_NAME || !text.bytes().all(is_inner) || matches!(text, "." | "..") {
        return Err(format!(
            "{text:?} cannot be the name of a service: write up to {MAX_SERVICE_NAME} letters, digits, dots, hyphens and \
             underscores"
        ));
    }
    Ok(text.to_owned())
}

fn weight(text: &str) -> Result<u32, String> {
    let number = text.parse().ok().filter(|number| *number <= MAX_WEIGHT);
    number.ok_or_else(|| format!("{text:?} is no weight: write a whole number from 0 to {MAX_WEIGHT}"))
}

/// Parses `name=value` pairs, separated by commas.
fn attributes(text: &str) -> Result<Vec<Attribute>, String> {
    let mut names = BTreeSet::new();
    let mut attributes = Vec::new();
    for pair in text.split(',') {
        let Some((name, value)) = pair.split_once('=') else {
            return Err(format!(
                "{:?} is no pair of a name and a value: write name=value, separated by commas, such as team=payments,tier=gold",
                pair.trim()
            ));
        };
        let (name, value) = (name.trim(), value.trim());
        if name.is_empty() || name.len() > MAX_ATTRIBUTE_NAME || value.len() > MAX_ATTRIBUTE_VALUE {
            return Err(format!(
                "the pair {name}={value} has an empty or too long part: write a name of 1 to {MAX_ATTRIBUTE_NAME} bytes and \
                 a value of up to {MAX_ATTRIBUTE_VALUE}"
            ));
        }
        if !names.insert(name) {
            return Err(format!("the name {name:?} is written twice: write each name once"));
        }
        attributes.push(Attribute {
            name: name.to_owned(),
            value: Some(value.to_owned()),
            ..Attribute::default()
        });
    }
    if attributes.len() > MAX_ATTRIBUTES {
        return Err(format!("it has more than {MAX_ATTRIBUTES} attributes: write fewer"));
    }
    Ok(attributes)
}

fn formats(text: &str) -> Result<Vec<Format>, String> {
    if is_structured(text) {
        return list(text, "formats");
    }
    let mut formats: Vec<Format> = Vec::new();
    for name in words(text)? {
        let Some(kind) = SIMPLE.into_iter().find(|kind| kind.as_str() == name) else {
            return Err(unknown_format(name));
        };
        if formats.iter().any(|format| format.kind == kind) {
            return Err(format!("the format {name} is written twice: write each format once"));
        }
        formats.push(Format {
            kind,
            ..Format::default()
        });
    }
    within_limit(formats, "formats")
}

fn unknown_format(name: &str) -> String {
    let all = SIMPLE.map(FormatType::as_str);
    if let Some(meant) = all.iter().find(|known| known.eq_ignore_ascii_case(name)) {
        return format!("there is no format {name:?}: write {meant}");
    }
    let example = match name {
        "CoreDNS" => "coreDNS: {domain: orders.shop.svc.example.com}",
        "Custom" => "custom: {recordFormatRef: {name: my-format}}",
        _ => return format!("there is no format {name:?}: write {}", listed(all, all.len(), "or")),
    };
    format!("the format {name} has required options: write a list in YAML, such as [{{type: {name}, {example}}}]")
}

/// Parses names and numbers of ports of `service`, or a list in YAML.
fn ports(text: &str, service: &Service) -> Result<Vec<Port>, String> {
    if is_structured(text) {
        return list(text, "ports");
    }
    let mut ports: Vec<Port> = Vec::new();
    for word in words(text)? {
        let port = if word.bytes().all(|byte| byte.is_ascii_digit()) {
            numbered(word, service)?
        } else {
            named(word, None)
        };
        if port.name.len() > MAX_PORT_NAME {
            return Err(format!(
                "the name of the port {word} is longer than {MAX_PORT_NAME} characters: write a list in YAML with a shorter \
                 name, such as [{{name: http, port: {word}}}]"
            ));
        }
        if ports.iter().any(|other| other.name == port.name) {
            return Err(format!("the port {word} is written twice: write each port once"));
        }
        ports.push(port);
    }
    within_limit(ports, "ports")
}

fn named(name: &str, port: Option<IntOrString>) -> Port {
    Port {
        name: name.to_owned(),
        port,
        protocol: None,
        app_protocol: None,
    }
}

/// Returns the port with this number. It has the name of the port of the Service, as if all ports were registered.
fn numbered(word: &str, service: &Service) -> Result<Port, String> {
    let number = word.parse::<u16>().ok().filter(|number| *number > 0);
    let number =
        number.ok_or_else(|| format!("{word} is no port: write a number from 1 to 65535, or a port's name"))?;
    let found = service.ports.iter().find(|port| port.number == number);
    let name = match found.map(|port| &*port.name) {
        Some("") => UNNAMED_PORT.to_owned(),
        Some(name) => name.to_owned(),
        None => format!("port-{number}"),
    };
    Ok(named(&name, Some(IntOrString::Int(number.into()))))
}

/// Whether the value is a list in YAML or JSON, and not names with commas between them.
fn is_structured(text: &str) -> bool {
    text.starts_with(['[', '{', '-', '#']) || text.contains('\n')
}

/// Returns the words between the commas of `text`.
fn words(text: &str) -> Result<Vec<&str>, String> {
    let words: Vec<&str> = text.split(',').map(str::trim).collect();
    if words.contains(&"") {
        return Err("there is nothing between two commas, or before or after one: remove the comma".to_owned());
    }
    Ok(words)
}

/// Parses a list in YAML or JSON whose items are those of the field `field` of a spec.
fn list<T: DeserializeOwned + Serialize>(text: &str, field: &str) -> Result<Vec<T>, String> {
    let as_in_spec = format!("write a list as in spec.{field} of a ServiceRegistration");
    let parsed: Result<Value, _> = serde_saphyr::from_str(text);
    let written =
        parsed.map_err(|cause| format!("it is neither YAML nor JSON ({}): {as_in_spec}", first_line(&cause)))?;
    if !written.is_array() {
        return Err(format!("it is not a list: {as_in_spec}"));
    }
    let decoded: Result<Vec<T>, _> = serde_json::from_value(written.clone());
    let items = decoded.map_err(|cause| format!("{}: {as_in_spec}", first_line(&cause)))?;
    let known = serde_json::to_value(&items).map_err(|cause| first_line(&cause))?;
    if let Some(unknown) = unknown_field(&written, &known, field) {
        return Err(format!("there is no field {unknown}: {as_in_spec}"));
    }
    if items.is_empty() {
        return Err(format!(
            "the list is empty: {as_in_spec}, or remove the annotation to get the default"
        ));
    }
    within_limit(items, field)
}

fn within_limit<T>(items: Vec<T>, field: &str) -> Result<Vec<T>, String> {
    if items.len() > MAX_ITEMS {
        return Err(format!("it has more than {MAX_ITEMS} {field}: write fewer"));
    }
    Ok(items)
}

/// Returns the first line of an error: some continue with a copy of the text.
fn first_line(cause: &impl ToString) -> String {
    let text = cause.to_string();
    text.lines().next().unwrap_or_default().trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests;
