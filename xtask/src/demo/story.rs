//! The output of the demo: numbered steps, what was observed, and which claims held.

use std::time::{Duration, Instant};

use crate::error::{Error, Result};

/// The counts of the steps and claims so far.
#[derive(Default)]
pub struct Story {
    steps: u32,
    held: u32,
}

impl Story {
    /// Begins a step.
    pub fn step(&mut self, title: &str) {
        self.steps += 1;
        println!("\n{}. {title}", self.steps);
    }

    /// Shows something as it is, a line at a time.
    #[expect(clippy::unused_self, reason = "a step shows things, not the program")]
    pub fn show(&self, text: &str) {
        for line in text.lines() {
            println!("     {line}");
        }
    }

    /// Prints a claim and whether it holds. Fails the demo if it does not.
    pub fn holds(&mut self, so: bool, what: &str) -> Result<()> {
        if !so {
            println!("   ✗ {what}");
            return Err(Error::Broken(what.to_owned()));
        }
        println!("   ✓ {what}");
        self.held += 1;
        Ok(())
    }

    /// Prints the summary.
    pub fn end(&self, took: Duration) {
        println!(
            "\nAll {} claims of {} steps held, in {:.0} s.",
            self.held,
            self.steps,
            took.as_secs_f64()
        );
    }
}

/// From one moment to another, in milliseconds; negative when the other was first.
pub fn milliseconds(from: Instant, to: Instant) -> f64 {
    let later = to.saturating_duration_since(from).as_secs_f64();
    let earlier = from.saturating_duration_since(to).as_secs_f64();
    (later - earlier) * 1000.0
}

/// The middle one, the upper of two middle ones; none of nothing.
pub fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_are_negative() {
        let now = Instant::now();
        let later = now + Duration::from_millis(250);
        assert!((milliseconds(now, later) - 250.0).abs() < 1e-6);
        assert!((milliseconds(later, now) + 250.0).abs() < 1e-6);
    }

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(vec![3.0, -1.0, 2.0]), Some(2.0));
        assert_eq!(median(Vec::new()), None);
    }

    #[test]
    fn what_does_not_hold_fails_the_demo() {
        let mut story = Story::default();
        assert!(story.holds(true, "this").is_ok());
        let error = story.holds(false, "that").expect_err("it does not hold");
        assert_eq!(error.to_string(), "this does not hold: that");
    }
}
