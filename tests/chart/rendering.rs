//! What the chart renders from its values.

use serde_json::json;
use testbed::{Result, shared};

use super::TURN;
use super::helm::{chart, helm, kubectl};
use super::schemas;
use super::support::API;
use super::values::objects;

/// Values that between them switch everything on, one list of `--set` a case.
const VARIANTS: [&[&str]; 12] = [
    &[],
    &[
        "registry.create=true",
        "registry.endpoints={http://etcd-0:2379,http://etcd-1:2379}",
        "registry.spec.defaults.leaseTTLSeconds=20",
        "purgeOnUninstall=true",
    ],
    &[
        "registry.create=true",
        "registry.endpoints={https://etcd-0:2379}",
        "registry.tls.caRef.kind=ConfigMap,registry.tls.caRef.name=etcd-ca",
        "registry.tls.clientCertSecretRef.name=etcd-client",
        "registry.auth.secretRef.name=etcd-user",
        "rbac.secrets={etcd-client,etcd-user}",
        "rbac.configMaps={etcd-ca}",
    ],
    &[
        "registry.create=true",
        "etcd.create=true",
        "etcd.image.repository=mirror/etcd",
        "fullnameOverride=lease",
    ],
    &[
        "networkPolicy.enabled=true",
        "networkPolicy.metricsFrom[0].namespaceSelector.matchLabels.team=metrics",
        "networkPolicy.egress[0].ports[0].port=2379",
        "metrics.dashboard.create=true",
        "commonLabels.team=platform",
        "commonAnnotations.note=ours",
    ],
    &[
        "replicaCount=3",
        "image.digest=sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
        "imagePullSecrets[0].name=pull",
        "priorityClassName=system-cluster-critical",
        "operator.extraArgs={--log-format=text}",
        "operator.extraEnv[0].name=TZ,operator.extraEnv[0].value=UTC",
        "operator.extraEnvFrom[0].configMapRef.name=settings",
        "extraVolumes[0].name=more,extraVolumes[0].emptyDir.medium=Memory",
        "extraVolumeMounts[0].name=more,extraVolumeMounts[0].mountPath=/more",
        "nodeSelector.pool=system",
        "tolerations[0].key=system,tolerations[0].operator=Exists",
        "podLabels.a=b",
        "podAnnotations.c=d",
    ],
    &[
        "class=edge",
        "registry.create=true",
        "registry.name=edge",
        "registry.endpoints={http://etcd-0:2379}",
        "purgeOnUninstall=true",
    ],
    // Namespaces that every cluster has.
    &["watchNamespaces={default,kube-public}", "rbac.secrets={etcd-user}"],
    &[
        "rbac.create=false",
        "admissionPolicy.create=false",
        "serviceAccount.create=false",
        "serviceAccount.name=own",
        "podDisruptionBudget.enabled=false",
        "serviceAnnotations.enabled=false",
        "metrics.service.create=false",
    ],
    &[
        "metrics.auth.enabled=true",
        "metrics.auth.audience=leasehold",
        "metrics.auth.readers[0].kind=ServiceAccount",
        "metrics.auth.readers[0].name=prometheus,metrics.auth.readers[0].namespace=monitoring",
    ],
    &[
        "rollouts.enabled=true",
        "rollouts.admissionPolicy.create=true",
        "rollouts.admissionPolicy.drainSeconds=8",
    ],
    &[
        "rollouts.enabled=true",
        "rollouts.admissionPolicy.create=true",
        "watchNamespaces={default,kube-public}",
    ],
];

fn with<'a>(command: &[&'a str], chart: &'a str, values: &[&'a str]) -> Vec<&'a str> {
    let mut words = command.to_vec();
    words.push(chart);
    words.extend(values.iter().flat_map(|value| ["--set", value]));
    words
}

#[tokio::test]
async fn chart_variants_pass_lint_and_server_side_dry_run() -> Result<()> {
    let bed = shared().await?;
    bed.apply_crds().await?;
    let namespace = bed.namespace("chart-rendering").await?;
    let chart = chart().display().to_string();
    for values in VARIANTS {
        let lint = helm(bed.kubeconfig(), &with(&["lint", "--strict"], &chart, values)).await;
        lint.unwrap_or_else(|error| panic!("{values:?}: {error}"));
        let words = with(&["template", "try", "--namespace", namespace.name()], &chart, values);
        let rendered = helm(bed.kubeconfig(), &words).await;
        let rendered = rendered.unwrap_or_else(|error| panic!("{values:?}: {error}"));
        let words = ["apply", "--dry-run=server", "--validate=strict", "--filename=-"];
        let taken = kubectl(bed, &words, &rendered).await;
        taken.unwrap_or_else(|error| panic!("{values:?}: {error}"));
        for object in objects(&rendered).iter().filter(|object| object["apiVersion"] == API) {
            assert_eq!(schemas::problems(object), [""; 0], "{values:?}");
        }
    }
    Ok(())
}

/// Releases of one name in two namespaces, each with a class and a Registry of its own.
#[tokio::test]
async fn two_releases_of_different_classes_are_installed_side_by_side() -> Result<()> {
    let _turn = TURN.lock().await;
    let bed = shared().await?;
    bed.apply_crds().await?;
    let chart = chart().display().to_string();
    let mut homes = Vec::new();
    for class in ["one", "two"] {
        let home = bed.namespace(&format!("chart-class-{class}")).await?;
        let values = [
            format!("class={class}"),
            format!("registry.create=true,registry.name={}", home.name()),
            "registry.endpoints={http://127.0.0.1:1}".to_owned(),
            "rollouts.enabled=true,rollouts.admissionPolicy.create=true".to_owned(),
            "watchNamespaces={default,kube-public}".to_owned(),
            "metrics.auth.enabled=true".to_owned(),
        ];
        let values: Vec<&str> = values.iter().map(String::as_str).collect();
        // No kubelet runs its pods: this is about the objects.
        let words = with(&["install", "leasehold", "--namespace", home.name()], &chart, &values);
        let installed = helm(bed.kubeconfig(), &words).await;
        installed.unwrap_or_else(|error| panic!("{class}: {error}"));
        let registry = bed
            .objects()
            .get(API, "Registry", home.name())
            .await?
            .expect("it is there");
        assert_eq!(registry["spec"]["class"], class);
        let deployment = home.objects().get("apps/v1", "Deployment", "leasehold").await?;
        let deployment = deployment.expect("it is there");
        let variables = &deployment["spec"]["template"]["spec"]["containers"][0]["env"];
        let variable = json!({"name": "LEASEHOLD_CLASS", "value": class});
        assert!(variables.as_array().expect("a list").contains(&variable), "{variables}");
        homes.push(home);
    }
    for home in homes {
        let words = ["uninstall", "leasehold", "--namespace", home.name()];
        let uninstalled = helm(bed.kubeconfig(), &words).await;
        uninstalled.unwrap_or_else(|error| panic!("{error}"));
        bed.objects().delete(API, "Registry", home.name()).await?;
    }
    Ok(())
}

/// Cluster-wide and with selected namespaces.
#[tokio::test]
async fn disabled_service_annotations_grant_no_registration_writes() -> Result<()> {
    let bed = shared().await?;
    let chart = chart().display().to_string();
    for scope in [None, Some("watchNamespaces={shop}")] {
        for (enabled, expected) in [("true", 1), ("false", 0)] {
            let value = format!("serviceAnnotations.enabled={enabled}");
            let values: Vec<&str> = scope.into_iter().chain([value.as_str()]).collect();
            let words = with(&["template", "try"], &chart, &values);
            let rendered = helm(bed.kubeconfig(), &words).await;
            let objects = objects(&rendered.unwrap_or_else(|error| panic!("{error}")));
            // The role for users who may edit a namespace has more verbs.
            let verbs = json!(["create", "update", "delete"]);
            let rules = objects.iter().filter_map(|object| object["rules"].as_array()).flatten();
            let granted =
                rules.filter(|rule| rule["resources"] == json!(["serviceregistrations"]) && rule["verbs"] == verbs);
            assert_eq!(granted.count(), expected, "{values:?}");
            let deployment = objects
                .iter()
                .find(|object| object["kind"] == "Deployment")
                .expect("one");
            let variables = deployment["spec"]["template"]["spec"]["containers"][0]["env"].clone();
            let variable = json!({"name": "LEASEHOLD_SERVICE_ANNOTATIONS", "value": enabled});
            assert!(variables.as_array().expect("a list").contains(&variable), "{variables}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn monitors_and_alerts_are_rendered_for_the_prometheus_operator() -> Result<()> {
    let bed = shared().await?;
    let chart = chart().display().to_string();
    let values = [
        "metrics.serviceMonitor.create=true",
        "metrics.podMonitor.create=true",
        "metrics.rules.create=true",
        "metrics.rules.labels.release=prometheus",
    ];
    let rendered = helm(bed.kubeconfig(), &with(&["template", "try"], &chart, &values)).await;
    let rendered = rendered.unwrap_or_else(|error| panic!("{error}"));
    for part in [
        "kind: ServiceMonitor",
        "kind: PodMonitor",
        "kind: PrometheusRule",
        "release: prometheus",
    ] {
        assert!(rendered.contains(part), "no {part} in\n{rendered}");
    }
    assert!(
        !rendered.contains("bearerTokenFile") && !rendered.contains("tokenreviews"),
        "{rendered}"
    );
    // What an alert asks for must be what the operator tells.
    let metrics = [
        "leasehold_connected",
        "leasehold_leader",
        "leasehold_lapsed_leases_total",
        "leasehold_backlog",
        "leasehold_certificate_not_after_timestamp_seconds",
    ];
    assert!(metrics.iter().all(|metric| rendered.contains(metric)), "{rendered}");
    Ok(())
}

#[tokio::test]
async fn where_readers_of_metrics_are_asked_for_a_token_monitors_show_one() -> Result<()> {
    let bed = shared().await?;
    let chart = chart().display().to_string();
    let with_file = ["metrics.auth.enabled=true", "metrics.serviceMonitor.create=true"];
    let rendered = helm(bed.kubeconfig(), &with(&["template", "try"], &chart, &with_file)).await;
    let rendered = rendered.unwrap_or_else(|error| panic!("{error}"));
    let token = "bearerTokenFile: /var/run/secrets/kubernetes.io/serviceaccount/token";
    for part in [token, "- --metrics-auth", "nonResourceURLs: [/metrics]"] {
        assert!(rendered.contains(part), "no {part} in\n{rendered}");
    }
    let with_secret = [
        &with_file[..],
        &["metrics.podMonitor.create=true", "metrics.auth.tokenSecret.name=ours"],
    ]
    .concat();
    let rendered = helm(bed.kubeconfig(), &with(&["template", "try"], &chart, &with_secret)).await;
    let rendered = rendered.unwrap_or_else(|error| panic!("{error}"));
    let secret = "authorization: {type: Bearer, credentials: {name: ours, key: token}}";
    assert_eq!(rendered.matches(secret).count(), 2, "{rendered}");
    assert!(!rendered.contains("bearerTokenFile"), "{rendered}");
    Ok(())
}

#[tokio::test]
async fn wrong_values_are_refused_with_words_that_say_which() -> Result<()> {
    let bed = shared().await?;
    let chart = chart().display().to_string();
    let cases: [(&[&str], &str); 17] = [
        (&["replicas=3"], "additional properties 'replicas' not allowed"),
        (&["replicaCount=-1"], "/replicaCount"),
        (&["operator.sessionTtlSeconds=1"], "/operator/sessionTtlSeconds"),
        (&["operator.logFormat=xml"], "/operator/logFormat"),
        (&["image.pullPolicy=Sometimes"], "/image/pullPolicy"),
        (&["image.digest=latest"], "/image/digest"),
        (
            &["registry.create=true"],
            "registry.endpoints: name the members of your etcd",
        ),
        (
            &["registry.create=true", "registry.endpoints={etcd:2379}"],
            "/registry/endpoints/0",
        ),
        (&["registry.tls.ca=x"], "additional properties 'ca' not allowed"),
        (&["class=Edge"], "/class"),
        (&["watchNamespaces={Shop}"], "/watchNamespaces/0"),
        (&["watchNamespaces={shop,shop}"], "/watchNamespaces"),
        (&["etcd.create=true"], "etcd.image.repository: set the repository"),
        (
            &["metrics.serviceMonitor.create=true", "metrics.service.create=false"],
            "metrics.serviceMonitor needs metrics.service.create",
        ),
        (&["rollouts.maxWaitSeconds=0"], "/rollouts/maxWaitSeconds"),
        (
            &["rollouts.admissionPolicy.create=true"],
            "rollouts.admissionPolicy.create needs rollouts.enabled",
        ),
        (
            &["metrics.podMonitor.create=true", "metrics.auth.enabled=true"],
            "metrics.auth.tokenSecret.name: name the Secret",
        ),
    ];
    for (values, expected) in cases {
        let reported = helm(bed.kubeconfig(), &with(&["template", "try"], &chart, values)).await;
        let reported = reported.expect_err("it is refused");
        assert!(reported.contains(expected), "{values:?} was refused with\n{reported}");
    }
    Ok(())
}
