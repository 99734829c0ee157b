//! The schedule of retries.

use std::time::Duration;

/// The pauses between attempts: the first one, doubled with each further failure up to the longest.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    first: Duration,
    max: Duration,
    last: Duration,
}

impl Backoff {
    pub const fn new(first: Duration, max: Duration) -> Self {
        let last = Duration::ZERO;
        Self { first, max, last }
    }

    /// Returns the pause before the next attempt.
    pub fn next_pause(&mut self) -> Duration {
        self.last = (self.last * 2).clamp(self.first, self.max);
        self.last
    }

    /// Returns the last pause; zero if there was none since the last success.
    pub fn last(&self) -> Duration {
        self.last
    }

    /// Starts again after a success.
    pub fn reset(&mut self) {
        self.last = Duration::ZERO;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_start_again_after_a_success() {
        let seconds = Duration::from_secs;
        let mut backoff = Backoff::new(seconds(2), seconds(7));
        assert_eq!(backoff.last(), Duration::ZERO);
        assert_eq!([(); 4].map(|()| backoff.next_pause()), [2, 4, 7, 7].map(seconds));
        assert_eq!(backoff.last(), seconds(7));
        backoff.reset();
        assert_eq!(backoff.next_pause(), seconds(2));
    }
}
