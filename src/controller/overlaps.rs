//! Finds overlaps between formats of different registrations: keys of one format are below a prefix that consumers of
//! the other format read. Those consumers would take the keys for their own records, or fail on them.
//!
//! Of two such formats the one that claimed its prefix first stays; the other one is suppressed. The claim counts from
//! the time when a registration asked for the *prefix*, not from the creation of the registration: an old registration
//! that is edited to an overlapping prefix is the later one there. The leader records that time for each prefix in the
//! registration's status, so every replica and every later leader decides alike. Records of one dialect below the same
//! prefix are one service on purpose.
//!
//! No check iterates over all registrations. The prefixes that are written are ordered, so a range contains those that
//! a format's consumers read. The prefixes that are read are hashed, so a format's own prefix needs one lookup per
//! character.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use crate::format::{Dialect, Reading};
use crate::model::{RegistrationRef, entries_below};
use crate::plan::Since;

/// The time of a claim and its registration. The earlier of two comes first.
type Rank = (Since, RegistrationRef);
/// The claims of each dialect.
type Owners = BTreeMap<Dialect, BTreeSet<Rank>>;

/// A format that is suppressed because of an overlap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SuppressedFormat {
    /// Position among the registration's formats, counted from zero.
    pub format: usize,
    /// Describes the overlap and what to do about it.
    pub reason: String,
}

/// The prefixes of one Registry.
#[derive(Debug, Default)]
struct RegistryPrefixes {
    /// By dialect, then by the prefix of the keys.
    written: BTreeMap<Dialect, BTreeMap<Arc<str>, BTreeSet<Rank>>>,
    /// By the prefix that consumers of the one service read.
    reads: HashMap<Arc<str>, Owners>,
    /// By the prefix that consumers of the dialect read.
    realms: HashMap<Arc<str>, Owners>,
}

/// The claims of a registration in force.
#[derive(Clone, Debug, PartialEq, Eq)]
struct RegistrationPrefixes {
    registry: Arc<str>,
    registration: RegistrationRef,
    /// By the position of the format; none for a format that takes no part in the check.
    readings: Vec<Option<(Reading, Since)>>,
}

impl RegistrationPrefixes {
    fn rank(&self, since: Since) -> Rank {
        (since, self.registration.clone())
    }
}

/// A format of another registration that overlaps this one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Overlap {
    rank: Rank,
    dialect: Dialect,
    /// The prefix that is read.
    text: Arc<str>,
    /// If true, the other format's consumers would read this format's keys; else this format's consumers would read the
    /// other's keys.
    reads_us: bool,
}

/// The prefixes of all registrations in force.
#[derive(Debug, Default)]
pub struct PrefixOverlaps {
    by_registry: HashMap<Arc<str>, RegistryPrefixes>,
    entries: HashMap<RegistrationRef, RegistrationPrefixes>,
    /// The latest known claim, in milliseconds since 1970.
    latest: i64,
}

impl PrefixOverlaps {
    /// Returns the time of a new claim made at `now`, in milliseconds since 1970. It is later than all known claims,
    /// even if the clock of the replica that recorded those is ahead.
    pub fn claim(&mut self, now: i64) -> Since {
        self.latest = now.max(self.latest + 1);
        Since::Asked(self.latest)
    }

    /// Returns when `registration` claimed the prefix of `reading` in `registry`, if it did.
    pub fn since(&self, registration: &RegistrationRef, registry: &str, reading: &Reading) -> Option<Since> {
        let entry = self
            .entries
            .get(registration)
            .filter(|entry| *entry.registry == *registry)?;
        let mut places = entry.readings.iter().flatten();
        let (_, since) = places.find(|(place, _)| place == reading)?;
        Some(*since)
    }

    /// Sets the claims of `registration` in `registry`: the prefixes of each format with the time of the claim, or none
    /// for a format that takes no part. Returns the other registrations whose formats may now be suppressed or
    /// restored.
    pub fn settle(
        &mut self,
        registration: &RegistrationRef,
        registry: &Arc<str>,
        readings: Vec<Option<(Reading, Since)>>,
    ) -> BTreeSet<RegistrationRef> {
        let entry = RegistrationPrefixes {
            registry: registry.clone(),
            registration: registration.clone(),
            readings,
        };
        let claims = entry.readings.iter().flatten().map(|(_, since)| since.millis());
        self.latest = claims.chain([self.latest]).max().unwrap_or_default();
        if self.entries.get(registration) == Some(&entry) {
            return BTreeSet::new();
        }
        let mut concerned = self.leave(registration);
        let registry_prefixes = self.by_registry.entry(registry.clone()).or_default();
        for (reading, since) in entry.readings.iter().flatten() {
            registry_prefixes.note(reading, &entry.rank(*since));
        }
        concerned.extend(self.younger(&entry));
        self.entries.insert(registration.clone(), entry);
        concerned
    }

    /// Removes the claims of `registration`. Returns the other registrations whose formats may be restored.
    pub fn leave(&mut self, registration: &RegistrationRef) -> BTreeSet<RegistrationRef> {
        let Some(entry) = self.entries.remove(registration) else {
            return BTreeSet::new();
        };
        let concerned = self.younger(&entry);
        if let Some(registry_prefixes) = self.by_registry.get_mut(&entry.registry) {
            for (reading, since) in entry.readings.iter().flatten() {
                registry_prefixes.strike(reading, &entry.rank(*since));
            }
            if registry_prefixes.written.is_empty() {
                self.by_registry.remove(&entry.registry);
            }
        }
        concerned
    }

    /// Returns the suppressed formats of `registration`.
    pub fn suppressed(&self, registration: &RegistrationRef) -> Vec<SuppressedFormat> {
        let Some(entry) = self.entries.get(registration) else {
            return Vec::new();
        };
        let suppressed = |(format, reading): (usize, &Option<(Reading, Since)>)| {
            let (reading, since) = reading.as_ref()?;
            let touching = self.touching(entry, reading);
            let first = touching.first().filter(|first| first.rank < entry.rank(*since))?;
            let reason = suppression_reason(format, reading, first);
            Some(SuppressedFormat { format, reason })
        };
        entry.readings.iter().enumerate().filter_map(suppressed).collect()
    }

    /// Returns the other registrations with which formats of `registration` overlap, whichever of them are suppressed.
    pub fn overlapping(&self, registration: &RegistrationRef) -> BTreeSet<RegistrationRef> {
        let entry = self.entries.get(registration).into_iter();
        let readings = entry.flat_map(|entry| {
            entry
                .readings
                .iter()
                .flatten()
                .map(move |(reading, _)| (entry, reading))
        });
        let touching = readings.flat_map(|(entry, reading)| self.touching(entry, reading));
        touching.map(|other| other.rank.1).collect()
    }

    /// Returns the registrations that overlap a format of `entry` and claimed their prefix later.
    fn younger(&self, entry: &RegistrationPrefixes) -> BTreeSet<RegistrationRef> {
        let touching = entry.readings.iter().flatten().flat_map(|(reading, since)| {
            let rank = entry.rank(*since);
            let touching = self.touching(entry, reading).into_iter();
            touching.filter(move |other| other.rank > rank)
        });
        touching.map(|other| other.rank.1).collect()
    }

    fn touching(&self, entry: &RegistrationPrefixes, reading: &Reading) -> BTreeSet<Overlap> {
        let mut touching = self
            .by_registry
            .get(&entry.registry)
            .map(|registry_prefixes| registry_prefixes.touching(reading))
            .unwrap_or_default();
        // Formats of the same registration are checked against each other by the compilation.
        touching.retain(|other| other.rank.1 != entry.registration);
        touching
    }
}

impl RegistryPrefixes {
    fn note(&mut self, reading: &Reading, rank: &Rank) {
        let Reading {
            dialect,
            written,
            reads,
            realm,
            by_name: _,
        } = reading;
        let prefixes = self.written.entry(dialect.clone()).or_default();
        prefixes.entry(written.clone()).or_default().insert(rank.clone());
        for (map, text) in [(&mut self.reads, reads), (&mut self.realms, realm)] {
            let owners = map.entry(text.clone()).or_default();
            owners.entry(dialect.clone()).or_default().insert(rank.clone());
        }
    }

    fn strike(&mut self, reading: &Reading, rank: &Rank) {
        if let Some(prefixes) = self.written.get_mut(&reading.dialect) {
            if let Some(ranks) = prefixes.get_mut(&reading.written) {
                ranks.remove(rank);
            }
            drop_if_empty(prefixes, &reading.written);
            if prefixes.is_empty() {
                self.written.remove(&reading.dialect);
            }
        }
        for (map, text) in [(&mut self.reads, &reading.reads), (&mut self.realms, &reading.realm)] {
            let Some(owners) = map.get_mut(text) else { continue };
            if let Some(ranks) = owners.get_mut(&reading.dialect) {
                ranks.remove(rank);
            }
            drop_if_empty(owners, &reading.dialect);
            if owners.is_empty() {
                map.remove(text);
            }
        }
    }

    fn touching(&self, reading: &Reading) -> BTreeSet<Overlap> {
        let mut touching = BTreeSet::new();
        self.read_by(reading, &mut touching);
        self.readers_of(reading, &mut touching);
        touching
    }

    /// Adds the formats whose keys consumers of `reading` would read.
    fn read_by(&self, reading: &Reading, touching: &mut BTreeSet<Overlap>) {
        for (dialect, prefixes) in &self.written {
            let is_alike = *dialect == reading.dialect;
            let text = if is_alike { &reading.reads } else { &reading.realm };
            for (prefix, ranks) in entries_below(prefixes, text) {
                if is_alike && (*prefix == reading.written || reading.tells_apart(prefix)) {
                    continue;
                }
                touching.extend(ranks.iter().map(|rank| Overlap {
                    rank: rank.clone(),
                    dialect: dialect.clone(),
                    text: text.clone(),
                    reads_us: false,
                }));
            }
        }
    }

    /// Adds the formats whose consumers would read the keys of `reading`.
    fn readers_of(&self, reading: &Reading, touching: &mut BTreeSet<Overlap>) {
        let ends = (1..=reading.written.len()).filter(|end| reading.written.is_char_boundary(*end));
        for text in ends.map(|end| &reading.written[..end]) {
            let mut add = |text: &Arc<str>, dialect: &Dialect, ranks: &BTreeSet<Rank>| {
                touching.extend(ranks.iter().map(|rank| Overlap {
                    rank: rank.clone(),
                    dialect: dialect.clone(),
                    text: text.clone(),
                    reads_us: true,
                }));
            };
            if let Some((text, owners)) = self.realms.get_key_value(text) {
                for (dialect, ranks) in owners.iter().filter(|(dialect, _)| **dialect != reading.dialect) {
                    add(text, dialect, ranks);
                }
            }
            if *text == *reading.reads || reading.tells_apart(text) {
                continue;
            }
            if let Some((text, owners)) = self.reads.get_key_value(text)
                && let Some((dialect, ranks)) = owners.get_key_value(&reading.dialect)
            {
                add(text, dialect, ranks);
            }
        }
    }
}

fn drop_if_empty<K: Ord>(map: &mut BTreeMap<K, BTreeSet<Rank>>, key: &K) {
    if map.get(key).is_some_and(BTreeSet::is_empty) {
        map.remove(key);
    }
}

fn suppression_reason(format: usize, reading: &Reading, other: &Overlap) -> String {
    let Overlap {
        rank: (_, owner),
        dialect,
        text,
        reads_us,
    } = other;
    let (mine, written) = (&reading.dialect, &reading.written);
    let clash = if *reads_us {
        format!("writes keys below {written} that consumers of {dialect} of the registration {owner} would read")
    } else {
        format!("has consumers that would read the keys that the registration {owner} writes for {dialect}")
    };
    format!(
        "spec.formats[{format}] ({mine}) {clash}, because they read every key that starts with {text}. That \
         registration claimed its place first: give one of the two a prefix, root or name outside of the other's"
    )
}

#[cfg(test)]
mod tests;
