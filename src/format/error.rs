//! Reasons why a format, or one endpoint in a format, cannot be written.

use super::TemplateError;
use super::compiled::{MAX_KEY, MAX_VALUE};

/// The reason why a format of a registration cannot be used. Nothing is written in this format until the registration
/// is changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// The prefix contains text that keys cannot have.
    #[error("{field} {prefix:?} {problem}")]
    Prefix {
        /// The field that holds the prefix.
        field: &'static str,
        prefix: String,
        /// The problem, and what to write instead.
        problem: &'static str,
    },
    /// The prefix leaves no room for the records' names.
    #[error("a prefix of {length} bytes is too long: shorten it to {max} bytes")]
    PrefixTooLong {
        /// In bytes.
        length: usize,
        /// The maximum, in bytes.
        max: usize,
    },
    /// The service's name cannot be a segment of a key.
    #[error(
        "service name {0:?} cannot be part of a key: set serviceName to letters, digits, dots, hyphens and underscores"
    )]
    ServiceName(String),
    /// A member of the union is set that belongs to another type.
    #[error("{field} is not for the format {format}: write the options in the member of the format's name")]
    Misplaced {
        /// The member, as it is spelt in the spec.
        field: &'static str,
        format: &'static str,
    },
    /// A required field of the format is not set.
    #[error("the format {format} needs {field}: {what}")]
    Missing {
        field: &'static str,
        format: &'static str,
        /// What to write.
        what: &'static str,
    },
    /// The consumer would misunderstand the field's value.
    #[error("{field} {value:?} {problem}")]
    Field {
        field: &'static str,
        value: String,
        /// The problem, and what to write instead.
        problem: &'static str,
    },
    /// `ports` is present but empty.
    #[error("a format without ports would write nothing: omit ports to write all of them")]
    NoPorts,
    /// The consumer does not speak the port's protocol.
    #[error(
        "{consumer} does not speak {scheme:?}, the appProtocol of port {port:?}: it speaks {speaks}; list only ports with one of these in the format's ports"
    )]
    Scheme {
        consumer: &'static str,
        port: String,
        scheme: String,
        /// The schemes that the consumer speaks.
        speaks: &'static str,
    },
    /// The consumer cannot read addresses of the registration's family.
    #[error(
        "{consumer} cannot read IPv6 addresses ({limit}): use address.ipFamilies [IPv4], and a separate registration for IPv6"
    )]
    Ipv6 {
        consumer: &'static str,
        /// What the consumer does with such an address.
        limit: &'static str,
    },
    /// Keys of this format are addresses, and two of its ports have the same number.
    #[error(
        "{consumer} identifies an endpoint by its address, so the ports {first:?} and {second:?} of the same number would share a key: list only one of them in the format's ports"
    )]
    SamePort {
        consumer: &'static str,
        first: String,
        second: String,
    },
    #[error(
        "there is no RecordFormat {0:?}: create it, or name another one in custom.recordFormatRef (kubectl get recordformats)"
    )]
    NoRecordFormat(String),
    /// The RecordFormat exists but is invalid.
    #[error("the RecordFormat {name:?} cannot be used until it is corrected: {cause}")]
    RecordFormatBroken {
        name: String,
        /// The first error found in the RecordFormat.
        cause: Box<TemplateError>,
    },
    /// The templates of a RecordFormat print the same key for two ports of a pod.
    #[error(
        "with the RecordFormat {name:?}, the ports {first:?} and {second:?} of a pod would share the key {key:?}: put \
         {{{{ id }}}} into its key template, or list only one of them in the format's ports"
    )]
    SharedByPorts {
        name: String,
        first: String,
        second: String,
        key: String,
    },
    /// The consumers of one format would read the records of another.
    #[error(
        "the consumers of {outer:?} would also read the records below {inner:?}: give each format a separate place"
    )]
    Nested {
        /// The prefix that the consumers of one format read.
        outer: String,
        /// The prefix of the other format, which is below `outer` or equal to it.
        inner: String,
    },
}

/// The reason why one endpoint cannot be written in one format. Its other formats and all other endpoints are written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A name cannot be a segment of a key.
    #[error("the {what}'s name {name:?} cannot be part of a key: rename the {what}")]
    Name {
        /// The kind of object that has the name, such as `pod`.
        what: &'static str,
        name: String,
    },
    /// The consumer cannot read an address of this family.
    #[error("{consumer} cannot read the IPv6 address ({limit}): set address.ipFamilies to [IPv4]")]
    Ipv6 {
        consumer: &'static str,
        /// What the consumer would do with such an address.
        limit: &'static str,
    },
    /// The consumer has no weight 0.
    #[error(
        "{consumer} does not support weight 0 ({limit}), so the pod is not written there: set a weight from 1 to 65535"
    )]
    NoShare {
        consumer: &'static str,
        /// What the consumer does with weight 0.
        limit: &'static str,
    },
    /// The consumer does not speak the port's protocol.
    #[error("{consumer} does not speak {scheme:?}: it speaks {speaks}")]
    Scheme {
        consumer: &'static str,
        scheme: String,
        speaks: &'static str,
    },
    /// A RecordFormat does not fit the endpoint.
    #[error("the RecordFormat {name:?} does not fit: {cause}")]
    RecordFormat {
        name: String,
        /// The error of the templates for this endpoint.
        cause: Box<TemplateError>,
    },
    /// The length of the key, in bytes, exceeds `MAX_KEY`.
    #[error("its key would have {0} bytes, more than {MAX_KEY}: shorten the format's prefix")]
    KeyTooLong(usize),
    /// The length of the value, in bytes, exceeds `MAX_VALUE`.
    #[error("its value would have {0} bytes, more than {MAX_VALUE}: shorten the registration's attributes")]
    ValueTooLong(usize),
}
