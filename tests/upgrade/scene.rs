//! What lives through upgrades: registrations in many formats, removals that are held back, and two replicas.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::future::try_join_all;
use serde_json::{Value, json};
use testbed::tools::{Earlier, Release};
use testbed::{Event, Held, History, Operator, OperatorConfig, Result, until};

use crate::support::{API, SOON, condition, message, pod, registration, wait_in_sync};
use crate::turn::Turn;

/// The address of the pod that is worked with; it is in all of its values.
const WORKED: &str = "10.9.7.1";
/// How many pods lose their readiness at once, of a Registry with a guard.
const MANY: u32 = 20;
/// For twenty pods on a busy machine.
const LONG: Duration = Duration::from_mins(1);

/// A road from one release to another.
#[derive(Clone, Copy, Debug)]
pub enum Road {
    /// One replica after the other, the new one before the old one ends, as a Deployment does it.
    Rolling,
    /// All of the old ones are killed before the first of the new ones starts.
    AtOnce,
}

/// Who runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Generation {
    /// The release before this tree.
    Before,
    /// This tree.
    Now,
}

/// The two generations, what is registered, and the replicas that do it.
pub struct Scene {
    // Before the turn, so that they end before their etcd.
    operators: Vec<Operator>,
    release: Release,
    history: History,
    /// How many events `work` has caused. Consumers may receive no others.
    reported: usize,
    held: String,
    started: u32,
    turn: Turn,
}

/// The state of all keys but our own records.
type Keys = BTreeMap<String, Held>;

impl Scene {
    /// Registers everything with two replicas of the release before, on its own definitions and rights. None where that
    /// release cannot be had here, which is said on stderr.
    pub async fn set() -> Result<Option<Self>> {
        let earlier = tokio::task::spawn_blocking(Earlier::get).await.expect("no panic")?;
        let release = match earlier {
            Earlier::Release(release) => release,
            Earlier::Unknown(why) => {
                eprintln!("passed over, for there is no release to come from: {why}");
                return Ok(None);
            }
        };
        eprintln!("from {}", release.name);
        let turn = Turn::take("upgrade", 1, 30).await?;
        turn.bed.apply_crds_of(&release.tree.join("crds")).await?;
        turn.bed.apply_rights_of(&release.tree).await?;
        register(&turn).await?;
        let mut scene = Self {
            operators: Vec::new(),
            history: History::watch(&turn.etcd, "", 0).await?,
            reported: 0,
            held: String::new(),
            started: 0,
            release,
            turn,
        };
        for _ in 0..2 {
            let operator = scene.start(Generation::Before).await?;
            scene.operators.push(operator);
        }
        wait_in_sync(scene.turn.namespace.objects(), "orders", 3).await;
        scene.held = scene.lose_many().await?;
        scene.reported = scene.events().await?.len();
        Ok(Some(scene))
    }

    fn binary(&self, generation: Generation) -> PathBuf {
        match generation {
            Generation::Before => self.release.binary.clone(),
            Generation::Now => env!("CARGO_BIN_EXE_leasehold").into(),
        }
    }

    /// Starts one more, and waits until it is ready.
    async fn start(&mut self, generation: Generation) -> Result<Operator> {
        self.started += 1;
        let name = format!("{generation:?}-{}", self.started).to_lowercase();
        let config = OperatorConfig::new(name, self.binary(generation));
        let operator = Operator::start(self.turn.bed, config)?;
        operator.wait_ready(LONG).await?;
        Ok(operator)
    }

    /// Replaces all replicas, as helm does: first the rights are those of the new ones. The definitions are those of the
    /// newer release from its first replica on. Consumers may receive no event.
    pub async fn go(&mut self, road: Road, to: Generation) -> Result<()> {
        let before = self.keys().await?;
        match to {
            Generation::Before => self.turn.bed.apply_rights_of(&self.release.tree).await?,
            Generation::Now => self.turn.bed.apply_crds().await?,
        }
        match road {
            Road::Rolling => {
                for place in 0..self.operators.len() {
                    let new = self.start(to).await?;
                    let old = std::mem::replace(&mut self.operators[place], new);
                    old.terminate()?;
                    assert!(old.wait_exit(LONG).await?.success(), "{}", old.log_tail());
                }
            }
            Road::AtOnce => {
                let count = self.operators.len();
                for old in self.operators.drain(..) {
                    old.kill().await?;
                }
                for _ in 0..count {
                    let new = self.start(to).await?;
                    self.operators.push(new);
                }
            }
        }
        let names: BTreeSet<&str> = self.operators.iter().map(Operator::name).collect();
        for registry in ["default", "guarded"] {
            let reported = |object: &Value| {
                object["status"]["leader"]
                    .as_str()
                    .is_some_and(|name| names.contains(name))
            };
            self.turn
                .bed
                .objects()
                .wait((API, "Registry", registry), reported, LONG)
                .await?;
        }
        assert_eq!(self.hold().await?, self.held, "{road:?} to {to:?}: another hold");
        let events = self.events().await?;
        assert_eq!(
            events.len(),
            self.reported,
            "{road:?} to {to:?}: {:?}",
            &events[self.reported..]
        );
        assert_eq!(self.keys().await?, before, "{road:?} to {to:?}");
        Ok(())
    }

    /// Makes a pod unready and ready again. The leader changes the keys of that pod and no others.
    pub async fn work(&mut self) -> Result<()> {
        let (theirs, others) = parted(self.keys().await?);
        assert!(theirs.len() > 5, "{theirs:?}");
        self.turn.namespace.set_ready("a", false).await?;
        self.wait_worked(0).await?;
        self.turn.namespace.set_ready("a", true).await?;
        let again = self.wait_worked(theirs.len()).await?;
        let events = self.events().await?;
        let new: Vec<String> = events[self.reported..].iter().map(ToString::to_string).collect();
        let of_pod = |event: &Event| theirs.contains_key(&event.key) || again.contains_key(&event.key);
        assert!(events[self.reported..].iter().all(of_pod), "{new:?}");
        assert_eq!(new.len(), theirs.len() + again.len(), "{new:?}");
        assert_eq!(parted(self.keys().await?).1, others);
        self.reported = events.len();
        wait_in_sync(self.turn.namespace.objects(), "orders", 3).await;
        Ok(())
    }

    /// The pods whose removal was held back are ready again: their keys stay as they were all the while.
    pub async fn regain_many(&mut self) -> Result<()> {
        let prefix = format!("/guarded/{}/", self.turn.namespace.name());
        let kept = self.turn.etcd.dump(&prefix).await?;
        assert!(kept.len() > 9, "{kept:?}");
        self.set_many_ready(true).await?;
        wait_in_sync(self.turn.namespace.objects(), "many", MANY).await;
        let all = self.turn.etcd.dump(&prefix).await?;
        assert_eq!(all.len(), usize::try_from(MANY).expect("it fits"));
        for (key, held) in &kept {
            assert_eq!(&all[key], held);
        }
        for operator in &self.operators {
            operator.process().alive()?;
        }
        self.turn.bed.objects().delete(API, "Registry", "guarded").await
    }

    /// Waits until so many keys are those of the pod that is worked with.
    async fn wait_worked(&self, count: usize) -> Result<Keys> {
        until(&format!("{count} keys of the pod a"), SOON, || async {
            let keys = self.keys().await.map_err(|error| error.to_string())?;
            match parted(keys).0 {
                keys if keys.len() == count => Ok(keys),
                keys => Err(format!("{:?}", keys.keys())),
            }
        })
        .await
    }

    /// Our own records change as leaders do, and what an earlier test has registered may be on its way out.
    fn is_consumers(&self, key: &str) -> bool {
        !key.starts_with("/leasehold/") && key.contains(self.turn.namespace.name())
    }

    async fn keys(&self) -> Result<Keys> {
        let mut all = self.turn.etcd.dump("").await?;
        all.retain(|key, _| self.is_consumers(key));
        Ok(all)
    }

    async fn events(&self) -> Result<Vec<Event>> {
        let mut all = self.history.settled().await?;
        all.retain(|event| self.is_consumers(&event.key));
        Ok(all)
    }

    async fn set_many_ready(&self, ready: bool) -> Result<()> {
        let pods = self.turn.namespace.pods("app=many").await?;
        let names = pods.iter().filter_map(|pod| pod.metadata.name.as_deref());
        let all = names.map(|name| self.turn.namespace.set_ready(name, ready));
        try_join_all(all).await.map(drop)
    }

    /// Takes readiness from many pods, and returns the hold that this begins.
    async fn lose_many(&self) -> Result<String> {
        wait_in_sync(self.turn.namespace.objects(), "many", MANY).await;
        self.set_many_ready(false).await?;
        let many = (API, "ServiceRegistration", "many");
        let seen = |object: &Value| object["status"]["pods"]["ready"] == 0;
        self.turn.namespace.objects().wait(many, seen, SOON).await?;
        self.hold().await
    }

    /// How the hold of the Registry that has one is called.
    async fn hold(&self) -> Result<String> {
        let registry = (API, "Registry", "guarded");
        let held = |object: &Value| condition(object, "RemovalsHeld").1 == "LossAboveLimit";
        let object = self.turn.bed.objects().wait(registry, held, LONG).await?;
        let reported = message(&object, "RemovalsHeld");
        let (_, id) = reported
            .split_once(&format!("{}=", leasehold::api::APPROVE_REMOVALS))
            .expect(&reported);
        Ok(id.to_owned())
    }
}

/// The keys of the pod that is worked with, and all others.
fn parted(keys: Keys) -> (Keys, Keys) {
    keys.into_iter().partition(|(_, held)| held.value.contains(WORKED))
}

/// Three pods in all kinds of formats, and many in a Registry with a guard.
async fn register(turn: &Turn) -> Result<()> {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/record-formats/confd-json.yaml");
    let shipped = std::fs::read_to_string(shipped).expect("it is there");
    let shipped: Value = serde_saphyr::from_str(&shipped).expect("YAML");
    let custom = shipped["metadata"]["name"].clone();
    turn.bed.objects().apply(shipped).await?;
    turn.bed.create_registry("guarded", &turn.etcd.endpoints(), 30).await?;
    let place = turn.namespace.name();
    let formats = json!([
        {"type": "Plain"},
        {"type": "EtcdGRPC"},
        {"type": "GoZero", "goZero": {"key": format!("zero-{place}.rpc")}},
        {"type": "Kratos", "kratos": {"root": format!("/kratos/{place}")}},
        {"type": "CoreDNS", "coreDNS": {"domain": format!("orders.{place}.example.org")}},
        {"type": "Custom", "custom": {"recordFormatRef": {"name": custom}, "prefix": format!("/custom/{place}")}},
    ]);
    turn.namespace
        .apply(registration("orders", &json!({"formats": formats})))
        .await?;
    for (name, address) in [("a", WORKED), ("b", "10.9.7.21"), ("c", "10.9.7.31")] {
        turn.namespace.create_pod(&pod(name, "orders").ip(address)).await?;
    }
    let many = json!({
        "registryRef": {"name": "guarded"},
        "formats": [{"type": "Plain", "plain": {"prefix": format!("/guarded/{place}")}}],
    });
    turn.namespace.apply(registration("many", &many)).await?;
    let ports = [("grpc", 8080)];
    turn.namespace
        .create_deployment("many", &[("app", "many")], MANY, &ports)
        .await?;
    let count = usize::try_from(MANY).expect("it fits");
    turn.namespace.wait_ready_pods("app=many", count).await.map(drop)
}
