//! Files that a merge or a patch leaves behind.

use super::Step;
use crate::error::Result;

/// Endings of what is never meant to be kept.
const STRAY: [&str; 4] = [".orig", ".rej", ".bak", "~"];

/// Looks through the files that git keeps or would add.
pub(super) fn check(step: &Step) -> Result<()> {
    let files = super::kept_files()?;
    let stray: Vec<&str> = stray(&files).collect();
    if stray.is_empty() {
        return Ok(());
    }
    Err(step.failed(format!("left over: {}", stray.join(", "))))
}

fn stray(files: &[String]) -> impl Iterator<Item = &str> {
    let is_stray = |file: &&str| STRAY.iter().any(|ending| file.ends_with(ending));
    files.iter().map(String::as_str).filter(is_stray)
}

#[cfg(test)]
mod tests {
    #[test]
    fn files_of_merges_and_patches_are_stray() {
        let files = ["src/lib.rs", "deploy/leasehold.yaml.orig", "a.rej", "orig/b.rs"].map(str::to_owned);
        let found: Vec<_> = super::stray(&files).collect();
        assert_eq!(found, ["deploy/leasehold.yaml.orig", "a.rej"]);
    }
}
