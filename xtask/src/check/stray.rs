//! Files that a merge or a patch leaves behind.

use super::{Step, workspace};
use crate::error::{Error, Result, doing};

/// Endings of what is never meant to be kept.
const STRAY: [&str; 4] = [".orig", ".rej", ".bak", "~"];

/// Looks through the files that git keeps or would add.
pub(super) fn check(step: &Step) -> Result<()> {
    let mut git = std::process::Command::new("git");
    git.args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(workspace());
    let output = git.output().map_err(doing("run git"))?;
    if !output.status.success() {
        return Err(Error::Broken(
            "git lists the files of this folder: it is no checkout".to_owned(),
        ));
    }
    let files = String::from_utf8_lossy(&output.stdout);
    let stray: Vec<&str> = stray(&files).collect();
    if stray.is_empty() {
        return Ok(());
    }
    Err(step.failed(format!("left over: {}", stray.join(", "))))
}

fn stray(files: &str) -> impl Iterator<Item = &str> {
    files
        .lines()
        .filter(|file| STRAY.iter().any(|ending| file.ends_with(ending)))
}

#[cfg(test)]
mod tests {
    #[test]
    fn files_of_merges_and_patches_are_stray() {
        let files = "src/lib.rs\ndeploy/leasehold.yaml.orig\na.rej\norig/b.rs\n";
        let found: Vec<_> = super::stray(files).collect();
        assert_eq!(found, ["deploy/leasehold.yaml.orig", "a.rej"]);
    }
}
