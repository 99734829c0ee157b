//! One process: its life, its log and the signals a test sends it.

use std::{
    ffi::OsString,
    fs::{File, OpenOptions},
    io::{Read, Seek, SeekFrom, Write},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};
use tokio::{sync::watch, time::timeout};

use super::guard;
use crate::error::{Doing, Error, Result};

/// A child waits for a word before it becomes its program: until then the watchdog may not know it. When we die first,
/// the pipe ends and so does the child.
const LAUNCHER: &str = r#"read -r word && exec "$@" </dev/null"#;
/// How long a killed process may take to be gone.
const DEATH: Duration = Duration::from_secs(10);

/// What to run.
#[derive(Clone, Debug)]
pub struct Spec {
    /// The name in messages, and of the log file.
    pub name: String,
    /// The program's path.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Variables added to our own environment.
    pub env: Vec<(String, OsString)>,
    /// The folder its log `NAME.log` (stdout and stderr) is appended to.
    pub logs: PathBuf,
}

impl Spec {
    /// A program that logs to `LOGS/NAME.log`.
    pub fn new(name: impl Into<String>, program: impl Into<PathBuf>, logs: impl Into<PathBuf>) -> Self {
        Self {
            name: name.into(),
            program: program.into(),
            args: Vec::new(),
            env: Vec::new(),
            logs: logs.into(),
        }
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<A: Into<OsString>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.env.push((name.to_owned(), value.into()));
        self
    }

    fn log(&self) -> PathBuf {
        self.logs.join(format!("{}.log", self.name))
    }
}

/// A process that dies with this value, and with this process however that ends. It may be restarted: same program, same
/// arguments unless others are given, same log, new pid.
#[derive(Debug)]
pub struct Process {
    /// What it was started as first.
    spec: Spec,
    /// The arguments of its present life and of the next ones.
    args: Mutex<Vec<OsString>>,
    life: Mutex<Life>,
}

#[derive(Debug)]
struct Life {
    child: Arc<Mutex<Running>>,
    stopped: bool,
    exit: watch::Receiver<Option<ExitStatus>>,
    waiter: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Running {
    child: Child,
    pid: Pid,
    reaped: bool,
}

impl Process {
    /// Starts it.
    pub fn start(spec: Spec) -> Result<Self> {
        let life = Mutex::new(Life::begin(&spec)?);
        let args = Mutex::new(spec.args.clone());
        Ok(Self { spec, args, life })
    }

    /// Starts it again; when it still runs it is killed first.
    pub async fn restart(&self) -> Result<()> {
        self.kill().await?;
        let spec = Spec {
            args: self.args(),
            ..self.spec.clone()
        };
        let life = Life::begin(&spec)?;
        *self.life() = life;
        Ok(())
    }

    /// The arguments of its present life.
    pub fn args(&self) -> Vec<OsString> {
        lock(&self.args).clone()
    }

    /// Sets the arguments of its next lives.
    pub fn set_args(&self, args: Vec<OsString>) {
        *lock(&self.args) = args;
    }

    /// The name it was given.
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// The process id of the present life, or of the last one.
    pub fn pid(&self) -> u32 {
        let pid = lock(&self.life().child).pid;
        u32::try_from(pid.as_raw_nonzero().get()).expect("process ids are positive")
    }

    /// How it ended; `None` while it lives.
    pub fn exit_status(&self) -> Option<ExitStatus> {
        *self.life().exit.borrow()
    }

    /// An error with the end of its log when it has ended.
    pub fn alive(&self) -> Result<()> {
        self.exit_status().map_or(Ok(()), |status| Err(self.exited(status)))
    }

    /// Does some work that needs the process, and gives it up with an error as soon as the process ends.
    pub async fn while_alive<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let mut exit = self.life().exit.clone();
        tokio::select! {
            biased;
            done = work => done,
            Ok(status) = exit.wait_for(Option::is_some) => Err(self.exited(status.expect("just seen"))),
        }
    }

    fn exited(&self, status: ExitStatus) -> Error {
        Error::Exited {
            name: self.spec.name.clone(),
            status,
            log: self.log(),
            tail: self.log_tail(),
        }
    }

    /// SIGKILL, and waits until the process is gone. Nothing to do when it already is.
    pub async fn kill(&self) -> Result<()> {
        self.signal(Signal::KILL)?;
        self.wait_exit(DEATH).await.map(drop)
    }

    /// SIGSTOP: when this returns it does not run any more, and neither runs nor ends until [`Process::cont`].
    pub fn stop(&self) -> Result<()> {
        self.signal(Signal::STOP)?;
        self.life().stopped = true;
        // On a busy machine the other threads go on until the one that gets the signal has had its turn.
        let begin = Instant::now();
        while !self.is_halted() && begin.elapsed() < DEATH {
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Whether the kernel says that it is stopped, or has ended.
    fn is_halted(&self) -> bool {
        let Ok(stat) = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())) else {
            return true;
        };
        // The name before it may hold parentheses.
        stat.rsplit(')')
            .next()
            .is_some_and(|rest| rest.trim_start().starts_with(['T', 'Z', 'X']))
    }

    /// SIGCONT.
    pub fn cont(&self) -> Result<()> {
        self.signal(Signal::CONT)?;
        self.life().stopped = false;
        Ok(())
    }

    /// Whether it was stopped by [`Process::stop`] and not continued since.
    pub fn is_stopped(&self) -> bool {
        self.life().stopped
    }

    /// SIGTERM; see [`Process::wait_exit`].
    pub fn terminate(&self) -> Result<()> {
        self.signal(Signal::TERM)
    }

    /// Waits until it has ended.
    pub async fn wait_exit(&self, deadline: Duration) -> Result<ExitStatus> {
        let mut exit = self.life().exit.clone();
        match timeout(deadline, exit.wait_for(Option::is_some)).await {
            Ok(Ok(status)) => Ok(status.expect("just seen")),
            Ok(Err(_)) | Err(_) => Err(Error::Deadline {
                what: format!("{} to end", self.spec.name),
                waited: deadline,
                last: self.log_tail(),
            }),
        }
    }

    /// Waits until it has ended, however long that takes. Returns `None` if its status is unknown.
    pub async fn ended(&self) -> Option<ExitStatus> {
        let mut exit = self.life().exit.clone();
        exit.wait_for(Option::is_some).await.map_or(None, |status| *status)
    }

    /// The file its output goes to.
    pub fn log(&self) -> PathBuf {
        self.spec.log()
    }

    /// The last 4 KiB of its log.
    pub fn log_tail(&self) -> String {
        tail(&self.log()).unwrap_or_else(|error| format!("(no log: {error})"))
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let life = self.life();
        let running = lock(&life.child);
        // Reaping needs the lock, too, so the id cannot be another process's.
        if running.reaped {
            return Ok(());
        }
        rustix::process::kill_process(running.pid, signal)
            .map_err(std::io::Error::from)
            .doing(|| format!("send {signal:?} to {}", self.spec.name))
    }

    fn life(&self) -> MutexGuard<'_, Life> {
        lock(&self.life)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Ending must also work while unwinding, so failures are left to the watchdog.
        if self.signal(Signal::KILL).is_ok()
            && let Some(waiter) = self.life().waiter.take()
        {
            let _ = waiter.join();
        }
    }
}

impl Life {
    fn begin(spec: &Spec) -> Result<Self> {
        let path = spec.log();
        let open = |path: &Path| OpenOptions::new().create(true).append(true).open(path);
        let log = open(&path).doing(|| format!("open the log {}", path.display()))?;
        let errors = log.try_clone().doing(|| "duplicate a file handle")?;
        let mut child = Command::new("sh")
            .args(["-c", LAUNCHER, "launcher"])
            .arg(&spec.program)
            .args(&spec.args)
            .envs(spec.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(log)
            .stderr(errors)
            // Apart from the terminal's group, so that Ctrl-C reaches only the owner, which then ends things in order.
            .process_group(0)
            .spawn()
            .doing(|| format!("start {}", spec.name))?;
        let pid = Pid::from_child(&child);
        guard::kill_at_end(child.id())?;
        let word = child.stdin.take().map(|mut stdin| stdin.write_all(b"go\n"));
        word.expect("stdin was asked for")
            .doing(|| format!("let {} run", spec.name))?;

        let running = Arc::new(Mutex::new(Running {
            child,
            pid,
            reaped: false,
        }));
        let (ended, exit) = watch::channel(None);
        let waiter = std::thread::Builder::new()
            .name(format!("wait {}", spec.name))
            .spawn({
                let running = running.clone();
                move || {
                    if let Some(status) = await_end(&running, pid) {
                        ended.send_replace(Some(status));
                    }
                }
            })
            .doing(|| "start a thread")?;
        Ok(Self {
            child: running,
            stopped: false,
            exit,
            waiter: Some(waiter),
        })
    }
}

/// Blocks until the process ends. It is looked at first and reaped under the lock, so that no signal can go astray.
fn await_end(running: &Mutex<Running>, pid: Pid) -> Option<ExitStatus> {
    let unreaped = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
    while let Err(error) = rustix::process::waitid(WaitId::Pid(pid), unreaped) {
        if error != rustix::io::Errno::INTR {
            break;
        }
    }
    let mut running = lock(running);
    guard::spare(running.child.id());
    running.reaped = true;
    running.child.wait().ok()
}

fn tail(path: &Path) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(4096)))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
