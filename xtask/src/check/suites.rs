//! The suites that need servers, several at a time: they spend most of their time waiting, and each has a bed of its own.
//!
//! Every test binary of the workspace is a suite, found by cargo, so that a new one cannot be left out. Long ones are
//! divided into parts, each a process with a bed of its own. The output of a suite goes to a file and is shown when the
//! suite has failed.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Mutex,
    time::{Duration, Instant},
};

use serde_json::Value;

use super::{cargo, shown, workspace};
use crate::{
    error::{Error, Result, doing},
    fuzz,
};

/// How many lines of a failed suite are shown.
const SHOWN_LINES: usize = 400;

/// A test binary that takes more than a minute.
struct Long {
    name: &'static str,
    /// How long its tests take one after the other, in seconds on two cores: what takes longest begins first.
    seconds: u32,
    /// Into how many processes its tests are divided.
    parts: usize,
}

const LONG: &[Long] = &[
    Long {
        name: "replicas",
        seconds: 810,
        parts: 3,
    },
    Long {
        name: "faults",
        seconds: 560,
        parts: 2,
    },
    Long {
        name: "access",
        seconds: 520,
        parts: 2,
    },
    Long {
        name: "chart",
        seconds: 250,
        parts: 1,
    },
    Long {
        name: "consumers",
        seconds: 220,
        parts: 1,
    },
    Long {
        name: "etcd",
        seconds: 230,
        parts: 1,
    },
    Long {
        name: "flood",
        seconds: 140,
        parts: 1,
    },
    Long {
        name: "xtask:image",
        seconds: 330,
        parts: 1,
    },
    Long {
        name: "operator",
        seconds: 230,
        parts: 1,
    },
    Long {
        name: "upgrade",
        seconds: 100,
        parts: 1,
    },
];

/// What is expected of a test binary that [`LONG`] does not name.
const SHORT: Long = Long {
    name: "",
    seconds: 30,
    parts: 1,
};

const REPEAT: &str =
    "run the test that failed alone: cargo test --test FILE NAME; TESTBED_KEEP=1 keeps the servers' logs";

/// One process that checks something.
pub struct Suite {
    name: String,
    /// How long it is expected to take.
    seconds: u32,
    /// What to do when it fails.
    fix: &'static str,
    command: Command,
}

/// How a suite ended.
struct Ended {
    name: String,
    fix: &'static str,
    /// Which of the workers ran it.
    worker: usize,
    time: Duration,
    failure: Option<String>,
}

/// The suites whose names begin with one of `only`; all of them if there is none. The test binaries are built already, or
/// cargo builds them without a word.
pub fn all(only: &[String]) -> Result<Vec<Suite>> {
    let mut suites = commands();
    for binary in binaries()? {
        let long = LONG.iter().find(|long| long.name == binary.name).unwrap_or(&SHORT);
        if long.parts == 1 {
            suites.push(binary.suite(binary.name.clone(), long.seconds, &[]));
            continue;
        }
        let tests = binary.tests()?;
        for part in 0..long.parts {
            let name = format!("{} {}/{}", binary.name, part + 1, long.parts);
            let seconds = long.seconds / u32::try_from(long.parts).unwrap_or(1);
            let tests: Vec<&str> = tests
                .iter()
                .skip(part)
                .step_by(long.parts)
                .map(String::as_str)
                .collect();
            suites.push(binary.suite(name, seconds, &tests));
        }
    }
    suites.retain(|suite| only.is_empty() || only.iter().any(|name| suite.name.starts_with(name)));
    if suites.is_empty() {
        return Err(Error::Broken(format!("there is a suite {}", only.join(" or "))));
    }
    Ok(suites)
}

/// The suites that are no test binary.
fn commands() -> Vec<Suite> {
    let suite = |name: &str, seconds, fix, command| Suite {
        name: name.to_owned(),
        seconds,
        fix,
        command,
    };
    let chaos =
        "read the report above, which ends with the command that repeats the run; docs/robustness.md explains it";
    let demo = "run it alone: cargo xtask demo";
    vec![
        // Half of the minutes with a fixed seed; the other run chooses a random seed and prints it.
        suite(
            "chaos of a fixed seed",
            130,
            chaos,
            cargo("xtask chaos --minutes 1.5 --etcd-members 3 --operators 3 --seed 91 --etcd-tls-auth"),
        ),
        suite(
            "chaos of a random seed",
            130,
            chaos,
            cargo("xtask chaos --minutes 1.5 --etcd-members 1 --operators 2"),
        ),
        suite("fuzz", 65, fuzz::FIX, fuzz::command(&fuzz::Options::default())),
        suite("demo", 30, demo, cargo("xtask demo")),
        suite(
            "demo with helm",
            40,
            "run it alone: cargo xtask demo --helm",
            cargo("xtask demo --helm"),
        ),
        suite(
            "demo of addresses",
            30,
            "run it alone: cargo xtask demo --addresses",
            cargo("xtask demo --addresses"),
        ),
    ]
}

/// A test binary of the workspace.
struct Binary {
    name: String,
    path: PathBuf,
    /// The folder of its package, in which cargo runs it.
    package: PathBuf,
}

impl Binary {
    fn command(&self) -> Command {
        let mut command = Command::new(&self.path);
        command
            .current_dir(&self.package)
            .env("CARGO_MANIFEST_DIR", &self.package);
        command
    }

    /// A process that runs these of its tests; all of them if none is given.
    fn suite(&self, name: String, seconds: u32, tests: &[&str]) -> Suite {
        let mut command = self.command();
        if !tests.is_empty() {
            command.arg("--exact").args(tests);
        }
        Suite {
            name,
            seconds,
            fix: REPEAT,
            command,
        }
    }

    /// The names of its tests.
    fn tests(&self) -> Result<Vec<String>> {
        let mut command = self.command();
        command.args(["--list", "--format", "terse"]);
        let output = command
            .output()
            .map_err(doing(format!("list the tests of {}", self.name)))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let tests: Vec<String> = text
            .lines()
            .filter_map(|line| Some(line.strip_suffix(": test")?.to_owned()))
            .collect();
        if tests.is_empty() {
            return Err(Error::Broken(format!("{} lists its tests", self.name)));
        }
        Ok(tests)
    }
}

/// All test binaries.
fn binaries() -> Result<Vec<Binary>> {
    let mut command = cargo("test --locked --workspace --no-run --test * --message-format json");
    let output = command.current_dir(workspace()).output().map_err(doing("run cargo"))?;
    let binaries = parse(&String::from_utf8_lossy(&output.stdout));
    if !output.status.success() || binaries.is_empty() {
        let why = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(Error::Broken(format!("cargo names the test binaries: {why}")));
    }
    Ok(binaries)
}

/// The test binaries that cargo's messages name, by name.
fn parse(messages: &str) -> Vec<Binary> {
    let mut binaries = BTreeMap::new();
    for message in messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
    {
        let target = &message["target"];
        let is_test = target["kind"][0] == "test" && message["profile"]["test"] == true;
        let path = |value: &Value| value.as_str().map(PathBuf::from);
        if let (true, Some(executable), Some(manifest), Some(name)) = (
            is_test,
            path(&message["executable"]),
            path(&message["manifest_path"]),
            target["name"].as_str(),
        ) {
            let package = manifest.parent().unwrap_or(Path::new("/")).to_owned();
            let folder = package.file_name().unwrap_or_default().to_string_lossy().into_owned();
            // Two packages may have a test of the same name.
            let name = if package == workspace() {
                name.to_owned()
            } else {
                format!("{folder}:{name}")
            };
            binaries.insert(
                name.clone(),
                Binary {
                    name,
                    path: executable,
                    package,
                },
            );
        }
    }
    binaries.into_values().collect()
}

/// How many suites run at a time unless the user says otherwise: one more than there are cores, for most of them wait. With
/// two for each core, servers and operators of unoptimised builds wait for one another for seconds.
pub fn default_jobs() -> usize {
    std::thread::available_parallelism().map_or(2, std::num::NonZero::get) + 1
}

/// Runs the suites, `jobs` at a time, and says what each took. All are run, also after one has failed. Returns the names
/// and times of those that ended last, one after the other: the path that made the whole as long as it was.
pub fn run(suites: Vec<Suite>, jobs: usize) -> Result<Vec<(String, Duration)>> {
    let logs = workspace().join("target/test-logs");
    fs::create_dir_all(&logs).map_err(doing(format!("create the folder {}", logs.display())))?;
    let count = suites.len();
    println!(
        "\n{count} suites, {jobs} at a time; their output is in {}",
        logs.display()
    );
    let waiting = Mutex::new(longest_last(suites));
    let ended = Mutex::new(Vec::<Ended>::new());
    std::thread::scope(|scope| {
        for worker in 0..jobs.max(1) {
            let (waiting, ended, logs) = (&waiting, &ended, &logs);
            scope.spawn(move || {
                loop {
                    let next = waiting.lock().expect("no worker panics").pop();
                    let Some(suite) = next else { break };
                    let one = suite.run(worker, logs);
                    let mut ended = ended.lock().expect("no worker panics");
                    one.print(ended.len() + 1, count, logs);
                    ended.push(one);
                }
            });
        }
    });
    let ended = ended.into_inner().expect("no worker panics");
    println!("\nsuites, longest first:");
    let mut by_time: Vec<&Ended> = ended.iter().collect();
    by_time.sort_by_key(|one| std::cmp::Reverse(one.time));
    for one in &by_time {
        println!(
            "  {:<24} {:>7.1} s{}",
            one.name,
            one.time.as_secs_f64(),
            if one.failure.is_some() { "  FAILED" } else { "" }
        );
    }
    let failed: Vec<&&Ended> = by_time.iter().filter(|one| one.failure.is_some()).collect();
    if let Some(first) = failed.first() {
        let names: Vec<&str> = failed.iter().map(|one| one.name.as_str()).collect();
        println!("suites: {} passed, {} failed", count - failed.len(), failed.len());
        return Err(Error::Check {
            step: "suites",
            why: names.join(", "),
            fix: first.fix.to_owned(),
        });
    }
    let last = ended.last().map(|one| one.worker);
    Ok(ended
        .into_iter()
        .filter(|one| Some(one.worker) == last)
        .map(|one| (one.name, one.time))
        .collect())
}

/// In the order in which they are taken from the end.
fn longest_last(mut suites: Vec<Suite>) -> Vec<Suite> {
    suites.sort_by_key(|suite| suite.seconds);
    suites
}

impl Suite {
    fn run(mut self, worker: usize, logs: &Path) -> Ended {
        let begin = Instant::now();
        let failure = self.status(logs).err();
        Ended {
            name: self.name,
            fix: self.fix,
            worker,
            time: begin.elapsed(),
            failure,
        }
    }

    fn status(&mut self, logs: &Path) -> Result<(), String> {
        let path = log(logs, &self.name);
        let file = File::create(&path).and_then(|file| Ok((file.try_clone()?, file)));
        let (out, err) = file.map_err(|error| format!("cannot create {}: {error}", path.display()))?;
        if self.command.get_current_dir().is_none() {
            self.command.current_dir(workspace());
        }
        match self.command.stdin(Stdio::null()).stdout(out).stderr(err).status() {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(format!("`{}` ended with {status}", shown(&self.command))),
            Err(error) => Err(format!("`{}` cannot be run: {error}", shown(&self.command))),
        }
    }
}

impl Ended {
    fn print(&self, number: usize, count: usize, logs: &Path) {
        let log = fs::read(log(logs, &self.name)).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let mut text = String::new();
        let outcome = match &self.failure {
            None => {
                for result in log.lines().filter(|line| line.starts_with("test result:")) {
                    let _ = writeln!(text, "{result}");
                }
                "passed"
            }
            Some(why) => {
                let lines: Vec<&str> = log.lines().collect();
                let from = lines.len().saturating_sub(SHOWN_LINES);
                let _ = writeln!(
                    text,
                    "--- {}: the last {} lines of its output",
                    self.name,
                    lines.len() - from
                );
                for line in &lines[from..] {
                    let _ = writeln!(text, "{line}");
                }
                let _ = writeln!(text, "--- {}: {why}\n  fix: {}", self.name, self.fix);
                "FAILED"
            }
        };
        println!(
            "{text}[{number}/{count}] {}: {outcome}, {:.1} s",
            self.name,
            self.time.as_secs_f64()
        );
    }
}

/// Where the output of a suite goes.
fn log(logs: &Path, name: &str) -> PathBuf {
    logs.join(format!("{}.log", name.replace(['/', ' ', ':'], "-")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn suite(name: &str, seconds: u32, program: &str) -> Suite {
        Suite {
            name: name.to_owned(),
            seconds,
            fix: "mend it",
            command: Command::new(program),
        }
    }

    #[test]
    fn test_binaries_are_read_from_cargo_messages() {
        let line = |manifest: &str, name: &str, kind: &str, executable: &str| {
            format!(
                r#"{{"reason":"compiler-artifact","manifest_path":"{manifest}","target":{{"kind":["{kind}"],"name":"{name}"}},"profile":{{"test":true}},"executable":{executable}}}"#
            )
        };
        let root = workspace().join("Cargo.toml").display().to_string();
        let messages = [
            line(&root, "replicas", "test", r#""/t/replicas""#),
            line(&root, "leasehold", "lib", r#""/t/leasehold""#),
            line(&root, "unbuilt", "test", "null"),
            line("/other/xtask/Cargo.toml", "up", "test", r#""/t/up""#),
            "no JSON".to_owned(),
        ];
        let found: Vec<_> = parse(&messages.join("\n"))
            .into_iter()
            .map(|one| (one.name, one.path))
            .collect();
        let expected = [("replicas", "/t/replicas"), ("xtask:up", "/t/up")];
        assert_eq!(
            found,
            expected.map(|(name, path)| (name.to_owned(), PathBuf::from(path)))
        );
    }

    #[test]
    fn the_longest_suite_begins_first() {
        let mut order = longest_last(vec![
            suite("a", 3, "true"),
            suite("b", 9, "true"),
            suite("c", 1, "true"),
        ]);
        let order: Vec<String> = std::iter::from_fn(|| order.pop()).map(|suite| suite.name).collect();
        assert_eq!(order, ["b", "a", "c"]);
    }

    #[test]
    fn every_suite_runs_and_a_failed_one_is_named() {
        let suites = vec![suite("self-test good", 3, "true"), suite("self-test bad", 9, "false")];
        let error = run(suites, 2).expect_err("false is never true").to_string();
        assert!(
            error.contains("self-test bad") && !error.contains("self-test good"),
            "{error}"
        );
        let path = run(vec![suite("self-test good", 3, "true")], 1).expect("true is true");
        assert_eq!(path[0].0, "self-test good");
    }
}
