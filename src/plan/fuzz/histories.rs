//! Replays a history of events, one on each line, such as `pod p0 orders 1 ready`: the event, its object and its
//! arguments. Lines that make no sense are skipped, so any text is a history.

use super::cluster::{Operator, Truth, Wish, content, pod};
use crate::fuzz::Rng;
use crate::index::Pod;
use crate::plan::testing::{Etcd, meta};

const PODS: [&str; 5] = ["p0", "p1", "p2", "p3", "p4"];
const APPS: [&str; 2] = ["orders", "carts"];
const REGISTRATIONS: [&str; 3] = ["a", "b", "c"];
/// The second prefix lies in the first.
const PREFIXES: [&str; 3] = ["/s", "/s/x", "/t"];
/// Keys that foreign clients write.
const KEYS: [&str; 5] = [
    "/s/p0",
    "/s/x/p1",
    "/t/p2",
    "/s/elsewhere",
    "traefik/http/services/orders/x",
];
const STATES: [&str; 4] = ["ready", "unready", "ending", "done"];

/// Generates a line.
pub(crate) fn any_event(rng: &mut Rng) -> String {
    let (pod, app) = (rng.one_of(&PODS), rng.one_of(&APPS));
    let (number, name) = (rng.below(4), rng.one_of(&REGISTRATIONS));
    match rng.below(35) {
        0..=5 => format!("pod {pod} {app} {number} {} {}", rng.one_of(&STATES), rng.below(4) * 30),
        6 => format!("delete {pod}"),
        7 => format!("stale {pod}"),
        8 => format!("again {pod}"),
        9 => "list".to_owned(),
        10 => format!("keep {pod}"),
        11 => "listed".to_owned(),
        12..=14 => {
            let (prefix, ttl) = (rng.one_of(&PREFIXES), [30, 60][rng.below(2)]);
            let more = [
                "",
                " whole",
                " suspended",
                " whole suspended",
                " patient",
                " whole patient",
            ][rng.below(6)];
            format!("register {name} {number} {app} {prefix} {ttl}{more}")
        }
        15 => format!("unregister {name}"),
        16 => format!("stranger {}", rng.one_of(&KEYS)),
        17 => format!("vandal {}", rng.one_of(&KEYS)),
        18 => format!("lapse {number}"),
        19 => format!("unrecord {number}"),
        20..=22 => "step".to_owned(),
        23 | 24 => format!("commit {number}"),
        25 => format!("settle {number}"),
        26 => format!("lose {number}"),
        27 => ["grant", "refuse"][rng.below(2)].to_owned(),
        28 | 29 => format!("tell {number}"),
        30 => ["interrupt", "resume"][rng.below(2)].to_owned(),
        31 => ["lead", "restart", "retire"][rng.below(3)].to_owned(),
        32 => "hear".to_owned(),
        33 => ["quota".to_owned(), format!("quota {}", 1 + 2 * number)][rng.below(4).min(1)].clone(),
        _ => "rest".to_owned(),
    }
}

struct History {
    truth: Truth,
    /// The previous state of each pod.
    before: std::collections::BTreeMap<String, Pod>,
    etcd: Etcd,
    operator: Operator,
    is_listing: bool,
}

/// In the end etcd must hold what it would hold without the history. No foreign key may be written; [`Etcd::commit`]
/// checks that.
pub(crate) fn histories(input: &[u8]) -> String {
    let mut etcd = Etcd::new();
    let operator = Operator::new(&mut etcd);
    let mut history = History {
        truth: Truth::default(),
        before: std::collections::BTreeMap::new(),
        etcd,
        operator,
        is_listing: false,
    };
    for line in String::from_utf8_lossy(input).lines().take(300) {
        let words: Vec<&str> = line.split_whitespace().collect();
        // None means that the line makes no sense.
        let _ = history.happen(&words);
    }
    history.end()
}

impl History {
    /// Applies a line. Returns none if it makes no sense.
    fn happen(&mut self, words: &[&str]) -> Option<()> {
        let number = || {
            words
                .get(1)
                .and_then(|word| word.parse::<usize>().ok())
                .unwrap_or_default()
        };
        let named = |names: &[&'static str]| names.iter().find(|name| Some(*name) == words.get(1)).copied();
        let (operator, etcd) = (&mut self.operator, &mut self.etcd);
        match *words.first()? {
            "pod" => {
                let name = named(&PODS)?;
                let (app, address, state) = (words.get(2)?, words.get(3)?.parse().ok()?, words.get(4)?);
                let since = words.get(5).and_then(|word| word.parse().ok()).unwrap_or_default();
                let pod = pod(name, app, address, state, since);
                operator.pod_applied(&pod);
                if let Some(before) = self.truth.pods.insert(name.to_owned(), pod) {
                    self.before.insert(name.to_owned(), before);
                }
            }
            "delete" => {
                let name = named(&PODS)?;
                operator.pod_deleted(name);
                self.before
                    .extend(self.truth.pods.remove(name).map(|pod| (name.to_owned(), pod)));
            }
            // The API server is behind or was restored.
            "stale" => operator.pod_applied(self.before.get(named(&PODS)?)?),
            "again" => operator.pod_applied(self.truth.pods.get(named(&PODS)?)?),
            "list" => {
                operator.pod_list_begins();
                self.is_listing = true;
            }
            "keep" => operator.pod_kept(named(&PODS)?),
            // Pods that were not listed since the list began are missing.
            "listed" if self.is_listing => {
                operator.pod_list_ends();
                self.is_listing = false;
            }
            "register" => {
                let name = named(&REGISTRATIONS)?;
                let wish = Wish {
                    created: words.get(2)?.parse().ok()?,
                    app: (*APPS.iter().find(|app| Some(*app) == words.get(3))?).to_owned(),
                    prefix: (*PREFIXES.iter().find(|prefix| Some(*prefix) == words.get(4))?).to_owned(),
                    ttl: words.get(5)?.parse::<u32>().ok()?.clamp(15, 120),
                    whole: words.contains(&"whole"),
                    suspended: words.contains(&"suspended"),
                    min_ready: if words.contains(&"patient") { 60 } else { 0 },
                };
                operator.registration_applied(name, &wish);
                self.truth.wishes.insert(name.to_owned(), wish);
            }
            "unregister" => {
                let name = named(&REGISTRATIONS)?;
                operator.registration_deleted(name);
                self.truth.wishes.remove(name);
            }
            "stranger" => etcd.foreign_put(named(&KEYS)?, "theirs"),
            "vandal" => etcd.foreign_delete(named(&KEYS)?),
            "lapse" | "unrecord" => {
                let leases = etcd.recorded();
                let lease = *leases.get(number() % leases.len().max(1))?;
                match words[0] {
                    "lapse" => etcd.expire(lease),
                    _ => etcd.foreign_delete(&meta().record_key(lease)),
                }
            }
            "step" => drop(operator.step(etcd)),
            "commit" => operator.commit(etcd, number()),
            "settle" => operator.settle(number(), false),
            "lose" => operator.settle(number(), true),
            "grant" => drop(operator.grant_arrives(true)),
            "refuse" => drop(operator.grant_arrives(false)),
            "tell" => drop(operator.deliver(etcd, number())),
            "interrupt" => etcd.interrupt(),
            "resume" => etcd.resume(),
            "lead" => operator.elect(etcd),
            "restart" => {
                *operator = Operator::new(etcd);
                self.is_listing = false;
            }
            "retire" => operator.retire(),
            "hear" => {
                operator.hear_all(&self.truth);
                self.is_listing = false;
            }
            "quota" => operator.set_quota(words.get(1).and_then(|word| word.parse().ok())),
            "rest" if !self.is_listing => {
                operator.hear_all(&self.truth);
                operator.come_to_rest(etcd);
                operator.planner.check_quotas();
            }
            _ => return None,
        }
        Some(())
    }

    /// Delivers all events, removes the foreign keys and compares the result.
    fn end(mut self) -> String {
        let is_theirs = |etcd: &Etcd| -> Vec<String> {
            let data = etcd.data().filter(|(_, held)| &*held.value == b"theirs");
            data.map(|(key, _)| key.to_string()).collect()
        };
        self.operator.hear_all(&self.truth);
        self.operator.come_to_rest(&mut self.etcd);
        self.operator.planner.check_quotas();
        // Which pods are over the quota depends on the history.
        self.operator.set_quota(None);
        let contested = is_theirs(&self.etcd);
        for key in &contested {
            self.etcd.foreign_delete(key);
        }
        // The keys of a suspended registration stay as they are, so their expected state is unknown. Resume it.
        let suspended = self.truth.wishes.values().filter(|wish| wish.suspended).count();
        self.truth.wishes.values_mut().for_each(|wish| wish.suspended = false);
        self.operator.hear_all(&self.truth);
        self.operator.come_to_rest(&mut self.etcd);
        assert_eq!(is_theirs(&self.etcd), [""; 0]);
        let came = content(&self.etcd);

        let mut etcd = Etcd::new();
        let mut operator = Operator::new(&mut etcd);
        operator.hear_all(&self.truth);
        operator.come_to_rest(&mut etcd);
        assert_eq!(
            came,
            content(&etcd),
            "on the left what came of the history, on the right what should be"
        );

        let revision = self.etcd.revision();
        self.operator.hear_all(&self.truth);
        self.operator.come_to_rest(&mut self.etcd);
        assert_eq!(self.etcd.revision(), revision, "the same again changes something");
        let leases = self.etcd.recorded().len();
        format!(
            "{} keys {leases} leases {suspended} suspended {} contested",
            came.len(),
            contested.len()
        )
    }
}
