//! The flags of `leasehold run`. Each flag can also be set by an environment variable; the flag takes precedence. If a
//! flag is repeated, the last one wins, so that `operator.extraArgs` of the chart overrides the flags that the chart
//! sets.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory, ValueEnum};

use super::Cli;
use crate::backend::Timeouts;
use crate::kube::WatchScope;
use crate::peer::PeerOptions;
use crate::telemetry::{LogFilter, LogFormat};

/// How the operator runs. Objects in Kubernetes define what it registers, and where.
#[derive(Args, Clone, Debug)]
pub struct RunArgs {
    /// The kubeconfig file of the cluster
    ///
    /// Defaults to the file in KUBECONFIG, then ~/.kube/config, then, inside a cluster, the pod's service account. With
    /// a kubeconfig, its proxy-url and the variables HTTPS_PROXY and NO_PROXY apply as for kubectl.
    #[arg(long, env = "LEASEHOLD_KUBECONFIG", value_name = "PATH")]
    pub kubeconfig: Option<PathBuf>,

    /// The name of this replica in leader elections
    ///
    /// It must differ between replicas that run at the same time, and should be stable across restarts: a replica that
    /// restarts with the same name continues to lead at once. Defaults to POD_NAME, then HOSTNAME, then the machine's
    /// host name.
    #[arg(long, env = "LEASEHOLD_IDENTITY", value_name = "NAME", value_parser = identity)]
    pub identity: Option<String>,

    /// The operator's own namespace, with the Secrets and ConfigMaps that Registries refer to
    ///
    /// Defaults to the namespace of the pod's service account, or to the one in the kubeconfig.
    #[arg(long, env = "LEASEHOLD_NAMESPACE", value_name = "NAMESPACE", value_parser = identity)]
    pub namespace: Option<String>,

    /// The class of this installation: it serves the Registries whose spec.class is NAME
    ///
    /// Without it, the installation serves the Registries without a class. Several installations in one cluster need
    /// different classes, so that each Registry is served by one of them.
    #[arg(long, env = "LEASEHOLD_CLASS", value_name = "NAME", value_parser = super::identity::class)]
    pub class: Option<String>,

    /// The namespaces whose pods are registered, separated by commas; all namespaces by default
    ///
    /// Each namespace has its own watches, so permissions in these namespaces are sufficient. The operator waits for a
    /// namespace that does not exist yet.
    #[arg(
        long,
        env = "LEASEHOLD_WATCH_NAMESPACES",
        value_name = "NAMESPACES",
        value_delimiter = ',',
        value_parser = super::identity::namespace
    )]
    pub watch_namespaces: Vec<String>,

    /// The address that serves /metrics, /healthz and /readyz, as IP:PORT
    ///
    /// Both :: and 0.0.0.0 mean all addresses of the machine or pod, of all IP families that the kernel supports.
    /// Specify one address to listen on that address only.
    #[arg(
        long,
        env = "LEASEHOLD_HTTP",
        value_name = "ADDR",
        default_value = "[::]:8080",
        value_parser = socket_address
    )]
    pub http: SocketAddr,

    /// The address on which other replicas of the operator connect, as IP:PORT
    ///
    /// Replicas monitor each other over these connections, so that a leader that dies is replaced within milliseconds.
    /// They are used only if this replica has an address to advertise: see --peer-advertise. Port 0 selects any free
    /// port.
    #[arg(
        long,
        env = "LEASEHOLD_PEER_LISTEN",
        value_name = "ADDR",
        default_value = "[::]:8081",
        value_parser = socket_address
    )]
    pub peer_listen: SocketAddr,

    /// The address at which other replicas reach this one, as IP or IP:PORT
    ///
    /// In a pod, use the pod IP. The port defaults to that of --peer-listen. Without this flag, the address of
    /// --peer-listen is advertised if it is a specific one. Otherwise other replicas do not connect to this one, and
    /// detect its death only when its election session expires.
    #[arg(long, env = "LEASEHOLD_PEER_ADVERTISE", value_name = "ADDR", value_parser = advertised)]
    pub peer_advertise: Option<Advertised>,

    /// The Secret, in the operator's namespace, with the key that authenticates replicas to each other
    ///
    /// It must exist; the first replica writes a key into it. The operator needs permission to get and patch it.
    #[arg(
        long,
        env = "LEASEHOLD_PEER_SECRET",
        value_name = "NAME",
        default_value = "leasehold-peers",
        value_parser = identity
    )]
    pub peer_secret: String,

    /// Require a bearer token with permission to read /metrics
    ///
    /// The kube-apiserver authenticates the token and decides whether its user may get the non-resource URL /metrics.
    /// The operator needs permission to create tokenreviews and subjectaccessreviews for this. /healthz and /readyz
    /// stay open.
    #[arg(
        long,
        env = "LEASEHOLD_METRICS_AUTH",
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_value_t = false,
        default_missing_value = "true",
        action = clap::ArgAction::Set
    )]
    pub metrics_auth: bool,

    /// With --metrics-auth, the audience that tokens must be issued for
    ///
    /// By default, tokens for the kube-apiserver itself are accepted. A token for a separate audience is useless to an
    /// attacker who intercepts it.
    #[arg(long, env = "LEASEHOLD_METRICS_AUTH_AUDIENCE", value_name = "AUDIENCE", value_parser = identity)]
    pub metrics_auth_audience: Option<String>,

    /// Keep a ServiceRegistration for each Service with the annotation leasehold.dev/register
    ///
    /// The operator needs permission to create, update and delete serviceregistrations for this.
    #[arg(
        long,
        env = "LEASEHOLD_SERVICE_ANNOTATIONS",
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_value_t = true,
        default_missing_value = "true",
        action = clap::ArgAction::Set
    )]
    pub service_annotations: bool,

    /// The format of log lines, which are written to standard error
    #[arg(long, env = "LEASEHOLD_LOG_FORMAT", value_name = "FORMAT", default_value = "json")]
    pub log_format: LogShape,

    /// The log level, or levels by module
    ///
    /// Levels are error, warn, info, debug, trace and off. Example with a module: info,leasehold::backend=debug.
    #[arg(long, env = "LEASEHOLD_LOG", value_name = "FILTER", default_value = "info", value_parser = LogFilter::from_str)]
    pub log: LogFilter,

    /// The TTL of the leader-election session, in seconds (2 to 60)
    ///
    /// If a leader crashes and the other replicas do not detect this through their connections, one of them takes over
    /// when the session expires. Keys stay registered meanwhile; changes are delayed.
    #[arg(
        long,
        env = "LEASEHOLD_SESSION_TTL",
        value_name = "SECONDS",
        default_value_t = 10,
        value_parser = clap::value_parser!(u32).range(2..=60)
    )]
    pub session_ttl: u32,

    /// Open the readiness gate leasehold.dev/registered of pods, after this time at the latest, in seconds (1 to 3600)
    ///
    /// A pod that declares the gate becomes ready when all its records are registered, so that a rolling update does not
    /// outrun the registry. After this time it becomes ready in any case. Without this flag no gate is opened, and the
    /// operator needs no permission to patch pods/status.
    #[arg(long, env = "LEASEHOLD_READINESS_GATE_MAX_WAIT", value_name = "SECONDS", value_parser = max_wait)]
    pub readiness_gate_max_wait: Option<Duration>,

    /// A directory for the state that a restart needs while the kube-apiserver is down: the cluster's id and the
    /// Registries
    ///
    /// With it, a replica that starts during an outage of the kube-apiserver continues to renew what is registered;
    /// without it, the replica waits for the kube-apiserver. The directory need not outlive the pod: an emptyDir in
    /// memory is sufficient. It is created with permissions for this user only. In a volume that other users can
    /// access, specify a subdirectory, such as /run/leasehold/state.
    #[arg(long, env = "LEASEHOLD_STATE_DIR", value_name = "DIR")]
    pub state_dir: Option<PathBuf>,

    /// The timeout for establishing a connection to an etcd, in seconds
    #[arg(long, env = "LEASEHOLD_CONNECT_TIMEOUT", value_name = "SECONDS", default_value = "2", value_parser = seconds)]
    pub connect_timeout: Duration,

    /// The timeout for one request to one member of an etcd cluster, in seconds
    ///
    /// A change of the leader of an etcd cluster takes one to two seconds.
    #[arg(long, env = "LEASEHOLD_REQUEST_TIMEOUT", value_name = "SECONDS", default_value = "5", value_parser = seconds)]
    pub request_timeout: Duration,

    /// The timeout for a request over all members of an etcd cluster that are tried, in seconds
    #[arg(long, env = "LEASEHOLD_CALL_TIMEOUT", value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    pub call_timeout: Duration,
}

/// The format of log lines.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogShape {
    /// One JSON object per line, for log stores
    Json,
    /// One line of text, for people
    Text,
}

impl From<LogShape> for LogFormat {
    fn from(shape: LogShape) -> Self {
        match shape {
            LogShape::Json => Self::Json,
            LogShape::Text => Self::Text,
        }
    }
}

impl RunArgs {
    /// Rejects combinations of flags that make no sense.
    pub fn check(&self) -> Result<(), clap::Error> {
        let refuse = |message: String| {
            let mut command = Cli::command();
            command.build();
            let run = command.find_subcommand_mut("run").expect("the command run exists");
            Err(run.error(ErrorKind::ValueValidation, message))
        };
        let most = WatchScope::MOST;
        if self.watch_namespaces.len() > most {
            return refuse(format!(
                "--watch-namespaces names {} namespaces, and at most {most} can be watched one by one: omit the flag to \
                 watch the whole cluster",
                self.watch_namespaces.len()
            ));
        }
        let Timeouts { connect, request, call } = self.timeouts();
        if connect > request {
            return refuse(format!(
                "--connect-timeout {} is more than --request-timeout {}: a request would time out before its \
                 connection is established; raise --request-timeout or lower --connect-timeout",
                connect.as_secs_f64(),
                request.as_secs_f64()
            ));
        }
        if self.metrics_auth_audience.is_some() && !self.metrics_auth {
            return refuse(
                "--metrics-auth-audience has no effect without --metrics-auth, so any client could read the metrics: add \
                 --metrics-auth, or omit this flag"
                    .to_owned(),
            );
        }
        if request > call {
            return refuse(format!(
                "--request-timeout {} is more than --call-timeout {}: a second member of the cluster would \
                 never be tried; raise --call-timeout or lower --request-timeout",
                request.as_secs_f64(),
                call.as_secs_f64()
            ));
        }
        Ok(())
    }

    /// Returns the name of this replica: the given one, or that of the pod or the machine. `None` if none of them has a
    /// usable name.
    pub fn replica(&self) -> Option<String> {
        self.identity.clone().or_else(super::identity::of_this_machine)
    }

    /// Returns how replicas find and authenticate each other.
    pub fn peers(&self) -> PeerOptions {
        let listen = self.peer_listen;
        let advertise = match self.peer_advertise {
            Some(Advertised { ip, port }) => Some(SocketAddr::new(ip, port.unwrap_or(listen.port()))),
            None => (!listen.ip().is_unspecified()).then_some(listen),
        };
        PeerOptions {
            listen,
            advertise,
            secret: self.peer_secret.clone(),
        }
    }

    /// Returns the time-outs of requests to an etcd.
    pub fn timeouts(&self) -> Timeouts {
        Timeouts {
            connect: self.connect_timeout,
            request: self.request_timeout,
            call: self.call_timeout,
        }
    }
}

/// Parses a time-out of 0.1 to 120 seconds.
fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text
        .parse()
        .map_err(|_| "write a number of seconds, such as 2 or 0.5".to_owned())?;
    if (0.1..=120.0).contains(&seconds) {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err("write 0.1 to 120 seconds".to_owned())
    }
}

/// Parses a maximum wait of 1 to 3600 seconds.
pub fn max_wait(text: &str) -> Result<Duration, String> {
    match text.parse() {
        Ok(seconds @ 1..=3600) => Ok(Duration::from_secs(seconds)),
        _ => Err("write a whole number of seconds from 1 to 3600, such as 60".to_owned()),
    }
}

fn socket_address(text: &str) -> Result<SocketAddr, String> {
    text.parse()
        .map_err(|_| "write IP:PORT, such as [::]:8080 or 127.0.0.1:8080".to_owned())
}

/// The address that this replica advertises: an IP, and a port if it differs from the listening port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Advertised {
    ip: IpAddr,
    port: Option<u16>,
}

fn advertised(text: &str) -> Result<Advertised, String> {
    let whole = || {
        text.parse::<SocketAddr>()
            .ok()
            .map(|address| (address.ip(), Some(address.port())))
    };
    let found = text.parse::<IpAddr>().ok().map(|ip| (ip, None)).or_else(whole);
    match found {
        Some((ip, port)) if !ip.is_unspecified() && port != Some(0) => Ok(Advertised { ip, port }),
        Some(_) => Err(
            "other replicas cannot connect to this address: write the address at which they reach this one".to_owned(),
        ),
        None => Err("write IP or IP:PORT, such as 10.0.0.5, 10.0.0.5:8081 or [fd00::5]:8081".to_owned()),
    }
}

fn identity(text: &str) -> Result<String, String> {
    if super::identity::is_usable(text) {
        Ok(text.to_owned())
    } else {
        Err("write 1 to 253 characters without spaces, such as the pod's name".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::Command;
    use super::*;

    fn parse(flags: &[&str]) -> Result<RunArgs, clap::Error> {
        let cli = Cli::try_parse_from(["leasehold", "run"].iter().chain(flags))?;
        let Command::Run(args) = cli.command else {
            panic!("the command is run");
        };
        args.check()?;
        Ok(*args)
    }

    #[test]
    fn without_flags_the_defaults_hold() {
        let args = parse(&[]).unwrap();
        assert_eq!(args.kubeconfig, None);
        assert_eq!(args.identity, None);
        assert_eq!(args.state_dir, None);
        assert_eq!(args.namespace, None);
        assert_eq!(args.watch_namespaces, [""; 0]);
        assert_eq!(args.http, "[::]:8080".parse().unwrap());
        assert_eq!(LogFormat::from(args.log_format), LogFormat::Json);
        assert!(!args.metrics_auth);
        assert_eq!(args.metrics_auth_audience, None);
        assert_eq!(args.log, "info".parse().unwrap());
        assert_eq!(args.session_ttl, 10);
        assert_eq!(args.timeouts(), Timeouts::default());
    }

    #[test]
    fn flags_are_taken_as_they_are() {
        let args = parse(&[
            "--kubeconfig=/tmp/kubeconfig",
            "--identity=leasehold-0",
            "--namespace=ops",
            "--watch-namespaces=shop,bank",
            "--watch-namespaces=team-1",
            "--http=[::1]:9090",
            "--metrics-auth",
            "--metrics-auth-audience=leasehold",
            "--log-format=text",
            "--log=warn,leasehold::backend=debug",
            "--session-ttl=2",
            "--state-dir=/run/leasehold/state",
            "--connect-timeout=0.5",
            "--request-timeout=1",
            "--call-timeout=3",
        ])
        .unwrap();
        assert_eq!(args.kubeconfig, Some("/tmp/kubeconfig".into()));
        assert_eq!(args.identity.as_deref(), Some("leasehold-0"));
        assert_eq!(args.namespace.as_deref(), Some("ops"));
        assert_eq!(args.watch_namespaces, ["shop", "bank", "team-1"]);
        assert_eq!(args.http, "[::1]:9090".parse().unwrap());
        assert!(args.metrics_auth);
        assert_eq!(args.metrics_auth_audience.as_deref(), Some("leasehold"));
        assert!(!parse(&["--metrics-auth=false"]).unwrap().metrics_auth);
        assert_eq!(args.log_format, LogShape::Text);
        assert_eq!(args.session_ttl, 2);
        assert_eq!(args.state_dir, Some("/run/leasehold/state".into()));
        let timeouts = Timeouts {
            connect: Duration::from_millis(500),
            request: Duration::from_secs(1),
            call: Duration::from_secs(3),
        };
        assert_eq!(args.timeouts(), timeouts);
    }

    #[test]
    fn the_last_of_repeated_flags_wins() {
        let args = parse(&[
            "--http=0.0.0.0:1",
            "--http=[::1]:2",
            "--log=info",
            "--log",
            "warn",
            "--log-format=json",
            "--log-format=text",
            "--session-ttl=10",
            "--session-ttl=3",
            "--metrics-auth",
            "--metrics-auth=false",
            "--connect-timeout=1",
            "--connect-timeout=0.5",
            "--identity=a",
            "--identity=b",
        ])
        .unwrap();
        assert_eq!(args.http, "[::1]:2".parse().unwrap());
        assert_eq!(args.log, "warn".parse().unwrap());
        assert_eq!(args.log_format, LogShape::Text);
        assert_eq!(args.session_ttl, 3);
        assert!(!args.metrics_auth);
        assert_eq!(args.connect_timeout, Duration::from_millis(500));
        assert_eq!(args.identity.as_deref(), Some("b"));
    }

    #[test]
    fn a_wrong_value_is_refused_with_what_to_write() {
        for (flag, help) in [
            ("--http=8080", "write IP:PORT, such as [::]:8080"),
            ("--http=localhost:8080", "write IP:PORT"),
            ("--session-ttl=1", "1 is not in 2..=60"),
            ("--session-ttl=ten", "invalid digit"),
            ("--metrics-auth=yes", "possible values: true, false"),
            ("--log-format=xml", "possible values: json, text"),
            ("--log=inof", "use a level (error, warn, info"),
            ("--watch-namespaces=", "write names of namespaces, such as shop,bank"),
            ("--watch-namespaces=shop,,bank", "write names of namespaces"),
            ("--watch-namespaces=Shop", "write names of namespaces"),
            ("--identity=", "write 1 to 253 characters without spaces"),
            ("--peer-listen=8081", "write IP:PORT"),
            ("--peer-advertise=leasehold-0", "write IP or IP:PORT, such as 10.0.0.5"),
            (
                "--peer-advertise=0.0.0.0:8081",
                "write the address at which they reach this one",
            ),
            ("--identity=a b", "write 1 to 253 characters without spaces"),
            ("--connect-timeout=2s", "write a number of seconds, such as 2 or 0.5"),
            ("--request-timeout=0", "write 0.1 to 120 seconds"),
            ("--request-timeout=NaN", "write 0.1 to 120 seconds"),
            (
                "--connect-timeout=6",
                "raise --request-timeout or lower --connect-timeout",
            ),
            ("--metrics-auth-audience=leasehold", "add --metrics-auth"),
            ("--call-timeout=3", "raise --call-timeout or lower --request-timeout"),
        ] {
            let error = parse(&[flag]).expect_err(flag).to_string();
            assert!(error.contains(help), "{flag}: {error}");
            let name = flag.split('=').next().unwrap();
            assert!(error.contains(name), "{flag} is not named: {error}");
        }
    }

    #[test]
    fn peer_advertise_address_is_from_flag_or_specific_listen_address() {
        for (flags, advertised) in [
            (&[][..], None),
            (&["--peer-listen=127.0.0.1:7001"], Some("127.0.0.1:7001")),
            (&["--peer-advertise=10.0.0.5"], Some("10.0.0.5:8081")),
            (&["--peer-advertise=fd00::5"], Some("[fd00::5]:8081")),
            (
                &["--peer-listen=[::]:9", "--peer-advertise=[fd00::5]:7001"],
                Some("[fd00::5]:7001"),
            ),
        ] {
            let peers = parse(flags).unwrap().peers();
            assert_eq!(peers.advertise, advertised.map(|one| one.parse().unwrap()), "{flags:?}");
            assert_eq!(peers.secret, "leasehold-peers");
        }
    }

    #[test]
    fn too_many_watched_namespaces_are_rejected_with_the_limit() {
        let names: Vec<String> = (0..=WatchScope::MOST).map(|number| format!("n{number}")).collect();
        let flag = format!("--watch-namespaces={}", names.join(","));
        let error = parse(&[&flag]).expect_err("too many").to_string();
        assert!(error.contains("names 51 namespaces, and at most 50"), "{error}");
        let flag = format!("--watch-namespaces={}", names[1..].join(","));
        assert_eq!(parse(&[&flag]).map(|args| args.watch_namespaces.len()).ok(), Some(50));
    }

    #[test]
    fn every_flag_has_a_variable_of_its_name_and_every_duration_its_unit() {
        let command = Cli::command();
        let run = command.find_subcommand("run").unwrap();
        let flags: Vec<_> = run.get_arguments().collect();
        assert!(!flags.is_empty());
        for flag in flags {
            let name = flag.get_long().unwrap();
            let variable = match name {
                "log" => "LEASEHOLD_LOG".to_owned(),
                name => format!("LEASEHOLD_{}", name.replace('-', "_").to_uppercase()),
            };
            assert_eq!(flag.get_env(), Some(variable.as_ref()), "--{name}");
            let names = flag.get_value_names().unwrap();
            let help = flag.get_help().unwrap().to_string();
            let timed = ["-timeout", "-ttl", "-max-wait"].iter().any(|end| name.ends_with(end));
            assert_eq!(timed, help.contains("in seconds"), "--{name}: {help}");
            assert_eq!(timed, names[0] == "SECONDS", "--{name}");
        }
    }
}
