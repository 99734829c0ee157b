//! Whether the definitions in `crds/` are those that the code would write.

use std::{collections::BTreeMap, fs, path::Path, process::Command};

use super::{Step, workspace};
use crate::error::{Result, doing};

/// Has the operator write them into a folder of its own and compares.
pub(super) fn check(step: &Step) -> Result<()> {
    let fresh = testbed::Folder::new("crds")?;
    let mut write = Command::new(testbed::build_operator()?);
    write.args(["crds", "--dir"]).arg(fresh.path());
    step.command(write)?;
    let (kept, written) = (read(&workspace().join("crds"))?, read(fresh.path())?);
    match difference("crds", &kept, &written) {
        None => Ok(()),
        Some(found) => Err(step.failed(found)),
    }
}

/// The first file of a folder that differs, and how; none when there is none.
pub(super) fn difference(
    folder: &str,
    kept: &BTreeMap<String, String>,
    written: &BTreeMap<String, String>,
) -> Option<String> {
    if written.is_empty() {
        return Some("no definition was generated".to_owned());
    }
    if let Some(stray) = kept.keys().find(|name| !written.contains_key(*name)) {
        return Some(format!("{folder}/{stray} is not generated any more: delete it"));
    }
    written.iter().find_map(|(name, new)| {
        let Some(old) = kept.get(name) else {
            return Some(format!("{folder}/{name} is missing"));
        };
        let (mut old_lines, mut new_lines) = (old.lines(), new.lines());
        for number in 1.. {
            match (old_lines.next(), new_lines.next()) {
                (None, None) => break,
                (old, new) if old == new => {}
                (old, new) => {
                    let (old, new) = (old.unwrap_or("(its end)"), new.unwrap_or("(its end)"));
                    return Some(format!(
                        "{folder}/{name} line {number} is\n  {old}\nand should be\n  {new}"
                    ));
                }
            }
        }
        (old != new).then(|| format!("{folder}/{name} differs in its line ends"))
    })
}

/// The files of a folder by name.
pub(super) fn read(folder: &Path) -> Result<BTreeMap<String, String>> {
    let doing = || doing(format!("read the folder {}", folder.display()));
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(folder).map_err(doing())? {
        let entry = entry.map_err(doing())?;
        let text = fs::read_to_string(entry.path()).map_err(doing())?;
        files.insert(entry.file_name().display().to_string(), text);
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(files: &[(&str, &str)]) -> BTreeMap<String, String> {
        files
            .iter()
            .map(|(name, text)| ((*name).to_owned(), (*text).to_owned()))
            .collect()
    }

    #[test]
    fn first_difference_is_reported() {
        let new = files(&[("a.yaml", "1\n2\n"), ("b.yaml", "3\n")]);
        assert_eq!(difference("crds", &new, &new), None);
        let reported = |kept: &[(&str, &str)]| difference("crds", &files(kept), &new).expect("a difference");
        assert!(reported(&[("a.yaml", "1\n2\n")]).contains("crds/b.yaml is missing"));
        assert!(reported(&[("a.yaml", "1\n0\n"), ("b.yaml", "3\n")]).contains("line 2 is\n  0\nand should be\n  2"));
        assert!(reported(&[("a.yaml", "1\n2\n"), ("b.yaml", "3\r\n")]).contains("line ends"));
        assert!(reported(&[("a.yaml", "1\n2\n"), ("b.yaml", "3\n"), ("c.yaml", "")]).contains("delete it"));
        assert!(difference("crds", &new, &files(&[])).is_some());
    }
}
