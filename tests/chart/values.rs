//! Values that are not given: as a dependency of another chart, with `--reuse-values` from an older one, or set to null.

use std::fs;
use std::path::{Path, PathBuf};

use futures::StreamExt;
use futures::stream;
use serde_json::{Value, json};
use testbed::{Bed, Folder, Result, shared};

use super::TURN;
use super::helm::{chart, helm, kubectl};

/// What is rendered; an error is what helm says.
async fn template(bed: &Bed, chart: &Path, sets: &[String]) -> std::result::Result<String, String> {
    let chart = chart.display().to_string();
    let mut words = vec!["template", "p", &chart];
    words.extend(sets.iter().flat_map(|set| ["--set", set]));
    helm(bed.kubeconfig(), &words).await
}

/// Everything that values can switch on.
const EVERYTHING: [&str; 20] = [
    "registry.create=true",
    "registry.endpoints={http://etcd-0:2379}",
    "etcd.create=true",
    "etcd.image.repository=mirror/etcd",
    "purgeOnUninstall=true",
    "networkPolicy.enabled=true",
    "metrics.auth.enabled=true",
    "metrics.auth.audience=leasehold",
    "metrics.auth.tokenSecret.name=prometheus",
    "metrics.serviceMonitor.create=true",
    "metrics.podMonitor.create=true",
    "metrics.rules.create=true",
    "metrics.dashboard.create=true",
    "priorityClassName=system-cluster-critical",
    "watchNamespaces={shop}",
    "rbac.secrets={etcd-user}",
    "commonLabels.team=platform",
    "podLabels.a=b",
    "rollouts.enabled=true",
    "rollouts.admissionPolicy.create=true",
];

/// The paths of all values of the chart, and of the groups that they are in.
fn paths() -> Vec<String> {
    let text = fs::read_to_string(chart().join("values.yaml")).expect("it is there");
    let values: Value = serde_saphyr::from_str(&text).expect("YAML");
    let mut all = Vec::new();
    let mut open = vec![(String::new(), values)];
    while let Some((path, value)) = open.pop() {
        for (key, inner) in value.as_object().into_iter().flatten() {
            let path = if path.is_empty() {
                key.clone()
            } else {
                format!("{path}.{key}")
            };
            all.push(path.clone());
            // In these a null takes something away, as in any chart.
            let whole = [
                "podSecurityContext",
                "securityContext",
                "resources",
                "livenessProbe",
                "readinessProbe",
                "labels",
            ];
            if !whole.contains(&key.as_str()) {
                open.push((path, inner.clone()));
            }
        }
    }
    all
}

#[tokio::test]
async fn a_value_that_is_missing_means_its_default() -> Result<()> {
    let bed = shared().await?;
    let check = async |path: String| {
        // All but what this one itself, or its group, or what is in it, would say.
        let others = EVERYTHING.iter().filter(|set| {
            let name = set.split('=').next().expect("a name");
            let inside = |outer: &str, inner: &str| {
                inner
                    .strip_prefix(outer)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
            };
            !inside(&path, name) && !inside(name, &path)
        });
        let mut sets: Vec<String> = others.map(|set| (*set).to_owned()).collect();
        let expected = template(bed, &chart(), &sets).await;
        sets.push(format!("{path}=null"));
        let found = template(bed, &chart(), &sets).await;
        if let Ok(found) = &found {
            assert!(!found.contains("<nil>"), "{path}: {found}");
        }
        assert_eq!(found, expected, "{path}");
    };
    let paths = paths();
    assert!(paths.len() > 80, "{paths:?}");
    stream::iter(paths)
        .map(check)
        .buffer_unordered(4)
        .collect::<Vec<()>>()
        .await;
    Ok(())
}

/// The values of older charts, as they stood in the tree: of the first one, and of one between.
fn older() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/chart/older");
    let mut files: Vec<PathBuf> = fs::read_dir(folder)
        .expect("they are there")
        .map(|file| file.expect("a file").path())
        .collect();
    files.sort();
    assert!(files.len() >= 2, "{files:?}");
    files
}

/// This tree's chart with other default values: what `--reuse-values` makes of it.
fn chart_with_values(folder: &Path, values: &Path) -> PathBuf {
    let to = folder.join(values.file_stem().expect("a name"));
    copy(&chart(), &to);
    fs::copy(values, to.join("values.yaml")).expect("it is copied");
    to
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("a folder") {
        let path = entry.expect("an entry").path();
        let to = to.join(path.file_name().expect("a name"));
        if path.is_dir() {
            copy(&path, &to);
        } else {
            fs::copy(&path, &to).expect("it is copied");
        }
    }
}

#[tokio::test]
async fn values_of_older_charts_render_as_this_one_with_its_defaults() -> Result<()> {
    let bed = shared().await?;
    let folder = Folder::new("older-values")?;
    let expected = template(bed, &chart(), &[]).await.expect("it renders");
    for values in older() {
        let rendered = template(bed, &chart_with_values(folder.path(), &values), &[]).await;
        let rendered = rendered.unwrap_or_else(|error| panic!("{}: {error}", values.display()));
        assert_eq!(rendered, expected, "{}", values.display());
    }
    Ok(())
}

#[tokio::test]
async fn the_documented_upgrade_works_from_an_older_chart() -> Result<()> {
    let _turn = TURN.lock().await;
    let bed = shared().await?;
    bed.apply_crds().await?;
    let home = bed.namespace("chart-older").await?;
    let folder = Folder::new("older-chart")?;
    let first = older().remove(0);
    let old = chart_with_values(folder.path(), &first).display().to_string();
    let words = [
        "install",
        "older",
        &old,
        "--skip-crds",
        "--set=replicaCount=0",
        "--namespace",
        home.name(),
    ];
    helm(bed.kubeconfig(), &words)
        .await
        .unwrap_or_else(|error| panic!("{error}"));
    let new = chart().display().to_string();
    for flag in ["--reset-then-reuse-values", "--reuse-values"] {
        let words = ["upgrade", "older", &new, flag, "--namespace", home.name()];
        helm(bed.kubeconfig(), &words)
            .await
            .unwrap_or_else(|error| panic!("{flag}: {error}"));
    }
    let deployment = home.objects().get("apps/v1", "Deployment", "older-leasehold").await?;
    let deployment = deployment.expect("it is there");
    assert_eq!(deployment["spec"]["replicas"], 0, "{deployment}");
    let words = ["uninstall", "older", "--namespace", home.name()];
    helm(bed.kubeconfig(), &words)
        .await
        .unwrap_or_else(|error| panic!("{error}"));
    Ok(())
}

/// A chart with this one as a dependency of this name, switched by a condition in its own values.
fn parent(folder: &Path, alias: &str) -> PathBuf {
    let to = folder.join(alias);
    fs::create_dir_all(to.join("charts")).expect("a folder");
    copy(&chart(), &to.join("charts/leasehold"));
    let own_name = if alias == "leasehold" {
        String::new()
    } else {
        format!(", alias: {alias}")
    };
    let about = format!(
        "apiVersion: v2\nname: platform\nversion: 0.1.0\ndependencies:\n  \
         - {{name: leasehold, version: \">=0.0.0-0\", condition: {alias}.enabled{own_name}}}\n"
    );
    fs::write(to.join("Chart.yaml"), about).expect("it is written");
    let values = format!("{alias}:\n  enabled: true\n  image: {{repository: example.org/leasehold}}\n");
    fs::write(to.join("values.yaml"), values).expect("it is written");
    to
}

#[tokio::test]
async fn chart_renders_as_optional_dependency_and_rejects_misspelt_values() -> Result<()> {
    let bed = shared().await?;
    let folder = Folder::new("parents")?;
    let alone = template(bed, &chart(), &[]).await.expect("it renders");
    for alias in ["leasehold", "lh"] {
        let parent = parent(folder.path(), alias);
        let rendered = template(bed, &parent, &["global.registry=mirror".to_owned()]).await;
        let rendered = rendered.unwrap_or_else(|error| panic!("{alias}: {error}"));
        let count = |text: &str| text.lines().filter(|line| line.starts_with("kind: ")).count();
        assert_eq!(count(&rendered), count(&alone), "{rendered}");
        assert!(rendered.contains("example.org/leasehold:"), "{rendered}");
        // What the parent takes away means the default, too.
        let less = template(bed, &parent, &[format!("{alias}.operator=null")]).await;
        assert_eq!(less.as_ref(), Ok(&rendered));
        let off = template(bed, &parent, &[format!("{alias}.enabled=false")]).await;
        assert_eq!(off.unwrap_or_else(|error| panic!("{error}")).trim(), "");
        let refused = template(bed, &parent, &[format!("{alias}.replicaCont=3")]).await;
        let refused = refused.expect_err("it is misspelt");
        assert!(refused.contains("'replicaCont' not allowed"), "{refused}");
        let path = parent.display().to_string();
        let lint = helm(bed.kubeconfig(), &["lint", &path]).await;
        lint.unwrap_or_else(|error| panic!("{alias}: {error}"));
    }
    Ok(())
}

/// The objects in a rendered text, each parsed by a loader that refuses a key that is there twice.
pub fn objects(rendered: &str) -> Vec<Value> {
    let documents = rendered.split("\n---\n").filter(|document| document.contains("kind: "));
    let parsed = documents.map(|document| {
        serde_saphyr::from_str::<Value>(document).unwrap_or_else(|error| panic!("{error}:\n{document}"))
    });
    parsed.collect()
}

#[tokio::test]
async fn a_label_of_the_user_s_is_there_once_and_selectors_stay_as_they_are() -> Result<()> {
    let bed = shared().await?;
    let render = async |sets: &[&str]| {
        let sets: Vec<String> = EVERYTHING.iter().chain(sets).map(|set| (*set).to_owned()).collect();
        let rendered = template(bed, &chart(), &sets).await;
        objects(&rendered.unwrap_or_else(|error| panic!("{error}")))
    };
    let labels_of = |object: &Value, kind: &str| match kind {
        "Deployment" | "Job" => object["spec"]["template"]["metadata"]["labels"].clone(),
        _ => object["metadata"]["labels"].clone(),
    };
    let plain = render(&[]).await;
    let key = |label: &str| label.replace('.', "\\.");
    for label in ["part-of", "version", "managed-by", "name", "instance", "component"] {
        let label = format!("app.kubernetes.io/{label}");
        let common = format!("commonLabels.{}=mine", key(&label));
        let pods = format!("podLabels.{}=pods", key(&label));
        for (before, object) in plain.iter().zip(render(&[&common, &pods]).await) {
            let kind = object["kind"].as_str().expect("a kind");
            let selected = kind == "Deployment" || kind == "Job" || kind == "Service";
            let selecting = selected && ["name", "instance", "component"].iter().any(|end| label.ends_with(end));
            let (was, is) = (labels_of(before, kind), labels_of(&object, kind));
            let of_operator = is["app.kubernetes.io/component"] == "operator" && kind == "Deployment";
            match (selecting, of_operator) {
                (true, _) if kind != "Service" || is["app.kubernetes.io/component"] == "operator" => {
                    assert_eq!(is[&label], was[&label], "{label}: {object}");
                }
                (false, true) => assert_eq!(is[&label], "pods", "{label}: {object}"),
                _ => assert_eq!(is[&label], "mine", "{label}: {object}"),
            }
            assert_eq!(
                object["spec"]["selector"], before["spec"]["selector"],
                "{label}: {object}"
            );
            let (was, is) = (&before["spec"]["podSelector"], &object["spec"]["podSelector"]);
            assert_eq!(is, was, "{label}: {object}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn the_apiserver_fills_nothing_in_where_tools_do_not_expect_it() -> Result<()> {
    let bed = shared().await?;
    bed.apply_crds().await?;
    let namespace = bed.namespace("chart-filled").await?;
    let chart = chart().display().to_string();
    let words = [
        "template",
        "filled",
        &chart,
        "--namespace",
        namespace.name(),
        "--set",
        "networkPolicy.enabled=true",
        "--set",
        "watchNamespaces={default}",
        "--set",
        "metrics.auth.enabled=true",
        "--set",
        "metrics.dashboard.create=true",
    ];
    let rendered = helm(bed.kubeconfig(), &words)
        .await
        .unwrap_or_else(|error| panic!("{error}"));
    let words = [
        "apply",
        "--server-side",
        "--dry-run=server",
        "--output=json",
        "--filename=-",
    ];
    let mut more = Vec::new();
    for sent in objects(&rendered) {
        // Their defaults are known to every tool that compares.
        if ["Service", "Deployment"].iter().any(|kind| sent["kind"] == *kind) {
            continue;
        }
        let reported = kubectl(bed, &words, &sent.to_string())
            .await
            .unwrap_or_else(|error| panic!("{error}"));
        let mut back: Value = serde_json::from_str(&reported).expect("JSON");
        for own in [
            "uid",
            "resourceVersion",
            "generation",
            "creationTimestamp",
            "managedFields",
        ] {
            back["metadata"].as_object_mut().expect("metadata").remove(own);
        }
        back.as_object_mut().expect("an object").remove("status");
        additions(&sent, &back, sent["kind"].as_str().unwrap_or_default(), &mut more);
    }
    assert_eq!(more, [""; 0]);
    Ok(())
}

/// The paths of what is in `back` and not in `sent`.
fn additions(sent: &Value, back: &Value, path: &str, more: &mut Vec<String>) {
    match back {
        Value::Object(fields) => {
            for (name, inner) in fields {
                let path = format!("{path}.{name}");
                match sent.get(name) {
                    Some(sent) => additions(sent, inner, &path, more),
                    // The namespace of what is in none is not said, and an empty status means none.
                    None => more.push(path),
                }
            }
        }
        Value::Array(items) => {
            for (number, inner) in items.iter().enumerate() {
                additions(&sent[number], inner, &format!("{path}[{number}]"), more);
            }
        }
        _ => {}
    }
}

#[tokio::test]
async fn pods_on_openshift_set_no_user_and_stay_restricted() -> Result<()> {
    let bed = shared().await?;
    let strict = bed.namespace("chart-openshift").await?;
    let mut labelled = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": strict.name()}});
    labelled["metadata"]["labels"] = json!({"pod-security.kubernetes.io/enforce": "restricted"});
    bed.objects().apply(labelled).await?;
    let chart = chart().display().to_string();
    let render = async |more: &[&str]| {
        let mut words = vec!["template", "p", &chart, "--namespace", strict.name()];
        words.extend(
            EVERYTHING
                .iter()
                .filter(|set| !set.starts_with("watch"))
                .flat_map(|set| ["--set", set]),
        );
        words.extend(more);
        let rendered = helm(bed.kubeconfig(), &words).await;
        let rendered = rendered.unwrap_or_else(|error| panic!("{error}"));
        let templates = objects(&rendered)
            .into_iter()
            .map(|mut object| object["spec"]["template"].take());
        templates
            .filter(|template| template["spec"]["containers"].is_array())
            .collect::<Vec<Value>>()
    };
    let fixed = ["runAsUser", "runAsGroup", "fsGroup"];
    let named = |template: &Value| fixed.map(|field| template["spec"]["securityContext"][field].clone());
    let openshift = ["--api-versions", "security.openshift.io/v1"];
    for (more, user) in [
        (&openshift[..], Value::Null),
        (&["--set", "openshift=true"], Value::Null),
        (&[], json!(65532)),
        (
            &["--api-versions", "security.openshift.io/v1", "--set", "openshift=false"],
            json!(65532),
        ),
        (
            &[
                "--set",
                "openshift=true",
                "--set",
                "podSecurityContext.runAsUser=7,podSecurityContext.runAsGroup=7,podSecurityContext.fsGroup=7",
            ],
            json!(7),
        ),
    ] {
        let templates = render(more).await;
        assert_eq!(templates.len(), 3, "operator, etcd and purge");
        for template in templates {
            assert_eq!(
                named(&template),
                [user.clone(), user.clone(), user.clone()],
                "{more:?}: {template}"
            );
            let mut pod =
                json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": template["spec"]});
            pod["spec"]
                .as_object_mut()
                .expect("a spec")
                .remove("serviceAccountName");
            pod["spec"].as_object_mut().expect("a spec").remove("priorityClassName");
            let words = [
                "create",
                "--dry-run=server",
                "--namespace",
                strict.name(),
                "--filename=-",
            ];
            let taken = kubectl(bed, &words, &pod.to_string()).await;
            taken.unwrap_or_else(|error| panic!("{more:?}: {error}"));
        }
    }
    Ok(())
}
