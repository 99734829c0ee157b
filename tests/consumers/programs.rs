//! The programs: what they are built from and how they are started.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde_json::json;
use testbed::process::{Port, Spec};
use testbed::tools::{GoProgram, Language, Tool, npm_packages};
use testbed::{Process, Result, until};

use crate::Turn;
use crate::consumer::Consumer;
use crate::support::SOON;

/// The zone that CoreDNS serves.
pub const ZONE: &str = "example.test";

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/consumers/programs")
        .join(name)
}

fn go(module: &str, package: &'static str, name: &'static str) -> Result<PathBuf> {
    tagged_go(module, package, name, "")
}

fn tagged_go(module: &str, package: &'static str, name: &'static str, tags: &'static str) -> Result<PathBuf> {
    let module = folder(module);
    let program = GoProgram {
        module,
        package,
        name,
        modfile: None,
        tags,
    };
    program.binary()
}

/// What is started in `turn` under `name`: unique on the bed, which outlives the turn.
fn spec(turn: &Turn, name: &str, program: impl Into<PathBuf>) -> Spec {
    Spec::new(format!("{}-{name}", turn.namespace.name()), program, turn.bed.logs())
}

/// The program of [`health_server`], built if it is not there yet. Blocks.
pub fn build_health_server() -> Result<PathBuf> {
    go("grpc", "server", "health-server")
}

/// A pod's own server: gRPC's health service on `address`, which answers already.
pub async fn health_server(turn: &Turn, address: &str) -> Result<Process> {
    let server = build_health_server()?;
    let process = Process::start(spec(turn, &format!("server-{address}"), server).args([address]))?;
    let answers = until("a server to answer", SOON, || tokio::net::TcpStream::connect(address));
    process.while_alive(answers).await?;
    Ok(process)
}

/// gRPC-Go with etcd's resolver: what is written as EtcdGRPC under the service's default prefix.
pub fn grpc(turn: &Turn, service: &str) -> Result<Consumer> {
    let client = go("grpc", "client", "grpc-client")?;
    let target = format!("{}/{service}", turn.namespace.name());
    Consumer::start(spec(turn, "grpc", client).args([turn.etcd.endpoints().join(","), target]))
}

/// Python's standard library and etcd's JSON gateway: what is written as Plain below `prefix`.
pub fn python(turn: &Turn, prefix: &str) -> Result<Consumer> {
    let script = folder("python").join("reader.py").into_os_string();
    let endpoint = OsString::from(turn.etcd.endpoints().swap_remove(0));
    let spec = spec(turn, "python", Language::Python.interpreter()?);
    Consumer::start(spec.args([script, endpoint, prefix.into()]))
}

/// The npm package etcd3: what is written as Plain with JSON values below `prefix`.
pub fn node(turn: &Turn, prefix: &str) -> Result<Consumer> {
    let folder = folder("node");
    let spec = spec(turn, "node", Language::Node.interpreter()?).env("NODE_PATH", npm_packages(&folder)?);
    let script = folder.join("reader.cjs").into_os_string();
    Consumer::start(spec.args([script, turn.etcd.endpoints().join(",").into(), prefix.into()]))
}

/// Both sides of a rollout: the program of the pods, and the clients that call them; see [`load`]. Blocks.
pub fn build_load() -> Result<PathBuf> {
    // Without go-zero's resolver for Kubernetes, which would take a minute to build.
    tagged_go("load", ".", "load", "no_k8s")
}

/// A client that calls the pods of a rollout by the library `client`.
pub fn load(turn: &Turn, client: &str, args: Vec<String>) -> Result<Consumer> {
    let spec = spec(turn, &format!("load-{client}"), build_load()?).args([client]);
    Consumer::start(spec.args(args))
}

/// etcd's endpoints as hosts and ports, separated by commas.
pub fn etcd_hosts(turn: &Turn) -> String {
    turn.etcd.endpoints().join(",").replace("http://", "")
}

/// Starts a server that listens on `port`, and waits until it does.
async fn start_server(spec: Spec, port: &Port) -> Result<Process> {
    let process = Process::start(spec)?;
    let what = format!("{} to listen", process.name());
    let listening = until(&what, SOON, || tokio::net::TcpStream::connect(port.address()));
    process.while_alive(listening).await?;
    Ok(process)
}

/// A running CoreDNS that serves [`ZONE`].
pub struct CoreDns {
    port: Port,
    _process: Process,
}

impl CoreDns {
    /// Starts one that keeps answers for this many seconds at most, if any.
    pub async fn start(turn: &Turn, cache: Option<u32>) -> Result<Self> {
        let port = Port::reserve()?;
        let cache = cache.map_or_else(String::new, |seconds| format!("  cache {seconds}\n"));
        let corefile = format!(
            "{ZONE}:{} {{\n  bind 127.0.0.1\n  errors\n{cache}  etcd {{\n    path /skydns\n    endpoint {}\n  }}\n}}\n",
            port.number(),
            turn.etcd.endpoints().join(" ")
        );
        let path = turn.bed.logs().join(format!("{}-Corefile", turn.namespace.name()));
        std::fs::write(&path, corefile).expect("the bed's folder can be written to");
        let server = go("dns", "server", "coredns")?;
        let args: [OsString; 2] = ["-conf".into(), path.into()];
        // It serves TCP and UDP from the same moment on.
        let process = start_server(spec(turn, "coredns", server).args(args), &port).await?;
        Ok(Self {
            port,
            _process: process,
        })
    }

    /// Where it answers.
    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// A program that looks up `name` in it again and again.
    pub fn client(&self, turn: &Turn, name: &str) -> Result<Consumer> {
        let client = go("dns", "client", "dns-client")?;
        let spec = spec(turn, &format!("dns-{name}"), client);
        Consumer::start(spec.args([self.port.address().to_string(), format!("{name}.")]))
    }
}

/// A running Traefik that forwards every request to one service of its etcd provider.
pub struct Traefik {
    port: Port,
    _process: Process,
}

impl Traefik {
    /// Starts one for the service that Traefik finds in etcd as `service`. It has no middleware, so that it repeats no
    /// request; everything else is as it is by default.
    pub async fn start(turn: &Turn, service: &str) -> Result<Self> {
        let port = Port::reserve()?;
        let router = json!({"rule": "PathPrefix(`/`)", "service": format!("{service}@etcd")});
        // Traefik reads YAML, of which JSON is a part.
        let path = turn.bed.logs().join(format!("{}-traefik.yaml", turn.namespace.name()));
        std::fs::write(&path, json!({"http": {"routers": {"all": router}}}).to_string())
            .expect("the bed's folder can be written to");
        let args = [
            format!("--entryPoints.web.address={}", port.address()),
            format!("--providers.etcd.endpoints={}", etcd_hosts(turn)),
            format!("--providers.file.filename={}", path.display()),
            // Nothing leaves the machine.
            "--global.checkNewVersion=false".to_owned(),
        ];
        let process = start_server(spec(turn, "traefik", Tool::Traefik.binary()?).args(args), &port).await?;
        Ok(Self {
            port,
            _process: process,
        })
    }

    /// Where it takes requests.
    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }
}
