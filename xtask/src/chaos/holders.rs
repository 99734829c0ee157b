//! Who held each key at each time, by what happened in etcd.

use std::collections::{BTreeMap, BTreeSet};

use testbed::{Event, Kind};

use super::{
    record::{Moment, STRANGER},
    wanted::canonical,
};

/// Below this prefix is what the operators keep for themselves.
const META: &str = "/leasehold/";

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
    /// The stranger wrote it.
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
    /// Whether an operator was the leader when it was written.
    pub led: bool,
    /// Whether the lease that it was put on was recorded as an operator's.
    pub recorded: bool,
}

/// Whether a key is what consumers read, and no record of the operators' own.
pub fn is_data(key: &str) -> bool {
    !key.starts_with(META)
}

/// Whether a value is the stranger's.
pub fn is_stranger(value: &str) -> bool {
    value.starts_with(STRANGER)
}

/// What happened to each data key, in order.
pub fn touches(events: &[(Moment, Event)]) -> BTreeMap<String, Vec<Touch>> {
    let lapses: BTreeSet<(i64, i64)> = events
        .iter()
        .filter(|(_, event)| event.kind == Kind::Delete)
        .filter_map(|(_, event)| Some((event.revision, recorded_lease(&event.key)?)))
        .collect();
    let mut touches: BTreeMap<String, Vec<Touch>> = BTreeMap::new();
    let mut led = false;
    let mut records: BTreeMap<i64, i64> = BTreeMap::new();
    for (at, event) in events {
        if !is_data(&event.key) {
            if event.key.ends_with("/leader") {
                led = event.kind != Kind::Delete;
            }
            if let Some(lease) = recorded_lease(&event.key) {
                match event.kind {
                    Kind::Put { .. } => records.insert(lease, event.revision),
                    Kind::Delete => records.remove(&lease),
                };
            }
            continue;
        }
        let of_key = touches.entry(event.key.clone()).or_default();
        let before = of_key.last().map_or(Holder::Absent, |last| last.after.clone());
        let after = match &event.kind {
            Kind::Delete => Holder::Absent,
            Kind::Put { value, .. } if is_stranger(value) => Holder::Foreign,
            Kind::Put { value, lease } => Holder::Ours {
                value: canonical(value),
                lease: *lease,
            },
        };
        let lapse = matches!((&before, &after), (Holder::Ours { lease, .. }, Holder::Absent)
            if lapses.contains(&(event.revision, *lease)));
        let recorded = match &after {
            Holder::Ours { lease, .. } => records.contains_key(lease),
            Holder::Absent | Holder::Foreign => true,
        };
        of_key.push(Touch {
            at: *at,
            revision: event.revision,
            before,
            after,
            lapse,
            led,
            recorded,
        });
    }
    touches
}

/// The lease that a key of the operators records.
fn recorded_lease(key: &str) -> Option<i64> {
    let (folder, id) = key.rsplit_once('/')?;
    let ours = folder.starts_with(META) && folder.ends_with("/leases");
    ours.then(|| i64::from_str_radix(id, 16).ok()).flatten()
}
