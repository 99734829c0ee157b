//! One operator, the Secrets of its namespace, and etcds that it has to enter.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use testbed::{
    Authority, Bed, ClientCertificates, EtcdCluster, EtcdConfig, Held, History, Namespace, Operator, OperatorConfig,
    Result, Security, Validity, shared, until,
};
use tokio::sync::{Mutex, MutexGuard};

use crate::support::{API, SOON, condition, message, pod, registration};

/// Operators serve the whole cluster, so those of one test would renew the leases of another.
static TURN: Mutex<()> = Mutex::const_new(());

/// The right to run operators, and the namespace that they take Secrets from: the one that their account is of.
pub struct Scene {
    pub bed: &'static Bed,
    pub ops: Namespace,
    _turn: MutexGuard<'static, ()>,
}

impl Scene {
    pub async fn take() -> Result<Self> {
        let turn = TURN.lock().await;
        let bed = shared().await?;
        bed.apply_crds().await?;
        for registry in bed.objects().list(API, "Registry").await? {
            let name = registry["metadata"]["name"].as_str().expect("a name").to_owned();
            bed.objects().delete(API, "Registry", &name).await?;
        }
        Ok(Self {
            bed,
            ops: bed.namespace_named("leasehold").await?,
            _turn: turn,
        })
    }

    /// An operator of this name, which tells everything in its log.
    pub async fn operator(&self, name: &str) -> Result<Operator> {
        let operator = self.operator_that_waits(name)?;
        operator.wait_ready(SOON).await?;
        Ok(operator)
    }

    /// The same, where it will not be ready as long as it cannot enter.
    pub fn operator_that_waits(&self, name: &str) -> Result<Operator> {
        let mut config = OperatorConfig::new(name, env!("CARGO_BIN_EXE_leasehold"));
        config.args = self.args();
        Operator::start(self.bed, config)
    }

    pub fn args(&self) -> Vec<std::ffi::OsString> {
        ["--namespace", self.ops.name(), "--log", "debug"]
            .map(Into::into)
            .into()
    }

    pub fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.bed.logs().join(format!("{name}.log"))).unwrap_or_default()
    }

    pub async fn wait_log(&self, name: &str, what: impl Fn(&str) -> bool) -> Result<()> {
        until("the operator to log what is wanted", SOON, || async {
            let log = self.log(name);
            let last: Vec<&str> = log.lines().rev().take(5).collect();
            if log.lines().any(&what) {
                Ok(())
            } else {
                Err(format!("{last:?}"))
            }
        })
        .await
    }

    pub async fn secret(&self, name: &str, data: &[(&str, &str)]) -> Result<()> {
        let data: BTreeMap<_, _> = data.iter().copied().collect();
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": data,
        });
        self.ops.apply(secret).await.map(drop)
    }

    pub async fn config_map(&self, name: &str, data: &[(&str, &str)]) -> Result<()> {
        let data: BTreeMap<_, _> = data.iter().copied().collect();
        let map = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data,
        });
        self.ops.apply(map).await.map(drop)
    }

    /// Applies a Registry with these fields of its spec, and of the objects in it, beside those that all have.
    pub async fn registry(&self, name: &str, endpoints: &[String], more: &Value) -> Result<()> {
        let mut spec = json!({
            "etcd": {"endpoints": endpoints}, "defaults": {"leaseTTLSeconds": 30}, "guard": {"mode": "Off"},
        });
        for (object, fields) in more.as_object().expect("fields of spec") {
            for (field, value) in fields.as_object().expect("an object in spec") {
                spec[object][field] = value.clone();
            }
        }
        let registry = json!({"apiVersion": API, "kind": "Registry", "metadata": {"name": name}, "spec": spec});
        self.bed.objects().apply(registry).await.map(drop)
    }

    /// Waits until a condition of a Registry is so, and returns its message.
    pub async fn wait(&self, registry: &str, kind: &str, status: &str, reason: &str) -> String {
        let wanted = (status.to_owned(), reason.to_owned());
        let object = (API, "Registry", registry);
        let objects = self.bed.objects();
        let found = objects
            .wait(object, |object| condition(object, kind) == wanted, SOON)
            .await;
        let found = found.unwrap_or_else(|error| panic!("{registry}: waiting for {kind}={status} {reason}: {error}"));
        message(&found, kind)
    }

    /// A namespace with the service `orders`, registered in `registry`, and its first pod `a`.
    pub async fn tenant(&self, registry: &str) -> Result<Namespace> {
        let namespace = self.bed.namespace(registry).await?;
        namespace
            .apply(registration("orders", &json!({"registryRef": {"name": registry}})))
            .await?;
        namespace.create_pod(&pod("a", "orders")).await?;
        Ok(namespace)
    }
}

/// Who signs, and what is signed: an etcd that serves https, and asks for certificates if `asks` is set.
pub fn security(authority: &Authority, asks: bool) -> Security {
    let clients = asks.then(|| ClientCertificates {
        authority: authority.pem(),
        own: authority.client("root", Validity::Valid),
    });
    Security {
        server: authority.server(&["127.0.0.1", "etcd.test"], Validity::Valid),
        authority: authority.pem(),
        clients,
    }
}

/// An etcd with these flags.
pub async fn etcd(security: Option<Security>, args: &[&str]) -> Result<EtcdCluster> {
    let config = EtcdConfig {
        security,
        args: args.iter().map(|arg| (*arg).to_owned()).collect(),
        ..EtcdConfig::default()
    };
    EtcdCluster::temporary_with(config).await
}

/// Checks that a history is of these puts and nothing else.
pub async fn assert_puts(history: &History, prefix: &str, names: &[&str]) -> Result<()> {
    let events = history.settled().await?;
    let reported: Vec<String> = events.iter().map(ToString::to_string).collect();
    let reported: Vec<String> = reported
        .iter()
        .map(|text| text.split(' ').take(2).collect::<Vec<_>>().join(" "))
        .collect();
    let puts: Vec<String> = names.iter().map(|name| format!("put {prefix}{name}")).collect();
    assert_eq!(reported, puts);
    Ok(())
}

/// The leases of what is registered, by key.
pub fn leases(held: &BTreeMap<String, Held>) -> BTreeMap<String, i64> {
    held.iter().map(|(key, held)| (key.clone(), held.lease)).collect()
}
