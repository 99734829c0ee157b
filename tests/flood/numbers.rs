//! What was measured, and what it comes to.

use std::fmt;
use std::time::{Duration, Instant};

/// When one change of the quiet pod got where.
#[derive(Clone, Copy, Debug)]
pub struct Try {
    /// The apiserver had taken it.
    pub taken: Instant,
    /// The control had observed it.
    pub observed: Instant,
    /// The operator's key had changed.
    pub operator: Instant,
    /// The control's key had changed.
    pub control: Instant,
}

/// Times in the order of their length.
#[derive(Clone, Debug)]
pub struct Times(Vec<Duration>);

impl Times {
    fn of(times: impl Iterator<Item = Duration>) -> Self {
        let mut times: Vec<Duration> = times.collect();
        times.sort();
        Self(times)
    }

    /// What so many of a hundred are not above.
    pub fn percentile(&self, percent: usize) -> Duration {
        self.0[(self.0.len() * percent).div_ceil(100).max(1) - 1]
    }
}

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |percent| self.percentile(percent).as_secs_f64() * 1e3;
        write!(f, "p50 {:7.1} ms  p90 {:7.1} ms  p99 {:7.1} ms", ms(50), ms(90), ms(99))
    }
}

/// All times of one run.
#[derive(Clone, Debug)]
pub struct Numbers {
    /// From the apiserver's answer to the operator's key.
    pub ready_to_key: Times,
    /// From the event, when the control observes it, to the operator's key.
    pub operator: Times,
    /// From the event to the control's key.
    pub control: Times,
    /// From the apiserver's answer to the event.
    pub delivery: Times,
}

impl Numbers {
    /// Sums up what happened.
    pub fn of(tries: &[Try]) -> Self {
        let between = |from: fn(&Try) -> Instant, to: fn(&Try) -> Instant| {
            Times::of(
                tries
                    .iter()
                    .map(move |one| to(one).saturating_duration_since(from(one))),
            )
        };
        Self {
            ready_to_key: between(|one| one.taken, |one| one.operator),
            operator: between(|one| one.observed, |one| one.operator),
            control: between(|one| one.observed, |one| one.control),
            delivery: between(|one| one.taken, |one| one.observed),
        }
    }
}

impl fmt::Display for Numbers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "  apiserver -> key of the operator  {}", self.ready_to_key)?;
        writeln!(f, "  apiserver -> news                 {}", self.delivery)?;
        writeln!(f, "  news -> key of the operator       {}", self.operator)?;
        write!(f, "  news -> key of the control        {}", self.control)
    }
}

/// How many times as long `beside` is as `alone`. What takes less than a millisecond is taken to be one: that is noise.
pub fn ratio(alone: Duration, beside: Duration) -> f64 {
    let floor = |time: Duration| time.max(Duration::from_millis(1)).as_secs_f64();
    floor(beside) / floor(alone)
}
