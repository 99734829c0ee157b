//! A [`Context`] for the controller's tests, with the receivers of its channels.

use std::collections::BTreeSet;

use tokio::sync::{mpsc, watch};

use super::gates::GateEvent;
use super::worker::Context;
use crate::api::{RecordFormat, Registry, ServiceRegistration};
use crate::kube::{Events, Notice, Source, StatusUpdate, WriterCommand};
use crate::telemetry::Metrics;

/// The receivers of a [`Context`]'s channels.
pub struct Ends {
    pub registrations: mpsc::UnboundedReceiver<StatusUpdate<ServiceRegistration>>,
    pub registries: mpsc::UnboundedReceiver<StatusUpdate<Registry>>,
    pub record_formats: mpsc::UnboundedReceiver<StatusUpdate<RecordFormat>>,
    /// The objects to be watched.
    pub sources: watch::Receiver<BTreeSet<Source>>,
    pub events: mpsc::Receiver<Notice>,
    pub gates: mpsc::UnboundedReceiver<GateEvent>,
    pub registration_writes: mpsc::UnboundedReceiver<WriterCommand>,
}

impl Context {
    /// Returns the context of the replica `me` in the cluster `c1`, which the apiserver has not confirmed yet.
    pub fn for_test() -> (Self, Ends) {
        let (registrations, registration_updates) = mpsc::unbounded_channel();
        let (registries, registry_updates) = mpsc::unbounded_channel();
        let (record_formats, record_format_updates) = mpsc::unbounded_channel();
        let (sources, watched) = watch::channel(BTreeSet::new());
        let (gates, gate_events) = mpsc::unbounded_channel();
        let (writer, registration_writes) = mpsc::unbounded_channel();
        let (events, notices) = Events::new(Metrics::new().0);
        let context = Self {
            registrations,
            registries,
            record_formats,
            events,
            gates,
            sources,
            registration_writer: Some(writer),
            ..Self::detached("c1", "me")
        };
        let ends = Ends {
            sources: watched,
            registrations: registration_updates,
            registries: registry_updates,
            record_formats: record_format_updates,
            events: notices,
            gates: gate_events,
            registration_writes,
        };
        (context, ends)
    }
}
