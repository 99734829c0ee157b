//! A bed with the operator of this tree on it: what `demo` and `up` play on. Progress goes to stderr.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use testbed::{Bed, BedConfig, EtcdVersion, Operator, OperatorConfig, Security, Tool, build_operator};

use crate::error::Result;

/// How long an operator may take to be ready; it takes about a second.
const READY: Duration = Duration::from_mins(1);

/// What the stage is to be.
pub struct StageConfig {
    /// The release of the etcd to register in.
    pub etcd_version: EtcdVersion,
    /// Its members.
    pub etcd_members: usize,
    /// How many operators run.
    pub operators: usize,
    /// The default TTL of the Registry `default`, in seconds.
    pub registry_ttl: u32,
}

/// Starts a bed with an etcd of so many members, and says so.
pub async fn start_bed(
    etcd_version: EtcdVersion,
    etcd_members: usize,
    etcd_security: Option<Security>,
    nodes: usize,
) -> Result<Bed> {
    eprintln!("starting a control plane and etcd {etcd_version} ...");
    let config = BedConfig {
        etcd_version,
        etcd_members,
        etcd_security,
        nodes,
        ..BedConfig::default()
    };
    Ok(Box::pin(Bed::start(config)).await?)
}

/// A bed and its operators.
pub struct Stage {
    // Before the bed, so that they end first.
    pub operators: Vec<Operator>,
    pub bed: Bed,
}

impl Stage {
    /// Builds what is missing, starts everything and waits until it is ready.
    pub async fn set(config: &StageConfig) -> Result<Self> {
        let binary = build(config.etcd_version).await?;
        let begin = Instant::now();
        let bed = start_bed(config.etcd_version, config.etcd_members, None, 1).await?;
        bed.apply_crds().await?;
        let endpoints = bed.registry().endpoints();
        bed.create_registry("default", &endpoints, config.registry_ttl).await?;
        eprintln!(
            "started in {:.1} s; starting the operator ...",
            begin.elapsed().as_secs_f64()
        );

        let begin = Instant::now();
        let operators = (0..config.operators)
            .map(|i| Operator::start(&bed, OperatorConfig::new(format!("operator-{i}"), &binary)))
            .collect::<Result<Vec<_>, _>>()?;
        for operator in &operators {
            operator.wait_ready(READY).await?;
        }
        if config.operators > 0 {
            eprintln!("ready in {:.1} s", begin.elapsed().as_secs_f64());
        }
        Ok(Self { operators, bed })
    }
}

/// Fetches and builds every program that a stage needs, and returns the operator's path.
pub async fn build(etcd: EtcdVersion) -> Result<PathBuf> {
    let build = move || {
        eprintln!("building the operator (usually 4 minutes on two cores when cold, seconds when warm) ...");
        let begin = Instant::now();
        let operator = build_operator()?;
        eprintln!("built in {:.1} s", begin.elapsed().as_secs_f64());
        build_tools(&[etcd])?;
        Ok(operator)
    };
    tokio::task::spawn_blocking(build)
        .await
        .expect("building does not panic")
}

/// Fetches and builds the programs of the bed that are not in the cache, for minutes when it is cold. Blocks.
pub fn build_tools(etcds: &[EtcdVersion]) -> Result<()> {
    let mut missing = Vec::new();
    for tool in Tool::ALL {
        if !tool.is_built()? {
            missing.push(tool);
        }
    }
    if !missing.is_empty() {
        Tool::check_go()?;
        eprintln!(
            "building {} of the {} programs of the control plane, once per machine (all of them usually take 11 \
             minutes on two cores)",
            missing.len(),
            Tool::ALL.len()
        );
    }
    for tool in missing {
        tool.binary()?;
    }
    for etcd in etcds {
        etcd.binary()?;
    }
    Ok(())
}
