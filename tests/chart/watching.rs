//! Some namespaces instead of the whole cluster: served by Roles in them, and nothing else is seen or touched.

use std::process::Command;

use serde_json::{Value, json};
use testbed::{
    Bed, EtcdCluster, EtcdVersion, History, Kind, Namespace, Operator, OperatorConfig, Result, shared, until,
};

use super::TURN;
use super::helm::{chart, delete_registry, helm, kubeconfig_of, kubectl};
use super::release::{LONG, Release};
use super::support::{API, condition, message, plain_prefix, pod, registration, wait_in_sync, wait_keys};

const ROLE_API: &str = "rbac.authorization.k8s.io/v1";
const STALE: &str = "leasehold_kubernetes_stale_since_timestamp_seconds{kind=\"pods\"}";

/// Whether an account may do this, as `kubectl auth can-i` says.
async fn may(bed: &Bed, account: &str, words: &[&str]) -> bool {
    let user = format!("--as=system:serviceaccount:{account}");
    let words: Vec<&str> = ["auth", "can-i"].into_iter().chain(words.iter().copied()).collect();
    let reported = kubectl(bed, &[words.as_slice(), &[&user]].concat(), "").await;
    reported.is_ok_and(|reported| reported.trim() == "yes")
}

#[tokio::test]
async fn namespaced_roles_serve_the_listed_namespaces_and_the_list_may_change() -> Result<()> {
    let _turn = TURN.lock().await;
    let bed = shared().await?;
    bed.apply_crds().await?;
    let etcd = EtcdCluster::temporary(EtcdVersion::default(), 1).await?;
    let release = Release::prepare(bed, "chart-watching", &etcd).await?;
    let mut namespaces = Vec::new();
    for name in ["chart-shop", "chart-bank", "chart-else"] {
        let namespace = bed.namespace(name).await?;
        namespace.create_pod(&pod("a", "orders")).await?;
        let spec = json!({"registryRef": {"name": release.registry}});
        namespace.apply(registration("orders", &spec)).await?;
        namespaces.push(namespace);
    }
    let [shop, bank, other] = namespaces.as_slice() else {
        unreachable!("there are three")
    };
    let prefix = |namespace| plain_prefix(namespace, "orders");

    let two = format!("watchNamespaces={{{},{}}}", shop.name(), bank.name());
    let notes = release.apply("install", &[&two]).await;
    let reported = format!("the namespaces {}, {}, and of no others", shop.name(), bank.name());
    assert!(notes.contains(&reported), "{notes}");
    let account = format!("{}:leasehold", release.home.name());
    for verb in ["list", "watch"] {
        assert!(may(bed, &account, &[verb, "pods", "--namespace", shop.name()]).await);
        assert!(!may(bed, &account, &[verb, "pods", "--all-namespaces"]).await, "{verb}");
        assert!(!may(bed, &account, &[verb, "pods", "--namespace", other.name()]).await);
        assert!(!may(bed, &account, &[verb, "namespaces"]).await, "{verb}");
    }
    for namespace in [shop, bank] {
        wait_keys(&etcd, &prefix(namespace), &["a"]).await;
        wait_in_sync(namespace.objects(), "orders", 1).await;
    }
    let first = release.pods(2).await?;
    let leader = release.leader(&first).await?;

    // All pods are replaced: another replica leads, and none has a cache from before.
    let history = History::watch(&etcd, "/services/", 0).await?;
    release.apply("upgrade", &[&two, "podAnnotations.again=yes"]).await;
    let second = release.pods(2).await?;
    assert_ne!(release.leader(&second).await?, leader);
    shop.create_pod(&pod("b", "orders")).await?;
    wait_keys(&etcd, &prefix(shop), &["a", "b"]).await;
    let events = history.wait_for(|events| !events.is_empty(), LONG).await?;
    assert_eq!(events.len(), 1, "consumers saw {events:?}");
    wait_keys(&etcd, &prefix(other), &[]).await;
    let untold = other.objects().get(API, "ServiceRegistration", "orders").await?;
    assert_eq!(untold.expect("it is there")["status"], Value::Null);

    // A namespace that is no longer watched loses its keys. No other namespace loses any.
    let one = format!("watchNamespaces={{{}}}", shop.name());
    release.apply("upgrade", &[&one]).await;
    wait_keys(&etcd, &prefix(bank), &[]).await;
    // The whole cluster is watched: whatever has no keys yet gets them.
    release.apply("upgrade", &[]).await;
    for namespace in [bank, other] {
        wait_keys(&etcd, &prefix(namespace), &["a"]).await;
    }
    let events = history.wait_for(|events| events.len() >= 4, LONG).await?;
    // Whether a key went, and whether it was the shop's.
    let reported = events
        .iter()
        .map(|event| (event.kind == Kind::Delete, event.key.starts_with(&prefix(shop))));
    let reported: Vec<(bool, bool)> = reported.collect();
    let expected = [(false, true), (true, false), (false, false), (false, false)];
    assert_eq!(reported, expected, "{events:?}");
    assert!(may(bed, &account, &["list", "pods", "--all-namespaces"]).await);
    release.uninstall().await;
    delete_registry(bed, &release.registry).await
}

/// What the doctor finds wrong with the rights of an account in these namespaces.
fn missing_rights(bed: &Bed, account: &str, namespaces: &str) -> Vec<String> {
    let output = Command::new(env!("CARGO_BIN_EXE_leasehold"))
        .args(["doctor", "--output=json", "--kubeconfig"])
        .arg(bed.kubeconfig())
        .args(["--service-account", account, "--watch-namespaces", namespaces])
        .output()
        .expect("leasehold is there");
    let reported: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
    let chapters = reported["chapters"].as_array().expect("chapters").iter();
    let findings = chapters.flat_map(|chapter| chapter["findings"].as_array().expect("findings"));
    let words = findings.filter_map(|finding| finding["what"].as_str());
    words
        .filter(|what| what.contains(" may not "))
        .map(str::to_owned)
        .collect()
}

#[tokio::test]
async fn missing_namespace_blocks_no_other_and_is_served_once_it_has_a_role() -> Result<()> {
    let _turn = TURN.lock().await;
    let bed = shared().await?;
    bed.apply_crds().await?;
    let etcd = EtcdCluster::temporary(EtcdVersion::default(), 1).await?;
    bed.create_registry("chart-later", &etcd.endpoints(), 15).await?;
    let home = bed.namespace("chart-partly").await?;
    let shop = bed.namespace("chart-there").await?;
    let later = format!("{}-later", shop.name());
    let watched = format!("{},{later}", shop.name());
    let chart = chart().display().to_string();
    let value = format!("watchNamespaces={{{watched}}}");
    let words = ["template", "some", &chart, "--namespace", home.name(), "--set", &value];
    let rendered = helm(bed.kubeconfig(), &words).await;
    let rendered = rendered.unwrap_or_else(|error| panic!("{error}"));
    let apply = || kubectl(bed, &["apply", "--filename=-"], &rendered);
    // All but what belongs into the namespace that is not there.
    let refused = apply().await.expect_err("a Role has no place");
    assert!(refused.contains(&format!("\"{later}\" not found")), "{refused}");

    let kubeconfig = kubeconfig_of(bed, home.name(), "some-leasehold").await?;
    let start = |name: &str| {
        let mut config = OperatorConfig::new(name, env!("CARGO_BIN_EXE_leasehold"));
        let args = ["--namespace", home.name(), "--watch-namespaces", &watched];
        config.args = args.map(Into::into).to_vec();
        config.kubeconfig = Some(kubeconfig.clone());
        Operator::start(bed, config)
    };
    let spec = json!({"registryRef": {"name": "chart-later"}});
    shop.create_pod(&pod("a", "orders")).await?;
    shop.apply(registration("orders", &spec)).await?;
    let operator = start("watches-later-0")?;
    operator.wait_ready(LONG).await?;
    wait_keys(&etcd, &plain_prefix(&shop, "orders"), &["a"]).await;
    let account = format!("{}/some-leasehold", home.name());
    assert_eq!(missing_rights(bed, &account, shop.name()), [""; 0]);
    let missing = missing_rights(bed, &account, &watched);
    assert!(
        missing.len() == 12 && missing.iter().all(|what| what.contains(&format!(" in {later}:"))),
        "{missing:?}"
    );

    // The namespace exists now, but the operator may not read it. It reports that and serves the other namespace.
    let later = bed.namespace_named(&later).await?;
    let informed = async |status: &str, reason: &str| {
        let wanted = (status.to_owned(), reason.to_owned());
        let registry = (API, "Registry", "chart-later");
        let is_reported = |object: &Value| condition(object, "WatchesHealthy") == wanted;
        bed.objects().wait(registry, is_reported, LONG).await
    };
    let reported = message(&informed("False", "WatchesStale").await?, "WatchesHealthy");
    assert!(reported.contains(&format!("pods in {}", later.name())), "{reported}");
    assert!(!reported.contains(&format!("pods in {},", shop.name())), "{reported}");
    shop.create_pod(&pod("b", "orders")).await?;
    wait_keys(&etcd, &plain_prefix(&shop, "orders"), &["a", "b"]).await;

    apply().await.unwrap_or_else(|error| panic!("{error}"));
    informed("True", "Watching").await?;
    later.create_pod(&pod("a", "orders")).await?;
    later.apply(registration("orders", &spec)).await?;
    wait_keys(&etcd, &plain_prefix(&later, "orders"), &["a"]).await;
    until("the doctor to find no right missing", LONG, || async {
        match missing_rights(bed, &account, &watched) {
            missing if missing.is_empty() => Ok(()),
            missing => Err(missing.join("\n")),
        }
    })
    .await?;

    let standby = start("watches-later-1")?;
    standby.wait_ready(LONG).await?;
    let binding = format!("some-leasehold-{}", home.name());
    later.objects().delete(ROLE_API, "RoleBinding", &binding).await?;
    is_taken_over_in_part([operator, standby], &etcd, &shop, &later).await?;
    delete_registry(bed, "chart-later").await
}

/// A standby replica takes over while it may not read `dark`: the keys there stay, and it serves the other namespace.
async fn is_taken_over_in_part(
    operators: [Operator; 2],
    etcd: &EtcdCluster,
    light: &Namespace,
    dark: &Namespace,
) -> Result<()> {
    for operator in &operators {
        // A right is checked when a watch begins, which is once a minute.
        until("the view of pods to be outdated", 2 * LONG, || async {
            let metrics = operator.metrics().await.map_err(|error| error.to_string())?;
            match metrics.lines().find(|line| line.starts_with(STALE)) {
                Some(line) if !line.ends_with(" 0") => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await?;
    }
    let history = History::watch(etcd, &plain_prefix(dark, "orders"), 0).await?;
    dark.set_ready("a", false).await?;
    let [leader, standby] = operators;
    leader.terminate()?;
    leader.wait_exit(LONG).await?;
    light.create_pod(&pod("c", "orders")).await?;
    wait_keys(etcd, &plain_prefix(light, "orders"), &["a", "b", "c"]).await;
    history.assert_silent().await;
    wait_keys(etcd, &plain_prefix(dark, "orders"), &["a"]).await;
    standby.terminate()?;
    standby.wait_exit(LONG).await.map(drop)
}
