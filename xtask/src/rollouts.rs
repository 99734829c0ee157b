//! `cargo xtask rollouts`: many rollouts under load. The scene and its consumers are those of the tests in
//! `tests/consumers`, which run two rounds; this command runs as many as are wanted, and kills operators meanwhile. A
//! Traefik is among the consumers only here, because of the minutes that its first build takes.

use std::process::Command;

use crate::{check::run_here, error::Result};

/// What to run.
#[derive(clap::Args)]
pub struct Options {
    /// Rounds of a rolling update, a scaling up and down, and a drained node; in a tenth of them the leading operator is
    /// killed
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rounds: u32,
    /// Run without the readiness gate and the drain, to count the calls that fail then
    #[arg(long)]
    without: bool,
}

fn command(options: &Options) -> Command {
    let words = "test --locked --test consumers -- --ignored --exact --nocapture \
                 p11_rollouts::rounds_of_rollouts_fail_no_call";
    let mut command = testbed::tools::cargo();
    command.args(words.split(' '));
    command.env("LEASEHOLD_ROLLOUTS_ROUNDS", options.rounds.to_string());
    if options.without {
        command.env("LEASEHOLD_ROLLOUTS_WITHOUT", "1");
    }
    command
}

/// Prints how many calls of each client failed. Fails if a call failed although gate and drain were in use.
pub async fn run(options: &Options) -> Result<()> {
    run_here(
        "rollouts",
        command(options),
        "see the failed calls above; TESTBED_KEEP=1 keeps the logs of the operators and of the pods",
    )
    .await
}
