//! The image of `cargo xtask image`: it is reproducible, and the operator in it runs without root.

use std::{fs, path::Path, process::Command, time::Duration};

use serde_json::{Value, json};
use testbed::{Bed, BedConfig, Folder, Image, Kubelet, NewPod, Result, until};

/// For what takes seconds, on a machine that is busy.
const SOON: Duration = Duration::from_mins(1);

/// Makes an image with these arguments.
fn image(to: &Path, arguments: &[&str]) {
    let mut xtask = Command::new(env!("CARGO_BIN_EXE_xtask"));
    xtask.arg("image").args(arguments).arg("--output").arg(to);
    let output = xtask.output().expect("xtask runs");
    let reported = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{xtask:?}: {reported}");
}

fn read(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[tokio::test]
async fn the_operator_runs_from_an_image_that_is_the_same_every_time() -> Result<()> {
    let folder = Folder::new("image")?;
    let (first, second) = (folder.path().join("first.tar"), folder.path().join("second.tar"));
    image(&first, &["--dev"]);
    let unpacked = Image::unpack(&first, &folder.path().join("unpacked"))?;
    let program = unpacked.root().join("leasehold");

    // Out of the same program the same image, and no word of where it was made.
    image(&second, &["--program", &program.display().to_string()]);
    assert!(read(&first) == read(&second), "two images of the same program differ");
    let bytes = read(&program);
    let place = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a workspace");
    let place = place.display().to_string();
    let reported = bytes.windows(place.len()).any(|window| window == place.as_bytes());
    assert!(!reported, "the program names {place}");
    let bill = read(&unpacked.root().join("usr/share/doc/leasehold/sbom.cdx.json"));
    assert_eq!(bill, read(&folder.path().join("first.cdx.json")));
    let bill: Value = serde_json::from_slice(&bill).expect("JSON");
    assert_eq!(bill["bomFormat"], "CycloneDX");

    let bed = Bed::start(BedConfig::default()).await?;
    bed.apply_crds().await?;
    bed.create_registry("default", &bed.registry().endpoints(), 15).await?;
    let home = bed.namespace_named("image-home").await?;
    let _kubelet = Kubelet::start(&bed, home.name(), &unpacked)?;
    for object in operator(home.name()) {
        home.apply(object).await?;
    }
    home.wait_ready_pods("app.kubernetes.io/component=operator", 1).await?;
    // A kubelet without root runs the pod in a user namespace, whose ids are not visible here: only root is ruled out.
    let users = users(&bed, home.name()).await?;
    assert!(users.iter().all(|&(user, group)| user != 0 && group != 0), "{users:?}");

    let shop = bed.namespace("image-shop").await?;
    shop.create_pod(&NewPod::new("a").label("app", "orders").port("grpc", 8080))
        .await?;
    let registration = json!({
        "apiVersion": "leasehold.dev/v1alpha1",
        "kind": "ServiceRegistration",
        "metadata": {"name": "orders"},
        "spec": {"selector": {"matchLabels": {"app": "orders"}}, "ports": [{"name": "grpc"}], "formats": [{"type": "Plain"}]},
    });
    shop.apply(registration).await?;
    let prefix = format!("/services/{}/orders/", shop.name());
    until("the key", SOON, || async {
        let keys = bed.registry().dump(&prefix).await.map_err(|error| error.to_string())?;
        if keys.len() == 1 {
            Ok(())
        } else {
            Err(format!("{keys:?}"))
        }
    })
    .await
}

/// A pod that runs the operator as the image says, under an account that may do everything: rights are the chart's matter.
fn operator(namespace: &str) -> [Value; 3] {
    [
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "operator"}}),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": "image-home"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
            "subjects": [{"kind": "ServiceAccount", "name": "operator", "namespace": namespace}],
        }),
        json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": "operator",
                "labels": {"app.kubernetes.io/part-of": "leasehold", "app.kubernetes.io/component": "operator"},
            },
            "spec": {
                "serviceAccountName": "operator",
                "securityContext": {"runAsUser": 65532, "runAsGroup": 65532},
                "containers": [{
                    "name": "operator",
                    "image": "leasehold",
                    "args": ["run", "--http=0.0.0.0:8080"],
                    "ports": [{"name": "http", "containerPort": 8080}],
                    "readinessProbe": {"httpGet": {"path": "/readyz", "port": "http"}, "periodSeconds": 1},
                }],
            },
        }),
    ]
}

/// Users and groups of the processes whose root is that of a pod of the namespace.
async fn users(bed: &Bed, namespace: &str) -> Result<Vec<(u32, u32)>> {
    let place = bed.folder().path().join(format!("pods-{namespace}"));
    until("a process in the pod's root", SOON, || async {
        let mut users = Vec::new();
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            if fs::read_link(entry.path().join("root")).is_ok_and(|root| root.starts_with(&place)) {
                let status = fs::read_to_string(entry.path().join("status")).unwrap_or_default();
                let id = |field: &str| {
                    let line = status.lines().find_map(|line| line.strip_prefix(field));
                    line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok())
                        .unwrap_or(u32::MAX)
                };
                users.push((id("Uid:"), id("Gid:")));
            }
        }
        if users.is_empty() { Err("none") } else { Ok(users) }
    })
    .await
}
