//! `cargo xtask fuzz`: random input for the code that parses input from outside. The targets and the mutators are in
//! `src/fuzz`, among the unit tests: they need private items, and no other toolchain.

use std::process::Command;

use crate::{check::run_here, error::Result};

/// For each target.
const SECONDS: u64 = 30;

/// What to run, and for how long.
#[derive(clap::Args)]
pub struct Options {
    /// Seconds for each target; two run at a time
    #[arg(long, value_name = "N", default_value_t = SECONDS)]
    seconds: u64,
    /// One target only: pods, templates, records or histories
    #[arg(long, value_name = "NAME")]
    target: Option<String>,
    /// Seed of the random numbers; a random one is chosen and printed by default
    #[arg(long, value_name = "NUMBER")]
    seed: Option<u64>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            seconds: SECONDS,
            target: None,
            seed: None,
        }
    }
}

/// The command that does it.
pub fn command(options: &Options) -> Command {
    let words = "test --locked --workspace --lib -- --ignored --exact --nocapture fuzz::random_input_does_no_harm";
    let mut command = testbed::tools::cargo();
    command.args(words.split(' '));
    command.env("LEASEHOLD_FUZZ_SECONDS", options.seconds.to_string());
    command.env("LEASEHOLD_FUZZ_TARGET", options.target.as_deref().unwrap_or_default());
    let seed = options.seed.map(|seed| seed.to_string()).unwrap_or_default();
    command.env("LEASEHOLD_FUZZ_SEED", seed);
    command
}

/// Runs the targets. Fails if an input fails.
pub async fn run(options: &Options) -> Result<()> {
    run_here("fuzz", command(options), FIX).await
}

/// What to do when it fails.
pub const FIX: &str =
    "see the report above; without a report, an input ended the process: the inputs that ran last are in target/fuzz";
