//! `cargo xtask up`: a bed that runs until a signal, for people and for programs, which read one line of JSON.

use std::{io::Write, time::Duration};

use futures::{StreamExt, stream::FuturesUnordered};
use serde_json::{Value, json};
use testbed::{EtcdVersion, Operator};
use tokio::time::sleep;

use crate::{
    error::{Error, Result, doing},
    signals::Signals,
    stage::{Stage, StageConfig},
};

/// Before a dead operator is started again: well below the second that is promised, and enough that one which dies at
/// once does not eat the machine.
const RESPITE: Duration = Duration::from_millis(300);

/// What to start.
#[derive(clap::Args)]
pub struct Options {
    /// Release of the etcd to register in: 3.5, 3.6 or 3.7
    #[arg(long, value_name = "X.Y", default_value_t)]
    etcd_version: EtcdVersion,
    /// Number of members of that etcd
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=7))]
    etcd_members: u8,
    /// Number of operators, named operator-0, operator-1, ...
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(0..=9))]
    operators: u8,
    /// Time to live of keys in the Registry `default`, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u32).range(5..=299))]
    registry_ttl: u32,
    /// Restart an operator that has ended, with the same flags, within a second
    #[arg(long)]
    restart_operators: bool,
}

/// Starts everything, prints its addresses, and ends it on SIGINT or SIGTERM.
pub async fn run(options: &Options) -> Result<()> {
    let mut signals = Signals::listen()?;
    match Box::pin(signals.unless_signalled(stay(options))).await {
        // That is how it is meant to end.
        Err(Error::Interrupted) => {
            eprintln!("ended");
            Ok(())
        }
        other => other,
    }
}

async fn stay(options: &Options) -> Result<()> {
    let stage = Stage::set(&StageConfig {
        etcd_version: options.etcd_version,
        etcd_members: options.etcd_members.into(),
        operators: options.operators.into(),
        registry_ttl: options.registry_ttl,
    })
    .await?;
    say(&described(&stage))?;
    eprintln!("Ctrl-C ends everything");
    let mut watched: FuturesUnordered<_> = stage
        .operators
        .iter()
        .map(|operator| watch_over(operator, options.restart_operators))
        .collect();
    while let Some(ended) = watched.next().await {
        ended?;
    }
    std::future::pending().await
}

/// Reports the end of an operator, and restarts it if `restart` is set.
async fn watch_over(operator: &Operator, restart: bool) -> Result<()> {
    loop {
        let status = operator.process().ended().await;
        let status = status.map_or_else(|| "no status".to_owned(), |status| status.to_string());
        eprintln!("{} (pid {}) ended: {status}", operator.name(), operator.pid());
        if !restart {
            return Ok(());
        }
        sleep(RESPITE).await;
        operator.restart().await?;
        say(&json!({"operator_restarted": entry(operator)}))?;
    }
}

fn described(stage: &Stage) -> Value {
    let bed = &stage.bed;
    json!({
        "kubeconfig": bed.kubeconfig(),
        "kubectl": bed.kubectl(),
        "etcd": bed.registry().endpoints(),
        "etcd_pids": bed.registry().pids(),
        "apiserver_pid": bed.control_plane().apiserver().pid(),
        "operators": stage.operators.iter().map(entry).collect::<Vec<_>>(),
        "logs": bed.logs(),
    })
}

fn entry(operator: &Operator) -> Value {
    json!({"name": operator.name(), "pid": operator.pid(), "http": operator.http()})
}

/// One line on stdout, there as soon as this returns.
fn say(line: &Value) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{line}")
        .and_then(|()| stdout.flush())
        .map_err(doing("write to stdout"))
}
