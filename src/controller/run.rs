//! Starts, supervises and ends the tasks of the process.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::Controller;
use super::cache::SharedCache;
use super::failure::Failure;
use super::gates::GateOpener;
use super::state::{self, State, StateFolder};
use super::worker::Context;
use super::workers::Workers;
use crate::api::{RecordFormat, Registry, ServiceRegistration};
use crate::backend::Timeouts;
use crate::kube::{
    Events, RegistrationWriter, Reported, SharedCheckpoint, Source, StatusUpdate, StatusWriter, WatchEvent, WatchScope,
    Watching, WriterCommand,
};
use crate::listen;
use crate::model::Freshness;
use crate::peer::{self, KeyState, PeerOptions, Peers};
use crate::telemetry::{self, Gate, Health, Metrics};

/// Capacity of the channel for watch events. The watches wait while it is full.
const EVENT_CAPACITY: usize = 1024;
/// Timeout of one request for the UID of the cluster.
const ANSWER: Duration = Duration::from_secs(5);
/// How long a replica with stored state waits for that UID before it starts from the stored state: leases have to be
/// renewed.
const HEAD_START: Duration = Duration::from_secs(1);
/// How long the tasks may take to end. Leader election needs most of it to give up its keys.
const END: Duration = Duration::from_secs(5);

#[derive(Clone, Debug)]
pub struct Options {
    /// The kubeconfig for the kube-apiserver; the environment's configuration if none.
    pub kubeconfig: Option<PathBuf>,
    /// This replica's name: unique among the running replicas, the same after a restart.
    pub identity: String,
    /// Address of `/metrics`, `/healthz` and `/readyz`.
    pub http: SocketAddr,
    /// Authorization of `/metrics` readers; if none, every client may read `/metrics`.
    pub metrics_auth: Option<MetricsAuth>,
    /// How replicas find and authenticate each other.
    pub peers: PeerOptions,
    /// TTL of the leader election session, in seconds.
    pub session_ttl: u32,
    /// Timeouts of calls to etcd.
    pub timeouts: Timeouts,
    /// The namespace of the Secrets that Registries name; if none, the namespace of the kubeconfig or the service
    /// account.
    pub namespace: Option<String>,
    /// The class of the Registries that this installation serves; if none, those without a class.
    pub class: Option<String>,
    pub watch_scope: WatchScope,
    /// How long the readiness gate of a pod stays closed at most; none if this operator opens no gates.
    pub readiness_gate_max_wait: Option<Duration>,
    /// Where the state is stored that a replica needs if it starts while the apiserver is unavailable; not stored if
    /// none.
    pub state_dir: Option<PathBuf>,
    /// Whether registrations are kept for annotated Services.
    pub service_annotations: bool,
}

/// Authorization of `/metrics` readers: each must present a token, and Kubernetes decides whether it may read.
#[derive(Clone, Debug)]
pub struct MetricsAuth {
    /// The audience that tokens must have been issued for; the kube-apiserver if none.
    pub audience: Option<String>,
}

pub async fn run(options: Options) -> Result<(), Failure> {
    let shutdown = CancellationToken::new();
    heed_signals(&shutdown)?;
    let listener = listen::listen(options.http).map_err(failed_to_listen(options.http))?;
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"), identity = options.identity, http = %options.http,
        "starting leasehold"
    );
    let (metrics, exposition) = Metrics::new();
    let health = Health::new();
    let mut parts: JoinSet<Result<&'static str, Failure>> = JoinSet::new();
    let (client, watching) = crate::kube::connect_and_watch(options.kubeconfig.as_deref())?;
    let gate = options.metrics_auth.map(|auth| {
        let judge = crate::kube::judge(client.clone(), auth.audience, metrics.calls.clone());
        Gate::new(judge)
    });
    let end = shutdown.clone().cancelled_owned();
    let served = telemetry::serve(listener, health.clone(), exposition, gate, end);
    parts.spawn(async move { served.await.map(|()| "http").map_err(failed_to_listen(options.http)) });
    let namespace: Arc<str> = Arc::from(options.namespace.as_deref().unwrap_or(client.default_namespace()));
    let identity: Arc<str> = Arc::from(options.identity);
    let of = (&client, &namespace);
    let peers = connect_peers(&options.peers, of, &identity, &metrics, (&mut parts, &shutdown))?;
    let folder = options.state_dir.map(StateFolder::new);
    let stored = folder.as_ref().and_then(StateFolder::load);
    let mut asked = Box::pin(crate::kube::cluster_id(client.clone(), ANSWER, metrics.calls.clone()));
    let (begin, answer) = tokio::select! {
        biased;
        () = shutdown.cancelled() => return Ok(()),
        id = &mut asked => {
            tracing::info!(cluster_id = id, "identified the Kubernetes cluster");
            // Keep the stored credentials: they may still work if the current content of the Secrets does not.
            let same = stored.filter(|stored| stored.cluster_id == id);
            (same.unwrap_or_else(|| nothing_stored(&id)), Some(id))
        }
        stored = without_answer(stored.clone()) => {
            tracing::warn!(
                "the kube-apiserver does not answer; renewing the leases of the Registries in the state folder"
            );
            (stored, None)
        }
    };

    let (sender, events) = mpsc::channel(EVENT_CAPACITY);
    let writers = StatusWriters::open(
        &client,
        &identity,
        &metrics,
        &mut parts,
        &shutdown,
        options.service_annotations,
    );
    let id = async {
        match answer {
            Some(id) => id,
            None => asked.await,
        }
    };
    let checkpoint = SharedCheckpoint::new(options.watch_scope);
    let of = (watching, namespace.clone());
    let sources = start_watches(of, id, checkpoint.clone(), sender, &metrics, (&mut parts, &shutdown));
    let (states, newest) = watch::channel(None);
    if let Some(folder) = folder {
        parts.spawn(named("state folder", state::keep(folder, newest, shutdown.clone())));
    }
    let (good, proven) = mpsc::unbounded_channel();
    let cache = SharedCache::default();
    let max_wait = options.readiness_gate_max_wait;
    let opener = GateOpener::new(&cache, max_wait, writers.pods, writers.events.clone());
    let (gates, gate_events) = mpsc::unbounded_channel();
    parts.spawn(named("readiness gates", opener.run(gate_events, shutdown.clone())));
    let (led, leaderships) = mpsc::unbounded_channel();
    let context = Context {
        cluster_id: begin.cluster_id.into(),
        class: options.class.map(Into::into),
        identity,
        session_ttl: options.session_ttl,
        timeouts: options.timeouts,
        freshness: nothing_observed(&checkpoint),
        checkpoint,
        registrations: writers.registrations,
        registries: writers.registries,
        record_formats: writers.record_formats,
        events: writers.events,
        metrics,
        health,
        cluster_confirmed: CancellationToken::new(),
        namespace,
        sources,
        cache,
        gates,
        good,
        led,
        registration_writer: writers.kept_registrations,
        peers,
    };
    let mut controller = Controller::new(Workers::of_etcd(context, shutdown.clone()), states);
    controller.resume(begin.registries);
    let serve = controller.run(events, proven, leaderships, shutdown.clone());
    parts.spawn(async move { serve.await.map(|()| "controller") });

    supervise(parts, &shutdown).await
}

/// Returns the state to begin with if none is stored.
fn nothing_stored(cluster_id: &str) -> State {
    State {
        cluster_id: cluster_id.to_owned(),
        registries: BTreeMap::new(),
    }
}

/// Returns how far Kubernetes has been observed before the watches begin.
fn nothing_observed(checkpoint: &SharedCheckpoint) -> watch::Sender<Freshness> {
    watch::Sender::new(Freshness::new(checkpoint.watch_scope().targets()))
}

/// Starts the connections with which replicas monitor each other.
fn connect_peers(
    options: &PeerOptions,
    (client, namespace): (&Client, &Arc<str>),
    identity: &Arc<str>,
    metrics: &Metrics,
    (parts, shutdown): (&mut JoinSet<Result<&'static str, Failure>>, &CancellationToken),
) -> Result<Peers, Failure> {
    let (keys, key) = watch::channel(KeyState::Pending);
    let (listener, address) = match options.advertise {
        Some(advertise) => {
            let address = options.listen;
            let listener = listen::listen(address).map_err(|cause| Failure::ListenPeers { address, cause })?;
            let port = match advertise.port() {
                0 => listener.local_addr().map_or(0, |address| address.port()),
                port => port,
            };
            (Some(listener), Some(SocketAddr::new(advertise.ip(), port)))
        }
        None => (None, None),
    };
    let peers = Peers::new(identity.clone(), address, key, metrics);
    if let (Some(listener), Some(address)) = (listener, address) {
        tracing::info!(%address, "advertising this address to other replicas");
        parts.spawn(named(
            "peer listener",
            peer::listen(listener, peers.clone(), shutdown.clone()),
        ));
    } else {
        tracing::info!(
            "other replicas cannot connect to this one, and detect its crash only when its election session expires: \
             set --peer-advertise"
        );
    }
    let source = (namespace.clone(), options.secret.clone());
    let keep = crate::kube::keep_peer_key(
        client.clone(),
        source,
        metrics.clone(),
        keys,
        peers.key_mismatch(),
        shutdown.clone(),
    );
    parts.spawn(named("peer key", keep));
    parts.spawn(named("peer connections", peers.clone().run(shutdown.clone())));
    Ok(peers)
}

/// Returns the failure to serve HTTP at `address`, from its cause.
fn failed_to_listen(address: SocketAddr) -> impl FnOnce(std::io::Error) -> Failure {
    move |cause| Failure::Listen { address, cause }
}

/// Starts the watches. They begin once `id`, the UID of the cluster, is known. Returns the sender of the Secrets and
/// ConfigMaps to watch.
fn start_watches(
    (watching, namespace): (Watching, Arc<str>),
    id: impl Future<Output = String> + Send + 'static,
    checkpoint: SharedCheckpoint,
    sender: mpsc::Sender<WatchEvent>,
    metrics: &Metrics,
    (parts, shutdown): (&mut JoinSet<Result<&'static str, Failure>>, &CancellationToken),
) -> watch::Sender<BTreeSet<Source>> {
    let (sources, wanted) = watch::channel(BTreeSet::new());
    let watch = crate::kube::watch_sources(
        watching.sources,
        namespace,
        wanted,
        metrics.clone(),
        sender.clone(),
        shutdown.clone(),
    );
    parts.spawn(named("watches of Secrets and ConfigMaps", watch));
    let watch = crate::kube::watch(
        watching.kinds,
        id,
        metrics.clone(),
        checkpoint,
        sender,
        shutdown.clone(),
    );
    parts.spawn(named("watches", watch));
    sources
}

/// Starts the status writer of one kind. Returns the sender of its updates.
fn status_writer<K: Reported>(
    name: &'static str,
    client: &Client,
    metrics: &Metrics,
    parts: &mut JoinSet<Result<&'static str, Failure>>,
    shutdown: &CancellationToken,
) -> mpsc::UnboundedSender<StatusUpdate<K>> {
    let (sender, updates) = mpsc::unbounded_channel();
    let status_writer = StatusWriter::<K>::new(client.clone(), metrics.calls.clone());
    parts.spawn(named(name, status_writer.run(updates, shutdown.clone())));
    sender
}

/// The senders of what is written to Kubernetes.
struct StatusWriters {
    registrations: mpsc::UnboundedSender<StatusUpdate<ServiceRegistration>>,
    registries: mpsc::UnboundedSender<StatusUpdate<Registry>>,
    record_formats: mpsc::UnboundedSender<StatusUpdate<RecordFormat>>,
    pods: mpsc::UnboundedSender<StatusUpdate<Pod>>,
    events: Events,
    /// The changes to the registrations of annotated Services; none if annotations are not carried out.
    kept_registrations: Option<mpsc::UnboundedSender<WriterCommand>>,
}

impl StatusWriters {
    fn open(
        client: &Client,
        identity: &Arc<str>,
        metrics: &Metrics,
        parts: &mut JoinSet<Result<&'static str, Failure>>,
        shutdown: &CancellationToken,
        service_annotations: bool,
    ) -> Self {
        let (events, notices) = Events::new(metrics.clone());
        let publish = crate::kube::publish_events(
            client.clone(),
            identity.clone(),
            notices,
            metrics.clone(),
            shutdown.clone(),
        );
        parts.spawn(named("Event publisher", publish));
        let kept_registrations = service_annotations.then(|| {
            let (wanted, commands) = mpsc::unbounded_channel();
            let writer = RegistrationWriter::new(client.clone(), metrics.calls.clone(), events.clone());
            let run = writer.run(commands, shutdown.clone());
            parts.spawn(named("writer of registrations", run));
            wanted
        });
        Self {
            registrations: status_writer("status writer of registrations", client, metrics, parts, shutdown),
            registries: status_writer("status writer of Registries", client, metrics, parts, shutdown),
            record_formats: status_writer("status writer of RecordFormats", client, metrics, parts, shutdown),
            pods: status_writer("status writer of pods", client, metrics, parts, shutdown),
            events,
            kept_registrations,
        }
    }
}

/// Returns the stored state after [`HEAD_START`]. Never returns if there is none.
async fn without_answer(stored: Option<State>) -> State {
    match stored {
        Some(stored) => {
            sleep(HEAD_START).await;
            stored
        }
        None => std::future::pending().await,
    }
}

/// Waits until a task ends, then shuts down the others. A task that ends before `shutdown` is a failure.
async fn supervise(
    mut parts: JoinSet<Result<&'static str, Failure>>,
    shutdown: &CancellationToken,
) -> Result<(), Failure> {
    let mut failure = None;
    if let Some(ended) = parts.join_next().await {
        let ended = ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
        failure = match ended {
            Ok(_) if shutdown.is_cancelled() => None,
            Ok(part) => Some(Failure::PartEnded(part)),
            Err(failure) => Some(failure),
        };
    }
    shutdown.cancel();
    let all = async { while parts.join_next().await.is_some() {} };
    if timeout(END, all).await.is_err() {
        tracing::warn!("some tasks did not end in time");
    }
    failure.map_or(Ok(()), Err)
}

/// Cancels `shutdown` on SIGTERM or SIGINT.
fn heed_signals(shutdown: &CancellationToken) -> Result<(), Failure> {
    let (mut terminate, mut interrupt) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    let asked = shutdown.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("received a termination signal; shutting down");
        asked.cancel();
    });
    Ok(())
}

fn listen(kind: SignalKind) -> Result<tokio::signal::unix::Signal, Failure> {
    signal(kind).map_err(Failure::Signals)
}

async fn named(name: &'static str, part: impl Future<Output = ()>) -> Result<&'static str, Failure> {
    part.await;
    Ok(name)
}
