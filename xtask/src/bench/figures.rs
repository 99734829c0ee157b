//! What was measured, and how it is printed.

use std::{fmt, time::Duration};

use super::probe::Followed;

/// Times in the order of their length.
pub struct Times(Vec<Duration>);

impl Times {
    pub fn of(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        Self(times)
    }

    /// Returns the time that `percent` of the times do not exceed.
    fn percentile(&self, percent: usize) -> Duration {
        let at = (self.0.len() * percent).div_ceil(100).max(1) - 1;
        self.0.get(at).copied().unwrap_or_default()
    }
}

/// A table of all that was measured, in the order in which it was.
#[derive(Default)]
pub struct Report {
    rows: Vec<[String; 3]>,
}

impl Report {
    /// Adds median and 99th percentile, and the ratio of the medians to those of `base`.
    pub fn time(&mut self, what: &str, times: &Times, base: Option<&Times>) {
        let (p50, p99) = (times.percentile(50), times.percentile(99));
        let ratio = base.map(|base| ratio(p50, base.percentile(50)));
        self.add(what, format!("p50 {}, p99 {}", ms(p50), ms(p99)), ratio);
    }

    /// Adds how long the keys of a tenant take beside a load, where that time passes, and the ratios to `alone`.
    pub fn beside(&mut self, what: &str, times: &Followed, alone: &Followed) {
        self.slowest(what, &times.key, &alone.key);
        let observed = "the same, until a client that only watches the pod has the change";
        self.slowest(observed, &times.observed, &alone.observed);
        self.slowest("the same, from then to the key", &times.after, &alone.after);
    }

    /// Adds median and 99th percentile, and the ratio of the 99th percentile to that of `base`.
    fn slowest(&mut self, what: &str, times: &Times, base: &Times) {
        let (p50, p99) = (times.percentile(50), times.percentile(99));
        let ratio = ratio(p99, base.percentile(99));
        self.add(
            what,
            format!("p50 {}, p99 {}", ms(p50), ms(p99)),
            Some(format!("p99 {ratio}")),
        );
    }

    pub fn figure(&mut self, what: &str, figure: String, note: Option<String>) {
        self.add(what, figure, note);
    }

    pub fn cpu(&mut self, what: &str, time: Duration, base: Option<Duration>) {
        self.add(what, ms(time), base.map(|base| ratio(time, base)));
    }

    pub fn duration(&mut self, what: &str, time: Duration) {
        self.add(what, format!("{:.2} s", time.as_secs_f64()), None);
    }

    /// Adds the resident memory in bytes, and what each of some objects added to it.
    pub fn memory(&mut self, what: &str, bytes: u64, added: Option<(u64, u32)>) {
        let each = added.map(|(before, objects)| {
            let more = bytes.saturating_sub(before);
            format!("{:.2} kB for each", kilo(more) / f64::from(objects))
        });
        self.add(what, format!("{:.1} MB", kilo(bytes) / 1e3), each);
    }

    fn add(&mut self, what: &str, figure: String, note: Option<String>) {
        let row = [what.to_owned(), figure, note.unwrap_or_default()];
        eprintln!("  {}: {} {}", row[0], row[1], row[2]);
        self.rows.push(row);
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| what | figure | compared |\n|---|---|---|")?;
        for [what, figure, note] in &self.rows {
            writeln!(f, "| {what} | {figure} | {note} |")?;
        }
        Ok(())
    }
}

fn ms(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1e3)
}

pub fn ratio(time: Duration, base: Duration) -> String {
    format!("{:.2}x", time.as_secs_f64() / base.as_secs_f64().max(1e-6))
}

#[expect(clippy::cast_precision_loss, reason = "bytes of a process are far below 2^53")]
pub fn kilo(bytes: u64) -> f64 {
    bytes as f64 / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_a_time_that_was_measured() {
        let times = Times::of((1..=200).rev().map(Duration::from_millis).collect());
        assert_eq!(times.percentile(50), Duration::from_millis(100));
        assert_eq!(times.percentile(99), Duration::from_millis(198));
        assert_eq!(Times::of(Vec::new()).percentile(50), Duration::ZERO);
    }

    #[test]
    fn a_row_shows_what_each_object_adds_and_the_ratio_to_its_base() {
        let mut report = Report::default();
        report.memory("with pods", 30_000_000, Some((10_000_000, 10_000)));
        report.cpu("beside", Duration::from_millis(3), Some(Duration::from_millis(2)));
        let text = report.to_string();
        assert!(text.contains("| with pods | 30.0 MB | 2.00 kB for each |"), "{text}");
        assert!(text.contains("| beside | 3.0 ms | 1.50x |"), "{text}");
    }
}
