//! `cargo xtask demo`: a guided tour on real servers that measures each claim, and fails if one does not hold.
//!
//! - [`story`]: prints steps and claims.
//! - [`shop`]: the scene: the Deployment `orders`, its registration, its keys.
//! - [`sightings`]: when this process saw a pod ready and in an EndpointSlice, on the clock that times the keys too.
//! - [`living`]: pods come, go and are many.
//! - [`dying`]: the operator crashes, and ends for good.
//! - [`helm`]: another tour: a release of the chart, from the installation to the first keys.
//! - [`addresses`]: another tour: a client that cannot reach pods.

mod addresses;
mod dying;
mod helm;
mod living;
mod shop;
mod sightings;
mod story;

use std::time::Instant;

use testbed::{EtcdVersion, Tool};

use self::{shop::Shop, story::Story};
use crate::{
    error::{Error, Result},
    signals::Signals,
    stage::{Stage, StageConfig},
};

/// Which tour to run.
#[derive(clap::Args)]
pub struct Options {
    /// Leave everything running at the end, until Ctrl-C
    #[arg(long)]
    keep: bool,
    /// Show instead how to install with `helm install` and register pods with one `kubectl apply`
    #[arg(long, conflicts_with = "keep")]
    helm: bool,
    /// Show instead how a client outside the cluster, which cannot reach pods, finds nodes that forward to them
    #[arg(long, conflicts_with_all = ["keep", "helm"])]
    addresses: bool,
}

/// Runs the tour that the options choose.
pub async fn run(options: &Options) -> Result<()> {
    let mut signals = Signals::listen()?;
    if options.helm {
        return signals.unless_signalled(Box::pin(helm::run())).await;
    }
    if options.addresses {
        return signals.unless_signalled(Box::pin(addresses::run())).await;
    }
    let begin = Instant::now();
    let stage = signals
        .unless_signalled(Stage::set(&StageConfig {
            etcd_version: EtcdVersion::default(),
            etcd_members: 1,
            operators: 1,
            registry_ttl: 30,
        }))
        .await?;
    let reported = signals.unless_signalled(tour(&stage, begin)).await;
    if let Err(Error::Broken(_) | Error::Bed(_) | Error::Kube(_)) = &reported {
        eprintln!("\nthe end of the operator's log:\n{}", stage.operators[0].log_tail());
    }
    reported?;
    if options.keep {
        match signals.unless_signalled(stay(&stage)).await {
            // That is how it is meant to end.
            Err(Error::Interrupted) => {}
            other => return other,
        }
    }
    Ok(())
}

async fn tour(stage: &Stage, begin: Instant) -> Result<()> {
    let mut story = Story::default();
    let shop = Shop::open(stage).await?;
    // Boxed because clients' futures are large, and each step holds several.
    Box::pin(living::register(&mut story, &shop)).await?;
    Box::pin(living::lose_one(&mut story, &shop)).await?;
    Box::pin(living::scale(&mut story, &shop)).await?;
    Box::pin(dying::crash(&mut story, &shop)).await?;
    Box::pin(dying::end(&mut story, &shop)).await?;
    story.end(begin.elapsed());
    Ok(())
}

/// Puts the operator back and waits for ever.
async fn stay(stage: &Stage) -> Result<()> {
    let operator = &stage.operators[0];
    operator.restart().await?;
    operator.wait_ready(shop::PATIENCE).await?;
    let etcdctl = tokio::task::spawn_blocking(|| Tool::Etcdctl.binary())
        .await
        .expect("building does not panic")?;
    println!(
        "\nThe operator runs again, and everything stays up until Ctrl-C. To inspect it, copy this into another shell:\n\
         \n    export KUBECONFIG={}\
         \n    export ETCDCTL_ENDPOINTS={}\
         \n    alias kubectl={} etcdctl={}\
         \n    kubectl get svcreg --all-namespaces -o wide\
         \n    kubectl scale deployment orders -n {} --replicas 5\
         \n    etcdctl get --prefix /services/\
         \n    etcdctl watch --prefix /services/\
         \n    curl {}/metrics\n\nlogs: {}",
        stage.bed.kubeconfig().display(),
        stage.bed.registry().endpoints().join(","),
        stage.bed.kubectl().display(),
        etcdctl.display(),
        shop::NAMESPACE,
        operator.http(),
        stage.bed.logs().display(),
    );
    std::future::pending().await
}
