//! Namespaces that ask for much, and those that ask for little beside them.

use super::*;
use crate::index::RegistrationRef;

/// More than go into two transactions.
const MANY: usize = 300;

/// A namespace `flood` with many keys beside that of `orders`, which has one.
fn rig() -> Rig {
    let mut rig = Rig::new();
    rig.ledger.set_terms(&flood(), terms(1));
    rig.want("orders", "p", &["/s/p"], "1");
    rig.flood("1");
    rig.run();
    rig
}

fn flood() -> RegistrationRef {
    RegistrationRef::new("flood", "orders")
}

impl Rig {
    fn flood(&mut self, value: &str) {
        for i in 0..MANY {
            let pod = format!("f{i}");
            let tenancy = tenancy(&pod, &[&format!("/s/{pod}")], value);
            self.ledger.set_tenancy(&flood(), &pod.as_str().into(), Some(tenancy));
        }
    }

    /// The keys of the next transaction for those who ask for little.
    fn next_small(&mut self) -> Option<(super::super::Ticket, Vec<String>)> {
        match self.ledger.next_small(32)? {
            Step::Write(ticket, transaction) => {
                Some((ticket, keys(&transaction).iter().map(ToString::to_string).collect()))
            }
            Step::Grant { .. } => panic!("nothing is granted for those"),
        }
    }
}

#[test]
fn who_asks_for_little_has_a_transaction_of_its_own() {
    let mut rig = rig();
    rig.flood("2");
    rig.want("orders", "p", &["/s/p"], "2");
    let (_, first) = rig.next().expect("there is much to do");
    assert_eq!(keys(&first), ["/s/p"]);
    let (_, second) = rig.next().expect("there is much to do");
    assert_eq!(second.ops.len(), Transaction::MAX_OPS);
}

#[test]
fn beyond_the_limit_there_is_room_for_who_asks_for_little_and_has_nothing_under_way() {
    let mut rig = rig();
    rig.flood("2");
    rig.next().expect("there is much to do");
    assert_eq!(rig.next_small(), None, "the flood has enough");
    rig.want("orders", "p", &["/s/p"], "2");
    let (ticket, small) = rig.next_small().expect("there is room");
    assert_eq!(small, ["/s/p"]);
    rig.want("orders", "q", &["/s/q"], "1");
    assert_eq!(rig.next_small(), None, "it has something under way");
    rig.ledger.settle(ticket, None);
    let (_, small) = rig.next_small().expect("it has nothing under way");
    assert_eq!(small.len(), 2);
}

#[test]
fn many_who_ask_for_little_do_not_keep_one_who_asks_for_much_from_its_turn() {
    let mut rig = rig();
    rig.flood("2");
    rig.want("orders", "p", &["/s/p"], "2");
    let (ticket, small) = rig.next().expect("there is much to do");
    let verdict = rig.commit(&small);
    rig.ledger.settle(ticket, Some(verdict));
    rig.want("orders", "p", &["/s/p"], "3");
    let (_, next) = rig.next().expect("there is much to do");
    assert_eq!(next.ops.len(), Transaction::MAX_OPS);
    assert!(keys(&next).contains(&"/s/p"), "nobody waits for that");
}
