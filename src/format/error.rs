//! Why something cannot be written: a whole format, or one endpoint in it.

use super::TemplateError;
use super::compiled::{MAX_KEY, MAX_VALUE};

/// Why a format of a registration cannot be used. Nothing is written in it until the registration is changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// The text of the prefix is not one that keys can have.
    #[error("{field} {prefix:?} {problem}")]
    Prefix {
        /// The field it is written in.
        field: &'static str,
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
    /// A field is set on a format that has no use for it.
    #[error("{field} is not for the format {format}: leave it out")]
    Misplaced {
        /// The field.
        field: &'static str,
        /// The format that it is set on.
        format: &'static str,
    },
    /// A field is not set on a format that cannot do without.
    #[error("the format {format} needs {field}: {what}")]
    Missing {
        /// The field.
        field: &'static str,
        /// The format that needs it.
        format: &'static str,
        /// What to write.
        what: &'static str,
    },
    /// A field holds what the consumer would misunderstand.
    #[error("{field} {value:?} {problem}")]
    Field {
        /// The field.
        field: &'static str,
        /// What it holds.
        value: String,
        /// What is wrong with it, and what to write instead.
        problem: &'static str,
    },
    /// `ports` is there but empty.
    #[error("a format without ports would write nothing: leave ports out to carry all of them")]
    NoPorts,
    /// The consumer does not speak what is spoken on a port.
    #[error(
        "{consumer} does not speak {scheme:?}, the scheme of port {port:?}: it speaks {speaks}; list the ports it can dial in the format's ports"
    )]
    Scheme {
        /// The consumer.
        consumer: &'static str,
        /// The port's name.
        port: String,
        /// Its scheme.
        scheme: String,
        /// What the consumer speaks.
        speaks: &'static str,
    },
    /// The consumer cannot read addresses of the registration's family.
    #[error(
        "{consumer} cannot read IPv6 addresses ({limit}): register it with address.family IPv4, and IPv6 in a registration of its own"
    )]
    Ipv6 {
        /// The consumer.
        consumer: &'static str,
        /// What becomes of it.
        limit: &'static str,
    },
    /// A format whose keys are addresses carries a port twice.
    #[error(
        "{consumer} knows an endpoint by its address, so the ports {first:?} and {second:?} of the same number would share a key: list one of them in the format's ports"
    )]
    SamePort {
        /// The consumer.
        consumer: &'static str,
        /// The name of one port.
        first: String,
        /// The name of the other.
        second: String,
    },
    /// A RecordFormat is not there.
    #[error(
        "there is no RecordFormat {0:?}: create it, or name another one in recordFormat (kubectl get recordformats)"
    )]
    NoRecordFormat(String),
    /// A RecordFormat is there and cannot be used.
    #[error("the RecordFormat {name:?} cannot be used until it is corrected: {cause}")]
    RecordFormatBroken {
        /// Its name.
        name: String,
        /// What is wrong with it.
        cause: Box<TemplateError>,
    },
    /// The templates of a RecordFormat do not tell the ports of a pod apart.
    #[error(
        "by the RecordFormat {name:?} the ports {first:?} and {second:?} of a pod would share the key {key:?}: put \
         {{{{ id }}}} into its key template, or list one of them in the format's ports"
    )]
    SharedByPorts {
        /// The RecordFormat.
        name: String,
        /// The name of one port.
        first: String,
        /// The name of the other.
        second: String,
        /// The key.
        key: String,
    },
    /// The consumers of one format would read the records of another.
    #[error(
        "what is written below {inner:?} would be read by the consumers of {outer:?} too: give each format a place of its own"
    )]
    Nested {
        /// What the consumers read that reach over the other.
        outer: String,
        /// The prefix that lies in it, or is equal to it.
        inner: String,
    },
}

/// Why one endpoint cannot be written in one format. It is written in the others, as are the other endpoints.
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
    /// The consumer cannot read an address of this family.
    #[error("{consumer} cannot read the IPv6 address ({limit}): set address.family to IPv4")]
    Ipv6 {
        /// The consumer.
        consumer: &'static str,
        /// What would become of it.
        limit: &'static str,
    },
    /// The consumer knows no weight of 0.
    #[error(
        "{consumer} cannot be told weight 0 ({limit}), so the pod is left out there: give it a weight from 1 to 65535"
    )]
    NoShare {
        /// The consumer.
        consumer: &'static str,
        /// What it would take it for.
        limit: &'static str,
    },
    /// The consumer does not speak what is spoken on the port.
    #[error("{consumer} does not speak {scheme:?}: it speaks {speaks}")]
    Scheme {
        /// The consumer.
        consumer: &'static str,
        /// What is spoken on the port.
        scheme: String,
        /// What the consumer speaks.
        speaks: &'static str,
    },
    /// A RecordFormat does not fit the endpoint.
    #[error("the RecordFormat {name:?} does not fit: {cause}")]
    RecordFormat {
        /// Its name.
        name: String,
        /// What is wrong.
        cause: Box<TemplateError>,
    },
    /// The key would be too long.
    #[error("its key would have {0} bytes, more than {MAX_KEY}: shorten the format's prefix")]
    KeyTooLong(usize),
    /// The value would be too long.
    #[error("its value would have {0} bytes, more than {MAX_VALUE}: shorten the registration's metadata")]
    ValueTooLong(usize),
}
