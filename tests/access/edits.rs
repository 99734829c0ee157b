//! Edits of a Registry: other endpoints, TLS and users are tried before they are used, and those that work stay in use
//! meanwhile. An edit by mistake costs no key.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use testbed::{Authority, EtcdCluster, History, Kind, Namespace, Operator, OperatorConfig, Result, until};

use crate::scene::{Scene, etcd, leases};
use crate::support::{API, SOON, message, plain_prefix, pod, wait_keys};

/// The least TTL that there is, in seconds.
const TTL: u64 = 5;
/// An address on which no server listens.
const NOWHERE: &str = "http://127.0.0.1:1";

/// One Registry in `etcd` with one pod registered.
struct Place<'s> {
    scene: &'s Scene,
    registry: &'static str,
    namespace: Namespace,
    prefix: String,
    history: History,
    before: std::collections::BTreeMap<String, i64>,
}

impl<'s> Place<'s> {
    async fn take(
        scene: &'s Scene,
        registry: &'static str,
        etcd: &EtcdCluster,
        spec: &Value,
        config: OperatorConfig,
    ) -> Result<(Self, Operator)> {
        let mut spec = spec.clone();
        spec["defaults"] = json!({"leaseTTLSeconds": TTL});
        scene.registry(registry, &etcd.endpoints(), &spec).await?;
        let namespace = scene.tenant(registry).await?;
        let operator = Operator::start(scene.bed, config)?;
        operator.wait_ready(SOON).await?;
        let prefix = plain_prefix(&namespace, "orders");
        let before = leases(&wait_keys(etcd, &prefix, &["a"]).await);
        scene.wait(registry, "Connected", "True", "Connected").await;
        let history = History::watch(etcd, "/services/", 0).await?;
        let place = Self {
            scene,
            registry,
            namespace,
            prefix,
            history,
            before,
        };
        Ok((place, operator))
    }

    async fn edit(&self, endpoints: &[String], spec: &Value) -> Result<()> {
        let mut spec = spec.clone();
        spec["defaults"] = json!({"leaseTTLSeconds": TTL});
        self.scene.registry(self.registry, endpoints, &spec).await
    }

    /// What is said of the endpoints of spec, which are not used.
    async fn not_adopted(&self) -> String {
        self.scene
            .wait(self.registry, "Connected", "True", "SpecNotAdopted")
            .await
    }

    /// Waits for longer than a lease lasts that is not renewed.
    async fn outlast_leases(&self) -> Result<()> {
        let begin = Instant::now();
        until("the TTL to pass", SOON, || async {
            let passed = begin.elapsed();
            if passed > Duration::from_secs(2 * TTL) {
                Ok(())
            } else {
                Err(format!("{passed:?}"))
            }
        })
        .await
    }

    /// Has another pod registered, the last in order, and checks that no key ever went and none is on another lease.
    async fn assert_served(&self, etcd: &EtcdCluster, pods: &[&str]) -> Result<()> {
        let newest = pods.last().expect("one at least");
        self.namespace.create_pod(&pod(newest, "orders")).await?;
        let held = leases(&wait_keys(etcd, &self.prefix, pods).await);
        let events = self.history.settled().await?;
        let gone: Vec<_> = events.iter().filter(|event| event.kind == Kind::Delete).collect();
        assert!(gone.is_empty(), "consumers saw {gone:?}");
        let key = format!("{}a", self.prefix);
        assert_eq!(held[&key], self.before[&key], "the lease is the same");
        Ok(())
    }
}

fn config(scene: &Scene, name: &str) -> OperatorConfig {
    let mut config = OperatorConfig::new(name, env!("CARGO_BIN_EXE_leasehold"));
    config.args = scene.args();
    config.args.push("--session-ttl=2".into());
    config
}

/// Replaces `old` as a Deployment does: it ends once the new one is ready.
async fn replace(scene: &Scene, old: &Operator, config: OperatorConfig) -> Result<Operator> {
    let new = Operator::start(scene.bed, config)?;
    new.wait_ready(SOON).await?;
    old.terminate()?;
    old.wait_exit(SOON).await?;
    Ok(new)
}

#[tokio::test]
async fn mistyped_endpoint_costs_no_key_and_survives_restarts_and_rollouts() -> Result<()> {
    let scene = Scene::take().await?;
    let etcd = etcd(None, &[]).await?;
    let folder = scene.bed.folder().path().join("state-edits");
    let mut keeping = config(&scene, "edits-0");
    keeping.args.extend(["--state-dir".into(), folder.into()]);
    let (place, operator) = Place::take(&scene, "edits", &etcd, &json!({}), keeping).await?;
    let works = etcd.endpoints();

    place.edit(&[NOWHERE.to_owned()], &json!({})).await?;
    let said = place.not_adopted().await;
    assert!(
        said.contains(&works[0]) && said.contains("http://127.0.0.1:1"),
        "{said}"
    );
    place.outlast_leases().await?;
    place.assert_served(&etcd, &["a", "b"]).await?;

    // The same process started again has kept what works.
    operator.kill().await?;
    operator.restart().await?;
    operator.wait_ready(SOON).await?;
    place.assert_served(&etcd, &["a", "b", "c"]).await?;

    // One that has kept nothing reads in the status what works.
    let operator = replace(&scene, &operator, config(&scene, "edits-1")).await?;
    place.assert_served(&etcd, &["a", "b", "c", "d"]).await?;
    place.not_adopted().await;
    assert_eq!(
        operator
            .metric("leasehold_spec_not_adopted{registry=\"edits\"}")
            .await?,
        Some(1.0)
    );

    // One endpoint that works is enough.
    let mixed = [NOWHERE.to_owned(), works[0].clone()];
    place.edit(&mixed, &json!({})).await?;
    scene.wait("edits", "Connected", "True", "Connected").await;
    let in_use = |object: &Value| object["status"]["endpoints"] == json!(mixed);
    scene
        .bed
        .objects()
        .wait((API, "Registry", "edits"), in_use, SOON)
        .await?;
    place.outlast_leases().await?;
    place.assert_served(&etcd, &["a", "b", "c", "d", "e"]).await
}

#[tokio::test]
async fn endpoints_of_another_cluster_are_refused_until_the_one_in_use_is_gone() -> Result<()> {
    let scene = Scene::take().await?;
    let (used, other) = (etcd(None, &[]).await?, etcd(None, &[]).await?);
    let first = config(&scene, "moves-0");
    let (place, operator) = Place::take(&scene, "moves", &used, &json!({}), first).await?;

    place.edit(&other.endpoints(), &json!({})).await?;
    let said = place.not_adopted().await;
    assert!(said.contains("belongs to another etcd cluster"), "{said}");
    // An operator that starts now could use the other cluster, and must not.
    let operator = replace(&scene, &operator, config(&scene, "moves-1")).await?;
    place.outlast_leases().await?;
    place.assert_served(&used, &["a", "b"]).await?;
    assert!(other.dump("").await?.is_empty(), "nothing is written there");

    // Both lists in one: those that are no members of the cluster in use are left alone.
    let both = [other.endpoints(), used.endpoints()].concat();
    place.edit(&both, &json!({})).await?;
    scene.wait("moves", "Connected", "True", "Connected").await;
    place.edit(&other.endpoints(), &json!({})).await?;
    place.not_adopted().await;

    used.member(0).kill().await?;
    wait_keys(&other, &place.prefix, &["a", "b"]).await;
    scene.wait("moves", "Connected", "True", "Connected").await;
    assert_eq!(
        operator
            .metric("leasehold_spec_not_adopted{registry=\"moves\"}")
            .await?,
        Some(0.0)
    );
    Ok(())
}

#[tokio::test]
async fn tls_and_users_that_do_not_work_cost_no_key() -> Result<()> {
    let scene = Scene::take().await?;
    let etcd = etcd(None, &[]).await?;
    etcd.enable_auth("root-of-edits").await?;
    for (user, prefixes) in [
        ("leasehold", ["/leasehold/", "/services/"].as_slice()),
        ("narrow", &["/leasehold/"]),
        ("powerless", &["/elsewhere/"]),
    ] {
        etcd.add_user(user, "pw-of-edits", prefixes).await?;
        let secret = format!("edits-{user}");
        let data = [("username", user), ("password", "pw-of-edits")];
        scene.secret(&secret, &data).await?;
    }
    let data = [("username", "leasehold"), ("password", "not-this-one")];
    scene.secret("edits-mistyped", &data).await?;
    let authority = Authority::new("edits");
    scene.config_map("edits-ca", &[("ca.crt", &authority.pem())]).await?;
    let auth = |user: &str| json!({"etcd": {"auth": {"secretRef": {"name": format!("edits-{user}")}}}});
    let good = auth("leasehold");
    let first = config(&scene, "users-0");
    let (place, _operator) = Place::take(&scene, "users", &etcd, &good, first).await?;
    let works = etcd.endpoints();

    let https: Vec<String> = works.iter().map(|url| url.replace("http:", "https:")).collect();
    let mut tls = good.clone();
    tls["etcd"]["tls"] = json!({"caRef": {"kind": "ConfigMap", "name": "edits-ca"}});
    let cases = [
        (&https, tls, "TLSFailed"),
        (&works, auth("mistyped"), "LoginRefused"),
        (&works, auth("powerless"), "PermissionDenied"),
        // It may read and write our records, and not the keys that are registered.
        (&works, auth("narrow"), "PermissionDenied"),
        (&works, auth("absent"), "CredentialsMissing"),
        (&works, json!({}), "UserRequired"),
    ];
    for (endpoints, spec, reason) in cases {
        place.edit(endpoints, &spec).await?;
        let said = scene.wait("users", "CredentialsValid", "False", reason).await;
        assert!(said.contains("stays in use"), "{reason}: {said}");
        if reason == "TLSFailed" {
            let said = place.not_adopted().await;
            assert!(said.contains("does not speak TLS"), "{said}");
        }
        let object = scene.bed.objects().get(API, "Registry", "users").await?;
        let object = object.expect("it is there");
        assert!(
            message(&object, "Connected").contains("reads, watches and writes"),
            "{object}"
        );
        place.edit(&works, &good).await?;
        scene
            .wait("users", "CredentialsValid", "True", "CredentialsInUse")
            .await;
    }
    place.edit(&works, &auth("narrow")).await?;
    place.outlast_leases().await?;
    place.assert_served(&etcd, &["a", "b"]).await
}
