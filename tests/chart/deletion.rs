//! The policy that rejects the deletion of a Registry that has keys.

use serde_json::json;
use testbed::{Result, shared, until};

use super::TURN;
use super::helm::{chart, helm, kubectl};
use super::support::{API, SOON};

const NAME: &str = "charted-deletion";

#[tokio::test]
async fn a_registry_that_has_keys_is_deleted_only_with_the_annotation() -> Result<()> {
    let _turn = TURN.lock().await;
    let bed = shared().await?;
    bed.apply_crds().await?;
    let chart = chart().display().to_string();
    let words = [
        "template",
        "deletion",
        &chart,
        "--show-only",
        "templates/deletionpolicy.yaml",
    ];
    let policy = helm(bed.kubeconfig(), &words).await;
    let policy = policy.unwrap_or_else(|error| panic!("{error}"));
    kubectl(bed, &["apply", "--filename=-"], &policy)
        .await
        .unwrap_or_else(|error| panic!("{error}"));
    let registry = json!({
        "apiVersion": API, "kind": "Registry", "metadata": {"name": NAME},
        "spec": {"etcd": {"endpoints": ["http://127.0.0.1:1"]}},
    });
    let objects = bed.objects();
    let set_keys = async |keys: u64| {
        let status =
            json!({"apiVersion": API, "kind": "Registry", "metadata": {"name": NAME}, "status": {"keys": keys}});
        let words = [
            "apply",
            "--server-side",
            "--force-conflicts",
            "--subresource=status",
            "--filename=-",
        ];
        let applied = kubectl(bed, &words, &status.to_string()).await;
        applied.unwrap_or_else(|error| panic!("{error}"))
    };
    // A policy takes effect a moment after it was applied.
    let refusal = until("the deletion to be rejected", SOON, || async {
        objects
            .apply(registry.clone())
            .await
            .map_err(|error| error.to_string())?;
        set_keys(12).await;
        match objects.delete(API, "Registry", NAME).await {
            Ok(()) => Err("it was deleted".to_owned()),
            Err(refusal) => Ok(refusal.to_string()),
        }
    })
    .await?;
    assert!(refusal.contains("has 12 keys"), "{refusal}");
    assert!(
        refusal.contains(&format!("annotate registry {NAME} leasehold.dev/allow-deletion=true")),
        "{refusal}"
    );

    set_keys(0).await;
    objects.delete(API, "Registry", NAME).await?;
    objects.apply(registry.clone()).await?;
    objects.delete(API, "Registry", NAME).await?;
    let mut allowed = registry;
    allowed["metadata"]["annotations"] = json!({"leasehold.dev/allow-deletion": "true"});
    objects.apply(allowed).await?;
    set_keys(12).await;
    objects.delete(API, "Registry", NAME).await?;

    let (version, kind) = ("apiextensions.k8s.io/v1", "CustomResourceDefinition");
    let refused = objects.delete(version, kind, "registries.leasehold.dev").await;
    let refusal = refused.map_err(|error| error.to_string()).expect_err("it is rejected");
    assert!(
        refusal.contains("annotate crd registries.leasehold.dev leasehold.dev/allow-deletion=true"),
        "{refusal}"
    );
    let words = [
        "annotate",
        "crd",
        "registries.leasehold.dev",
        "leasehold.dev/allow-deletion=true",
    ];
    kubectl(bed, &words, "").await.unwrap_or_else(|error| panic!("{error}"));
    objects.delete(version, kind, "registries.leasehold.dev").await?;
    until("the CRD to be gone", SOON, || async {
        match objects.get(version, kind, "registries.leasehold.dev").await {
            Ok(None) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await?;
    bed.apply_crds().await?;
    // The other CRDs are not protected: the guard holds the removals that follow from deleted registrations.
    kubectl(bed, &["delete", "--filename=-"], &policy)
        .await
        .unwrap_or_else(|error| panic!("{error}"));
    Ok(())
}
