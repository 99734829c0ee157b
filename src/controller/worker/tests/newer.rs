//! Tests of a predecessor of a newer release, whose checkpoint this release cannot read.

use super::*;

#[tokio::test]
async fn unreadable_checkpoint_delays_writes_until_caught_up_with_apiserver() {
    let mut rig = Rig::new().await;
    rig.register();
    rig.hear(104, None);
    rig.lead(Leadership::Leading(fence(7)));
    let checkpoint = KeyValue {
        value: br#"{"v":2,"upTo":"105"}"#.as_slice().into(),
        lease: LeaseId(1),
        create_revision: 1,
        mod_revision: 1,
    };
    let checkpoints = [("/leasehold/c1/heard/0".into(), checkpoint)];
    rig.worker
        .checkpoints_read(&fence(7), Ok(checkpoints.to_vec()), Instant::now());
    let may_write = |rig: &mut Rig| rig.worker.may_write(Instant::now());
    assert_eq!(may_write(&mut rig), None);
    rig.hear(104, Some(105));
    assert_eq!(may_write(&mut rig), None, "the progress of the other kinds is unknown");
    let asked = |pods: u64| {
        let targets: Vec<WatchTarget> = WatchScope::default().targets().collect();
        let mut progress = Freshness::new(targets.clone());
        for target in &targets {
            progress.reach(target, if *target == PODS { pods } else { 99 });
            progress.compare(target, if *target == PODS { 105 } else { 99 }, Instant::now());
        }
        progress
    };
    rig.observe_kubernetes(asked(104));
    assert_eq!(may_write(&mut rig), None, "the predecessor may have observed one more");
    rig.observe_kubernetes(asked(105));
    assert_eq!(may_write(&mut rig), Some(fence(7)));
}
