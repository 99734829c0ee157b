//! Tests of the guard: what it holds, and which replica reports it.

use super::*;
use crate::api::Guard;

/// Each of twenty pods of `orders` has a key, and one list contains none of the pods.
async fn missing_from_a_list() -> Rig {
    let mut rig = Rig::new().await;
    rig.worker.take(Command::Settings {
        limits: Limits::default(),
        guard: Guard::default(),
        version: version(),
    });
    rig.register();
    let keys: Vec<Key> = (0..20)
        .map(|pod| format!("/services/shop/orders/p{pod}").into())
        .collect();
    let held = KeyValue {
        value: b"1".as_slice().into(),
        lease: LeaseId(1),
        create_revision: 1,
        mod_revision: 1,
    };
    rig.worker.planner.leases().recorded(LeaseId(1), Some(30), 1);
    let records = Observation::Snapshot {
        prefix: MetaKeys::new("/leasehold/", "c1").prefix().clone(),
        revision: 1,
        entries: Vec::new(),
    };
    let data = Observation::Snapshot {
        prefix: Prefix::below("/services/shop/orders/"),
        revision: 1,
        entries: keys.iter().map(|key| (key.clone(), held.clone())).collect(),
    };
    assert!(rig.worker.planner.take_changed_prefixes().is_some());
    rig.worker.observe(data);
    rig.worker.observe(records);
    rig.worker.observe(Observation::Complete { revision: 1 });
    let missing = keys.iter().map(|key| MissingPod {
        registration: orders(),
        pod: key.rsplit('/').next().expect("a name").into(),
        ended: false,
        selected: 0,
    });
    rig.worker.take(Command::PodsMissing {
        pods: missing.collect(),
        at: Instant::now(),
    });
    rig
}

#[tokio::test]
async fn pods_missing_from_one_list_are_held_until_approved() {
    let mut rig = missing_from_a_list().await;
    rig.lead_first();
    rig.worker.act();
    rig.worker.report(Instant::now() + Duration::from_secs(30));
    let hold = rig.worker.planner.hold().expect("a hold").clone();
    assert_eq!((hold.len(), hold.lost, hold.of), (20, 20, 20));
    let Holding::Some(notice) = rig.worker.guarding.holding().clone() else {
        panic!("not reported");
    };
    assert!(
        notice.contains(&format!("leasehold.dev/approve-removals={}", hold.id)),
        "{notice}"
    );

    rig.worker.take(Command::Approve(Some("another".to_owned())));
    rig.worker.act();
    assert_eq!(rig.worker.planner.hold(), Some(&hold));
    rig.worker.take(Command::Approve(Some(hold.id)));
    rig.worker.act();
    assert_eq!(rig.worker.planner.hold(), None);
    assert_eq!(*rig.worker.guarding.holding(), Holding::Nothing);
    rig.worker.report(Instant::now() + Duration::from_mins(1));
    assert_eq!(
        rig.events(),
        [
            ("default".to_owned(), "RemovalsHeld"),
            ("shop/orders".to_owned(), "RemovalsHeld"),
            ("default".to_owned(), "RemovalsReleased"),
            ("shop/orders".to_owned(), "RemovalsReleased"),
        ]
    );
}

#[tokio::test]
async fn standby_decides_and_reports_no_hold_until_it_leads() {
    let mut rig = missing_from_a_list().await;
    rig.standby();
    rig.worker.act();
    assert_eq!(rig.worker.planner.hold(), None);
    assert_rests(&mut rig.worker);
    assert_eq!(rig.events(), []);
    rig.lead_first();
    rig.worker.act();
    assert_eq!(rig.worker.planner.hold().map(plan::Hold::len), Some(20));
    rig.standby();
    assert_eq!(
        *rig.worker.guarding.holding(),
        Holding::Undecided,
        "the leader reports it"
    );
}

#[tokio::test]
async fn interrupted_view_decides_no_hold_and_does_not_loop_at_its_end() {
    let mut rig = missing_from_a_list().await;
    rig.worker.observe(Observation::Interrupted);
    rig.lead_first();
    rig.worker.act();
    assert_eq!(rig.worker.planner.hold(), None);
    rig.worker.observe(Observation::Complete { revision: 1 });
    rig.worker.act();
    assert!(rig.worker.planner.hold().is_some());
    let shortest = Guard {
        hold_seconds: 0,
        ..Guard::default()
    };
    rig.worker.planner.set_guard(guarding::settings(&shortest));
    rig.worker.observe(Observation::Interrupted);
    assert_rests(&mut rig.worker);
}
