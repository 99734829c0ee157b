//! `cargo xtask test`: everything that CI checks. Steps run one after the other, in order of cost, and the first that fails
//! is the last; then the suites on real servers run several at a time.
//!
//! Owns the list and how a step is shown. What takes more than a cargo command is in a file of its own.

mod chart;
mod compat;
mod crds;
mod deny;
mod language;
mod layers;
mod lean;
mod manifests;
mod reference;
mod schemas;
mod stray;
mod suites;
mod upgrade;

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use testbed::EtcdVersion;

use crate::{
    error::{Error, Result, doing},
    stage,
};

pub use chart::write as write_chart;
pub use compat::run as run_compat;
pub use manifests::write as write_manifests;
pub use reference::write as write_reference;

/// What to check.
#[derive(clap::Args)]
pub struct Options {
    /// Run only what needs no servers: takes 2 minutes with warm caches, everything up to 25
    #[arg(long)]
    unit: bool,
    /// Number of suites on real servers that run in parallel; the default is the number of cores plus one
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    jobs: Option<u16>,
    /// Run only the suites whose name begins with NAME, without the steps before; may be repeated
    #[arg(long, value_name = "NAME", conflicts_with = "unit")]
    suite: Vec<String>,
}

struct Step {
    name: &'static str,
    what: &'static str,
    /// What to do when it fails.
    fix: &'static str,
    how: How,
}

enum How {
    /// Runs cargo with these words.
    Cargo(&'static str),
    /// Runs cargo with these words after setting a variable.
    CargoWith(&'static str, (&'static str, &'static str)),
    /// Runs a part of this program.
    Call(fn(&Step) -> Result<()>),
}

const UNIT: &[Step] = &[
    Step {
        name: "stray",
        what: "no file is left over from a merge or a patch",
        fix: "git rm the file",
        how: How::Call(stray::check),
    },
    Step {
        name: "layers",
        what: "imports between the modules of src/ run one way",
        fix: "move what both need to src/model; LAYERS in xtask/src/check/layers.rs says what a module may import",
        how: How::Call(layers::check),
    },
    Step {
        name: "language",
        what: "comments and documentation avoid words that no search finds",
        fix: "use the replacement beside each word; quote names and output in backticks",
        how: How::Call(language::check),
    },
    Step {
        name: "fmt",
        what: "the code is formatted as rustfmt.toml says",
        fix: "cargo fmt --all",
        how: How::Cargo("fmt --all --check"),
    },
    Step {
        name: "deny",
        what: "licences, sources and banned crates, as deny.toml says",
        fix: "replace the dependency, or write into deny.toml why it is welcome",
        how: How::Call(deny::check),
    },
    Step {
        name: "lean",
        what: "the operator is linked from few crates",
        fix: "remove the new crates, or raise CEILING in xtask/src/check/lean.rs and give the reason in the commit",
        how: How::Call(lean::check),
    },
    Step {
        name: "clippy",
        what: "every target of every crate compiles without a warning, benchmarks too",
        fix: "change what clippy names; an exception is written at its place, with its reason",
        how: How::Cargo("clippy --locked --workspace --all-targets -- -D warnings"),
    },
    Step {
        name: "docs",
        what: "the documentation builds without a warning",
        fix: "change what rustdoc names above",
        how: How::CargoWith(
            "doc --locked --workspace --no-deps --document-private-items",
            // These pages are for contributors: links to private items are welcome.
            ("RUSTDOCFLAGS", "-Dwarnings -Arustdoc::private_intra_doc_links"),
        ),
    },
    Step {
        name: "unit",
        what: "unit tests: no server, no clock",
        fix: "run the one that failed alone: cargo test --lib NAME",
        how: How::Cargo("test --locked --workspace --lib --bins"),
    },
    Step {
        name: "crds",
        what: "the files in crds/ are what src/api says",
        fix: "cargo run -- crds --dir crds",
        how: How::Call(crds::check),
    },
    Step {
        name: "reference",
        what: "docs/reference/api.md and the JSON schemas beside it are what src/api says",
        fix: "cargo xtask reference",
        how: How::Call(reference::check),
    },
    Step {
        name: "chart",
        what: "what the chart repeats of other files is what they say",
        fix: "cargo xtask chart",
        how: How::Call(chart::check),
    },
];

/// What the suites need.
const PREPARATION: &[Step] = &[
    Step {
        name: "tools",
        what: "the programs of the test bed are built (11 minutes on two cores, once for a machine)",
        fix: "do what the message says",
        how: How::Call(tools),
    },
    Step {
        name: "manifests",
        what: "deploy/leasehold.yaml is what the chart renders",
        fix: "cargo xtask manifests",
        how: How::Call(manifests::check),
    },
    Step {
        name: "upgrade",
        what: "the release before this tree is built, for tests/upgrade to start from (2 minutes, once for a machine)",
        fix: "name another commit of the same Cargo.lock in tests/upgrade/from",
        how: How::Call(upgrade::check),
    },
    Step {
        name: "build",
        what: "the test binaries compile",
        fix: "change what the compiler names",
        how: How::Cargo("test --locked --workspace --no-run --test *"),
    },
];

/// Runs everything and prints the duration of each part.
pub async fn run(options: &Options) -> Result<()> {
    let jobs = options.jobs.map_or_else(suites::default_jobs, usize::from);
    let (unit, only) = (options.unit, options.suite.clone());
    tokio::task::spawn_blocking(move || {
        let mut path = Vec::new();
        if only.is_empty() {
            steps(UNIT.iter().chain(if unit { &[] } else { PREPARATION }), &mut path)?;
        }
        let mut passed = path.len();
        if !unit {
            let suites = suites::all(&only)?;
            passed += suites.len();
            path.extend(suites::run(suites, jobs)?);
        }
        report(&path, passed);
        Ok(())
    })
    .await
    .expect("steps do not panic")
}

/// Runs steps one after the other and adds what each took.
fn steps(steps: impl Iterator<Item = &'static Step> + Clone, times: &mut Vec<(String, Duration)>) -> Result<()> {
    let count = steps.clone().count();
    for (i, step) in steps.enumerate() {
        println!("\n[{}/{count}] {}: {}", i + 1, step.name, step.what);
        let begin = Instant::now();
        step.run()?;
        let time = begin.elapsed();
        println!("[{}/{count}] {}: passed, {:.1} s", i + 1, step.name, time.as_secs_f64());
        times.push((step.name.to_owned(), time));
    }
    Ok(())
}

/// Prints the critical path.
fn report(path: &[(String, Duration)], passed: usize) {
    let whole: Duration = path.iter().map(|(_, time)| *time).sum();
    println!("\ncritical path, {:.1} s:", whole.as_secs_f64());
    for (name, time) in path {
        println!("  {name:<24} {:>7.1} s", time.as_secs_f64());
    }
    println!("checks: {passed} passed, 0 failed");
}

impl Step {
    fn run(&self) -> Result<()> {
        match self.how {
            How::Cargo(words) => self.command(cargo(words)),
            How::CargoWith(words, (name, value)) => {
                let mut command = cargo(words);
                command.env(name, value);
                self.command(command)
            }
            How::Call(call) => call(self),
        }
    }

    /// Runs a command that shares our output.
    fn command(&self, mut command: Command) -> Result<()> {
        let line = shown(&command);
        println!("$ {line}");
        match command.current_dir(workspace()).status() {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(self.failed(format!("`{line}` ended with {status}"))),
            Err(error) => Err(self.failed(format!("`{line}` cannot be run: {error}"))),
        }
    }

    fn failed(&self, why: String) -> Error {
        Error::Check {
            step: self.name,
            why,
            fix: self.fix.to_owned(),
        }
    }
}

fn tools(_: &Step) -> Result<()> {
    stage::build_tools(&EtcdVersion::ALL)
}

/// The files that git keeps or would add, by their paths from the workspace's folder.
fn kept_files() -> Result<Vec<String>> {
    let mut git = Command::new("git");
    git.args([
        "ls-files",
        "--cached",
        "--others",
        "--exclude-standard",
        "--deduplicate",
    ])
    .current_dir(workspace());
    let output = git.output().map_err(doing("run git"))?;
    if !output.status.success() {
        return Err(Error::Broken(
            "git lists the files of this folder: it is no checkout".to_owned(),
        ));
    }
    let files = String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(str::to_owned)
        .collect::<Vec<_>>();
    // What was deleted and not committed yet is still listed.
    Ok(files
        .into_iter()
        .filter(|file| workspace().join(file).exists())
        .collect())
}

fn is_rust(file: &str) -> bool {
    Path::new(file).extension().is_some_and(|extension| extension == "rs")
}

fn cargo(words: &str) -> Command {
    let mut command = testbed::tools::cargo();
    command.args(words.split(' '));
    command
}

/// A command as a person would type it.
fn shown(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let name = program.file_name().unwrap_or_default();
    let variables = command
        .get_envs()
        .filter_map(|(name, value)| Some(format!("{}={}", name.display(), quoted(value?))));
    let words = command.get_args().map(quoted);
    let words: Vec<_> = variables.chain([name.display().to_string()]).chain(words).collect();
    words.join(" ")
}

/// A word as a shell reads it as one.
fn quoted(word: &OsStr) -> String {
    match word.to_string_lossy() {
        word if word.contains(['*', ' ']) => format!("'{word}'"),
        word => word.into_owned(),
    }
}

/// Runs `command` in the root of the workspace. Its output is that of this process. Fails if it fails, with `fix`.
pub async fn run_here(step: &'static str, mut command: Command, fix: &str) -> Result<()> {
    let ended = tokio::task::spawn_blocking(move || command.current_dir(workspace()).status()).await;
    match ended.expect("it does not panic") {
        Ok(status) if status.success() => Ok(()),
        ended => Err(Error::Check {
            step,
            why: format!("it ended with {ended:?}"),
            fix: fix.to_owned(),
        }),
    }
}

/// The root of the workspace.
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("this crate is one folder deep")
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_shown_as_it_can_be_typed() {
        let mut command = Command::new("/toolchain/bin/cargo");
        command.args(["test", "--test", "*"]).env("RUSTDOCFLAGS", "-Dwarnings");
        assert_eq!(shown(&command), "RUSTDOCFLAGS=-Dwarnings cargo test --test '*'");
    }

    #[test]
    fn a_failed_step_names_the_command_and_the_fix() {
        let step = Step {
            name: "none",
            what: "",
            fix: "write it",
            how: How::Call(|step| step.command(Command::new("false"))),
        };
        let error = step.run().expect_err("false is never true").to_string();
        assert!(error.contains("`false` ended with exit status: 1"), "{error}");
        assert!(error.ends_with("fix: write it"), "{error}");
    }
}
