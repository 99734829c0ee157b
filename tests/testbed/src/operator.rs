//! The operator itself, as a process of a bed: what is under test, and what a person tries out.

use std::{
    ffi::OsString,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    time::Duration,
};

use serde::Deserialize;

use crate::{
    Bed,
    bed::workspace,
    error::{Doing, Error, Result},
    process::{Port, Process, Spec, http},
    tools::cargo,
    wait::until,
};

/// What an operator is to be.
#[derive(Clone, Debug)]
pub struct OperatorConfig {
    /// Its identity, and the name of its log.
    pub name: String,
    /// The program `leasehold`: `env!("CARGO_BIN_EXE_leasehold")` in tests of the root crate, else [`build_operator`].
    pub binary: PathBuf,
    /// Reaches Kubernetes by this kubeconfig instead of [`Bed::operator_kubeconfig`], as through a proxy.
    pub kubeconfig: Option<PathBuf>,
    /// `--session-ttl`, in seconds: how long it leads after its death. The operator's own default when not given.
    pub session_ttl: Option<u32>,
    /// Further arguments of `leasehold run`.
    pub args: Vec<OsString>,
    /// Variables added to its environment.
    pub env: Vec<(String, OsString)>,
}

impl OperatorConfig {
    /// An operator with no choices made.
    pub fn new(name: impl Into<String>, binary: impl Into<PathBuf>) -> Self {
        Self {
            name: name.into(),
            binary: binary.into(),
            kubeconfig: None,
            session_ttl: None,
            args: Vec::new(),
            env: Vec::new(),
        }
    }
}

/// A running operator. It ends with this value.
#[derive(Debug)]
pub struct Operator {
    process: Process,
    port: Port,
    peers: Port,
    kubeconfig: PathBuf,
}

impl Operator {
    /// Starts `leasehold run` against a bed. It has only begun: see [`Operator::wait_ready`].
    pub fn start(bed: &Bed, config: OperatorConfig) -> Result<Self> {
        let (port, peers) = (Port::reserve()?, Port::reserve()?);
        let kubeconfig = match config.kubeconfig {
            Some(path) => path,
            None => bed.operator_kubeconfig()?.to_owned(),
        };
        let mut spec = Spec::new(&config.name, config.binary, bed.logs())
            .args(["run", "--identity", &config.name, "--log-format", "text"])
            .args(["--http", &port.address().to_string()])
            .args([OsString::from("--kubeconfig"), kubeconfig.clone().into()])
            // As in the image.
            .env("MALLOC_ARENA_MAX", "1")
            // Not a flag: earlier releases have none.
            .env("LEASEHOLD_PEER_LISTEN", peers.address().to_string());
        if let Some(seconds) = config.session_ttl {
            spec = spec.args(["--session-ttl", &seconds.to_string()]);
        }
        spec = spec.args(config.args);
        for (name, value) in config.env {
            spec = spec.env(&name, value);
        }
        let process = Process::start(spec)?;
        Ok(Self {
            process,
            port,
            peers,
            kubeconfig,
        })
    }

    /// Its identity.
    pub fn name(&self) -> &str {
        self.process.name()
    }

    /// The kubeconfig by which it reaches Kubernetes.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// The process id of its present life, or of the last one.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Where it answers `/metrics`, `/healthz` and `/readyz`: `http://127.0.0.1:PORT`, the same after a restart.
    pub fn http(&self) -> String {
        self.port.http()
    }

    /// Where other replicas connect to it, the same after a restart.
    pub fn peers(&self) -> SocketAddr {
        self.peers.address()
    }

    /// Waits until `/readyz` says that it serves; an error with the end of its log as soon as it ends instead.
    pub async fn wait_ready(&self, deadline: Duration) -> Result<()> {
        let what = format!("{} to be ready", self.name());
        let ready = until(&what, deadline, || async {
            match http::get(self.port.address(), "/readyz").await {
                Ok((200, _)) => Ok(()),
                Ok((status, body)) => Err(format!("/readyz says {status}: {body}")),
                Err(error) => Err(format!("/readyz: {error}")),
            }
        });
        self.process.while_alive(ready).await
    }

    /// Status code and body of `/readyz`.
    pub async fn readiness(&self) -> Result<(u16, String)> {
        let answer = http::get(self.port.address(), "/readyz").await;
        answer.doing(|| format!("ask {} whether it is ready", self.name()))
    }

    /// Its metrics, in the text format of Prometheus.
    pub async fn metrics(&self) -> Result<String> {
        let answer = http::get(self.port.address(), "/metrics").await;
        match answer.doing(|| format!("ask {} for its metrics", self.name()))? {
            (200, text) => Ok(text),
            (status, text) => Err(Error::Invalid(format!("/metrics says {status}: {text}"))),
        }
    }

    /// Status code and body of `/metrics` for a client with this token.
    pub async fn metrics_for(&self, token: &str) -> Result<(u16, String)> {
        let answer = http::get_with_token(self.port.address(), "/metrics", token).await;
        answer.doing(|| format!("ask {} for its metrics with a token", self.name()))
    }

    /// The sum of a metric's samples over all of its labels; `None` while it has no sample.
    pub async fn metric(&self, name: &str) -> Result<Option<f64>> {
        Ok(sum(&self.metrics().await?, name))
    }

    /// SIGKILL, and waits until it is gone.
    pub async fn kill(&self) -> Result<()> {
        self.process.kill().await
    }

    /// SIGTERM; see [`Operator::wait_exit`].
    pub fn terminate(&self) -> Result<()> {
        self.process.terminate()
    }

    /// Waits until it has ended.
    pub async fn wait_exit(&self, deadline: Duration) -> Result<ExitStatus> {
        self.process.wait_exit(deadline).await
    }

    /// SIGSTOP: it neither runs nor ends until [`Operator::cont`].
    pub fn stop(&self) -> Result<()> {
        self.process.stop()
    }

    /// SIGCONT.
    pub fn cont(&self) -> Result<()> {
        self.process.cont()
    }

    /// Starts it again with the same flags and a new process id; when it still runs it is killed first.
    pub async fn restart(&self) -> Result<()> {
        self.process.restart().await
    }

    /// Its process.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// The last 4 KiB of its log.
    pub fn log_tail(&self) -> String {
        self.process.log_tail()
    }
}

fn sum(metrics: &str, name: &str) -> Option<f64> {
    let samples = metrics.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        // A label's value may hold anything but a bare quote, so the last brace ends the labels.
        let value = match rest.strip_prefix('{') {
            Some(labelled) => labelled.rsplit_once('}')?.1,
            None => rest.strip_prefix(' ')?,
        };
        value.split_whitespace().next()?.parse::<f64>().ok()
    });
    samples.fold(None, |sum, sample| Some(sum.unwrap_or(0.0) + sample))
}

/// Builds the program `leasehold` of this tree with cargo, whose progress goes to stderr, and returns its path. Blocks.
pub fn build_operator() -> Result<PathBuf> {
    build(&[])
}

/// Builds its release, for measurements. Blocks.
pub fn build_released_operator() -> Result<PathBuf> {
    build(&["--release"])
}

fn build(profile: &[&str]) -> Result<PathBuf> {
    // The whole workspace's features, so that this build and that of the tests share their dependencies.
    let mut command = cargo();
    command
        .args(["build", "--workspace", "--bin", "leasehold"])
        .args(profile)
        .current_dir(workspace());
    built_by(command)
}

/// Runs a cargo that builds the program `leasehold`, with its progress on stderr, and returns where it is. Blocks.
pub(crate) fn built_by(mut cargo: Command) -> Result<PathBuf> {
    let output = cargo
        .args(["--message-format", "json-render-diagnostics"])
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .doing(|| "run cargo")?;
    let failed = |output: &str| Error::Build {
        tool: "the operator".to_owned(),
        command: "cargo build --bin leasehold".to_owned(),
        output: output.to_owned(),
    };
    if !output.status.success() {
        return Err(failed("(cargo told them above)"));
    }
    let messages = String::from_utf8_lossy(&output.stdout);
    executable(&messages).ok_or_else(|| failed("cargo named no executable"))
}

/// Where cargo's messages say that the program is.
fn executable(messages: &str) -> Option<PathBuf> {
    let built = messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Artifact>(line).ok());
    built
        .filter(|artifact| artifact.target.name == "leasehold")
        .find_map(|artifact| artifact.executable)
        .filter(|path| Path::new(path).is_absolute())
}

#[derive(Deserialize)]
struct Artifact {
    target: Target,
    executable: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_summed_over_its_labels_and_not_mixed_up_with_longer_names() {
        let metrics = "# TYPE writes counter\n\
                       writes_total{registry=\"default\",what=\"a } b\"} 2\n\
                       writes_total{registry=\"other\"} 3.5\n\
                       writes_total_seconds 100\n\
                       keys 7\n";
        assert_eq!(sum(metrics, "writes_total"), Some(5.5));
        assert_eq!(sum(metrics, "keys"), Some(7.0));
        assert_eq!(sum(metrics, "writes"), None);
    }

    #[test]
    fn the_program_is_found_among_what_cargo_says() {
        let messages = r#"{"reason":"build-script-executed","package_id":"x"}
{"reason":"compiler-artifact","target":{"name":"leasehold","kind":["lib"]},"executable":null}
{"reason":"compiler-artifact","target":{"name":"leasehold","kind":["bin"]},"executable":"/t/debug/leasehold"}
{"reason":"build-finished","success":true}"#;
        assert_eq!(executable(messages), Some(PathBuf::from("/t/debug/leasehold")));
    }
}
