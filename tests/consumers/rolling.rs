//! A rolling update, as consumers see it.

use std::collections::BTreeSet;
use std::time::Duration;

use testbed::{Result, until};

use crate::scene::Scene;

/// For three pods, of which each serves on for two seconds after its successor is ready.
const PATIENCE: Duration = Duration::from_mins(2);

#[tokio::test]
async fn rolling_update_fails_no_call_and_shows_no_empty_or_duplicate_view() -> Result<()> {
    let scene = Scene::start("rolling").await?;
    let before = scene.serving();
    let calls = |scene: &Scene| scene.grpc.reached().values().sum::<u64>();
    let called = calls(&scene);
    scene.kubelet.deploy(&scene.turn, 3, "2").await?;
    let replaced = |now: &BTreeSet<String>| now.len() == 3 && now.is_disjoint(&before);
    until("three new pods and no old one", PATIENCE, || async {
        let now = scene.serving();
        if replaced(&now) {
            Ok(())
        } else {
            Err(format!("{now:?}"))
        }
    })
    .await?;
    let after = scene.serving();
    scene.wait_view(&after).await?;
    for consumer in scene.consumers() {
        let views = consumer.views();
        let first = views.iter().position(|view| view.len() == 3).expect("it knew three");
        for view in &views[first..] {
            let distinct: BTreeSet<&String> = view.iter().collect();
            assert!(
                distinct.len() == view.len() && view.len() >= 3,
                "{}: {view:?} in {views:?}",
                consumer.name()
            );
        }
        assert_eq!(consumer.failures(), Vec::<String>::new(), "{}", consumer.name());
    }
    // The calls went on meanwhile, and by now they reach each of the new servers.
    until("calls to reach all of the new servers", PATIENCE, || async {
        let reached = scene.grpc.reached();
        if after.iter().all(|server| reached.contains_key(server)) {
            Ok(())
        } else {
            Err(format!("{reached:?}"))
        }
    })
    .await?;
    assert!(calls(&scene) > called + 100, "{called} before, {} after", calls(&scene));
    assert_eq!(scene.grpc.failures(), Vec::<String>::new());
    Ok(())
}
