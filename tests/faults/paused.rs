//! An operator that is paused without a standby replica.

use std::time::Instant;

use testbed::Result;

use crate::Scene;
use crate::support::wait_count;

#[tokio::test]
async fn keys_expired_while_the_only_operator_was_paused_return_with_it() -> Result<()> {
    let scene = Scene::of("paused", 1, 5).await?;
    scene.operator.stop()?;
    // As documented, leases expire that no replica renews. The operator's own records and the leader key expire, too.
    wait_count(&scene.turn.etcd, "", 0, std::time::Duration::from_secs(30)).await;
    scene.turn.namespace.set_ready("a", false).await?;
    scene.operator.cont()?;
    let repair = Instant::now();
    scene.wait_converged(repair, &["b", "c"]).await?;
    scene.wait_well(2).await
}
