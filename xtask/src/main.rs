//! The contributors' commands: `cargo xtask demo`, `cargo xtask up`, `cargo xtask chaos` and `cargo xtask test`.
//!
//! - [`demo`]: a guided tour of claims, which fails if one of them does not hold.
//! - [`up`]: the same bed, left running for people and for programs.
//! - [`chaos`]: a random workload under random faults, checked by what consumers could observe.
//! - [`mod@bench`]: what an operator costs.
//! - [`check`]: everything that CI checks.
//! - [`fuzz`]: random input for the code that parses input from outside.
//! - [`rollouts`]: rollouts under load, and how many calls fail in them.
//! - [`image`]: the operator's image, and its bill of materials.
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
    /// Runs the demo on a real control plane and a real etcd and prints timings. Fails if a claim does not hold.
    Demo(demo::Options),
    /// Starts a control plane, an etcd and the operator of this tree, and prints one line of JSON with their addresses.
    /// Ends them on SIGINT or SIGTERM.
    Up(up::Options),
    /// Injects random faults into servers and operators while pods and registrations change. Fails if a consumer could
    /// have noticed a fault.
    Chaos(chaos::Options),
    /// Runs rollouts of a Deployment while consumers call its pods, and prints the number of failed calls. Fails if a
    /// call failed although the readiness gate and the drain were in use. The first run builds Traefik (7 minutes on
    /// two cores).
    Rollouts(rollouts::Options),
    /// Measures memory, CPU time and latency of an operator with many pods and Services, and prints a table. Takes
    /// about 10 minutes on two cores.
    Bench(bench::Options),
    /// Feeds random input to the code that parses input from outside: pods, templates, the operator's records in etcd,
    /// and histories of watches. Minimizes an input that fails, prints it with its seed, and keeps it in tests/fuzz.
    Fuzz(fuzz::Options),
    /// Runs all checks of CI, in order of cost, and stops at the first failure.
    Test(check::Options),
    /// Updates the generated files of the chart: the CRDs, the defaults, and the table of values in its README.
    Chart,
    /// Renders the chart into deploy/leasehold.yaml, for installations without Helm.
    Manifests,
    /// Generates docs/reference: a page that lists every field of the CRDs, and their JSON schemas.
    Reference,
    /// Runs tests/crds.rs on the oldest supported kube-apiserver. The first run builds it (10 minutes on two cores).
    Compat,
    /// Builds the operator's image without a Docker daemon: an OCI archive with a static program, and its bill of
    /// materials.
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
