//! Random input for what takes input from outside, for as long as one likes: `cargo xtask fuzz`.
//!
//! Owns how input is changed, run, cut down when it does harm, and kept. What a target does with its input is in the room
//! that it belongs to. There is no instrument in the code to steer by, which stable Rust has not: input is kept when what
//! came of it is new.

mod engine;
mod mutate;

use std::path::{Path, PathBuf};
use std::time::Duration;

pub(crate) use self::mutate::Rng;

/// Takes input, panics when something is wrong, and says in a few words what came of it.
type Run = fn(&[u8]) -> String;

/// What input looks like, and thus how it is changed.
#[derive(Clone, Copy)]
enum Shape {
    /// A JSON document, mostly. These words are apt for it.
    Json(&'static [&'static str]),
    /// Lines, of which this makes new ones.
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

/// Where the input is from which everything begins, and where input goes that does harm.
fn corpus(target: &Target) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus");
    root.join(target.name)
}

/// The files of a target's corpus, in the order of their names.
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

/// By `cargo xtask fuzz`, which says by these variables what to do.
#[test]
#[ignore = "it takes as long as it is told to: cargo xtask fuzz"]
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
