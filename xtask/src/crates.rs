//! Which crates the operator is linked from, as cargo says: for the bill of materials and for the ceiling on their number.

use std::collections::{BTreeMap, BTreeSet};

use crate::error::{Error, Result, doing};

/// Of a crate: name and version.
pub type Id = (String, String);

/// What cargo knows of a crate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Linked {
    /// Its licence, as an SPDX expression; empty when it names none.
    pub licence: String,
    /// The crates that it uses itself.
    pub uses: BTreeSet<Id>,
}

/// The operator and every crate that is linked into it for a target: none that only builds or tests it.
pub fn linked(target: &str) -> Result<BTreeMap<Id, Linked>> {
    let mut tree = testbed::tools::cargo();
    tree.args(["tree", "--locked", "--package", "leasehold", "--target", target])
        .args(["--edges", "normal,no-proc-macro", "--prefix", "depth"])
        .args(["--format", "{p}\t{l}"])
        .current_dir(crate::check::workspace());
    let output = tree.output().map_err(doing("run cargo tree"))?;
    if !output.status.success() {
        let reported = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(Error::Broken(format!(
            "cargo tree says which crates there are: {reported}"
        )));
    }
    parse(&String::from_utf8_lossy(&output.stdout))
        .ok_or_else(|| Error::Broken("the output of cargo tree can be read: its format is another one".to_owned()))
}

/// Reads lines such as `2serde v1.0.229 (/path)\tMIT OR Apache-2.0 (*)`.
fn parse(tree: &str) -> Option<BTreeMap<Id, Linked>> {
    let mut crates = BTreeMap::<Id, Linked>::new();
    let mut path: Vec<Id> = Vec::new();
    for line in tree.lines() {
        let (depth, rest) = line.split_at(line.find(|c: char| !c.is_ascii_digit())?);
        let (package, licence) = rest.split_once('\t')?;
        let mut words = package.split(' ');
        let id = (words.next()?.to_owned(), words.next()?.strip_prefix('v')?.to_owned());
        path.truncate(depth.parse().ok()?);
        if let Some(user) = path.last() {
            crates.get_mut(user)?.uses.insert(id.clone());
        }
        path.push(id.clone());
        // Of the old way to write an alternative.
        let licence = licence.trim_end_matches(" (*)").replace('/', " OR ");
        crates.entry(id).or_default().licence = licence;
    }
    Some(crates)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(name: &str, version: &str) -> Id {
        (name.to_owned(), version.to_owned())
    }

    #[test]
    fn dependency_tree_is_parsed_with_direct_dependencies() {
        let tree = "0a v1.0.0 (/work)\tMIT\n1b v2.0.0\tMIT/Apache-2.0\n2c v3.0.0\t\n1c v3.0.0\t (*)\n";
        let crates = parse(tree).expect("it is a tree");
        assert_eq!(crates.len(), 3);
        assert_eq!(
            crates[&id("a", "1.0.0")].uses,
            [id("b", "2.0.0"), id("c", "3.0.0")].into()
        );
        assert_eq!(crates[&id("b", "2.0.0")].licence, "MIT OR Apache-2.0");
        assert_eq!(crates[&id("b", "2.0.0")].uses, [id("c", "3.0.0")].into());
        assert_eq!(crates[&id("c", "3.0.0")], Linked::default());
        assert_eq!(parse("what is this"), None);
    }
}
