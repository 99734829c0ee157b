//! `cargo xtask fuzz`: random input for what takes input from outside. The targets and what changes the input are in
//! `src/fuzz`, among the unit tests: they see what only tests see, and need no other toolchain.

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
    /// Where the random numbers begin; made up, and told, when left out
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

/// Runs it; an error when input was found that does harm.
pub async fn run(options: &Options) -> Result<()> {
    run_here("fuzz", command(options), FIX).await
}

/// What to do when it fails.
pub const FIX: &str = "see what it says above; when it says nothing, the process ended by the input: those that ran last are in \
                       target/fuzz";
