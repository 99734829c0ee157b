//! Who the operator is in a cluster: the chart's own account, with the rights that the chart gives it and no others.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use kube::Client;
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use crate::{
    Bed, Objects,
    bed::read_manifests,
    error::{Error, Result},
    kubernetes::{Account, client_by},
    wait::until,
};

/// What the chart renders without any value. Checked against the chart by `cargo xtask test`.
const RENDERED: &str = "deploy/leasehold.yaml";
/// Of that, what an account and its rights are.
const KINDS: [&str; 7] = [
    "Namespace",
    "ServiceAccount",
    "Secret",
    "ClusterRole",
    "ClusterRoleBinding",
    "Role",
    "RoleBinding",
];
/// The namespace of the operator, and the name of its account: those of the rendered manifests.
const NAME: &str = "leasehold";
/// How long rights that were just given may take to be known to the API server.
const KNOWN: Duration = Duration::from_secs(30);

/// The operator's account on a bed, once the bed knows of leasehold.
#[derive(Debug, Default)]
pub(crate) struct Identity(OnceCell<(Account, PathBuf)>);

impl Identity {
    /// Gives the operator its account and the rights that the chart of this tree or of another release gives it, also
    /// those that a test has taken away since, and no others.
    pub async fn establish(&self, bed: &Bed, tree: &Path) -> Result<()> {
        let objects = Objects::new(bed.client(), NAME);
        let mut rights = Vec::new();
        for manifest in read_manifests(&tree.join(RENDERED))? {
            if KINDS.iter().any(|kind| manifest["kind"] == *kind) {
                rights.extend(rights_of(&manifest));
                objects.apply(manifest).await?;
            }
        }
        let ask = || async {
            let account = Account::of(bed.client(), NAME, NAME).await?;
            let path = bed.logs().join("operator.kubeconfig");
            account.kubeconfig(bed.kubeconfig(), None, &path)?;
            Ok::<_, Error>((account, path))
        };
        let (_, kubeconfig) = self.0.get_or_try_init(ask).await?;
        wait_known(&client_by(kubeconfig).await?, &rights).await
    }

    /// Gives the account the right to patch the status of pods.
    pub async fn allow_pod_status(&self, bed: &Bed) -> Result<()> {
        let name = "leasehold-readiness-gates";
        let role = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRole",
            "metadata": {"name": name},
            "rules": [{"apiGroups": [""], "resources": ["pods/status"], "verbs": ["patch"]}],
        });
        let binding = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name},
            "subjects": [{"kind": "ServiceAccount", "name": NAME, "namespace": NAME}],
        });
        bed.objects().apply(role).await?;
        bed.objects().apply(binding).await?;
        let right = json!({
            "verb": "patch", "group": "", "resource": "pods", "subresource": "status", "name": "", "namespace": "",
        });
        wait_known(&client_by(self.kubeconfig()?).await?, &[right]).await
    }

    /// A kubeconfig of the account.
    pub fn kubeconfig(&self) -> Result<&Path> {
        self.established().map(|(_, path)| path.as_path())
    }

    /// The account.
    pub fn account(&self) -> Result<&Account> {
        self.established().map(|(account, _)| account)
    }

    fn established(&self) -> Result<&(Account, PathBuf)> {
        let none = || Error::Invalid("the operator has no account on this bed yet; call Bed::apply_crds first".into());
        self.0.get().ok_or_else(none)
    }
}

/// What a manifest allows the operator: one right of each rule, as it is asked about.
fn rights_of(role: &Value) -> Vec<Value> {
    let name = role["metadata"]["name"].as_str().unwrap_or_default();
    // The others are for people.
    let namespace = match role["kind"].as_str() {
        Some("ClusterRole") if name == format!("{NAME}-{NAME}") => "",
        Some("Role") => NAME,
        _ => return Vec::new(),
    };
    let rules = role["rules"].as_array().into_iter().flatten();
    let right = |rule: &Value| {
        let resource = rule["resources"][0].as_str().unwrap_or_default();
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        json!({
            "verb": rule["verbs"][0],
            "group": rule["apiGroups"][0],
            "resource": resource,
            "subresource": subresource,
            "name": rule["resourceNames"][0].as_str().unwrap_or_default(),
            "namespace": namespace,
        })
    };
    rules.map(right).collect()
}

/// Waits until the API server knows of all that was given.
async fn wait_known(client: &Client, rights: &[Value]) -> Result<()> {
    for right in rights {
        until(&format!("the operator to be allowed {right}"), KNOWN, || async {
            let allowed = allowed(client, right).await.map_err(|error| error.to_string())?;
            allowed.then_some(()).ok_or_else(|| "it is not".to_owned())
        })
        .await?;
    }
    Ok(())
}

async fn allowed(client: &Client, attributes: &Value) -> Result<bool, kube::Error> {
    let review = json!({
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": attributes},
    });
    let request = http::Request::post("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews")
        .header(http::header::CONTENT_TYPE, "application/json")
        .body(review.to_string().into_bytes());
    let answer: Value = client.request(request.expect("a valid request")).await?;
    Ok(answer["status"]["allowed"] == true)
}
