//! A temporary folder that goes away with its owner, even when the owner is killed.

use std::path::{Path, PathBuf};

use super::guard;
use crate::error::{Doing, Error, Result};

/// A folder under the system's temporary folder, removed when this value is dropped and, by the watchdog, when the
/// process ends without dropping it. With `TESTBED_KEEP=1` in the environment it stays, to read the logs in it.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    owned: Option<tempfile::TempDir>,
}

impl Folder {
    /// Creates `leasehold-NAME-RANDOM`.
    pub fn new(name: &str) -> Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix(&format!("leasehold-{name}-"))
            .tempdir()
            .doing(|| "create a temporary folder")?;
        let path = folder.path().to_owned();
        if path.to_string_lossy().contains('\n') {
            return Err(Error::Invalid(
                "the temporary folder's path holds a newline; set TMPDIR to one without".into(),
            ));
        }
        if std::env::var_os("TESTBED_KEEP").is_some_and(|value| value != "0") {
            eprintln!("testbed: keeping {} (TESTBED_KEEP)", folder.keep().display());
            return Ok(Self { path, owned: None });
        }
        guard::remove_at_end(&path)?;
        Ok(Self {
            path,
            owned: Some(folder),
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Creates a folder inside and returns its path.
    pub fn folder(&self, name: &str) -> Result<PathBuf> {
        let path = self.path.join(name);
        std::fs::create_dir_all(&path).doing(|| format!("create the folder {}", path.display()))?;
        Ok(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Some(folder) = self.owned.take()
            && folder.close().is_ok()
        {
            guard::keep(&self.path);
        }
    }
}
