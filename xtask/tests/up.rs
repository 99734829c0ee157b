//! What programs that drive `cargo xtask up` rely on.

use std::{
    io::{BufRead, BufReader, Lines},
    path::Path,
    process::{Child, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

/// How soon a dead operator is replaced.
const RESTART: Duration = Duration::from_secs(1);
/// How soon everything is gone.
const END: Duration = Duration::from_secs(20);

/// A running `up`, ended with this value also when the test fails.
struct Up {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Up {
    fn start(arguments: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_xtask"))
            .arg("up")
            .args(arguments)
            .env_remove("TESTBED_KEEP")
            .stdout(Stdio::piped())
            .spawn()
            .expect("xtask starts");
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        Self { child, lines }
    }

    fn line(&mut self) -> Value {
        let line = self.lines.next().expect("a line before the end").expect("text");
        serde_json::from_str(&line).expect("JSON")
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn signal(name: &str, pid: u64) {
    let done = Command::new("kill").args(["-s", name, &pid.to_string()]).status();
    assert!(done.expect("kill runs").success(), "cannot send {name} to {pid}");
}

fn is_alive(pid: u64) -> bool {
    let probe = Command::new("kill")
        .args(["-0", &pid.to_string()])
        .stderr(Stdio::null())
        .status();
    probe.expect("kill runs").success()
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no number"))
}

#[test]
fn it_says_where_everything_is_restarts_operators_and_ends_all_on_sigterm() {
    let mut up = Up::start(&["--etcd-members", "3", "--operators", "2", "--restart-operators"]);
    let reported = up.line();
    assert_eq!(reported["etcd"].as_array().map(Vec::len), Some(3), "{reported}");
    assert_eq!(reported["operators"].as_array().map(Vec::len), Some(2), "{reported}");

    let registries = Command::new(reported["kubectl"].as_str().expect("a path"))
        .args(["get", "registry", "default", "-o", "jsonpath={.spec.etcd.endpoints}"])
        .env("KUBECONFIG", reported["kubeconfig"].as_str().expect("a path"))
        .output()
        .expect("kubectl runs");
    let endpoints: Value = serde_json::from_slice(&registries.stdout).expect("JSON");
    assert_eq!(endpoints, reported["etcd"]);

    let victim = &reported["operators"][1];
    let begin = Instant::now();
    signal("KILL", number(&victim["pid"]));
    let restarted = up.line();
    assert!(begin.elapsed() < RESTART, "it took {:?}", begin.elapsed());
    let successor = &restarted["operator_restarted"];
    assert_eq!(
        (&successor["name"], &successor["http"]),
        (&victim["name"], &victim["http"])
    );
    assert_ne!(successor["pid"], victim["pid"]);

    let etcds = reported["etcd_pids"].as_array().expect("a list");
    let operators = [number(&reported["operators"][0]["pid"]), number(&successor["pid"])];
    let pids: Vec<_> = etcds
        .iter()
        .map(number)
        .chain([number(&reported["apiserver_pid"])])
        .chain(operators)
        .collect();
    for &pid in &pids {
        assert!(is_alive(pid), "{pid} of {reported} does not live");
    }
    signal("TERM", up.child.id().into());
    let begin = Instant::now();
    assert!(up.child.wait().expect("wait").success());
    assert!(begin.elapsed() < END, "it took {:?}", begin.elapsed());
    for pid in pids {
        assert!(!is_alive(pid), "{pid} of {reported} lives on");
    }
    assert!(!Path::new(reported["logs"].as_str().expect("a path")).exists());
}
