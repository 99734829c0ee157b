//! Log lines: their destination, their filter and their format.

use std::io::{self, IsTerminal};
use std::str::FromStr;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::TryInitError;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people: one line of text.
    Text,
    /// For log stores: one JSON object per line.
    Json,
}

/// A filter for log lines in the syntax of `tracing`: a level (`info`), or levels by module
/// (`info,leasehold::backend=debug`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFilter(String);

/// The text is not a valid log filter.
#[derive(Debug, thiserror::Error)]
#[error(
    "{part:?} is not a log filter: use a level (error, warn, info, debug, trace, off) or MODULE=LEVEL, separated by commas"
)]
pub struct InvalidFilter {
    part: String,
}

impl LogFilter {
    fn filter(&self) -> EnvFilter {
        EnvFilter::new(&self.0)
    }
}

impl FromStr for LogFilter {
    type Err = InvalidFilter;

    fn from_str(text: &str) -> Result<Self, InvalidFilter> {
        for part in text.split(',') {
            // `EnvFilter` reads a single word as the name of a module, so that a mistyped level would silence
            // everything. It reads an empty text as `error`.
            if part.is_empty() || (!part.contains('=') && LevelFilter::from_str(part).is_err()) {
                return Err(InvalidFilter { part: part.to_owned() });
            }
        }
        let whole = |_| InvalidFilter { part: text.to_owned() };
        EnvFilter::try_new(text).map_err(whole)?;
        Ok(Self(text.to_owned()))
    }
}

/// Writes the log lines of the process to standard error from now on. Fails if a subscriber is already installed.
pub fn init(format: LogFormat, filter: &LogFilter) -> Result<(), TryInitError> {
    use tracing_subscriber::util::SubscriberInitExt;

    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter.filter())
        .with_writer(io::stderr);
    match format {
        LogFormat::Text => lines.with_ansi(io::stderr().is_terminal()).finish().try_init(),
        LogFormat::Json => lines.json().flatten_event(true).finish().try_init(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_and_levels_by_part_are_filters() {
        for text in ["info", "off", "warn,leasehold=debug", "INFO,leasehold::backend=trace"] {
            let filter: LogFilter = text.parse().expect(text);
            assert_eq!(filter.0, text);
        }
    }

    #[test]
    fn a_mistyped_level_is_refused_instead_of_silencing_everything() {
        for text in ["inof", "", "info,debgu", "leasehold=loud", "leasehold"] {
            let error = text.parse::<LogFilter>().expect_err(text).to_string();
            assert!(error.contains("use a level (error, warn, info"), "{error}");
        }
    }
}
