//! `cargo xtask compat`: what the oldest supported kube-apiserver accepts and rejects. Not a part of the test command,
//! because it needs a second kube-apiserver, which takes minutes to build.

use std::{path::Path, process::Command};

use testbed::tools::oldest_kube_apiserver;

use super::{How, Step, cargo};
use crate::error::{Result, doing};

const STEP: Step = Step {
    name: "compat",
    what: "the oldest supported kube-apiserver accepts and rejects what the current one does",
    fix: "do without what the oldest release lacks, or raise OLDEST_KUBERNETES in src/api and what names it: the chart, \
          README.md, the pins below tests/testbed/tools. If only the words of an answer differ, add them to \
          in_current_words in tests/crds.rs",
    how: How::Call(suite),
};

/// Builds it if it is not in the cache, and runs tests/crds.rs on it.
pub fn run() -> Result<()> {
    STEP.run()?;
    println!("compat: passed");
    Ok(())
}

fn suite(step: &Step) -> Result<()> {
    let apiserver = oldest_kube_apiserver()?;
    let version = Command::new(&apiserver).arg("--version").output();
    let version = version.map_err(doing("run the oldest kube-apiserver"))?;
    println!("{}", String::from_utf8_lossy(&version.stdout).trim());
    // The bed takes kube-apiserver from this folder, and its other programs, which are not in it, from its cache.
    let folder = apiserver.parent().unwrap_or(Path::new("/"));
    let mut tests = cargo("test --locked --test crds");
    tests.env("KUBEBUILDER_ASSETS", folder);
    step.command(tests)
}
