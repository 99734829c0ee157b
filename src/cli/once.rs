//! Shared by the one-shot commands: wait for a result, and print it.

use std::io::{self, ErrorKind, Write};

/// Runs `work` on this thread until it completes. Fails if the runtime cannot be created.
pub fn wait_for<T>(work: impl Future<Output = T>) -> io::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let done = runtime.block_on(work);
    // A DNS lookup may hang long after its result is no longer needed.
    runtime.shutdown_background();
    Ok(done)
}

/// Writes all of `text` to `out`, or as much as the reader takes.
pub fn write(text: &str, out: &mut impl Write) -> io::Result<()> {
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // The reader has closed the pipe, as in `leasehold plan | head`. The exit code still reports the result.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}
