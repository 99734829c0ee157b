//! A worker that carries everything out at once on a store in memory, for previews.

use std::collections::BTreeSet;
use std::time::Instant;

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::{Channels, RegistryWorker, serve};
use crate::backend::{Backend, Candidacy, Leadership, Memory};
use crate::controller::workers::NewWorker;
use crate::model::{Key, KeyValue, Observation, Prefix, RegistrationRef, Revision};
use crate::peer::PeerStatuses;
use crate::plan::{Hold, MetaKeys, Planner};

/// A worker without the tasks that follow a store.
pub struct PreviewWorker(RegistryWorker<Memory>);

impl PreviewWorker {
    pub fn new(new: NewWorker) -> Self {
        let meta = MetaKeys::of_registry(&new.spec.etcd.meta_prefix, &new.context.cluster_id, &new.name);
        let (backend, leader_key) = (Memory::default(), meta.leader());
        let planner = serve::planner(meta, &new.spec, backend.capabilities());
        let lines = Channels::closed(new.commands, new.leader);
        let version = (new.spec.limits, new.version);
        let backend = (backend, leader_key);
        Self(RegistryWorker::new(
            new.name,
            version,
            new.context,
            backend,
            planner,
            lines,
        ))
    }

    /// Returns the prefixes whose content has to be passed to [`Self::observe`].
    pub fn prefixes(&mut self) -> BTreeSet<Prefix> {
        let cache = self.0.context.cache.clone();
        let _cache = cache.read();
        self.0.take_commands();
        let changes = self.0.planner.take_changed_prefixes().unwrap_or_default();
        let records = self.0.planner.meta().prefix().clone();
        changes.added.into_iter().chain([records]).collect()
    }

    /// Puts the content of `prefix` into the store. The records of the present replicas are left out: the preview asks what
    /// a leader would do that has observed everything.
    pub fn observe(&mut self, prefix: Prefix, revision: Revision, mut entries: Vec<(Key, KeyValue)>) {
        let planner = &self.0.planner;
        let (meta, checkpoints) = (planner.meta(), planner.checkpoints());
        let (leader, candidates) = (meta.leader(), meta.candidates());
        entries.retain(|(key, _)| *key != leader && !candidates.contains(key) && !checkpoints.contains(key));
        self.0.backend.fill(revision, &entries);
        self.0.observe(Observation::Snapshot {
            prefix,
            revision,
            entries,
        });
    }

    /// Wins the election, and carries out what is due until nothing is left to do. Each hold of the guard is passed to
    /// `on_hold`, and approved.
    pub async fn carry_out(&mut self, on_hold: impl FnMut(&Hold)) {
        let revision = self.0.backend.revision();
        self.0.observe(Observation::Complete { revision });
        let (end, peers) = (CancellationToken::new(), watch::Sender::new(PeerStatuses::new()));
        let (leads, leadership) = watch::channel(Leadership::Seeking);
        let campaign = serve::campaign(self.0.planner.meta(), &self.0.context);
        let candidacy = watch::channel(Candidacy::default()).1;
        let backend = self.0.backend.clone();
        let campaigning = backend.campaign(campaign, candidacy, peers.subscribe(), leads, end.clone());
        let (renewals, backend) = (self.0.lines.renewals.subscribe(), self.0.backend.clone());
        let (lapsed, _lapsed) = mpsc::channel(1);
        let renewing = backend.renew(renewals, lapsed, watch::Sender::default(), end);
        self.0.lines.leadership = leadership;
        // The first two run for as long as the last one.
        tokio::select! {
            () = campaigning => {}
            () = renewing => {}
            () = self.steps(on_hold) => {}
        }
    }

    async fn steps(&mut self, mut on_hold: impl FnMut(&Hold)) {
        let role = self.0.lines.leadership.wait_for(|role| *role != Leadership::Seeking);
        // The campaign runs for as long as this.
        drop(role.await.map(drop));
        self.0.leadership_changed();
        loop {
            let wake = self.0.act();
            let is_idle = self.0.tasks.is_empty() && wake > Instant::now();
            while let Some(done) = self.0.tasks.join_next().await {
                self.0.end_of(done);
            }
            // The election and the leases are renewed, too.
            tokio::task::yield_now().await;
            let hold = self.0.planner.hold().filter(|_| is_idle);
            let hold = hold.filter(|hold| self.0.guarding.approved.as_ref() != Some(&hold.id));
            if let Some(hold) = hold {
                on_hold(hold);
                self.0.guarding.approved = Some(hold.id.clone());
            } else if is_idle {
                return;
            }
        }
    }

    pub fn planner(&self) -> &Planner {
        &self.0.planner
    }

    /// Returns the key as it is now, with its lease and the revision of its last write.
    pub fn get(&self, key: &Key) -> Option<KeyValue> {
        self.0.backend.peek(key)
    }

    /// Returns what the status of `registration` reports beyond its endpoints: what the Registry's rules deny, and which
    /// formats are suppressed.
    pub fn objections(&self, registration: &RegistrationRef) -> impl Iterator<Item = &str> {
        let subject = self.0.subjects.get(registration);
        let denial = subject.and_then(|subject| subject.denial.as_deref());
        let suppressed = subject.into_iter().flat_map(|subject| &subject.suppressed);
        denial.into_iter().chain(suppressed.map(String::as_str))
    }
}
