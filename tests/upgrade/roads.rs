//! To this tree and back, by every road.

use testbed::Result;

use crate::scene::{Generation, Road, Scene};

#[tokio::test]
async fn upgrades_and_rollbacks_are_invisible_to_consumers() -> Result<()> {
    let Some(mut scene) = Scene::set().await? else {
        return Ok(());
    };
    scene.work().await?;
    for (road, to) in [
        (Road::Rolling, Generation::Now),
        (Road::AtOnce, Generation::Before),
        (Road::AtOnce, Generation::Now),
        (Road::Rolling, Generation::Before),
        (Road::Rolling, Generation::Now),
    ] {
        scene.go(road, to).await?;
        scene.work().await?;
        eprintln!("{road:?} to {to:?}: seen by nobody");
    }
    scene.regain_many().await
}
