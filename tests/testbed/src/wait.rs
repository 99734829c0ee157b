//! Waiting for something to come true.

use std::{
    fmt::Display,
    future::Future,
    time::{Duration, Instant},
};

use tokio::time::{sleep, timeout};

use crate::error::{Error, Result};

/// Between two looks. Tests measure in tens of milliseconds.
const LOOK: Duration = Duration::from_millis(15);

/// Looks again and again until `look` returns `Ok`, and returns what it found. Its errors say what is still wrong; the
/// last of them is told when the deadline has passed. `what` completes "waited in vain for ...".
pub async fn until<T, E, F>(what: &str, deadline: Duration, mut look: impl FnMut() -> F) -> Result<T>
where
    E: Display,
    F: Future<Output = Result<T, E>>,
{
    let begin = Instant::now();
    let mut last = String::from("nothing");
    loop {
        let left = deadline.saturating_sub(begin.elapsed());
        match timeout(left, look()).await {
            Ok(Ok(found)) => return Ok(found),
            Ok(Err(error)) => last = error.to_string(),
            Err(_) => {}
        }
        // A look that waits for nothing never meets the time-out.
        if begin.elapsed() >= deadline {
            return Err(Error::Deadline {
                what: what.to_owned(),
                waited: deadline,
                last,
            });
        }
        sleep(LOOK).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_look_that_waits_for_nothing_has_a_deadline_too() {
        let never = until("nothing", LOOK * 2, || async { Err::<(), _>("not yet") });
        let error = timeout(Duration::from_secs(20), never)
            .await
            .expect("it ends")
            .unwrap_err();
        assert!(error.to_string().ends_with("last seen: not yet"), "{error}");
    }
}
