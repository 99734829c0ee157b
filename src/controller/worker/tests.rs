//! Tests of a worker without an etcd: its actions and reports as time passes and its tasks end.

mod holds;
mod lease_groups;
mod newer;

use std::time::Duration;

use super::*;
use crate::api::{LastSynced, ServiceRegistrationStatus};
use crate::backend::etcd;
use crate::kube::{About, Notice, WatchScope, WritePolicy};
use crate::model::{Checkpoint, NamespaceScope, Observation, Prefix, PrefixChanges, WatchTarget};
use crate::plan::{self, Holding, MetaKeys, PodState, RegistrationSettings};

const PODS: WatchTarget = WatchTarget::of_cluster(crate::kube::PODS);

struct Rig {
    worker: Box<RegistryWorker<etcd::Connection>>,
    leads: watch::Sender<Leadership>,
    updates: mpsc::UnboundedReceiver<StatusUpdate<ServiceRegistration>>,
    registry_updates: mpsc::UnboundedReceiver<StatusUpdate<Registry>>,
    events: mpsc::Receiver<Notice>,
    _wanted: mpsc::UnboundedReceiver<PrefixChanges>,
}

fn fence(create_revision: Revision) -> Fence {
    Fence {
        key: "/leasehold/c1/leader".into(),
        create_revision,
        lease: LeaseId(create_revision),
    }
}

fn outdated() -> Outdated {
    Outdated {
        since: jiff::Timestamp::UNIX_EPOCH,
        targets: vec![PODS],
    }
}

fn version() -> Version {
    Version {
        uid: "u1".into(),
        generation: 1,
    }
}

fn last_synced(generation: i64) -> LastSynced {
    LastSynced {
        generation,
        spec: serde_json::Map::new(),
        record_formats: serde_json::Map::new(),
        service_ports: Vec::new(),
    }
}

fn orders() -> RegistrationRef {
    RegistrationRef::new("shop", "orders")
}

impl Rig {
    async fn new() -> Self {
        let (context, ends) = Context::for_test();
        context.cluster_confirmed.cancel();
        // No process listens there.
        let access = Access::open(vec!["http://127.0.0.1:1".to_owned()]);
        let opened = etcd::Connection::new(&access, context.timeouts, context.metrics.calls.clone());
        let connection = Box::pin(opened).await;
        let (leads, leadership) = watch::channel(Leadership::Seeking);
        let (prefixes, wanted) = mpsc::unbounded_channel();
        let lines = Channels {
            leadership,
            prefixes,
            ..Channels::closed(mpsc::unbounded_channel().1, crate::model::LeaderFlag::default())
        };
        let planner = Planner::new(MetaKeys::new("/leasehold/", "c1"), 256);
        let connection = connection.expect("an address");
        Self {
            worker: Box::new(RegistryWorker::new(
                "default".into(),
                (Limits::default(), version()),
                context,
                (connection, "/leasehold/c1/leader".into()),
                planner,
                lines,
            )),
            leads,
            updates: ends.registrations,
            registry_updates: ends.registries,
            events: ends.events,
            _wanted: wanted,
        }
    }

    fn lead(&mut self, leadership: Leadership) {
        self.leads.send_replace(leadership);
        self.worker.leadership_changed();
    }

    /// Leads under fence 7; no predecessor has written a checkpoint.
    fn lead_first(&mut self) {
        self.lead(Leadership::Leading(fence(7)));
        self.note_read(7, None);
    }

    /// The predecessor's checkpoint is read under the fence of this number. It covers this version of the pods.
    fn note_read(&mut self, proof: Revision, pods: Option<u64>) {
        let held = |pods| {
            let mut observed = Checkpoint::default();
            observed.add(&PODS, pods);
            KeyValue {
                value: observed.value(),
                lease: LeaseId(1),
                create_revision: 1,
                mod_revision: 1,
            }
        };
        let updates: Vec<(Key, KeyValue)> = pods
            .map(held)
            .into_iter()
            .map(|held| ("/leasehold/c1/heard/0".into(), held))
            .collect();
        self.worker.checkpoints_read(&fence(proof), Ok(updates), Instant::now());
    }

    /// All pods up to this version have been observed. The API server was at `present` when it was asked.
    fn hear(&mut self, pods: u64, present: Option<u64>) {
        let mut progress = Freshness::new(WatchScope::default().targets());
        progress.reach(&PODS, pods);
        if let Some(present) = present {
            progress.compare(&PODS, present, Instant::now());
        }
        self.observe_kubernetes(progress);
    }

    fn observe_kubernetes(&mut self, freshness: Freshness) {
        self.worker.context.freshness.send_replace(freshness);
        self.worker.has_caught_up();
    }

    fn standby(&mut self) {
        self.lead(Leadership::Standby {
            leader: "other".to_owned(),
        });
    }

    /// Registers `orders` and completes the view of Kubernetes.
    fn register(&mut self) {
        let settings = RegistrationSettings {
            created: 1,
            ttl: 30,
            suspended: false,
            keep_last: false,
            prefixes: vec![Prefix::below("/services/shop/orders/")],
        };
        self.worker.take(Command::Register(Box::new(Register {
            registration: orders(),
            settings,
            service: "orders".into(),
            version: version(),
            selected: 0,
            suppressed: Vec::new(),
            kind: plan::EndpointKind::default(),
            obstacle: None,
            missing: None,
            keeps_previous: false,
            since: [(Prefix::below("/services/shop/orders/"), plan::Since::Created(1))].into(),
            places: Vec::new(),
            identity: Arc::new(last_synced(1)),
            last_synced: None,
        })));
        self.worker.take(Command::KubernetesIsComplete);
    }

    /// The Events since the last call, each with its object and its reason.
    fn events(&mut self) -> Vec<(String, &'static str)> {
        let notices = std::iter::from_fn(|| self.events.try_recv().ok());
        let about = |notice: &Notice| match &notice.about {
            About::Registration(reference) | About::Service(reference) => reference.to_string(),
            About::Registry(name) | About::RecordFormat(name) | About::Pod { name, .. } => name.to_string(),
        };
        notices.map(|notice| (about(&notice), notice.reason)).collect()
    }

    /// The status of `orders` that was last to be written.
    fn reported(&mut self) -> Option<(ServiceRegistrationStatus, WritePolicy)> {
        let mut last = None;
        while let Ok(update) = self.updates.try_recv() {
            if let StatusUpdate::Wanted(_, status, write_policy) = update {
                last = Some((status, write_policy));
            }
        }
        last
    }
}

/// However late it is, the next time to act must be in the future.
fn assert_rests(worker: &mut RegistryWorker<etcd::Connection>) {
    let now = Instant::now();
    let wake = worker.act();
    assert!(wake > now, "the worker would loop without a pause");
}

#[tokio::test]
async fn a_replica_that_stands_by_rests_however_long_it_does() {
    let mut rig = Rig::new().await;
    rig.register();
    rig.standby();
    rig.worker.housekeeping_at = Instant::now().checked_sub(Duration::from_secs(1)).expect("a past");
    assert_rests(&mut rig.worker);
}

#[tokio::test]
async fn a_worker_wakes_when_a_pod_has_been_ready_for_long_enough() {
    let mut rig = Rig::new().await;
    rig.register();
    rig.standby();
    // The report of the new registration is due soon.
    rig.worker.report(Instant::now() + Duration::from_mins(1));
    let idle = rig.worker.act();
    let unix = guarding::moment().unix.as_secs();
    let min_ready = crate::index::MinReady {
        since: u32::try_from(unix - 59).ok().and_then(std::num::NonZeroU32::new),
        seconds: std::num::NonZeroU16::MIN.saturating_add(59),
    };
    let waiting = PodState::Ready(plan::DesiredPod {
        min_ready: Some(min_ready),
        ..plan::DesiredPod::default()
    });
    rig.worker.planner.set_pod_state(&orders(), &"p".into(), waiting);
    let ends = rig.worker.planner.next_available_at().expect("it waits");
    assert!(idle > ends, "nothing else is due before");
    assert!(rig.worker.act() <= ends);
}

#[tokio::test]
async fn pod_waits_as_long_as_it_must_though_the_worker_waited_for_the_cache() {
    let mut rig = Rig::new().await;
    rig.register();
    rig.standby();
    let cache = rig.worker.context.cache.clone();
    let (locked, is_locked) = std::sync::mpsc::channel();
    let other = std::thread::spawn(move || {
        let held = cache.write();
        locked.send(()).expect("the test waits for it");
        std::thread::sleep(Duration::from_secs(2));
        drop(held);
    });
    is_locked.recv().expect("the other thread has the cache");
    rig.worker.act();
    other.join().expect("it has ended");
    let moment = guarding::moment();
    let since = u32::try_from(moment.unix.as_secs()).expect("before 2106");
    let waiting = PodState::Ready(plan::DesiredPod {
        min_ready: Some(crate::index::MinReady {
            since: std::num::NonZeroU32::new(since),
            seconds: std::num::NonZeroU16::MIN.saturating_add(59),
        }),
        ..plan::DesiredPod::default()
    });
    rig.worker.planner.set_pod_state(&orders(), &"p".into(), waiting);
    let end = rig.worker.planner.next_available_at().expect("it waits");
    let available = moment.now + Duration::from_secs(u64::from(since) + 60).saturating_sub(moment.unix);
    assert!(
        end + Duration::from_secs(1) > available,
        "{:?} too early",
        available - end
    );
}

#[tokio::test]
async fn leader_with_failed_orphan_collection_rests_until_etcd_is_back() {
    let mut rig = Rig::new().await;
    rig.register();
    rig.lead_first();
    let error = etcd::Error::Busy { message: String::new() }.into();
    rig.worker.listed(Err(error));
    rig.worker.orphans.fail_long_ago();
    assert_rests(&mut rig.worker);
}

#[tokio::test]
async fn a_write_refused_under_an_old_proof_says_nothing_about_a_new_one() {
    let mut rig = Rig::new().await;
    rig.lead(Leadership::Leading(fence(7)));
    rig.worker.writing.begin();
    rig.lead(Leadership::Seeking);
    rig.lead(Leadership::Leading(fence(9)));
    rig.note_read(9, None);
    let now = Instant::now();
    rig.worker.written(
        (Ticket::FIRST, WriteSlot { number: 0, after: 0 }),
        fence(7),
        Ok(TxnOutcome::Fenced),
        now,
    );
    assert_eq!(rig.worker.may_write(now), Some(fence(9)));

    rig.worker.writing.begin();
    rig.worker.written(
        (Ticket::FIRST, WriteSlot { number: 0, after: 0 }),
        fence(9),
        Ok(TxnOutcome::Fenced),
        now,
    );
    assert_eq!(rig.worker.may_write(now), None);
}

#[tokio::test]
async fn former_leader_without_etcd_does_not_insist_on_its_status() {
    let mut rig = Rig::new().await;
    rig.register();
    rig.lead_first();
    rig.lead(Leadership::Seeking);
    rig.worker.state = BackendHealth::new(Instant::now().checked_sub(Duration::from_mins(1)).expect("a past"));
    rig.worker.act();
    rig.worker.report(Instant::now() + Duration::from_secs(1));
    let (status, write_policy) = rig.reported().expect("a status");
    assert!(
        status
            .conditions
            .iter()
            .any(|reported| reported.reason == "RegistryUnreachable")
    );
    assert_eq!(write_policy, WritePolicy::Once);
}

#[tokio::test]
async fn lease_granted_after_leadership_is_lost_is_not_renewed() {
    let mut rig = Rig::new().await;
    rig.lead(Leadership::Leading(fence(7)));
    let early = LeaseId(1);
    rig.worker.writing.begin_grant();
    rig.worker.granted(30, Ok(early));
    assert_eq!(rig.worker.planner.leases().len(), 1);
    rig.worker.writing.begin_grant();
    rig.standby();
    rig.worker.granted(30, Ok(LeaseId(2)));
    assert_eq!(
        rig.worker.planner.leases().len(),
        0,
        "a lease without a record is not renewed"
    );
}

#[tokio::test]
async fn new_leader_with_outdated_view_writes_nothing_until_it_is_current() {
    let mut rig = Rig::new().await;
    rig.register();
    let now = Instant::now();
    rig.worker.take(Command::KubernetesIsOutdated(Some(outdated())));
    rig.lead_first();
    assert_eq!(rig.worker.may_write(now), None);
    rig.worker.take(Command::KubernetesIsOutdated(None));
    assert_eq!(rig.worker.may_write(now), Some(fence(7)));

    // While it leads, its own view is the newest.
    rig.worker.take(Command::KubernetesIsOutdated(Some(outdated())));
    assert_eq!(rig.worker.may_write(now), Some(fence(7)));
    rig.lead(Leadership::Seeking);
    rig.lead(Leadership::Leading(fence(7)));
    assert_eq!(rig.worker.may_write(now), Some(fence(7)));
    rig.standby();
    rig.lead(Leadership::Leading(fence(9)));
    rig.note_read(9, None);
    assert_eq!(rig.worker.may_write(now), None);
}

#[tokio::test]
async fn new_leader_without_access_to_one_namespace_serves_the_others() {
    let mut rig = Rig::new().await;
    rig.register();
    rig.worker.take(Command::KubernetesIsOutdated(Some(Outdated {
        since: jiff::Timestamp::UNIX_EPOCH,
        targets: vec![WatchTarget::new(crate::kube::PODS, NamespaceScope::namespace("bank"))],
    })));
    rig.lead_first();
    assert_eq!(rig.worker.may_write(Instant::now()), Some(fence(7)));
}

#[tokio::test]
async fn nothing_is_done_by_an_election_that_was_not_taken_in() {
    let mut rig = Rig::new().await;
    rig.register();
    rig.worker.take(Command::KubernetesIsOutdated(Some(outdated())));
    // It has won, but the worker has not processed the election yet, so it has not checked whether its view is stale.
    rig.leads.send_replace(Leadership::Leading(fence(7)));
    assert_eq!(rig.worker.may_write(Instant::now()), None);
    rig.worker.leadership_changed();
    assert_eq!(
        rig.worker.may_write(Instant::now()),
        None,
        "the checkpoint has not been read"
    );
    rig.note_read(7, None);
    assert_eq!(rig.worker.may_write(Instant::now()), None, "the view is stale");
}

#[tokio::test]
async fn new_leader_behind_its_predecessor_writes_only_after_catching_up() {
    let mut rig = Rig::new().await;
    rig.register();
    rig.hear(104, None);
    rig.lead(Leadership::Leading(fence(7)));
    let now = Instant::now();
    assert_eq!(rig.worker.may_write(now), None, "the checkpoint has not been read");
    rig.note_read(5, Some(90));
    assert_eq!(rig.worker.may_write(now), None, "the answer belongs to an older fence");
    rig.note_read(7, Some(105));
    assert_eq!(rig.worker.may_write(now), None);
    rig.hear(105, None);
    assert_eq!(rig.worker.may_write(now), Some(fence(7)));

    // No other replica has led meanwhile.
    rig.lead(Leadership::Seeking);
    rig.lead(Leadership::Leading(fence(7)));
    assert_eq!(rig.worker.may_write(now), Some(fence(7)));
    rig.standby();
    rig.lead(Leadership::Leading(fence(9)));
    assert_eq!(rig.worker.may_write(now), None, "another replica has led");
}

#[tokio::test]
async fn what_the_apiserver_never_came_to_is_not_waited_for() {
    let mut rig = Rig::new().await;
    rig.register();
    rig.lead(Leadership::Leading(fence(7)));
    rig.note_read(7, Some(105));
    rig.hear(50, Some(120));
    assert_eq!(rig.worker.may_write(Instant::now()), None, "the replica is only late");
    rig.hear(50, Some(60));
    assert_eq!(
        rig.worker.may_write(Instant::now()),
        Some(fence(7)),
        "the API server was restored from a backup"
    );
}

#[tokio::test]
async fn replica_with_stored_state_reports_only_after_cluster_is_confirmed() {
    let mut rig = Rig::new().await;
    let confirmed = std::mem::take(&mut rig.worker.context.cluster_confirmed);
    rig.worker.state = BackendHealth::new(Instant::now().checked_sub(Duration::from_mins(1)).expect("a past"));
    rig.worker.act();
    assert!(rig.registry_updates.try_recv().is_err());
    rig.worker.context.cluster_confirmed = confirmed;
    rig.worker.act();
    assert!(
        rig.registry_updates.try_recv().is_err(),
        "the unknown status may name a leader"
    );
    let blank = StatusSeen {
        is_blank: true,
        ..StatusSeen::default()
    };
    rig.worker.take(Command::Status(blank));
    rig.worker.act();
    assert!(
        rig.registry_updates.try_recv().is_ok(),
        "the replica reports that etcd is unreachable"
    );
}

#[tokio::test]
async fn outage_and_recovery_are_each_reported_once() {
    let mut rig = Rig::new().await;
    rig.lead(Leadership::Leading(fence(7)));
    let long_ago = Instant::now().checked_sub(Duration::from_mins(1)).expect("a past");
    rig.worker.state = BackendHealth::new(long_ago);
    rig.worker.act();
    rig.worker.act();
    assert_eq!(rig.events(), [("default".to_owned(), "Unreachable")]);
    rig.worker.observe(Observation::Complete { revision: 1 });
    rig.worker.act();
    rig.worker.act();
    assert_eq!(rig.events(), [("default".to_owned(), "Connected")]);
}

#[tokio::test]
async fn notes_that_cannot_be_read_are_said_and_asked_for_again() {
    let mut rig = Rig::new().await;
    rig.worker.observe(Observation::Complete { revision: 1 });
    rig.lead(Leadership::Leading(fence(7)));
    let denied = || {
        let message = "etcdserver: permission denied".to_owned();
        Err(etcd::Error::PermissionDenied { message }.into())
    };
    let asked = rig.worker.tasks.len();
    rig.worker.checkpoints_read(&fence(7), denied(), Instant::now());
    assert_eq!(rig.worker.tasks.len(), asked + 1, "asked again");
    rig.worker.checkpoints_read(&fence(6), denied(), Instant::now());
    assert_eq!(
        rig.worker.tasks.len(),
        asked + 1,
        "the answer belongs to another election"
    );
    while rig.registry_updates.try_recv().is_ok() {}
    let later = Instant::now() + Duration::from_secs(10);
    rig.worker.report(later);
    let Ok(StatusUpdate::Wanted(_, status, _)) = rig.registry_updates.try_recv() else {
        panic!("not reported");
    };
    let connected = &status.conditions[0];
    assert_eq!(
        (connected.status.as_str(), connected.reason.as_str()),
        ("False", "PermissionDenied")
    );
    assert_eq!(rig.worker.may_write(later), None, "the checkpoints have not been read");

    rig.worker.checkpoints_read(&fence(7), Ok(Vec::new()), Instant::now());
    assert!(rig.worker.writing.trouble(later).is_none());
    assert_eq!(rig.worker.may_write(later), Some(fence(7)));
}

#[tokio::test]
async fn unanswered_write_is_no_trouble_when_nothing_is_left_to_write() {
    let mut rig = Rig::new().await;
    rig.register();
    rig.lead_first();
    rig.worker.observe(Observation::Complete { revision: 1 });
    rig.worker.writing.begin();
    let timed_out = etcd::Error::Timeout {
        endpoints: "http://127.0.0.1:1".to_owned(),
        call: "txn",
        after: Duration::from_secs(5),
    };
    rig.worker.writing.failed("a write", "default", &timed_out.into());
    let later = Instant::now() + Duration::from_secs(10);
    let cache = Cache::default();
    rig.worker.write(&cache, later);
    assert!(rig.worker.writing.trouble(later).is_some(), "a write is in flight");
    rig.worker.writing.end();
    rig.worker.write(&cache, later);
    assert!(rig.worker.writing.trouble(later).is_none());
}

#[test]
fn a_large_status_is_written_more_rarely() {
    let endpoint = |number: u16| crate::api::EndpointStatus {
        pod: format!("orders-7d9f-{number}"),
        address: "10.0.0.7".to_owned(),
        port: number,
        port_name: "grpc".to_owned(),
        keys: vec![format!("/services/shop/orders/orders-7d9f-{number}")],
    };
    let status = |endpoints| ServiceRegistrationStatus {
        endpoints: (0..endpoints).map(endpoint).collect(),
        ..ServiceRegistrationStatus::default()
    };
    assert!(reporting::pace(&status(3)) < Duration::from_millis(100));
    let of_thousand = status(1000);
    let bytes = serde_json::to_vec(&of_thousand).expect("JSON").len();
    let per_second = u128::try_from(bytes).expect("it fits") * 1000 / reporting::pace(&of_thousand).as_millis();
    assert!((19_000..=20_100).contains(&per_second), "{per_second} bytes per second");
}

#[tokio::test]
async fn stale_leader_yields_once_another_candidate_is_fresh() {
    let mut rig = Rig::new().await;
    rig.worker.observe(Observation::Complete { revision: 1 });
    rig.worker.take(Command::KubernetesIsComplete);
    rig.lead_first();
    let candidacy = |rig: &mut Rig| {
        rig.worker.stand(Instant::now());
        *rig.worker.lines.candidacy.borrow()
    };
    let fresh = Candidacy {
        fresh: true,
        yields: false,
    };
    assert_eq!(candidacy(&mut rig), fresh);
    rig.worker.take(Command::KubernetesIsOutdated(Some(outdated())));
    let alone = Candidacy {
        fresh: false,
        yields: false,
    };
    assert_eq!(candidacy(&mut rig), alone, "P5: no candidate has a fresher view");

    let record = plan::CandidateRecord {
        identity: "other".into(),
        process: "1".into(),
        address: None,
        fresh: true,
        namespaces: None,
        since: 0,
    };
    let seen = |value| Observation::Changed {
        key: "/leasehold/c1/candidates/other".into(),
        held: Some(KeyValue {
            value,
            lease: LeaseId(9),
            create_revision: 2,
            mod_revision: 2,
        }),
        revision: 2,
    };
    rig.worker.observe(seen(record.value()));
    assert!(candidacy(&mut rig).yields);
    rig.worker.take(Command::KubernetesIsOutdated(None));
    assert_eq!(candidacy(&mut rig), fresh);
}
