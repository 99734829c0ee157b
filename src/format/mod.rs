//! The wire formats: how an endpoint is written for a consumer. One file per ecosystem.
//!
//! Owns the wire formats and the rules for prefixes. Knows nothing of pods, leases or servers.
//!
//! A new ecosystem is one file with a struct that has `compile`, `reach` and `records`, and one line for it in each
//! `match` of `compiled.rs`.

mod compiled;
mod core_dns;
mod custom;
mod error;
mod etcd_grpc;
mod facts;
mod format_prefixes;
mod go_frame;
mod go_micro;
mod go_zero;
mod hertz;
mod kitex;
mod kratos;
mod plain;
mod prefix;
mod reading;
mod scheme;
mod service;
mod templates;
mod traefik;

#[cfg(test)]
mod consumers;
#[cfg(test)]
pub(crate) mod fuzz;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod table;
#[cfg(test)]
mod testing;

pub use compiled::Format;
pub use error::{FormatError, Refusal};
pub use reading::{Dialect, Reading};
pub use service::{Service, ServicePort};
pub use templates::{RecordFormats, TemplateError, Templates};
