//! Nothing outlives its owner, however the owner goes.

use std::{
    io::{BufRead, BufReader},
    os::unix::process::ExitStatusExt,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use testbed::{EtcdCluster, EtcdVersion};

/// Far above what is needed, far below what a person would put up with.
const SECONDS: Duration = Duration::from_secs(10);

/// Not a test: what the tests below run in a process of its own, which then dies.
#[tokio::test]
#[ignore = "run by the other tests of this file"]
async fn owner() {
    let how = std::env::var("OWNER_ENDS_BY").expect("only run by the tests of this file");
    let folder = testbed::Folder::new("orphans").expect("a folder");
    let cluster = EtcdCluster::start(EtcdVersion::default(), 1, folder.path())
        .await
        .expect("etcd starts");
    let pid = cluster.member(0).pid();
    if how == "kill-while-stopped" {
        cluster.member(0).stop().expect("stop");
    }
    eprintln!("\nOWNS {pid} {}", folder.path().display());
    match how.as_str() {
        "panic" => panic!("on purpose"),
        "exit" => std::process::exit(3),
        _ => std::future::pending().await,
    }
}

/// Starts an owner and waits until it has started an etcd; returns that one's pid and the folder it lives in.
fn start_owner(ends_by: &str) -> (Child, String, String) {
    // Started in the background by a shell, we ignore SIGINT, and so would the owner: `env` undoes that.
    let mut owner = Command::new("env")
        .arg("--default-signal=INT")
        .arg(std::env::current_exe().expect("this test's path"))
        .args(["--exact", "owner", "--ignored", "--nocapture"])
        .env("OWNER_ENDS_BY", ends_by)
        .env_remove("TESTBED_KEEP")
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the owner starts");
    let lines = BufReader::new(owner.stderr.take().expect("piped")).lines();
    let line = lines
        .map_while(Result::ok)
        .find(|line| line.starts_with("OWNS "))
        .expect("the owner starts an etcd");
    let mut words = line.split(' ').skip(1).map(str::to_owned);
    let (pid, folder) = (words.next().expect("pid"), words.next().expect("folder"));
    (owner, pid, folder)
}

fn signal(name: &str, pid: u32) {
    let done = Command::new("kill")
        .args(["-s", name, &pid.to_string()])
        .status()
        .expect("kill runs");
    assert!(done.success(), "cannot send {name} to {pid}");
}

/// A dead process that is not reaped, as in a container without an init, counts as dead.
fn is_alive(pid: &str) -> bool {
    let probe = Command::new("kill")
        .args(["-0", pid])
        .stderr(Stdio::null())
        .status()
        .expect("kill runs");
    let zombie = std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") Z "));
    probe.success() && !zombie
}

/// How a process ended, which it does soon.
fn end_of(mut child: Child) -> ExitStatus {
    let begin = Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("wait") {
            return status;
        }
        if begin.elapsed() > SECONDS {
            child.kill().expect("SIGKILL");
            panic!("the owner lives on");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn assert_cleaned_up(pid: &str, folder: &str) {
    let begin = Instant::now();
    let alive = || is_alive(pid);
    while alive() || Path::new(folder).exists() {
        assert!(
            begin.elapsed() < SECONDS,
            "etcd alive: {}, folder {folder} there: {}",
            alive(),
            Path::new(folder).exists()
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_killed_owner_leaves_nothing() {
    let (mut owner, pid, folder) = start_owner("kill");
    owner.kill().expect("SIGKILL");
    assert_eq!(end_of(owner).signal(), Some(9));
    assert_cleaned_up(&pid, &folder);
}

#[test]
fn a_killed_owner_leaves_not_even_a_stopped_process() {
    let (mut owner, pid, folder) = start_owner("kill-while-stopped");
    owner.kill().expect("SIGKILL");
    end_of(owner);
    assert_cleaned_up(&pid, &folder);
}

#[test]
fn an_interrupted_owner_leaves_nothing() {
    for name in ["INT", "TERM"] {
        let (owner, pid, folder) = start_owner("signal");
        signal(name, owner.id());
        assert_eq!(end_of(owner).code(), None, "by the signal");
        assert_cleaned_up(&pid, &folder);
    }
}

#[test]
fn an_owner_that_exits_without_dropping_leaves_nothing() {
    let (owner, pid, folder) = start_owner("exit");
    assert_eq!(end_of(owner).code(), Some(3));
    assert_cleaned_up(&pid, &folder);
}

#[test]
fn an_owner_that_panics_leaves_nothing() {
    let (owner, pid, folder) = start_owner("panic");
    assert!(!end_of(owner).success());
    assert_cleaned_up(&pid, &folder);
}
