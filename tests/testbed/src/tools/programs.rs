//! Programs of the tree itself that are written in other languages, and what runs them.

use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use xxhash_rust::xxh3::Xxh3;

use super::{cached, go, last_words};
use crate::error::{Doing, Error, Result};

/// A Go program in the tree: a package of a module with a go.mod and go.sum of its own.
#[derive(Clone, Debug)]
pub struct GoProgram {
    /// The folder of its go.mod.
    pub module: PathBuf,
    /// The folder of its package in there.
    pub package: &'static str,
    /// Its name in the cache and in messages.
    pub name: &'static str,
    /// The file beside its go.mod that stands in for it, for a program that is built with several sets of versions.
    pub modfile: Option<&'static str>,
    /// Build tags, separated by commas.
    pub tags: &'static str,
}

impl GoProgram {
    /// Its binary, out of the cache, built first when its module is not as it was. Blocks.
    pub fn binary(&self) -> Result<PathBuf> {
        let hash = content(&self.module)?;
        cached(&format!("{}-{hash:016x}", self.name), self.name, |to| {
            eprintln!("testbed: building {} from {}, once", self.name, self.module.display());
            let package = format!("./{}", self.package);
            go::compile(
                self.name,
                &self.module,
                self.modfile,
                &package,
                ("-s -w", self.tags),
                to,
            )
        })
    }
}

/// What runs a program that is not built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    /// Python 3, with nothing but its standard library.
    Python,
    /// Node.js 18 or newer.
    Node,
}

impl Language {
    /// The interpreter, or an error that says how to install it. Blocks.
    pub fn interpreter(self) -> Result<PathBuf> {
        let (tool, install) = match self {
            Self::Python => ("python3", "`sudo apt-get install python3` or `brew install python`"),
            Self::Node => ("node", "`sudo apt-get install nodejs npm` or `brew install node`"),
        };
        need(tool, "run a consumer in its own language", install)?;
        Ok(tool.into())
    }
}

/// The folder `node_modules` with what a folder's package-lock.json pins, out of the cache, fetched first when that file
/// is not as it was. Blocks.
pub fn npm_packages(folder: &Path) -> Result<PathBuf> {
    let pins = ["package.json", "package-lock.json"];
    let mut hash = Xxh3::new();
    for file in pins {
        let path = folder.join(file);
        hash.update(&fs::read(&path).doing(|| format!("read {}", path.display()))?);
    }
    let place = cached(&format!("npm-{:016x}", hash.digest()), "packages", |to| {
        // What an interrupted attempt has left.
        let _ = fs::remove_dir_all(to);
        fs::create_dir(to).doing(|| format!("create the folder {}", to.display()))?;
        for file in pins {
            fs::copy(folder.join(file), to.join(file)).doing(|| format!("copy {file} to {}", to.display()))?;
        }
        eprintln!(
            "testbed: fetching the pinned npm packages of {}, once",
            folder.display()
        );
        let begin = Instant::now();
        need(
            "npm",
            "fetch the packages of a consumer",
            "`sudo apt-get install npm` or `brew install node`",
        )?;
        let output = Command::new("npm")
            .args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"])
            .current_dir(to)
            .output()
            .doing(|| "run npm")?;
        if !output.status.success() {
            return Err(Error::Build {
                tool: "npm packages".to_owned(),
                command: format!("cd {} && npm ci --ignore-scripts", folder.display()),
                output: last_words(&output.stderr),
            });
        }
        eprintln!("testbed: fetched npm packages in {} s", begin.elapsed().as_secs());
        Ok(())
    })?;
    Ok(place.join("node_modules"))
}

fn need(tool: &'static str, purpose: &str, install: &'static str) -> Result<()> {
    match Command::new(tool).arg("--version").output() {
        Err(error) if error.kind() == ErrorKind::NotFound => Err(Error::MissingTool {
            tool,
            purpose: purpose.to_owned(),
            install,
        }),
        answer => answer.map(drop).doing(|| format!("run {tool}")),
    }
}

/// A hash of all files of a folder, by their names and contents.
fn content(folder: &Path) -> Result<u64> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(&next).doing(|| format!("list the folder {}", next.display()))? {
            let path = entry.doing(|| format!("list the folder {}", next.display()))?.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                files.push(path);
            }
        }
    }
    files.sort();
    let mut hash = Xxh3::new();
    for path in files {
        let name = path.strip_prefix(folder).unwrap_or(&path);
        hash.update(name.as_os_str().as_encoded_bytes());
        hash.update(&fs::read(&path).doing(|| format!("read {}", path.display()))?);
    }
    Ok(hash.digest())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Folder;

    #[test]
    fn a_program_is_another_one_when_any_of_its_files_changes() {
        let folder = Folder::new("content").unwrap();
        let inner = folder.folder("inner").unwrap();
        fs::write(folder.path().join("go.mod"), "module a").unwrap();
        fs::write(inner.join("main.go"), "package main").unwrap();
        let before = content(folder.path()).unwrap();
        assert_eq!(content(folder.path()).unwrap(), before);
        fs::write(inner.join("main.go"), "package other").unwrap();
        let changed = content(folder.path()).unwrap();
        fs::rename(inner.join("main.go"), inner.join("other.go")).unwrap();
        let renamed = content(folder.path()).unwrap();
        assert!(before != changed && changed != renamed);
    }

    #[test]
    fn a_missing_tool_is_named_with_what_to_install() {
        let error = need("no-such-tool", "try this", "`install it`")
            .unwrap_err()
            .to_string();
        assert_eq!(
            error,
            "no-such-tool is needed to try this and was not found; install it with: `install it`"
        );
    }
}
