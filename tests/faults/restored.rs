//! An etcd that is put back to an earlier state: what was known of it is no longer true.

use std::time::Instant;

use testbed::Result;

use crate::Scene;
use crate::scene::CONVERGED;
use crate::support::{SOON, pod};

#[tokio::test]
async fn etcd_restored_from_an_earlier_snapshot_is_reconciled() -> Result<()> {
    let scene = Scene::of("restored", 1, 30).await?;
    let (etcd, namespace) = (&scene.turn.etcd, &scene.turn.namespace);
    let before = scene.wait(&["a", "b", "c"]).await;
    let folder = testbed::Folder::new("snapshot")?;
    let snapshot = folder.path().join("snapshot.db");
    etcd.save(&snapshot).await?;

    namespace.set_ready("a", false).await?;
    namespace.create_pod(&pod("d", "orders")).await?;
    namespace.set_ready("b", false).await?;
    scene.wait(&["c", "d"]).await;
    namespace.set_ready("b", true).await?;
    let known = scene.wait(&["b", "c", "d"]).await;
    let revision = etcd.revision().await?;

    etcd.restore(&snapshot).await?;
    let repair = Instant::now();
    // A ghost, and one that is missing.
    let after = scene.wait_converged(repair, &["b", "c", "d"]).await?;
    assert!(etcd.revision().await? < revision + 2, "it went backwards");
    for pod in ["b", "c"] {
        let key = format!("{}{pod}", scene.turn.plain("orders"));
        assert_eq!(
            after[&key], before[&key],
            "what the snapshot holds was right and is kept"
        );
    }
    assert_ne!(known, after);
    scene.wait_well(3).await?;
    namespace.set_ready("c", false).await?;
    scene.wait(&["b", "d"]).await;
    Ok(())
}

#[tokio::test]
async fn etcd_restored_as_another_cluster_is_served_by_the_current_process() -> Result<()> {
    let scene = Scene::of("restored-anew", 1, 30).await?;
    let (etcd, namespace) = (&scene.turn.etcd, &scene.turn.namespace);
    let folder = testbed::Folder::new("snapshot")?;
    let snapshot = folder.path().join("snapshot.db");
    etcd.save(&snapshot).await?;
    // The leader key in the snapshot belongs to a process that has ended, on a session that no process renews.
    scene.operator.restart().await?;
    scene.operator.wait_ready(SOON).await?;
    namespace.set_ready("a", false).await?;
    scene.wait(&["b", "c"]).await;

    etcd.restore_as("another", &snapshot).await?;
    let repair = Instant::now();
    scene.wait(&["b", "c"]).await;
    let took = repair.elapsed();
    eprintln!("converged {} ms after the repair", took.as_millis());
    assert!(took < CONVERGED, "{took:?}");
    Ok(())
}
