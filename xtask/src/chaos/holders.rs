//! Who held each key at each time, by what happened in etcd.

use std::collections::{BTreeMap, BTreeSet};

use testbed::{Event, Kind};

use super::{
    manifests::REGISTRIES,
    record::{FOREIGN, Moment},
    wanted::canonical,
};

/// Who holds a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holder {
    /// It is not there.
    Absent,
    /// An operator wrote it.
    Ours {
        /// Its value, as [`canonical`] has it.
        value: String,
        /// Its lease.
        lease: i64,
    },
    /// The foreign client wrote it.
    Foreign,
}

/// A key changed hands, or was written again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Touch {
    /// When the news came.
    pub at: Moment,
    /// The revision that did it.
    pub revision: i64,
    /// Who held it until then.
    pub before: Holder,
    /// Who has held it since.
    pub after: Holder,
    /// It went with its lease.
    pub lapse: bool,
    /// Whether an operator of that Registry, or of any if that is not known, was the leader when it was written.
    pub led: bool,
    /// Whether the lease that it was put on was recorded as an operator's.
    pub recorded: bool,
    /// The Registry whose operators have recorded the lease that it was put on, or was on until then.
    pub registry: Option<&'static str>,
}

/// Whether a key is what consumers read, and no record of the operators' own.
pub fn is_data(key: &str) -> bool {
    registry_of_record(key).is_none()
}

/// The Registry to whose operators a key belongs, if it is a record of their own.
fn registry_of_record(key: &str) -> Option<&'static str> {
    let mut registries = REGISTRIES.iter();
    let found = registries.find(|(_, meta_prefix, _)| key.starts_with(meta_prefix))?;
    Some(found.0)
}

/// Whether a value is the foreign client's.
pub fn is_foreign(value: &str) -> bool {
    value.starts_with(FOREIGN)
}

/// What happened to each data key, in order.
pub fn touches(events: &[(Moment, Event)]) -> BTreeMap<String, Vec<Touch>> {
    let lapses: BTreeSet<(i64, i64)> = events
        .iter()
        .filter(|(_, event)| event.kind == Kind::Delete)
        .filter_map(|(_, event)| Some((event.revision, recorded_lease(&event.key)?)))
        .collect();
    let mut touches: BTreeMap<String, Vec<Touch>> = BTreeMap::new();
    let mut led: BTreeSet<&str> = BTreeSet::new();
    // Whose lease it is, also when it is no longer recorded.
    let mut owners: BTreeMap<i64, &'static str> = BTreeMap::new();
    let mut records: BTreeSet<i64> = BTreeSet::new();
    for (at, event) in events {
        if let Some(registry) = registry_of_record(&event.key) {
            if event.key.ends_with("/leader") {
                match event.kind {
                    Kind::Put { .. } => led.insert(registry),
                    Kind::Delete => led.remove(registry),
                };
            }
            if let Some(lease) = recorded_lease(&event.key) {
                match event.kind {
                    Kind::Put { .. } => {
                        owners.insert(lease, registry);
                        records.insert(lease)
                    }
                    Kind::Delete => records.remove(&lease),
                };
            }
            continue;
        }
        let of_key = touches.entry(event.key.clone()).or_default();
        let before = of_key.last().map_or(Holder::Absent, |last| last.after.clone());
        let after = match &event.kind {
            Kind::Delete => Holder::Absent,
            Kind::Put { value, .. } if is_foreign(value) => Holder::Foreign,
            Kind::Put { value, lease } => Holder::Ours {
                value: canonical(value),
                lease: *lease,
            },
        };
        let lapse = matches!((&before, &after), (Holder::Ours { lease, .. }, Holder::Absent)
            if lapses.contains(&(event.revision, *lease)));
        let recorded = match &after {
            Holder::Ours { lease, .. } => records.contains(lease),
            Holder::Absent | Holder::Foreign => true,
        };
        let registry = match (&before, &after) {
            (_, Holder::Ours { lease, .. }) | (Holder::Ours { lease, .. }, _) => owners.get(lease).copied(),
            _ => None,
        };
        of_key.push(Touch {
            at: *at,
            revision: event.revision,
            before,
            after,
            lapse,
            led: registry.map_or(!led.is_empty(), |registry| led.contains(registry)),
            recorded,
            registry,
        });
    }
    touches
}

/// The lease that a key of the operators records.
fn recorded_lease(key: &str) -> Option<i64> {
    let (folder, id) = key.rsplit_once('/')?;
    let ours = !is_data(key) && folder.ends_with("/leases");
    ours.then(|| i64::from_str_radix(id, 16).ok()).flatten()
}
