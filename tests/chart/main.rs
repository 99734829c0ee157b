//! The Helm chart, by a real helm on a real control plane: what it renders is taken, what is wrong is refused, and the
//! operator does all that it does with the rights that the chart gives it and no others.

#[path = "../support/named.rs"]
mod named;
#[path = "../manifests/schemas.rs"]
mod schemas;
#[path = "../support/mod.rs"]
mod support;

mod access;
mod alerts;
mod deletion;
mod helm;
mod ipv6;
mod kept;
mod lifecycle;
mod manifests;
mod purging;
mod reading;
mod release;
mod rendering;
mod rights;
mod rollouts;
mod security;
mod values;
mod watching;

/// Operators serve the whole cluster, so those of one test would serve the registrations of another.
static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
