//! One pod from its start to its end.

use std::{
    net::{Ipv4Addr, TcpListener},
    sync::Arc,
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use ring::rand::{SecureRandom, SystemRandom};
use tokio::sync::watch;

use super::{
    Context, Wanted, manifest,
    probe::Question,
    root,
    status::{self, State, Status},
};
use crate::{error::Result, process::Process};

/// How long a program may take to end when nothing is said.
const GRACE: i64 = 30;
/// Between the end of a program and its next start.
const PAUSE: Duration = Duration::from_secs(1);

/// Runs a pod until `wanted` ends it, or its program has ended for good.
pub(super) async fn live(context: Arc<Context>, pod: Pod, mut wanted: watch::Receiver<Wanted>) {
    let address = address();
    match start(&context, &pod, &address).await {
        Ok(process) => {
            let seen = wanted.clone();
            tokio::select! {
                () = run(&context, &pod, &address, &process, seen) => reported(&mut wanted).await,
                () = reported(&mut wanted) => {}
            }
            end(&pod, &process).await;
        }
        Err(error) => {
            let why = error.to_string();
            eprintln!("testbed: cannot run the pod {}: {why}", pod.name_any());
            let status = Status {
                address: &address,
                ready: false,
                gates_open: false,
                restarts: 0,
                state: State::Waiting(&why),
            };
            status::report(&context, &pod, &status).await;
            reported(&mut wanted).await;
        }
    }
    status::forget(&context, &pod).await;
}

/// Waits until the pod is to end. A kubelet that goes away ends everything too.
async fn reported(wanted: &mut watch::Receiver<Wanted>) {
    let _ = wanted.wait_for(|wanted| wanted.ends).await;
}

/// Ends a program as the kubelet does: the hook first, then SIGTERM, then SIGKILL, all within the grace period.
async fn end(pod: &Pod, process: &Process) {
    let spec = pod.spec.clone().unwrap_or_default();
    let seconds = |seconds: i64| Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
    let grace = seconds(spec.termination_grace_period_seconds.unwrap_or(GRACE));
    let hook = seconds(manifest::pre_stop_sleep(&spec).unwrap_or(0)).min(grace);
    tokio::time::sleep(hook).await;
    if process.terminate().is_err() || process.wait_exit(grace.saturating_sub(hook)).await.is_err() {
        let _ = process.kill().await;
    }
}

async fn start(context: &Context, pod: &Pod, address: &str) -> Result<Process> {
    let spec = pod.spec.clone().unwrap_or_default();
    let container = manifest::container(&spec)?;
    let (name, uid) = (pod.name_any(), pod.uid().unwrap_or_default());
    let root = root::prepare(context, (&name, &uid), &spec, container).await?;
    Process::start(manifest::process(context, pod, address, &root).await?)
}

/// Probes a program, reports its status, and restarts it if the manifest asks for that. Returns if it does not.
async fn run(context: &Context, pod: &Pod, address: &str, process: &Process, wanted: watch::Receiver<Wanted>) {
    let spec = pod.spec.clone().unwrap_or_default();
    let status = |ready, restarts, state| Status {
        address,
        ready,
        gates_open: wanted.borrow().gates_open,
        restarts,
        state,
    };
    let questions = manifest::container(&spec).and_then(|container| {
        let question = |probe| Question::of(probe, container, address);
        Ok((
            question(container.readiness_probe.as_ref())?,
            question(container.liveness_probe.as_ref())?,
        ))
    });
    let (readiness, liveness) = match questions {
        Ok(questions) => questions,
        Err(error) => {
            let why = error.to_string();
            return status::report(context, pod, &status(false, 0, State::Waiting(&why))).await;
        }
    };
    for restarts in 0.. {
        status::report(context, pod, &status(readiness.is_none(), restarts, State::Running)).await;
        let follow = async {
            let mut gates = Gates::new(pod, wanted.clone());
            let mut ready = readiness.is_none();
            gates.ready(ready);
            loop {
                let changes = async {
                    match &readiness {
                        Some(question) => question.changes(ready).await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    () = changes => ready = !ready,
                    () = gates.change(context) => {}
                }
                gates.ready(ready);
                status::report(context, pod, &status(ready, restarts, State::Running)).await;
            }
        };
        let dead = async {
            match &liveness {
                Some(question) => question.fails().await,
                None => std::future::pending().await,
            }
        };
        let ended = tokio::select! {
            ended = process.ended() => ended,
            () = follow => None,
            () = dead => {
                let _ = process.kill().await;
                process.exit_status()
            }
        };
        // Killed by a signal, it has no code.
        let code = ended.and_then(|status| status.code()).unwrap_or(137);
        let again = match spec.restart_policy.as_deref() {
            Some("Never") => false,
            Some("OnFailure") => code != 0,
            _ => true,
        };
        if !again {
            return status::report(context, pod, &status(false, restarts, State::Ended(code))).await;
        }
        status::report(context, pod, &status(false, restarts, State::Running)).await;
        tokio::time::sleep(PAUSE).await;
        if let Err(error) = process.restart().await {
            let why = error.to_string();
            return status::report(context, pod, &status(false, restarts, State::Waiting(&why))).await;
        }
    }
}

/// The readiness gates of a pod, and since when its program waits for them.
struct Gates {
    wanted: watch::Receiver<Wanted>,
    open: bool,
    waiting_since: Option<Instant>,
}

impl Gates {
    fn new(pod: &Pod, wanted: watch::Receiver<Wanted>) -> Self {
        let open = status::gates(pod).next().is_none();
        Self {
            wanted,
            open,
            waiting_since: None,
        }
    }

    /// Takes note of whether the program is ready.
    fn ready(&mut self, ready: bool) {
        let since = (ready && !self.open).then(|| self.waiting_since.unwrap_or_else(Instant::now));
        self.waiting_since = since;
    }

    /// Waits until the gates are open when they were closed, or the other way round.
    async fn change(&mut self, context: &Context) {
        let known = self.open;
        let changed = self.wanted.wait_for(|wanted| wanted.gates_open != known).await;
        let Ok(open) = changed.map(|wanted| wanted.gates_open) else {
            // The kubelet has gone away.
            return std::future::pending().await;
        };
        self.open = open;
        if let Some(since) = self.waiting_since.take() {
            let mut waits = context.gate_waits.lock().expect("nobody panics with it");
            waits.push(since.elapsed());
        }
    }
}

/// A loopback address that is unlikely to be in use on this machine.
fn address() -> String {
    let random = SystemRandom::new();
    loop {
        let mut bytes = [0; 3];
        random.fill(&mut bytes).expect("the system has random numbers");
        let address = Ipv4Addr::new(127, 65 + bytes[0] % 60, bytes[1], bytes[2].clamp(1, 254));
        if TcpListener::bind((address, 8080)).is_ok() {
            return address.to_string();
        }
    }
}
