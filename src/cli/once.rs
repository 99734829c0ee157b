//! What commands share that look once and end: they wait for what they find, and print it.

use std::io::{self, ErrorKind, Write};

/// Waits for `work` on this thread. An error means that this cannot be done here.
pub fn wait_for<T>(work: impl Future<Output = T>) -> io::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let done = runtime.block_on(work);
    // A look-up of a name may hang for long after nobody waits for it any more.
    runtime.shutdown_background();
    Ok(done)
}

/// Writes `text` to `out`, to its end or to where somebody stops reading.
pub fn write(text: &str, out: &mut impl Write) -> io::Result<()> {
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // Whoever reads has seen enough, as in `leasehold plan | head`; the exit code still tells.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}
