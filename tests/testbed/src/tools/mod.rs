//! Where the programs of the bed come from: built or fetched once, pinned, and kept in the user's cache folder.
//!
//! Owns the cache and its locks. Knows nothing of how the programs are run.

mod cargo;
mod earlier;
mod etcd;
mod go;
mod programs;

use std::{
    fs::File,
    path::{Path, PathBuf},
};

pub use cargo::cargo;
pub use earlier::{Earlier, Release};
pub use etcd::EtcdVersion;
pub use go::{Tool, oldest_kube_apiserver};
pub use programs::{GoProgram, Language, npm_packages};

use crate::error::{Doing, Error, Result};

/// `$XDG_CACHE_HOME/leasehold`, or `~/.cache/leasehold`.
pub fn cache_folder() -> Result<PathBuf> {
    let absolute = |name: &str| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    absolute("XDG_CACHE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".cache")))
        .map(|cache| cache.join("leasehold"))
        .ok_or_else(|| Error::Invalid("neither XDG_CACHE_HOME nor HOME is set; set one to an absolute path".into()))
}

/// The folder `tools` of this crate's sources: the pins.
fn pins() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tools")
}

/// The file `tools/FOLDER/NAME` in our cache folder, made by `make` (which is given the path to write) when it is not there yet.
/// Of processes that want it at the same time one makes it and the others wait.
pub fn cached(folder: &str, name: &str, make: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let folder = cache_folder()?.join("tools").join(folder);
    let wanted = folder.join(name);
    if wanted.exists() {
        return Ok(wanted);
    }
    std::fs::create_dir_all(&folder).doing(|| format!("create the folder {}", folder.display()))?;
    let path = folder.join(format!(".{name}.lock"));
    let lock = File::create(&path).doing(|| format!("create {}", path.display()))?;
    lock.lock().doing(|| format!("lock {}", path.display()))?;
    if !wanted.exists() {
        let unfinished = folder.join(format!(".{name}.unfinished"));
        make(&unfinished)?;
        std::fs::rename(&unfinished, &wanted).doing(|| format!("move {} into place", wanted.display()))?;
    }
    Ok(wanted)
}

/// The end of a command's output, enough to see why it failed.
fn last_words(output: &[u8]) -> String {
    let text = String::from_utf8_lossy(output);
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}
