//! etcd's releases, fetched by cargo as crates that carry the binary.

use std::{
    fmt::{self, Display},
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    str::FromStr,
};

use serde::Deserialize;

use super::{cached, cargo, last_words, pins};
use crate::error::{Doing, Error, Result};

/// The etcd release lines that the bed can run, each at the patch release pinned in `tools/etcd/X.Y/Cargo.lock`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EtcdVersion {
    /// 3.5: the oldest that is widely run.
    V3_5,
    /// 3.6: the default.
    #[default]
    V3_6,
    /// 3.7: the newest.
    V3_7,
}

impl EtcdVersion {
    /// All of them, oldest first.
    pub const ALL: [Self; 3] = [Self::V3_5, Self::V3_6, Self::V3_7];

    fn minor(self) -> &'static str {
        match self {
            Self::V3_5 => "3.5",
            Self::V3_6 => "3.6",
            Self::V3_7 => "3.7",
        }
    }

    /// The binary's path, fetched first when it is not in the cache. Blocks.
    pub fn binary(self) -> Result<PathBuf> {
        let pin = pins().join("etcd").join(self.minor());
        let lock = fs::read(pin.join("Cargo.lock")).doing(|| format!("read {}/Cargo.lock", pin.display()))?;
        let hash = xxhash_rust::xxh3::xxh3_64(&lock);
        cached(&format!("etcd-{self}-{hash:016x}"), "etcd", |to| {
            let from = self.fetch(&pin)?;
            fs::copy(&from, to).doing(|| format!("copy {}", from.display()))?;
            // Crates are unpacked without regard to who may execute what.
            fs::set_permissions(to, fs::Permissions::from_mode(0o755))
                .doing(|| format!("make {} executable", to.display()))
        })
    }

    fn fetch(self, pin: &Path) -> Result<PathBuf> {
        let manifest = pin.join("Cargo.toml");
        let output = cargo()
            .args(["metadata", "--locked", "--format-version", "1", "--manifest-path"])
            .arg(&manifest)
            .output()
            .doing(|| "run cargo")?;
        let failed = |output: String| Error::Build {
            tool: format!("etcd {self}"),
            command: format!(
                "cargo metadata --locked --format-version 1 --manifest-path {}",
                manifest.display()
            ),
            output,
        };
        if !output.status.success() {
            return Err(failed(last_words(&output.stderr)));
        }
        let metadata: Metadata = serde_json::from_slice(&output.stdout).map_err(|error| failed(error.to_string()))?;
        let wanted = format!("etcd-bin-vendored-{}", platform()?);
        let package = metadata.packages.iter().find(|package| package.name == wanted);
        let package = package.ok_or_else(|| failed(format!("no package {wanted}")))?;
        Ok(package.manifest_path.with_file_name("bin").join("etcd"))
    }
}

/// This machine as the crates' names spell it.
fn platform() -> Result<&'static str> {
    match (std::env::consts::OS, std::env::consts::ARCH) {
        ("linux", "x86_64") => Ok("linux-amd64"),
        ("linux", "aarch64") => Ok("linux-arm64"),
        ("macos", "x86_64") => Ok("darwin-amd64"),
        ("macos", "aarch64") => Ok("darwin-arm64"),
        (os, arch) => Err(Error::Invalid(format!(
            "etcd-bin-vendored has no etcd for {os} on {arch}; use Linux or macOS"
        ))),
    }
}

impl Display for EtcdVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.minor())
    }
}

impl FromStr for EtcdVersion {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let known = Self::ALL.into_iter().find(|version| version.minor() == text);
        known.ok_or_else(|| Error::Invalid(format!("no etcd {text:?} here; use 3.5, 3.6 or 3.7")))
    }
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    manifest_path: PathBuf,
}
