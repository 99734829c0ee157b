//! An etcd that denies some writes.

use std::collections::BTreeSet;

use super::World;
use crate::model::{LeaseId, Op, Prefix, Transaction};
use crate::plan::properties::PREFIXES;
use crate::plan::testing::meta;
use crate::plan::{LeaseGroup, LeaseGroups, Ticket};

pub(super) fn lease_groups() -> LeaseGroups {
    let mut lease_groups = LeaseGroups::default();
    for folder in ["/s/", "/t/", "/tt/"] {
        lease_groups.add(Prefix::below(folder));
    }
    lease_groups
}

impl World {
    fn is_denied_key(&self, key: &str) -> bool {
        self.denied.iter().any(|prefix| key.starts_with(PREFIXES[*prefix]))
    }

    /// etcd denies putting a key on a lease unless the client may write all keys on it.
    fn is_denied_lease(&self, lease: LeaseId) -> bool {
        self.etcd.keys_on(lease).iter().any(|key| self.is_denied_key(key))
    }

    /// Whether etcd refuses the whole transaction.
    pub(super) fn is_denied(&self, transaction: &Transaction) -> bool {
        transaction.ops.iter().any(|op| {
            let on_denied = matches!(op, Op::Put { lease, .. } if self.is_denied_lease(*lease));
            on_denied || self.is_denied_key(op.key())
        })
    }

    /// Finds out which keys of a refused transaction are denied.
    pub(super) fn search(&mut self, ticket: Ticket) {
        let (candidates, leases) = self.planner.probe_candidates(ticket);
        for candidate in candidates {
            if let Some(key) = candidate.keys.iter().find(|key| self.is_denied_key(key)) {
                self.planner.writing_denied(&candidate.prefix, key);
            }
        }
        for lease in leases {
            if self.is_denied_lease(lease) {
                self.planner.set_lease_denied(lease, true);
            }
        }
    }

    /// Retries what was denied.
    pub(super) fn probe(&mut self) {
        let allowed = |(_, key): &(&Prefix, &crate::model::Key)| !self.is_denied_key(key);
        let prefixes: Vec<Prefix> = self
            .planner
            .unwritable()
            .filter(allowed)
            .map(|(prefix, _)| prefix.clone())
            .collect();
        for prefix in prefixes {
            self.planner.writing_allowed(&prefix);
        }
        let leases: Vec<LeaseId> = self.planner.leases().denied().collect();
        for lease in leases {
            if !self.is_denied_lease(lease) {
                self.planner.set_lease_denied(lease, false);
            }
        }
        self.planner.set_lease_groups(lease_groups());
    }

    /// Checks that keys with different permissions share no lease.
    pub(super) fn check_lease_groups(&self, lease: LeaseId) {
        let keys = self.etcd.keys_on(lease);
        let data = keys.iter().filter(|key| !meta().prefix().contains(key));
        let found: BTreeSet<Option<LeaseGroup>> = data.map(|key| lease_groups().of(key)).collect();
        assert!(found.len() <= 1, "{lease} carries {keys:?}");
    }
}
