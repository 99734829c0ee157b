//! `leasehold run`: the operator, from its flags to its exit code.

use std::process::ExitCode;

use super::flags::RunArgs;
use crate::controller::{MetricsAuth, Options};
use crate::kube::WatchScope;
use crate::telemetry;

/// The number of polled tasks after which a worker thread checks for new events and new tasks.
const LOOK: u32 = 3;
/// Threads of the runtime beside one per core.
const SPARE_THREADS: usize = 2;

/// Runs the operator until it is stopped (success) or cannot continue (failure, with the cause in the log).
pub fn run(args: RunArgs) -> ExitCode {
    if let Err(error) = telemetry::init(args.log_format.into(), &args.log) {
        eprintln!("error: cannot write log lines: {error}");
        return ExitCode::FAILURE;
    }
    let Some(identity) = args.replica() else {
        tracing::error!("POD_NAME, HOSTNAME and the host name contain no usable name for this replica; set --identity");
        return ExitCode::FAILURE;
    };
    let options = Options {
        timeouts: args.timeouts(),
        peers: args.peers(),
        kubeconfig: args.kubeconfig,
        identity,
        namespace: args.namespace,
        class: args.class,
        watch_scope: WatchScope::of(&args.watch_namespaces),
        http: args.http,
        metrics_auth: args.metrics_auth.then_some(MetricsAuth {
            audience: args.metrics_auth_audience,
        }),
        readiness_gate_max_wait: args.readiness_gate_max_wait,
        session_ttl: args.session_ttl,
        state_dir: args.state_dir,
        service_annotations: args.service_annotations,
    };
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "cannot start the worker threads; raise the thread limit of this process");
            return ExitCode::FAILURE;
        }
    };
    let ended = runtime.block_on(crate::controller::run(options));
    // A DNS lookup may hang long after its result is no longer needed.
    runtime.shutdown_background();
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "the operator cannot continue");
            ExitCode::FAILURE
        }
    }
}

/// Builds a runtime that checks often for other tasks. Processing one namespace may take milliseconds per poll, and by
/// default 61 such polls would pass before the next check for tasks of other namespaces. It has more threads than there
/// are cores: one that waits for the cache, which another one writes, must not keep leases from being renewed.
fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(cores + SPARE_THREADS)
        .enable_all()
        .event_interval(LOOK)
        .global_queue_interval(LOOK)
        .build()
}
