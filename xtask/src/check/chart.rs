//! What the chart repeats of other files: the definitions of the kinds, its values in its README, and the defaults of its
//! values, for templates cannot read values.yaml.

use std::{collections::BTreeMap, fs, path::PathBuf};

use super::{Step, crds, workspace};
use crate::error::{Error, Result, doing};

/// What templates read the defaults from.
const DEFAULTS: &str = "files/defaults.yaml";
/// Around the table in the chart's README.
const BEGIN: &str = "<!-- values: made by `cargo xtask chart` -->\n";
const END: &str = "<!-- end of values -->\n";

fn folder() -> PathBuf {
    workspace().join("charts/leasehold")
}

/// Compares what is repeated with what it repeats.
pub(super) fn check(step: &Step) -> Result<()> {
    let (kept, wanted) = (
        crds::read(&folder().join("crds"))?,
        crds::read(&workspace().join("crds"))?,
    );
    if let Some(found) = crds::difference("crds", &kept, &wanted) {
        return Err(step.failed(format!("charts/leasehold/{found}")));
    }
    if readme()? != with_table()? {
        return Err(step.failed("the table in charts/leasehold/README.md is not what values.yaml says".to_owned()));
    }
    let kept = fs::read_to_string(folder().join(DEFAULTS)).map_err(doing("read the chart's defaults"))?;
    if kept != defaults(&values()?) {
        return Err(step.failed(format!("charts/leasehold/{DEFAULTS} is not what values.yaml says")));
    }
    Ok(())
}

/// Updates the generated files of the chart.
pub fn write() -> Result<()> {
    let to = folder().join("crds");
    for name in crds::read(&to)?.keys() {
        fs::remove_file(to.join(name)).map_err(doing("remove a definition from the chart"))?;
    }
    for (name, text) in crds::read(&workspace().join("crds"))? {
        fs::write(to.join(name), text).map_err(doing("write a definition into the chart"))?;
    }
    fs::write(folder().join(DEFAULTS), defaults(&values()?)).map_err(doing("write the chart's defaults"))?;
    let readme = with_table()?;
    fs::write(folder().join("README.md"), readme).map_err(doing("write the chart's README"))
}

fn values() -> Result<String> {
    fs::read_to_string(folder().join("values.yaml")).map_err(doing("read the chart's values.yaml"))
}

/// values.yaml without its comments.
fn defaults(values: &str) -> String {
    let mut text = String::from("# Generated from values.yaml by `cargo xtask chart`: the default of each value.\n");
    let lines = values.lines().filter(|line| {
        let line = line.trim_start();
        !line.is_empty() && !line.starts_with('#')
    });
    for line in lines {
        text.push_str(line);
        text.push('\n');
    }
    text
}

fn readme() -> Result<String> {
    fs::read_to_string(folder().join("README.md")).map_err(doing("read the chart's README"))
}

/// The README with the table that values.yaml makes.
fn with_table() -> Result<String> {
    let values = values()?;
    let readme = readme()?;
    let parts = readme
        .split_once(BEGIN)
        .and_then(|(before, rest)| Some((before, rest.split_once(END)?.1)));
    let Some((before, after)) = parts else {
        return Err(Error::Check {
            step: "chart",
            why: "the marks around the table in charts/leasehold/README.md are gone".to_owned(),
            fix: format!("put these lines back: {BEGIN}{END}"),
        });
    };
    Ok(format!("{before}{BEGIN}{}{END}{after}", table(&values)))
}

/// One row for each value that a comment `# -- ...` precedes. Lists and maps over several lines are shown as such.
fn table(values: &str) -> String {
    let mut rows = String::from("| value | default | what it is |\n|---|---|---|\n");
    let mut path: BTreeMap<usize, &str> = BTreeMap::new();
    let mut reported: Option<String> = None;
    for line in values.lines() {
        let text = line.trim_start();
        let depth = line.len() - text.len();
        if let Some(begin) = text.strip_prefix("# -- ") {
            reported = Some(begin.to_owned());
        } else if let (Some(comment), Some(reported)) = (text.strip_prefix("# "), reported.as_mut()) {
            reported.push(' ');
            reported.push_str(comment);
        } else if let Some((key, default)) = text.split_once(':')
            && !text.starts_with(['#', '-'])
        {
            path.retain(|&at, _| at < depth);
            path.insert(depth, key);
            if let Some(reported) = reported.take() {
                let name = path.values().copied().collect::<Vec<_>>().join(".");
                let default = match default.trim() {
                    "" => "see values.yaml",
                    default => &format!("`{default}`"),
                };
                rows.extend(["| `", &name, "` | ", default, " | ", &reported, " |\n"]);
            }
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_the_values_without_comments() {
        let text = defaults("# A file.\n\n# -- First.\na: \"#1\"\nb:\n  # -- Second.\n  c: {}\n");
        let lines: Vec<_> = text.lines().skip(1).collect();
        assert_eq!(lines, ["a: \"#1\"", "b:", "  c: {}"]);
    }

    #[test]
    fn chart_value_row_has_path_default_and_comment() {
        let values = "# Not a value.\n\n# -- First,\n# and more.\na: 1\nb:\n  # -- Second.\n  c: {}\n  d: 2\n# -- Third.\ne:\n  f: 3\n";
        let rows: Vec<_> = table(values).lines().skip(2).map(str::to_owned).collect();
        assert_eq!(
            rows,
            [
                "| `a` | `1` | First, and more. |",
                "| `b.c` | `{}` | Second. |",
                "| `e` | see values.yaml | Third. |"
            ]
        );
    }
}
