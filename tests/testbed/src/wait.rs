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

/// Looks again and again until `look` returns `Ok`, and returns what it found. Its errors say what is still wrong.
/// When the deadline has passed, the error contains the last of them. `what` completes "waited in vain for ...".
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
        // Not left to the time-out: a look that waits for nothing is never cut short by one.
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
    async fn a_look_that_waits_for_nothing_is_given_up_too() {
        let looks = until("a miracle", Duration::from_millis(40), || async { Err::<(), _>("no") });
        let error = looks.await.expect_err("it never comes").to_string();
        assert!(error.contains("a miracle") && error.contains("no"), "{error}");
    }
}
