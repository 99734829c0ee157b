//! Decisions about keys, one by one: a ledger, an etcd in memory, and every write that passes between them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::testing::{Etcd, endpoint, meta, reference, tenancy};
use super::transaction::{Expect, Fence, LeaseId, Op, Scope, Transaction, Verdict};
use super::{Conflict, Holder, Ledger, Lodging, Report, Step, Tenancy, Terms};
use crate::format::Record;

struct Rig {
    etcd: Etcd,
    ledger: Ledger,
    fence: Fence,
}

fn terms(created: i64) -> Terms {
    Terms {
        created,
        ttl: 30,
        suspended: false,
        scopes: vec![Scope::below("/s/")],
    }
}

fn suspended(created: i64) -> Terms {
    Terms {
        suspended: true,
        ..terms(created)
    }
}

impl Rig {
    /// A rig with the registration `orders`, whose keys lie below `/s/`.
    fn new() -> Self {
        let mut etcd = Etcd::new();
        let fence = etcd.elect();
        let mut rig = Self {
            etcd,
            ledger: Ledger::new(meta(), 256),
            fence,
        };
        rig.ledger.set_terms(&reference("orders"), terms(1));
        rig.ledger.kubernetes_is_complete();
        rig
    }

    fn want(&mut self, registration: &str, pod: &str, keys: &[&str], value: &str) {
        let tenancy = tenancy(pod, keys, value);
        self.ledger
            .set_tenancy(&reference(registration), &pod.into(), Some(tenancy));
    }

    fn drop_pod(&mut self, registration: &str, pod: &str) {
        self.ledger.set_tenancy(&reference(registration), &pod.into(), None);
    }

    fn listen(&mut self) {
        if let Some(scopes) = self.ledger.take_changed_scopes() {
            self.etcd.watch(scopes);
        }
        while let Some(observation) = self.etcd.tell(0) {
            self.ledger.observe(observation);
        }
    }

    /// The next transaction; grants are carried out on the way.
    fn next(&mut self) -> Option<(super::Ticket, Transaction)> {
        self.listen();
        loop {
            match self.ledger.next(Transaction::MAX_OPS, 0)? {
                Step::Write(ticket, transaction) => return Some((ticket, transaction)),
                Step::Grant { ttl, count } => {
                    for _ in 0..count {
                        let lease = self.etcd.grant();
                        self.ledger.granted(lease, ttl);
                    }
                }
            }
        }
    }

    fn commit(&mut self, transaction: &Transaction) -> Verdict {
        self.etcd.commit(&self.fence, transaction)
    }

    /// Carries out everything there is to do; returns the transactions that were about data.
    fn run(&mut self) -> Vec<Transaction> {
        let mut written = Vec::new();
        while let Some((ticket, transaction)) = self.next() {
            assert!(written.len() < 100, "it does not come to rest");
            let verdict = self.commit(&transaction);
            self.ledger.settle(ticket, Some(verdict));
            if !transaction.ops.iter().all(|op| op.key().starts_with("/leasehold/")) {
                written.push(transaction);
            }
        }
        written
    }

    fn report(&self, registration: &str) -> Report<'_> {
        self.ledger.report(&reference(registration)).expect("it is known")
    }

    fn lease_of(&self, key: &str) -> LeaseId {
        self.etcd.held(key).unwrap_or_else(|| panic!("{key} is missing")).lease
    }
}

fn keys(transaction: &Transaction) -> Vec<&str> {
    transaction.ops.iter().map(|op| &**op.key()).collect()
}

#[test]
fn the_older_of_two_registrations_has_the_key_and_the_other_says_so() {
    let mut rig = Rig::new();
    rig.ledger.set_terms(&reference("elder"), terms(0));
    rig.want("orders", "p", &["/s/p"], "younger");
    rig.want("elder", "p", &["/s/p"], "elder");
    rig.run();
    assert_eq!(rig.etcd.value("/s/p").as_deref(), Some("elder"));
    let conflict = Conflict {
        key: "/s/p".into(),
        holder: Holder::Registration(reference("elder")),
    };
    assert_eq!(rig.report("orders").conflicts, [conflict]);
    assert_eq!(rig.report("elder").conflicts, []);

    rig.ledger.remove_registration(&reference("elder"));
    rig.run();
    assert_eq!(
        rig.etcd.value("/s/p").as_deref(),
        Some("younger"),
        "the next in age takes over"
    );
    assert_eq!(rig.report("orders").conflicts, []);
}

#[test]
fn a_registration_made_anew_under_its_name_is_younger_than_it_was() {
    let mut rig = Rig::new();
    rig.ledger.set_terms(&reference("other"), terms(5));
    rig.want("orders", "p", &["/s/p"], "orders");
    rig.want("other", "p", &["/s/p"], "other");
    rig.run();
    rig.ledger.set_terms(&reference("orders"), terms(9));
    rig.run();
    assert_eq!(rig.etcd.value("/s/p").as_deref(), Some("other"));
}

#[test]
fn a_strangers_key_is_left_alone_told_and_taken_when_it_is_free() {
    let mut rig = Rig::new();
    rig.etcd.foreign_put("/s/p", "theirs");
    let create_revision = rig.etcd.revision();
    rig.want("orders", "p", &["/s/p"], "ours");
    assert_eq!(rig.run(), []);
    let holder = Holder::Stranger {
        lease: LeaseId::NONE,
        create_revision,
    };
    let conflict = Conflict {
        key: "/s/p".into(),
        holder,
    };
    assert_eq!(rig.report("orders").conflicts, [conflict]);
    assert_eq!(rig.etcd.value("/s/p").as_deref(), Some("theirs"));

    rig.etcd.foreign_delete("/s/p");
    assert_eq!(rig.run().len(), 1);
    assert_eq!(rig.etcd.value("/s/p").as_deref(), Some("ours"));
    assert_eq!(rig.report("orders").conflicts, []);
}

#[test]
fn a_stranger_who_was_quicker_keeps_the_key() {
    let mut rig = Rig::new();
    rig.run();
    rig.want("orders", "p", &["/s/p", "/s/p2"], "ours");
    // The write is planned before the mirror has told of the stranger.
    let (record, transaction) = rig.next().expect("a lease to record");
    let verdict = rig.commit(&transaction);
    rig.ledger.settle(record, Some(verdict));
    let (ticket, transaction) = rig.next().expect("a write");
    rig.etcd.foreign_put("/s/p", "theirs");
    let verdict = rig.commit(&transaction);
    rig.ledger.settle(ticket, Some(verdict));
    assert_eq!(rig.report("orders").conflicts.len(), 1, "the answer tells who holds it");
    assert_eq!(rig.etcd.value("/s/p").as_deref(), Some("theirs"));
    assert_eq!(rig.etcd.value("/s/p2").as_deref(), Some("ours"), "its own guard held");
}

#[test]
fn what_replaces_a_pods_key_is_written_with_the_removal_of_the_old_one() {
    let mut rig = Rig::new();
    rig.want("orders", "p", &["/s/old"], "1");
    rig.run();
    rig.want("orders", "p", &["/s/new"], "1");
    let written = rig.run();
    assert_eq!(written.len(), 1);
    assert_eq!(keys(&written[0]), ["/s/new", "/s/old"]);
    assert!(matches!(written[0].ops[1], Op::Delete { .. }));
}

#[test]
fn a_changed_value_is_written_in_place_on_the_same_lease() {
    let mut rig = Rig::new();
    rig.want("orders", "p", &["/s/p"], "1");
    rig.run();
    let (lease, created) = (rig.lease_of("/s/p"), rig.etcd.revision());
    rig.want("orders", "p", &["/s/p"], "2");
    rig.run();
    let held = rig.etcd.held("/s/p").unwrap();
    assert_eq!(
        (&*held.value, held.lease, held.create_revision),
        (&b"2"[..], lease, created)
    );
}

#[test]
fn a_suspended_registration_writes_nothing_and_catches_up_when_it_is_resumed() {
    let mut rig = Rig::new();
    for pod in ["a", "b"] {
        rig.want("orders", pod, &[&format!("/s/{pod}")], "1");
    }
    rig.run();
    let revision = rig.etcd.revision();
    rig.ledger.set_terms(&reference("orders"), suspended(1));
    rig.want("orders", "a", &["/s/a"], "2");
    rig.drop_pod("orders", "b");
    rig.want("orders", "c", &["/s/c"], "1");
    assert_eq!(rig.run(), []);
    assert_eq!(rig.etcd.revision(), revision);

    rig.ledger.set_terms(&reference("orders"), terms(1));
    rig.run();
    let values = ["/s/a", "/s/b", "/s/c"].map(|key| rig.etcd.value(key));
    assert_eq!(values, [Some("2".to_owned()), None, Some("1".to_owned())]);
}

#[test]
fn keys_of_a_suspended_registration_survive_a_restart_in_which_their_pods_are_gone() {
    let mut rig = Rig::new();
    rig.want("orders", "p", &["/s/p"], "1");
    rig.run();
    rig.ledger = Ledger::new(meta(), 256);
    rig.etcd.forget_watches();
    rig.ledger.set_terms(&reference("orders"), suspended(1));
    rig.ledger.kubernetes_is_complete();
    assert_eq!(rig.run(), []);
    rig.ledger.set_terms(&reference("orders"), terms(1));
    assert_eq!(keys(&rig.run()[0]), ["/s/p"]);
    assert_eq!(rig.etcd.held("/s/p"), None);
}

#[test]
fn a_key_that_somebody_removes_or_overwrites_is_put_back_at_once() {
    let mut rig = Rig::new();
    rig.want("orders", "p", &["/s/p"], "ours");
    rig.run();
    rig.etcd.foreign_delete("/s/p");
    assert_eq!(rig.run().len(), 1);
    assert_eq!(rig.etcd.value("/s/p").as_deref(), Some("ours"));
    rig.etcd.foreign_put("/s/p", "theirs");
    assert_eq!(rig.run().len(), 1);
    assert_eq!(rig.etcd.value("/s/p").as_deref(), Some("ours"));
    assert_ne!(rig.lease_of("/s/p"), LeaseId::NONE);
}

#[test]
fn a_key_made_anew_by_a_stranger_is_the_strangers() {
    let mut rig = Rig::new();
    rig.want("orders", "p", &["/s/p"], "ours");
    rig.run();
    rig.etcd.foreign_delete("/s/p");
    rig.etcd.foreign_put("/s/p", "theirs");
    rig.run();
    assert_eq!(rig.etcd.value("/s/p").as_deref(), Some("theirs"));
    assert_eq!(rig.report("orders").conflicts.len(), 1);
}

#[test]
fn a_lapsed_lease_is_replaced_and_only_its_keys_are_written_again() {
    let mut rig = Rig::new();
    rig.ledger.leases().set_capacity(1);
    rig.want("orders", "a", &["/s/a"], "1");
    rig.want("orders", "b", &["/s/b"], "1");
    rig.run();
    rig.etcd.expire(rig.lease_of("/s/a"));
    let written = rig.run();
    assert_eq!(written.iter().flat_map(keys).collect::<Vec<_>>(), ["/s/a"]);
}

#[test]
fn keys_stay_where_they_are_while_their_lease_is_in_doubt() {
    let mut rig = Rig::new();
    rig.want("orders", "p", &["/s/p"], "1");
    rig.run();
    let lease = rig.lease_of("/s/p");
    rig.etcd.foreign_delete(&meta().record_key(lease));
    // Something makes the key come up while the record is being written again.
    rig.want("orders", "p", &["/s/p", "/s/q"], "1");
    rig.run();
    assert_eq!(rig.lease_of("/s/p"), lease);
    assert_eq!(
        rig.etcd.held("/s/p").unwrap().create_revision,
        rig.etcd.held("/s/p").unwrap().mod_revision
    );
    assert!(rig.etcd.recorded().contains(&lease), "its record is there again");
    assert_eq!(rig.etcd.value("/s/q").as_deref(), Some("1"));
}

#[test]
fn a_record_that_somebody_overwrites_is_put_right_without_touching_its_keys() {
    let mut rig = Rig::new();
    rig.want("orders", "p", &["/s/p"], "1");
    rig.run();
    let lease = rig.lease_of("/s/p");
    rig.etcd.foreign_put(&meta().record_key(lease), "theirs");
    assert_eq!(rig.run(), []);
    assert_eq!(rig.etcd.recorded(), [lease]);
}

#[test]
fn a_lease_said_to_have_lapsed_is_asked_for_by_its_record() {
    let mut rig = Rig::new();
    rig.want("orders", "p", &["/s/p"], "1");
    rig.run();
    let (lease, revision) = (rig.lease_of("/s/p"), rig.etcd.revision());
    rig.ledger.leases().doubt(lease);
    rig.run();
    assert_eq!(
        (rig.lease_of("/s/p"), rig.etcd.revision()),
        (lease, revision),
        "it lives"
    );

    // It lapses, and the answer to the record's write is quicker than the mirror.
    rig.listen();
    rig.etcd.expire(lease);
    rig.ledger.leases().doubt(lease);
    let Some(Step::Write(ticket, transaction)) = rig.ledger.next(127, 0) else {
        panic!("the record is to be written");
    };
    let verdict = rig.commit(&transaction);
    assert_eq!(verdict, Verdict::LeaseGone);
    rig.ledger.settle(ticket, Some(verdict));
    assert_eq!(
        rig.report("orders").registered,
        0,
        "the key is known to be gone with it"
    );
    rig.run();
    assert_ne!(rig.lease_of("/s/p"), lease);
}

#[test]
fn a_changed_ttl_moves_the_keys_and_the_empty_lease_is_let_go() {
    let mut rig = Rig::new();
    rig.want("orders", "p", &["/s/p"], "1");
    rig.run();
    let before = rig.lease_of("/s/p");
    rig.ledger
        .set_terms(&reference("orders"), Terms { ttl: 60, ..terms(1) });
    assert_eq!(rig.run().len(), 1);
    assert_ne!(rig.lease_of("/s/p"), before);

    let start = Instant::now();
    assert_eq!(rig.ledger.retire_leases(start), None, "it is only now seen to be empty");
    let Some(Step::Write(ticket, transaction)) = rig.ledger.retire_leases(start + Duration::from_secs(600)) else {
        panic!("the lease has been empty for long");
    };
    assert_eq!(keys(&transaction), [&*meta().record_key(before)]);
    let verdict = rig.commit(&transaction);
    rig.ledger.settle(ticket, Some(verdict));
    assert_eq!(rig.ledger.lease_ids(), [rig.lease_of("/s/p")], "it is renewed no more");
}

#[test]
fn before_kubernetes_has_told_everything_nothing_is_written() {
    let mut rig = Rig::new();
    rig.want("orders", "p", &["/s/p"], "1");
    rig.run();
    rig.ledger = Ledger::new(meta(), 256);
    rig.etcd.forget_watches();
    rig.ledger.set_terms(&reference("orders"), terms(1));
    rig.want("orders", "new", &["/s/new"], "1");
    assert_eq!(rig.run(), []);
    rig.ledger.kubernetes_is_complete();
    rig.run();
    assert_eq!(
        (rig.etcd.value("/s/p"), rig.etcd.value("/s/new").as_deref()),
        (None, Some("1"))
    );
}

#[test]
fn work_that_meets_a_write_under_way_is_done_when_that_has_ended() {
    let mut rig = Rig::new();
    rig.want("orders", "p", &["/s/old"], "1");
    rig.run();
    rig.drop_pod("orders", "p");
    let (ticket, transaction) = rig.next().expect("a removal");
    // The pod is back with another key; its old one is still being removed.
    rig.want("orders", "p", &["/s/old", "/s/new"], "1");
    assert_eq!(rig.next(), None);
    let verdict = rig.commit(&transaction);
    rig.ledger.settle(ticket, Some(verdict));
    rig.run();
    assert!(["/s/old", "/s/new"].iter().all(|key| rig.etcd.held(key).is_some()));
}

#[test]
fn a_contested_key_under_way_does_not_hold_up_the_losers_other_keys() {
    let mut rig = Rig::new();
    rig.ledger.set_terms(&reference("elder"), terms(0));
    rig.want("elder", "p", &["/s/p"], "elder");
    let (record, transaction) = rig.next().expect("a lease to record");
    let verdict = rig.commit(&transaction);
    rig.ledger.settle(record, Some(verdict));
    let (ticket, transaction) = rig.next().expect("the elder's write");
    rig.want("orders", "p", &["/s/p", "/s/other"], "younger");
    let verdict = rig.commit(&transaction);
    rig.run();
    rig.ledger.settle(ticket, Some(verdict));
    rig.run();
    assert_eq!(rig.etcd.value("/s/p").as_deref(), Some("elder"));
    assert_eq!(rig.etcd.value("/s/other").as_deref(), Some("younger"));
}

#[test]
fn a_key_is_written_once_in_a_transaction_though_two_things_ask_for_it() {
    let mut rig = Rig::new();
    rig.want("orders", "p", &["/s/p"], "1");
    rig.run();
    rig.drop_pod("orders", "p");
    rig.ledger.remove_registration(&reference("orders"));
    rig.ledger.set_terms(&reference("orders"), terms(2));
    rig.want("orders", "q", &["/s/q"], "1");
    let written = rig.run();
    assert_eq!(written.iter().flat_map(keys).filter(|key| *key == "/s/p").count(), 1);
}

#[test]
fn keys_on_their_way_out_leave_though_their_registration_leaves_first() {
    let mut rig = Rig::new();
    rig.want("orders", "p", &["/s/p"], "1");
    rig.run();
    let elsewhere = Terms {
        scopes: vec![Scope::below("/t/")],
        ..terms(1)
    };
    rig.ledger.set_terms(&reference("orders"), elsewhere);
    rig.want("orders", "p", &["/t/p"], "1");
    rig.ledger.remove_registration(&reference("orders"));
    rig.run();
    assert_eq!(rig.etcd.data().count(), 0);
}

#[test]
fn an_answer_from_before_a_restore_is_not_believed() {
    let mut rig = Rig::new();
    rig.run();
    let restore = rig.etcd.save();
    rig.want("orders", "p", &["/s/p"], "1");
    let (record, transaction) = rig.next().expect("a lease to record");
    let verdict = rig.commit(&transaction);
    rig.ledger.settle(record, Some(verdict));
    let (ticket, transaction) = rig.next().expect("the write");
    let verdict = rig.commit(&transaction);
    restore(&mut rig.etcd);
    rig.fence = rig.etcd.elect();
    rig.listen();
    rig.ledger.settle(ticket, Some(verdict));
    assert_eq!(rig.report("orders").registered, 0);
    rig.run();
    assert_eq!(rig.etcd.value("/s/p").as_deref(), Some("1"));
}

#[test]
fn the_keys_of_one_pod_too_large_for_a_transaction_are_written_in_parts() {
    let mut rig = Rig::new();
    let large: Arc<[u8]> = vec![b'x'; 60 * 1024].into();
    let record = |number| Record {
        key: format!("/s/p:{number:03}").into(),
        value: large.clone(),
    };
    let lodging = Lodging {
        endpoint: endpoint("p", 1),
        records: (0..30).map(record).collect(),
    };
    let tenancy = Tenancy {
        lodgings: vec![lodging],
        problems: Vec::new(),
    };
    rig.ledger.set_tenancy(&reference("orders"), &"p".into(), Some(tenancy));
    for transaction in rig.run() {
        let bytes = |op: &Op| match op {
            Op::Put { key, value, .. } => key.len() + value.len(),
            Op::Delete { key, .. } => key.len(),
        };
        assert!(transaction.ops.iter().map(bytes).sum::<usize>() < 1024 * 1024);
    }
    assert_eq!(rig.etcd.data().count(), 30);
}

#[test]
fn a_fenced_write_is_planned_again() {
    let mut rig = Rig::new();
    rig.want("orders", "p", &["/s/p"], "1");
    rig.run();
    rig.want("orders", "p", &["/s/p"], "2");
    let (ticket, transaction) = rig.next().expect("a write");
    let stale = std::mem::replace(&mut rig.fence, rig.etcd.elect());
    assert_eq!(rig.etcd.commit(&stale, &transaction), Verdict::Fenced);
    rig.ledger.settle(ticket, Some(Verdict::Fenced));
    assert_eq!(rig.etcd.value("/s/p").as_deref(), Some("1"));
    let written = rig.run();
    assert!(matches!(
        written[0].ops[0],
        Op::Put {
            expect: Expect::At(_),
            ..
        }
    ));
}

#[test]
fn a_scope_is_watched_until_the_last_key_of_its_registration_has_left() {
    let mut rig = Rig::new();
    rig.want("orders", "p", &["/s/p"], "1");
    rig.run();
    rig.ledger.remove_registration(&reference("orders"));
    let watched = rig.ledger.take_changed_scopes().expect("they are told");
    assert!(watched.contains("/s/"));
    rig.etcd.watch(watched);
    while let Some((ticket, transaction)) = rig.ledger.next(127, 0).and_then(|step| match step {
        Step::Write(ticket, transaction) => Some((ticket, transaction)),
        Step::Grant { .. } => None,
    }) {
        let verdict = rig.commit(&transaction);
        rig.ledger.settle(ticket, Some(verdict));
    }
    let watched = rig.ledger.take_changed_scopes().expect("they change");
    assert_eq!(watched.into_iter().collect::<Vec<_>>(), [meta().scope().clone()]);
}
