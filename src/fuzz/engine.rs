//! Runs targets with mutated input, and keeps the inputs with a new outcome.

use std::any::Any;
use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use super::mutate::{Rng, mutate};
use super::{Run, Shape, Target, corpus, files};
use crate::model::fnv64;

/// The number of targets that run in parallel.
const AT_A_TIME: usize = 2;
/// An input that takes longer is a failure, too: it would block the operator.
const LONGEST: Duration = Duration::from_secs(10);
/// After this time the whole process is ended, because nothing else can stop a running target.
const HOPELESS: Duration = Duration::from_mins(1);
/// The time for minimizing an input that fails.
const CUTTING: Duration = Duration::from_secs(20);
/// The maximum number of inputs in the pool.
const POOL: usize = 4096;

/// When each running thread started its current input.
static AT_WORK: Mutex<Vec<(ThreadId, Instant)>> = Mutex::new(Vec::new());

/// Runs an input. Returns the outcome, or the text of the panic or of the time limit if `run` fails.
pub(super) fn survives(run: Run, input: &[u8]) -> Result<String, String> {
    let (begin, me) = (Instant::now(), thread::current().id());
    at_work().push((me, begin));
    let came = catch_unwind(AssertUnwindSafe(|| run(input)));
    at_work().retain(|(who, _)| *who != me);
    let came = came.map_err(|panic| text_of(&*panic))?;
    match begin.elapsed() {
        long if long > LONGEST => Err(format!("it took {long:?}, more than {LONGEST:?}")),
        _ => Ok(came),
    }
}

fn at_work() -> MutexGuard<'static, Vec<(ThreadId, Instant)>> {
    AT_WORK.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Ends the process when an input runs for too long.
fn watch() {
    loop {
        thread::sleep(Duration::from_secs(1));
        if at_work().iter().any(|(_, since)| since.elapsed() > HOPELESS) {
            println!("HARM: an input takes more than {HOPELESS:?}; it is among those in target/fuzz");
            std::process::exit(1);
        }
    }
}

fn text_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("a panic without words").to_owned()
}

/// Runs each of `targets` for `time`, [`AT_A_TIME`] of them in parallel. Panics if one of them fails.
pub(super) fn run_all(targets: &[&Target], seed: u64, time: Duration) {
    let (next, found) = (AtomicUsize::new(0), AtomicBool::new(false));
    // The default hook is disabled, because the thread that finds a panic prints it once, together with its input.
    std::panic::set_hook(Box::new(|_| {}));
    let printing = Mutex::new(());
    thread::spawn(watch);
    thread::scope(|scope| {
        for _ in 0..AT_A_TIME.min(targets.len()) {
            scope.spawn(|| {
                while let Some(target) = targets.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let lines = match run(target, seed, time) {
                        Ok(line) => line,
                        Err(harm) => {
                            found.store(true, Ordering::Relaxed);
                            harm
                        }
                    };
                    let _turn = printing.lock();
                    println!("{lines}");
                }
            });
        }
    });
    drop(std::panic::take_hook());
    assert!(
        !found.load(Ordering::Relaxed),
        "input was found that does harm: see above"
    );
}

/// Runs one target. Returns a summary line, or the report of a failure.
fn run(target: &Target, seed: u64, time: Duration) -> Result<String, String> {
    let now = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/fuzz");
    std::fs::create_dir_all(&now).expect("target/ can be written to");
    // The current input is written to a file, in case it ends the process.
    let now = now.join(target.name);
    let mut rng = Rng::new(seed);
    let mut pool: Vec<Vec<u8>> = files(target).into_iter().map(|(_, input)| input).collect();
    let mut known = HashSet::new();
    let (begin, mut runs) = (Instant::now(), 0_u64);
    while begin.elapsed() < time {
        let mut input = mutate(target.shape, &pool, &mut rng);
        if let Shape::Lines(_) = target.shape {
            input = String::from_utf8_lossy(&input).into_owned().into_bytes();
        }
        std::fs::write(&now, &input).expect("target/ can be written to");
        runs += 1;
        match survives(target.run, &input) {
            Err(first) => return Err(harm(target, seed, runs, &input, &first)),
            Ok(came) => {
                if !known.insert(came) {
                    continue;
                }
                if pool.len() < POOL {
                    pool.push(input);
                } else {
                    let at = rng.below(POOL);
                    pool[at] = input;
                }
            }
        }
    }
    Ok(format!(
        "{}: no harm by {runs} inputs of seed {seed}, {} of them with a new outcome, in {:.0} s",
        target.name,
        known.len(),
        begin.elapsed().as_secs_f64()
    ))
}

/// Minimizes an input that fails and adds it to the corpus. Returns the report.
fn harm(target: &Target, seed: u64, runs: u64, input: &[u8], first: &str) -> String {
    let cut = cut_down(target, input);
    let last = survives(target.run, &cut).err().unwrap_or_else(|| first.to_owned());
    let path = keep(&corpus(target), &cut);
    format!(
        "{name}: HARM by input {runs} of seed {seed}: {last}\n\
         --- the input, cut down from {before} to {after} bytes\n{input}\n---\n\
         it is in {path}: commit it with what mends it, and\n    \
         cargo test --lib fuzz::what_once_did_harm_does_none_any_more\n\
         runs it again, as every test run will; the whole is repeated by\n    \
         cargo xtask fuzz --target {name} --seed {seed}",
        name = target.name,
        before = input.len(),
        after = cut.len(),
        input = String::from_utf8_lossy(&cut),
        path = path.display(),
    )
}

/// Removes parts of the input as long as it still fails.
fn cut_down(target: &Target, input: &[u8]) -> Vec<u8> {
    let mut parts: Vec<Vec<u8>> = match target.shape {
        Shape::Lines(_) => input
            .split_inclusive(|byte| *byte == b'\n')
            .map(<[u8]>::to_vec)
            .collect(),
        Shape::Json(_) => input.iter().map(|byte| vec![*byte]).collect(),
    };
    let begin = Instant::now();
    let mut size = parts.len() / 2;
    while size > 0 {
        let mut at = 0;
        while at < parts.len() && begin.elapsed() < CUTTING {
            let mut fewer = parts.clone();
            fewer.drain(at..(at + size).min(parts.len()));
            if survives(target.run, &fewer.concat()).is_err() {
                parts = fewer;
            } else {
                at += size;
            }
        }
        size /= 2;
    }
    parts.concat()
}

fn keep(folder: &Path, input: &[u8]) -> PathBuf {
    let path = folder.join(format!("found-{:016x}", fnv64(&[&String::from_utf8_lossy(input)])));
    std::fs::write(&path, input).expect("the corpus can be written to");
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dislikes_two_words(input: &[u8]) -> String {
        let text = String::from_utf8_lossy(input);
        assert!(!(text.contains("one") && text.contains("two")), "both of them");
        text.len().to_string()
    }

    #[test]
    fn input_that_does_harm_is_found_and_cut_down_to_what_matters() {
        let target = Target {
            name: "two words",
            shape: Shape::Lines(|rng| rng.one_of(&["one", "two", "three", "four"]).to_owned()),
            run: dislikes_two_words,
        };
        let input = b"three\none\nfour\nfour\ntwo\nthree\n";
        assert_eq!(survives(target.run, input), Err("both of them".to_owned()));
        assert_eq!(cut_down(&target, input), b"one\ntwo\n");
        let mut rng = Rng::new(1);
        let mut pool = vec![b"three\n".to_vec()];
        let found = (0..1000).any(|_| {
            let input = mutate(target.shape, &pool, &mut rng);
            let harm = survives(target.run, &input).is_err();
            pool.push(input);
            harm
        });
        assert!(found);
    }
}
