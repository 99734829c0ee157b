//! The programs helm and kubectl.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use testbed::{Account, Bed, Tool};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use super::support::API;

/// The chart of this tree.
pub fn chart() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("charts/leasehold")
}

/// Runs helm with these words; an error is what it says on stderr.
pub async fn helm(kubeconfig: &Path, words: &[&str]) -> Result<String, String> {
    let binary = tokio::task::spawn_blocking(|| Tool::Helm.binary())
        .await
        .expect("no panic");
    let mut command = Command::new(binary.expect("helm is built"));
    command.args(words).arg("--kubeconfig").arg(kubeconfig);
    text(command.stdin(Stdio::null()).output().await.expect("helm runs"))
}

/// Runs kubectl with these words and this input; an error is what it says on stderr.
pub async fn kubectl(bed: &Bed, words: &[&str], input: &str) -> Result<String, String> {
    let mut child = Command::new(bed.kubectl())
        .args(words)
        .arg("--kubeconfig")
        .arg(bed.kubeconfig())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("kubectl runs");
    let mut stdin = child.stdin.take().expect("it is piped");
    stdin.write_all(input.as_bytes()).await.expect("kubectl reads");
    drop(stdin);
    text(child.wait_with_output().await.expect("kubectl ends"))
}

/// Deletes a Registry although it has keys: the release of another test may have left its policy against that.
pub async fn delete_registry(bed: &Bed, name: &str) -> testbed::Result<()> {
    let words = ["annotate", "registry", name, "leasehold.dev/allow-deletion=true"];
    let annotated = kubectl(bed, &words, "").await;
    annotated.unwrap_or_else(|error| panic!("{error}"));
    bed.objects().delete(API, "Registry", name).await
}

fn text(output: Output) -> Result<String, String> {
    let of = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    if output.status.success() {
        Ok(of(output.stdout))
    } else {
        Err(of(output.stderr))
    }
}

/// A token of a service account, with these further words for `kubectl create token`.
pub async fn token_of(bed: &Bed, namespace: &str, account: &str, more: &[&str]) -> String {
    let words = [&["create", "token", account, "--namespace", namespace], more].concat();
    let token = kubectl(bed, &words, "").await.expect("a token");
    token.trim().to_owned()
}

/// A kubeconfig for a service account, as the kubelet would give its token to a pod.
pub async fn kubeconfig_of(bed: &Bed, namespace: &str, name: &str) -> testbed::Result<PathBuf> {
    let account = Account::of(bed.client(), namespace, name).await?;
    let path = bed.folder().path().join(format!("{namespace}-{name}.kubeconfig"));
    account.kubeconfig(bed.kubeconfig(), None, &path)?;
    Ok(path)
}
