//! The operator as it was: the release before this tree, built from the history that it comes from.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::Instant,
};

use super::{cached, cargo, last_words};
use crate::{
    bed::workspace,
    error::{Doing, Error, Result},
    operator::built_by,
    process::Folder,
};

/// Names the commit where no release is tagged.
const FROM: &str = "tests/upgrade/from";

/// The release that upgrades to this tree start from.
#[derive(Debug)]
pub enum Earlier {
    /// Here it is.
    Release(Release),
    /// It cannot be known or built here; says why and what to do.
    Unknown(String),
}

/// A release of the operator.
#[derive(Debug)]
pub struct Release {
    /// Its tag or its commit.
    pub name: String,
    /// The program.
    pub binary: PathBuf,
    /// The root of its tree.
    pub tree: PathBuf,
}

impl Earlier {
    /// The newest tag `v*` that this tree comes from, or the commit in `tests/upgrade/from` where there is none. Out of
    /// the cache, built first when it is not there: a minute or two, for the built dependencies of this tree are
    /// used again. Blocks.
    pub fn get() -> Result<Self> {
        let (name, commit) = match wanted(&workspace())? {
            Ok(wanted) => wanted,
            Err(why) => return Ok(Self::Unknown(why)),
        };
        let place = format!("leasehold-{commit}");
        let tree = cached(&place, "tree", |to| check_out(&workspace(), &commit, to))?;
        let binary = cached(&place, "leasehold", |to| build(&name, &tree, to))?;
        Ok(Self::Release(Release { name, binary, tree }))
    }
}

/// The name and the commit of the release that the tree in `root` comes from, or why there is none.
fn wanted(root: &Path) -> Result<Result<(String, String), String>> {
    let there = Command::new("git").arg("--version").output();
    if there.is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound) {
        return Ok(Err("git is not installed; install it".to_owned()));
    }
    let Some(head) = commit_of(root, "HEAD")? else {
        return Ok(Err(format!(
            "{} is no clone of the repository; clone it",
            root.display()
        )));
    };
    let tags = git(
        root,
        &["tag", "--list", "v*", "--merged", "HEAD", "--sort=-version:refname"],
    )?;
    for tag in String::from_utf8_lossy(&tags.stdout).lines() {
        if let Some(commit) = commit_of(root, tag)?.filter(|commit| *commit != head) {
            return Ok(Ok((tag.to_owned(), commit)));
        }
    }
    let file = root.join(FROM);
    let text = fs::read_to_string(&file).doing(|| format!("read {}", file.display()))?;
    let named = named(&text).ok_or_else(|| Error::Invalid(format!("{FROM} names no commit; write one in it")))?;
    Ok(match commit_of(root, named)? {
        Some(commit) => Ok((commit.chars().take(12).collect(), commit)),
        None => Err(format!(
            "the commit {named} that {FROM} names is not in this clone; `git fetch --unshallow --tags` brings it"
        )),
    })
}

/// The first line that is no comment.
fn named(text: &str) -> Option<&str> {
    let mut lines = text.lines().map(str::trim);
    lines.find(|line| !line.is_empty() && !line.starts_with('#'))
}

fn git(root: &Path, words: &[&str]) -> Result<Output> {
    let mut command = Command::new("git");
    command.args(words).current_dir(root).stdin(Stdio::null());
    command.output().doing(|| format!("run git {}", words.join(" ")))
}

/// The id of a commit, if it is there.
fn commit_of(root: &Path, name: &str) -> Result<Option<String>> {
    let found = git(
        root,
        &["rev-parse", "--verify", "--quiet", &format!("{name}^{{commit}}")],
    )?;
    let id = String::from_utf8_lossy(&found.stdout).trim().to_owned();
    Ok((found.status.success() && !id.is_empty()).then_some(id))
}

/// Writes the tree of a commit to a new folder.
fn check_out(root: &Path, commit: &str, to: &Path) -> Result<()> {
    // What an interrupted attempt has left.
    let _ = fs::remove_dir_all(to);
    fs::create_dir(to).doing(|| format!("create the folder {}", to.display()))?;
    let archive = git(root, &["archive", "--format=tar", commit])?;
    let file = Folder::new("archive")?;
    let file = file.path().join("tree.tar");
    fs::write(&file, &archive.stdout).doing(|| format!("write {}", file.display()))?;
    let mut tar = Command::new("tar");
    let unpacked = tar.arg("-xf").arg(&file).arg("-C").arg(to).output();
    let unpacked = unpacked.doing(|| "run tar")?;
    for (command, output) in [("git archive", &archive), ("tar -x", &unpacked)] {
        if !output.status.success() {
            return Err(Error::Build {
                tool: format!("the tree of {commit}"),
                command: command.to_owned(),
                output: last_words(&output.stderr),
            });
        }
    }
    let manifest = to.join("Cargo.toml");
    let text = fs::read_to_string(&manifest).doing(|| format!("read {}", manifest.display()))?;
    fs::write(&manifest, distinguished(&text, commit)).doing(|| format!("write {}", manifest.display()))
}

/// A manifest with a version of its own. Cargo takes packages of one name and version for the same wherever their
/// workspace lies: without this, this tree would be built again after that one, and that one after this.
fn distinguished(manifest: &str, commit: &str) -> String {
    let short: String = commit.chars().take(12).collect();
    let own = |line: &str| {
        let version = line.strip_prefix("version = \"")?.strip_suffix('"')?;
        let base = version.split(['-', '+']).next()?;
        Some(format!("version = \"{base}-before.g{short}\""))
    };
    let mut done = false;
    let mut text = String::new();
    for line in manifest.lines() {
        let changed = own(line).filter(|_| !done);
        done |= changed.is_some();
        text.push_str(changed.as_deref().unwrap_or(line));
        text.push('\n');
    }
    text
}

/// Builds the operator of a tree beside this one, with the dependencies that are built for this one.
fn build(name: &str, tree: &Path, to: &Path) -> Result<()> {
    eprintln!("testbed: building the operator of {name}, once for this machine (usually 2 minutes on two cores)");
    let begin = Instant::now();
    let shared = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), PathBuf::from);
    let out = Folder::new("earlier")?;
    let mut command = cargo();
    // From here and not from there: what this tree says of the build is part of what makes a dependency the same.
    command
        .current_dir(workspace())
        .args(["build", "--workspace", "--bin", "leasehold", "--manifest-path"])
        .arg(tree.join("Cargo.toml"))
        .env("CARGO_TARGET_DIR", out.path())
        .env("CARGO_BUILD_BUILD_DIR", shared)
        .env("CARGO_INCREMENTAL", "0");
    let built = built_by(command)?;
    fs::copy(&built, to).doing(|| format!("copy {}", built.display()))?;
    eprintln!("testbed: built it in {:.0} s", begin.elapsed().as_secs_f64());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_commit_is_what_is_no_comment() {
        assert_eq!(named("# why\n\n  0a1b\nrest\n"), Some("0a1b"));
        assert_eq!(named("# why\n"), None);
    }

    /// A commit of all that is there.
    fn commit(root: &Path) -> String {
        let who = ["-c", "user.name=testbed", "-c", "user.email=testbed@localhost"];
        let words = ["commit", "--quiet", "--allow-empty", "--message", "Be there"];
        for words in [&["add", "."][..], &[&who[..], &words[..]].concat()] {
            let done = git(root, words).expect("git runs");
            assert!(done.status.success(), "{}", last_words(&done.stderr));
        }
        commit_of(root, "HEAD").expect("git runs").expect("a commit")
    }

    #[test]
    fn the_newest_tag_wins_over_the_file_and_what_is_not_in_the_clone_is_said() {
        let folder = Folder::new("history").expect("a folder");
        let root = folder.path();
        let none = wanted(root).expect("an answer").expect_err("no repository");
        assert!(none.ends_with("clone it"), "{none}");

        git(root, &["init", "--quiet"]).expect("git runs");
        folder.folder("tests/upgrade").expect("a folder");
        fs::write(root.join("Cargo.toml"), "version = \"0.1.0\"\n").expect("a file");
        let absent = "0a1b2c3d4e5f60718293a4b5c6d7e8f901234567";
        fs::write(root.join(FROM), absent).expect("a file");
        let first = commit(root);
        let shallow = wanted(root).expect("an answer").expect_err("it is not there");
        assert!(
            shallow.contains(absent) && shallow.contains("git fetch --unshallow"),
            "{shallow}"
        );

        fs::write(root.join(FROM), &first).expect("a file");
        let second = commit(root);
        let short: String = first.chars().take(12).collect();
        assert_eq!(wanted(root).expect("an answer"), Ok((short, first.clone())));

        // Of two tags the newer version; what is tagged here is no upgrade.
        let third = commit(root);
        for (tag, commit) in [("v0.9.0", &first), ("v0.10.0", &second), ("v0.11.0", &third)] {
            git(root, &["tag", tag, commit]).expect("git runs");
        }
        let tagged = ("v0.10.0".to_owned(), second.clone());
        assert_eq!(wanted(root).expect("an answer"), Ok(tagged));

        let tree = root.join("tree");
        check_out(root, &second, &tree).expect("it is checked out");
        let manifest = fs::read_to_string(tree.join("Cargo.toml")).expect("a file");
        assert!(manifest.starts_with("version = \"0.1.0-before.g"), "{manifest}");
    }

    #[test]
    fn only_the_workspace_version_is_rewritten() {
        let manifest = "[workspace.package]\nversion = \"0.1.0\"\n\n[dependencies.a]\nversion = \"2\"\n";
        let reported = distinguished(manifest, "0a1b2c3d4e5f6071");
        assert_eq!(
            reported,
            "[workspace.package]\nversion = \"0.1.0-before.g0a1b2c3d4e5f\"\n\n[dependencies.a]\nversion = \"2\"\n"
        );
    }
}
