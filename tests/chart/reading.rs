//! Access to the metrics where it is restricted, checked with a real apiserver and real tokens.

use std::path::PathBuf;

use serde_json::json;
use testbed::{Bed, Namespace, Operator, OperatorConfig, Result, process, shared, until};

use super::TURN;
use super::helm::{chart, helm, kubeconfig_of, kubectl, token_of};
use super::support::SOON;

/// Gives the namespace what the chart renders with a reader of metrics, and accounts of which one is that reader.
/// Returns the kubeconfig of the operator's own.
async fn install(bed: &Bed, home: &Namespace) -> Result<PathBuf> {
    let account = |name: &str| json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}});
    for name in ["reader", "other"] {
        home.objects().apply(account(name)).await?;
    }
    let chart = chart().display().to_string();
    let reader = format!(
        "metrics.auth.readers[0].name=reader,metrics.auth.readers[0].namespace={}",
        home.name()
    );
    let words = [
        "template",
        "guarded",
        &chart,
        "--namespace",
        home.name(),
        "--set",
        "metrics.auth.enabled=true",
        "--set",
        "metrics.auth.readers[0].kind=ServiceAccount",
        "--set",
        &reader,
    ];
    let rendered = helm(bed.kubeconfig(), &words).await;
    let rendered = rendered.unwrap_or_else(|error| panic!("{error}"));
    let taken = kubectl(bed, &["apply", "--filename=-"], &rendered).await;
    taken.unwrap_or_else(|error| panic!("{error}"));
    kubeconfig_of(bed, home.name(), "guarded-leasehold").await
}

#[tokio::test]
async fn metrics_are_served_only_to_authorized_accounts() -> Result<()> {
    let _turn = TURN.lock().await;
    let bed = shared().await?;
    bed.apply_crds().await?;
    let home = bed.namespace("chart-metrics").await?;
    let kubeconfig = install(bed, &home).await?;
    let start = |name: &str, args: &[&str]| {
        let mut config = OperatorConfig::new(name, env!("CARGO_BIN_EXE_leasehold"));
        config.args = ["--namespace", home.name()]
            .iter()
            .chain(args)
            .map(Into::into)
            .collect();
        config.kubeconfig = Some(kubeconfig.clone());
        Operator::start(bed, config)
    };
    let operator = start("guarded", &["--metrics-auth"])?;
    operator.wait_ready(SOON).await?;
    let server = operator
        .http()
        .trim_start_matches("http://")
        .parse()
        .expect("an address");

    let allowed = token_of(bed, home.name(), "reader", &[]).await;
    until("the reader to be let in", SOON, || async {
        match operator.metrics_for(&allowed).await {
            Ok((200, text)) if text.contains("leasehold_calls_total") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await?;
    let other = token_of(bed, home.name(), "other", &[]).await;
    let (status, reported) = operator.metrics_for(&other).await?;
    assert_eq!(status, 403, "{reported}");
    let user = format!("system:serviceaccount:{}:other may not get", home.name());
    assert!(
        reported.contains(&user) && reported.contains("bind it to a ClusterRole"),
        "{reported}"
    );
    let elsewhere = token_of(bed, home.name(), "reader", &["--audience=elsewhere"]).await;
    // The signature is what makes it one.
    let forged = format!("{}AAAA", &allowed[..allowed.len() - 4]);
    for (token, why) in [
        ("garbage", "garbage"),
        (&elsewhere, "for another audience"),
        (&forged, "forged"),
    ] {
        let (status, reported) = operator.metrics_for(token).await?;
        assert_eq!(status, 401, "{why}: {reported}");
        assert!(reported.contains("send the bearer token of an account"), "{reported}");
        assert!(!reported.contains("leasehold_calls"), "{reported}");
    }
    let (status, reported) = process::http::get(server, "/metrics").await.expect("an answer");
    assert!(
        status == 401 && reported.contains("the request has no bearer token"),
        "{status}: {reported}"
    );
    for open in ["/healthz", "/readyz"] {
        let (status, reported) = process::http::get(server, open).await.expect("an answer");
        assert_eq!(status, 200, "{open}: {reported}");
    }

    let (_, metrics) = operator.metrics_for(&allowed).await?;
    for call in ["create_tokenreview", "create_subjectaccessreview"] {
        let line = format!(r#"leasehold_calls_total{{peer="apiserver",call="{call}",outcome="ok"}}"#);
        assert!(metrics.contains(&line), "no {line} in\n{metrics}");
    }
    let log = std::fs::read_to_string(bed.logs().join("guarded.log")).expect("a log");
    for token in [&allowed, &other, &elsewhere, &forged] {
        let signature = token.rsplit('.').next().expect("a part");
        assert!(
            !log.contains(signature) && !metrics.contains(signature),
            "a token is told"
        );
    }

    let audience = start(
        "guarded-audience",
        &["--metrics-auth", "--metrics-auth-audience=elsewhere"],
    )?;
    audience.wait_ready(SOON).await?;
    assert_eq!(audience.metrics_for(&elsewhere).await?.0, 200);
    assert_eq!(audience.metrics_for(&allowed).await?.0, 401);

    // While the apiserver is away, those who have read go on, and others do not.
    let apiserver = bed.control_plane().apiserver();
    apiserver.stop()?;
    let (known, (stranger, reported)) = (
        operator.metrics_for(&allowed).await?.0,
        operator.metrics_for("another").await?,
    );
    apiserver.cont()?;
    assert_eq!(known, 200);
    assert!(
        stranger == 503 && reported.contains("the kube-apiserver gave no answer"),
        "{stranger}: {reported}"
    );
    for operator in [operator, audience] {
        operator.terminate()?;
        operator.wait_exit(SOON).await?;
    }
    Ok(())
}
