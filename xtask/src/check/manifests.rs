//! `deploy/leasehold.yaml`: what the chart renders without any value, for those who install by `kubectl apply`.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Stdio},
};

use testbed::Tool;

use super::{Step, workspace};
use crate::error::{Error, Result, doing};

/// Where everything of it is installed.
const NAMESPACE: &str = "leasehold";

const HEAD: &str = "\
# leasehold, to be installed by kubectl. Made from charts/leasehold by `cargo xtask manifests`; change it there.
#   kubectl apply --server-side --filename deploy/leasehold.yaml
# The image is `leasehold` of the tag below: name yours in the Deployment, by kustomize for example. No Registry is in it.
apiVersion: v1
kind: Namespace
metadata:
  name: leasehold
  labels:
    pod-security.kubernetes.io/enforce: restricted
";

fn file() -> PathBuf {
    workspace().join("deploy/leasehold.yaml")
}

/// Compares the file with what the chart renders.
pub(super) fn check(step: &Step) -> Result<()> {
    let kept = fs::read_to_string(file()).map_err(doing("read deploy/leasehold.yaml"))?;
    if kept == rendered()? {
        return Ok(());
    }
    Err(step.failed("deploy/leasehold.yaml is not what charts/leasehold renders".to_owned()))
}

pub fn write() -> Result<()> {
    let text = rendered()?;
    let file = file();
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder).map_err(doing("create the folder deploy"))?;
    }
    fs::write(file, text).map_err(doing("write deploy/leasehold.yaml"))
}

fn rendered() -> Result<String> {
    let mut helm = Command::new(Tool::Helm.binary()?);
    helm.args([
        "template",
        "leasehold",
        "charts/leasehold",
        "--include-crds",
        "--namespace",
        NAMESPACE,
    ])
    .current_dir(workspace())
    .stdin(Stdio::null());
    let output = helm.output().map_err(doing("run helm"))?;
    if !output.status.success() {
        let reported = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(Error::Broken(format!("helm renders the chart: {reported}")));
    }
    Ok(without_helm(&String::from_utf8_lossy(&output.stdout)))
}

/// What kubectl applies is not helm's: no label or comment says so.
fn without_helm(rendered: &str) -> String {
    let foreign = ["# Source: ", "helm.sh/chart: ", "app.kubernetes.io/managed-by: Helm"];
    let lines = rendered
        .lines()
        .filter(|line| !foreign.iter().any(|word| line.trim_start().starts_with(word)));
    let mut text = String::from(HEAD);
    for line in lines {
        text.push_str(line);
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_helm_is_left_in_what_kubectl_applies() {
        let rendered = "---\n# Source: leasehold/a.yaml\nkind: A\nlabels:\n  helm.sh/chart: leasehold-0.1.0\n  \
                        app.kubernetes.io/managed-by: Helm\n  app.kubernetes.io/part-of: leasehold\n";
        let text = without_helm(rendered);
        let rest = text.strip_prefix(HEAD).expect("the head comes first");
        assert_eq!(rest, "---\nkind: A\nlabels:\n  app.kubernetes.io/part-of: leasehold\n");
    }
}
