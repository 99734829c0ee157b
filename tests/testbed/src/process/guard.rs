//! The watchdog: one `sh` beside this process that ends what we started once we are gone, however we went.
//!
//! It learns of our end by the end of file on a pipe whose other end only we hold, so SIGKILL, a panic, `exit` and
//! statics that are never dropped are all the same to it, and nothing polls. It learns of a child *before* the child
//! may run its program (see `handle`), so there is no moment in which a child is unknown.

use std::{
    io::Write,
    os::unix::process::CommandExt,
    path::Path,
    process::{ChildStdin, Command, Stdio},
    sync::{Mutex, MutexGuard, OnceLock, PoisonError},
};

use crate::error::{Doing, Result};

/// Lines in: `kill PGID`, `spare PGID`, `remove FOLDER`, `keep FOLDER`. At end of file it acts on what is left.
const SCRIPT: &str = r#"
trap '' INT TERM HUP
set -f
IFS='
'
groups= folders=
without() { for each in $1; do [ "$each" = "$2" ] || printf '%s\n' "$each"; done; }
while read -r line; do
  what=${line#* }
  case $line in
    "kill "*) groups="$groups
$what" ;;
    "spare "*) groups=$(without "$groups" "$what") ;;
    "remove "*) folders="$folders
$what" ;;
    "keep "*) folders=$(without "$folders" "$what") ;;
  esac
done
for group in $groups; do kill -s KILL -- "-$group"; done
for folder in $folders; do
  for attempt in 1 2 3 4 5 6 7 8 9 10; do rm -rf -- "$folder" && break; sleep 0.2; done
done
"#;

static GUARD: OnceLock<Mutex<ChildStdin>> = OnceLock::new();

fn pipe() -> Result<MutexGuard<'static, ChildStdin>> {
    // Not `get_or_init`, which cannot fail; two racing callers may start two watchdogs, and the loser's ends at once.
    if GUARD.get().is_none() {
        let mut child = Command::new("sh")
            .args(["-c", SCRIPT])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Ctrl-C goes to the terminal's foreground group; the watchdog must outlive that.
            .process_group(0)
            .spawn()
            .doing(|| "start the watchdog `sh`")?;
        let stdin = child.stdin.take().expect("stdin was asked for");
        let _ = GUARD.set(Mutex::new(stdin));
    }
    let guard = GUARD.get().expect("set just above");
    Ok(guard.lock().unwrap_or_else(PoisonError::into_inner))
}

fn report(line: &str) -> Result<()> {
    writeln!(pipe()?, "{line}").doing(|| "tell the watchdog what to clean up")
}

/// Has the process group killed when this process ends.
pub(super) fn kill_at_end(group: u32) -> Result<()> {
    report(&format!("kill {group}"))
}

/// Forgets a process group. To be called before its leader is reaped, so that the id cannot be someone else's yet.
pub(super) fn spare(group: u32) {
    // When the watchdog is gone there is nothing that could kill wrongly.
    let _ = report(&format!("spare {group}"));
}

/// Has the folder removed when this process ends, after the processes.
pub(super) fn remove_at_end(folder: &Path) -> Result<()> {
    report(&format!("remove {}", folder.display()))
}

/// Forgets a folder.
pub(super) fn keep(folder: &Path) {
    let _ = report(&format!("keep {}", folder.display()));
}
