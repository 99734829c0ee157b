//! The Kubernetes side: the watches, and the writer of statuses.
//!
//! Owns every call to the kube-apiserver, each with a time-out and a counted outcome. Decides nothing: what a watch
//! brings goes to `index`, what a status says comes from `plan`.

mod client;
mod desk;
mod lean;
mod listing;
mod watches;

pub use client::{ClientError, cluster_id, connect};
pub use desk::{Desk, DeskNote, Insistence, Reported};
pub use listing::{Listing, ListingError, pod};
pub use watches::{News, Seen, watch};
