//! The program of the image: static, so that it needs nothing beside it, and without a trace of where it was built.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    check::workspace,
    error::{Error, Result, doing},
};

/// How cargo separates flags that may contain blanks.
const SEPARATOR: &str = "\u{1f}";

/// How the program is compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// As users run it: small and fast, after minutes.
    Release,
    /// As tests run it.
    Dev,
}

/// The kind of machine that this is, as Rust calls it.
pub fn host() -> Result<String> {
    let output = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()))
        .args(["--version", "--verbose"])
        .output()
        .map_err(doing("run rustc"))?;
    let reported = String::from_utf8_lossy(&output.stdout).into_owned();
    let host = reported.lines().find_map(|line| line.strip_prefix("host: "));
    match host {
        Some(host) if host.ends_with("-linux-gnu") => Ok(host.to_owned()),
        _ => Err(Error::Broken(format!(
            "images are built on Linux with a Rust of the kind linux-gnu, of which glibc can be linked statically: {reported}"
        ))),
    }
}

/// What images call the machine of a Rust target.
pub fn architecture(target: &str) -> &str {
    match target.split('-').next().unwrap_or_default() {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "riscv64gc" => "riscv64",
        other => other,
    }
}

/// Builds it in a folder of its own, so that no other build is done again because of it, and returns its path.
pub fn program(target: &str, profile: Profile) -> Result<PathBuf> {
    let place = workspace().join("target/image");
    let mut build = testbed::tools::cargo();
    build
        .args([
            "build",
            "--locked",
            "--package",
            "leasehold",
            "--bin",
            "leasehold",
            "--target",
            target,
        ])
        .arg("--target-dir")
        .arg(&place)
        .current_dir(workspace())
        .env("CARGO_ENCODED_RUSTFLAGS", flags())
        .env("CARGO_PROFILE_DEV_DEBUG", "none")
        .env("CARGO_PROFILE_DEV_STRIP", "symbols");
    let folder = match profile {
        Profile::Release => {
            build.arg("--release");
            "release"
        }
        Profile::Dev => "debug",
    };
    let status = build.status().map_err(doing("run cargo build"))?;
    if !status.success() {
        return Err(Error::Broken(format!(
            "the program is built: cargo build ended with {status}"
        )));
    }
    Ok(place.join(target).join(folder).join("leasehold"))
}

/// A static program, whose messages name files as if there were only one place on earth.
fn flags() -> OsString {
    let cargo = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let cargo = cargo.or_else(|| Some(Path::new(&std::env::var_os("HOME")?).join(".cargo")));
    let places = [(Some(workspace()), "/leasehold"), (cargo, "/cargo")];
    let mut flags = OsString::from("-Ctarget-feature=+crt-static");
    for (from, to) in places.into_iter().filter_map(|(from, to)| Some((from?, to))) {
        flags.push(SEPARATOR);
        flags.push("--remap-path-prefix=");
        flags.push(from);
        flags.push("=");
        flags.push(to);
    }
    flags
}
