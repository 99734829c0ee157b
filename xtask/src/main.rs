//! The contributors' commands: `cargo xtask demo`, `cargo xtask up`, `cargo xtask chaos` and `cargo xtask test`.
//!
//! - [`demo`]: the story that a newcomer watches, which fails when it does not hold.
//! - [`up`]: the same bed, left up for people and programs to play with.
//! - [`chaos`]: random work under random faults, judged by what consumers could see.
//! - [`mod@bench`]: what an operator costs.
//! - [`check`]: everything that CI checks.
//! - [`fuzz`]: random input for what takes input from outside.
//! - [`rollouts`]: rollouts under load, and how many calls they cost.
//! - [`image`]: the operator's image, and what it is made of.
//! - [`stage`]: what `demo` and `up` share: a bed with the operator of this tree on it.

mod bench;
mod chaos;
mod check;
mod crates;
mod demo;
mod error;
mod fuzz;
mod image;
mod rollouts;
mod signals;
mod stage;
mod up;

use std::{process::ExitCode, time::Duration};

use clap::Parser;

/// The contributors' commands of leasehold.
#[derive(Parser)]
#[command(bin_name = "cargo xtask")]
enum Command {
    /// Tells the story of leasehold on a real control plane and a real etcd, with timings taken on the spot; fails when a
    /// step of it does not hold.
    Demo(demo::Options),
    /// Starts a control plane, an etcd and the operator of this tree, prints one line of JSON that says where they are,
    /// and ends them all on SIGINT or SIGTERM.
    Up(up::Options),
    /// Breaks servers and operators at random while pods and registrations change, and fails when a consumer could have
    /// noticed.
    Chaos(chaos::Options),
    /// Replaces the pods of a Deployment again and again while consumers call them, and prints how many calls failed; fails
    /// when one failed in spite of the readiness gate and the drain. The first run builds Traefik (7 minutes on two cores).
    Rollouts(rollouts::Options),
    /// Measures what an operator costs and how long it takes, with many pods and Services, and prints a table. Takes about
    /// 10 minutes on two cores.
    Bench(bench::Options),
    /// Feeds random input to what takes input from outside: pods, templates, the operator's records in etcd, and histories
    /// of watches. What does harm is cut down, told with its seed, and kept.
    Fuzz(fuzz::Options),
    /// Runs everything that CI checks, in order of cost, and stops at the first failure.
    Test(check::Options),
    /// Writes anew what the chart repeats of other files: the definitions of the kinds, and the table of its values.
    Chart,
    /// Writes deploy/leasehold.yaml anew, which installs without helm what the chart installs.
    Manifests,
    /// Writes docs/reference: a page that lists every field of the kinds, and their JSON schemas.
    Reference,
    /// Checks what the oldest supported kube-apiserver accepts and rejects. Builds it first, once for a machine (10 minutes
    /// on two cores).
    Compat,
    /// Makes the operator's image: an OCI archive of a static program, without a docker daemon, and its bill of materials.
    Image(image::Options),
}

/// What the shell expects of a program that was ended by Ctrl-C.
const INTERRUPTED: u8 = 130;

fn main() -> ExitCode {
    let command = Command::parse();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime starts");
    let outcome = runtime.block_on(async {
        match command {
            Command::Demo(options) => demo::run(&options).await,
            Command::Up(options) => up::run(&options).await,
            Command::Chaos(options) => chaos::run(&options).await,
            Command::Rollouts(options) => rollouts::run(&options).await,
            Command::Bench(options) => Box::pin(bench::run(&options)).await,
            Command::Fuzz(options) => fuzz::run(&options).await,
            Command::Test(options) => check::run(&options).await,
            Command::Chart => check::write_chart(),
            Command::Manifests => check::write_manifests(),
            Command::Reference => check::write_reference(),
            Command::Compat => check::run_compat(),
            Command::Image(options) => image::run(options).await,
        }
    });
    // A build that runs on a thread of its own is not waited for.
    runtime.shutdown_timeout(Duration::from_millis(100));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error::Error::Interrupted) => ExitCode::from(INTERRUPTED),
        Err(error) => {
            eprintln!("\nerror: {error}");
            ExitCode::FAILURE
        }
    }
}
