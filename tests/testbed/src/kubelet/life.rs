//! One pod from its start to its end.

use std::{
    net::{Ipv4Addr, TcpListener},
    sync::Arc,
    time::Duration,
};

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use ring::rand::{SecureRandom, SystemRandom};
use tokio::sync::watch;

use super::{
    Context, manifest,
    probe::Question,
    root,
    status::{self, State, Status},
};
use crate::{error::Result, process::Process};

/// How long a program may take to end when nothing is said.
const GRACE: i64 = 30;
/// Between the end of a program and its next start.
const PAUSE: Duration = Duration::from_secs(1);

/// Runs a pod until it is told to end, or its program has ended for good.
pub(super) async fn live(context: Arc<Context>, pod: Pod, mut end: watch::Receiver<bool>) {
    let address = address();
    match start(&context, &pod, &address).await {
        Ok(process) => {
            tokio::select! {
                () = run(&context, &pod, &address, &process) => told(&mut end).await,
                () = told(&mut end) => {}
            }
            let grace = pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds);
            let grace = Duration::from_secs(u64::try_from(grace.unwrap_or(GRACE)).unwrap_or(0));
            if process.terminate().is_err() || process.wait_exit(grace).await.is_err() {
                let _ = process.kill().await;
            }
        }
        Err(error) => {
            let why = error.to_string();
            eprintln!("testbed: cannot run the pod {}: {why}", pod.name_any());
            let status = Status {
                address: &address,
                ready: false,
                restarts: 0,
                state: State::Waiting(&why),
            };
            status::tell(&context, &pod, &status).await;
            told(&mut end).await;
        }
    }
    status::forget(&context, &pod).await;
}

/// Waits until the pod is to end. A kubelet that goes away ends everything too.
async fn told(end: &mut watch::Receiver<bool>) {
    let _ = end.wait_for(|end| *end).await;
}

async fn start(context: &Context, pod: &Pod, address: &str) -> Result<Process> {
    let spec = pod.spec.clone().unwrap_or_default();
    let container = manifest::container(&spec)?;
    let (name, uid) = (pod.name_any(), pod.uid().unwrap_or_default());
    let root = root::prepare(context, (&name, &uid), &spec, container).await?;
    Process::start(manifest::process(context, pod, address, &root).await?)
}

/// Asks a program how it is, tells of it, and starts it again where the manifest wants that. Returns when it does not.
async fn run(context: &Context, pod: &Pod, address: &str, process: &Process) {
    let spec = pod.spec.clone().unwrap_or_default();
    let status = |ready, restarts, state| Status {
        address,
        ready,
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
            return status::tell(context, pod, &status(false, 0, State::Waiting(&why))).await;
        }
    };
    for restarts in 0.. {
        status::tell(context, pod, &status(readiness.is_none(), restarts, State::Running)).await;
        let follow = async {
            let Some(question) = &readiness else {
                return std::future::pending().await;
            };
            let mut ready = false;
            loop {
                question.changes(ready).await;
                ready = !ready;
                status::tell(context, pod, &status(ready, restarts, State::Running)).await;
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
            return status::tell(context, pod, &status(false, restarts, State::Ended(code))).await;
        }
        status::tell(context, pod, &status(false, restarts, State::Running)).await;
        tokio::time::sleep(PAUSE).await;
        if let Err(error) = process.restart().await {
            let why = error.to_string();
            return status::tell(context, pod, &status(false, restarts, State::Waiting(&why))).await;
        }
    }
}

/// A loopback address that nobody else on this machine is likely to have.
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
