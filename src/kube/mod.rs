//! Every call to the kube-apiserver, each with a time-out: the watches, the status writer, the writer of
//! registrations, the Events, lists and access reviews.
//!
//! Decides nothing: what the watches deliver is cached in `index`, and the content of statuses comes from `plan`.

#[cfg(test)]
mod answering;
mod callers;
mod checkpoint;
mod client;
mod events;
#[cfg(test)]
pub(crate) mod fuzz;
mod gate_status;
mod listing;
mod peer_key;
mod proxy;
mod registration_writer;
mod rights;
mod sources;
mod status_writer;
mod stripped;
mod stripped_objects;
mod watch_clients;
mod watch_connection;
mod watch_scope;
mod watches;

pub use callers::judge;
pub use checkpoint::SharedCheckpoint;
pub use client::{ClientError, Watching, cluster_id, connect, connect_and_watch};
pub use events::{About, Events, Notice, publish_events};
pub use gate_status::GateStatus;
pub use listing::{Listing, ListingError, endpoint_slice, namespace, node, pod, service};
pub use peer_key::keep_peer_key;
pub use registration_writer::{RegistrationChange, RegistrationWrite, RegistrationWriter, WriterCommand};
pub use rights::{Features, Right, clocks_apart, may, rights};
pub use sources::{Content, Source, SourceKind, watch_sources};
pub use status_writer::{Amendment, Reported, StatusUpdate, StatusWriter, WritePolicy};
pub use watch_scope::{
    ENDPOINT_SLICES, NAMESPACES, NODES, PODS, RECORD_FORMATS, REGISTRATIONS, REGISTRIES, SERVICES, WatchScope,
};
pub use watches::{ObjectEvent, WatchEvent, watch};
