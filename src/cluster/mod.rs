//! The Kubernetes side: the watches, the writer of statuses, and that of Events.
//!
//! Owns every call to the kube-apiserver, each with a time-out and a counted outcome. Decides nothing: what a watch
//! brings goes to `index`, what a status says comes from `plan`.

mod callers;
mod client;
mod desk;
mod events;
#[cfg(test)]
pub(crate) mod fuzz;
mod hearing;
mod lean;
mod line;
mod listing;
mod peer_key;
mod proxy;
mod rights;
mod sources;
mod territory;
mod watches;

pub use callers::judge;
pub use client::{ClientError, cluster_id, connect};
pub use desk::{Amendment, Desk, DeskNote, Insistence, Reported};
pub use events::{About, Events, Notice, publish_events};
pub use hearing::Hearing;
pub use listing::{Listing, ListingError, namespace, pod};
pub use peer_key::keep_peer_key;
pub use rights::{REVIEWS, Right, clocks_apart, may, rights};
pub use sources::{Content, Source, SourceKind, watch_sources};
pub use territory::{NAMESPACES, PODS, RECORD_FORMATS, REGISTRATIONS, REGISTRIES, Territory};
pub use watches::{News, Seen, watch};
