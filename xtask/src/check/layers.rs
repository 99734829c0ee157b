//! Imports between the modules of the operator run one way: watch, resolve, plan, apply, report.

use std::fs;

use super::{Step, workspace};
use crate::error::{Result, doing};

/// Each module below `src/` and the modules that it may import. `controller` and `cli` may import all.
const LAYERS: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("secret", &[]),
    ("listen", &[]),
    ("api", &["model"]),
    ("format", &["model", "api"]),
    ("index", &["model"]),
    ("plan", &["model", "api", "format", "index"]),
    ("telemetry", &["model", "secret"]),
    ("peer", &["model", "secret", "telemetry"]),
    ("backend", &["model", "secret", "telemetry", "peer", "plan"]),
    ("kube", &["model", "secret", "telemetry", "peer", "api", "index"]),
];

/// Looks through the imports of all files of `src/`.
pub(super) fn check(step: &Step) -> Result<()> {
    let mut backwards = Vec::new();
    for file in super::kept_files()? {
        let Some(module) = file.strip_prefix("src/").filter(|file| super::is_rust(file)) else {
            continue;
        };
        let text = fs::read_to_string(workspace().join(&file)).map_err(doing("read a source file"))?;
        backwards.extend(violations(module, &text).map(|found| format!("src/{module}:{found}")));
    }
    if backwards.is_empty() {
        return Ok(());
    }
    Err(step.failed(format!("imports run backwards:\n  {}", backwards.join("\n  "))))
}

/// The lines of a file that import what its module may not, each as `LINE: MODULE imports OTHER`.
fn violations<'a>(file: &'a str, text: &'a str) -> impl Iterator<Item = String> + 'a {
    let module = file.split(['/', '.']).next().unwrap_or_default();
    let allowed = LAYERS
        .iter()
        .find(|(layer, _)| *layer == module)
        .map(|(_, allowed)| *allowed);
    // The fuzz targets of a module use the fuzz engine.
    let is_free =
        move |other: &str| other == module || other == "fuzz" || allowed.is_none_or(|allowed| allowed.contains(&other));
    let code = |line: &&'a str| !line.trim_start().starts_with("//");
    let lines = text.lines().enumerate().filter(move |(_, line)| code(line));
    lines.flat_map(move |(i, line)| {
        let others = line.match_indices("crate::").map(|(at, word)| &line[at + word.len()..]);
        let others = others.map(|rest| {
            rest.split(|c: char| !c.is_alphanumeric() && c != '_')
                .next()
                .unwrap_or_default()
        });
        let named = |other: &&str| other.chars().next().is_some_and(char::is_lowercase);
        let backwards = others.filter(named).filter(|other| !is_free(other)).collect::<Vec<_>>();
        backwards
            .into_iter()
            .map(move |other| format!("{}: {module} imports {other}", i + 1))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(file: &str, text: &str) -> Vec<String> {
        violations(file, text).collect()
    }

    #[test]
    fn backward_imports_are_found_and_forward_ones_are_not() {
        let text = "use crate::model::Key;\n// use crate::plan::Planner;\nfn f(_: crate::plan::Planner) {}\n";
        assert_eq!(found("format/plain.rs", text), ["3: format imports plan"]);
        assert_eq!(found("controller/mod.rs", text), [""; 0]);
        assert_eq!(found("backend/etcd/writer.rs", text), [""; 0]);
        assert_eq!(
            found("secret.rs", "use crate::api::Registry;"),
            ["1: secret imports api"]
        );
    }

    #[test]
    fn items_of_the_crate_root_and_of_the_own_module_are_no_imports() {
        assert_eq!(
            found("plan/mod.rs", "crate::plan::x(); crate::fuzz::Rng; crate::Root;"),
            [""; 0]
        );
    }
}
