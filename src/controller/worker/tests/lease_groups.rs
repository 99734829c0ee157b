//! When etcd is asked which prefixes it grants together.

use super::*;
use crate::plan::LeaseGroups;

/// Whether the worker asks etcd for lease groups now.
fn asks(worker: &mut RegistryWorker<etcd::Connection>) -> bool {
    let before = worker.tasks.len();
    worker.ask_for_lease_groups(Instant::now());
    worker.tasks.len() > before
}

fn prefix() -> Prefix {
    Prefix::below("/services/shop/orders/")
}

fn granted_alone() -> LeaseGroups {
    let mut groups = LeaseGroups::default();
    groups.add(prefix());
    groups
}

/// A worker with one registration, whose lease group etcd has been asked for, and has answered.
async fn with_known_group() -> Rig {
    let mut rig = Rig::new().await;
    // The connection of the rig has no user, so that nothing is denied to it.
    rig.worker.rights = rights::Rights::new(backend::Capabilities {
        has_permissions: true,
        ..rig.worker.backend.capabilities()
    });
    rig.worker.planner.await_lease_groups();
    rig.register();
    assert!(rig.worker.planner.take_changed_prefixes().is_some());
    assert!(asks(&mut rig.worker));
    assert!(!asks(&mut rig.worker), "it is being asked");
    rig.worker.lease_groups_listed(false, Ok(granted_alone()));
    assert!(!asks(&mut rig.worker));
    rig
}

#[tokio::test]
async fn lease_group_is_asked_for_again_when_reading_is_allowed() {
    let mut rig = with_known_group().await;
    rig.worker.observe(Observation::Denied { prefix: prefix() });
    assert!(!asks(&mut rig.worker));
    rig.worker.observe(Observation::Snapshot {
        prefix: prefix(),
        revision: 1,
        entries: Vec::new(),
    });
    assert!(asks(&mut rig.worker), "the role has changed");
}

#[tokio::test]
async fn lease_group_of_former_prefix_in_use_again_is_asked_for() {
    let mut rig = with_known_group().await;
    // The prefix is not listed yet, so that it stays watched.
    rig.worker.take(Command::Remove(orders()));
    rig.worker.rights.may_have_changed();
    assert!(!asks(&mut rig.worker), "no registration needs a group");
    rig.worker.lease_groups_listed(true, Ok(LeaseGroups::default()));
    rig.register();
    assert_eq!(rig.worker.planner.take_changed_prefixes(), None);
    assert!(asks(&mut rig.worker));
}

#[tokio::test]
async fn lease_groups_are_asked_for_again_after_a_failure() {
    let mut rig = with_known_group().await;
    rig.worker.rights.may_have_changed();
    assert!(asks(&mut rig.worker));
    let away = backend::Error {
        kind: backend::ErrorKind::Unavailable,
        reason: "Unavailable",
        message: "no answer".to_owned(),
    };
    rig.worker.lease_groups_listed(true, Err(away));
    assert!(!asks(&mut rig.worker), "not at once");
    assert!(rig.worker.rights.wake_at(false, false).is_some());
}
