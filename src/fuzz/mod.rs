//! Fuzzing of code that parses input from outside, for a chosen time: `cargo xtask fuzz`.
//!
//! Owns how input is mutated, run, minimized and kept. The modules under test own the targets. Stable Rust has no
//! instrumentation in the code that could guide the search, so an input is kept when its outcome is new.

mod engine;
mod mutate;

use std::path::{Path, PathBuf};
use std::time::Duration;

pub(crate) use self::mutate::Rng;

/// Runs a target on an input. Panics on a bug, otherwise returns a short description of the outcome.
type Run = fn(&[u8]) -> String;

/// The shape of the input, which determines how it is mutated.
#[derive(Clone, Copy)]
enum Shape {
    /// Usually a JSON document. The words are useful as keys and values.
    Json(&'static [&'static str]),
    /// Lines. The function generates new ones.
    Lines(fn(&mut Rng) -> String),
}

struct Target {
    name: &'static str,
    shape: Shape,
    run: Run,
}

const TARGETS: [Target; 4] = [
    Target {
        name: "pods",
        shape: Shape::Json(&crate::kube::fuzz::WORDS),
        run: crate::kube::fuzz::pods,
    },
    Target {
        name: "templates",
        shape: Shape::Json(&crate::format::fuzz::WORDS),
        run: crate::format::fuzz::templates,
    },
    Target {
        name: "records",
        shape: Shape::Lines(crate::plan::fuzz::any_record),
        run: crate::plan::fuzz::records,
    },
    Target {
        name: "histories",
        shape: Shape::Lines(crate::plan::fuzz::any_event),
        run: crate::plan::fuzz::histories,
    },
];

/// The directory with the initial inputs, to which inputs that fail are added.
fn corpus(target: &Target) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus");
    root.join(target.name)
}

/// Returns the files of a target's corpus, sorted by name.
fn files(target: &Target) -> Vec<(PathBuf, Vec<u8>)> {
    let entries = std::fs::read_dir(corpus(target)).expect("the corpus is in the tree");
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("a file").path()).collect();
    paths.sort();
    let read = |path: PathBuf| (path.clone(), std::fs::read(path).expect("it can be read"));
    paths.into_iter().map(read).collect()
}

#[test]
fn what_once_did_harm_does_none_any_more() {
    for target in &TARGETS {
        let files = files(target);
        assert!(!files.is_empty(), "{} begins from nothing", target.name);
        for (path, input) in files {
            if let Err(panic) = engine::survives(target.run, &input) {
                panic!("{}: {panic}", path.display());
            }
        }
    }
}

/// Run by `cargo xtask fuzz`, which sets these variables.
#[test]
#[ignore = "it takes as long as --seconds says: cargo xtask fuzz"]
fn random_input_does_no_harm() {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let number = |name: &str| variable(name).map(|value| value.parse::<u64>().expect("a number"));
    let time = Duration::from_secs(number("LEASEHOLD_FUZZ_SECONDS").unwrap_or(30));
    let seed = number("LEASEHOLD_FUZZ_SEED").unwrap_or_else(|| std::process::id().into());
    let only = variable("LEASEHOLD_FUZZ_TARGET");
    let wanted = |target: &&Target| only.as_deref().is_none_or(|only| only == target.name);
    let targets: Vec<&Target> = TARGETS.iter().filter(wanted).collect();
    let names = TARGETS.map(|target| target.name).join(", ");
    assert!(!targets.is_empty(), "there is no such target: name one of {names}");
    engine::run_all(&targets, seed, time);
}
