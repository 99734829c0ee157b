//! `leasehold run`: the operator, from its flags to its exit code.

use std::process::ExitCode;

use super::flags::RunArgs;
use crate::controller::{MetricsAuth, Options};
use crate::kube::WatchScope;
use crate::telemetry;

/// After so many pieces of work a thread looks at what came in.
const LOOK: u32 = 3;

/// Runs the operator until it is told to stop (success) or cannot go on (failure, told in the log).
pub fn run(args: RunArgs) -> ExitCode {
    if let Err(error) = telemetry::init(args.log_format.into(), &args.log) {
        eprintln!("error: cannot write log lines: {error}");
        return ExitCode::FAILURE;
    }
    let Some(identity) = args.replica() else {
        tracing::error!(
            "neither POD_NAME, HOSTNAME nor the machine names this replica; give it a name with --identity"
        );
        return ExitCode::FAILURE;
    };
    let options = Options {
        timeouts: args.timeouts(),
        peers: args.peers(),
        kubeconfig: args.kubeconfig,
        identity,
        namespace: args.namespace,
        watch_scope: WatchScope::of(&args.watch_namespaces),
        http: args.http,
        metrics_auth: args.metrics_auth.then_some(MetricsAuth {
            audience: args.metrics_auth_audience,
        }),
        session_ttl: args.session_ttl,
        state_dir: args.state_dir,
    };
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "cannot start the threads that tasks run on; allow this process more of them");
            return ExitCode::FAILURE;
        }
    };
    let ended = runtime.block_on(crate::controller::run(options));
    // A look-up of a name may hang for long after nobody waits for it any more.
    runtime.shutdown_background();
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "the operator cannot go on");
            ExitCode::FAILURE
        }
    }
}

/// One that looks often at who else has something to do: what is done for one namespace in a row may take milliseconds,
/// and by default 61 such pieces would pass before the next look at what came in for the others.
fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .event_interval(LOOK)
        .global_queue_interval(LOOK)
        .build()
}
