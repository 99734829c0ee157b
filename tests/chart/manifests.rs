//! `deploy/leasehold.yaml`: the operator installed by kubectl alone.

use testbed::{Image, Kubelet, Result, shared};

use super::TURN;
use super::helm::kubectl;

#[tokio::test]
async fn operator_installed_by_kubectl_apply_becomes_ready() -> Result<()> {
    let _turn = TURN.lock().await;
    let bed = shared().await?;
    let image = bed.folder().path().join("image-manifests");
    let image = Image::of_program(env!("CARGO_BIN_EXE_leasehold").as_ref(), &image)?;
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/leasehold.yaml");
    let applied = kubectl(
        bed,
        &["apply", "--server-side", "--force-conflicts", "--filename", file],
        "",
    )
    .await;
    applied.unwrap_or_else(|error| panic!("{error}"));
    let home = bed.namespace_named("leasehold").await?;
    let _kubelet = Kubelet::start(bed, home.name(), &image)?;
    home.wait_ready_pods("app.kubernetes.io/component=operator", 2).await?;
    home.objects().delete("apps/v1", "Deployment", "leasehold").await?;
    home.wait_ready_pods("app.kubernetes.io/component=operator", 0).await?;
    Ok(())
}
