//! The template language: Jinja without includes, macros and non-deterministic functions. Every resource that a
//! template uses is limited, except memory, for which the author is trusted. Chained `tojson` and `replace` filters
//! would multiply the text, so their results are limited to the length of a value.

use std::borrow::Cow;
use std::io;

use minijinja::value::{StringInput, ValueKind};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, Output, State, UndefinedBehavior, Value};

use super::error::{Part, TemplateError, TemplateLocation};
use crate::api::{Escaping, RecordFormatSpec};
use crate::format::compiled::{MAX_KEY, MAX_VALUE};

/// Maximum number of steps of one template. A value with all facts and 64 metadata entries takes about a thousand.
pub const FUEL: u64 = 20_000;

/// Maximum nesting depth of a template.
const RECURSION: usize = 64;

/// The compiled templates of one `RecordFormat`.
pub struct Engine(Environment<'static>);

impl Engine {
    pub fn new(spec: &RecordFormatSpec) -> Result<Self, TemplateError> {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_fuel(Some(FUEL));
        environment.set_recursion_limit(RECURSION);
        environment.set_debug(false);
        // Escaping applies everywhere: a template can neither disable nor repeat it.
        for name in ["safe", "escape", "e"] {
            environment.remove_filter(name);
        }
        environment.remove_global("debug");
        environment.add_filter("default", default);
        environment.add_filter("d", default);
        environment.add_filter("tojson", to_json);
        environment.add_filter("replace", replace);
        environment.set_formatter(write);
        let escaping = spec.escaping;
        environment.set_auto_escape_callback(move |name| match escaping {
            Escaping::JSON if name.starts_with(Part::Value.as_str()) => AutoEscape::Json,
            Escaping::JSON | Escaping::None => AutoEscape::None,
        });
        for (number, record) in spec.records.iter().enumerate() {
            for (part, source) in [(Part::Key, &record.key), (Part::Value, &record.value)] {
                let place = TemplateLocation::new(spec, number, part);
                let added = environment.add_template_owned(place.template(), source.clone());
                added.map_err(|error| reported(place, source, &error))?;
            }
        }
        Ok(Self(environment))
    }

    /// Renders the template at `place` with `context`.
    pub fn print(&self, place: &TemplateLocation, context: &Value) -> Result<String, TemplateError> {
        let template = self.0.get_template(&place.template()).expect("all are compiled");
        let max = match place.part() {
            Part::Key => MAX_KEY,
            Part::Value => MAX_VALUE,
        };
        let mut out = Capped { out: Vec::new(), max };
        match template.render_captured_to(context.clone(), &mut out) {
            Ok(_) => Ok(String::from_utf8(out.out).expect("templates print text")),
            Err(error) => Err(match error.kind() {
                ErrorKind::WriteFailure => TemplateError::TooLong {
                    place: place.clone(),
                    max,
                },
                _ => reported(place.clone(), template.source(), &error),
            }),
        }
    }
}

/// A writer that accepts up to `max` bytes.
struct Capped {
    out: Vec<u8>,
    max: usize,
}

impl io::Write for Capped {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.out.len() + bytes.len() > self.max {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.out.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes the value of an expression.
fn write(out: &mut Output<'_>, state: &mut State<'_, '_>, value: &Value) -> Result<(), Error> {
    match state.auto_escape() {
        // A safe string is escaped already.
        AutoEscape::Json if value.is_safe() => out.write_str(value.as_str().unwrap_or_default())?,
        AutoEscape::Json => out.write_str(&json(value)?)?,
        _ => match value.kind() {
            ValueKind::String | ValueKind::Number | ValueKind::Bool => write!(out, "{value}")?,
            ValueKind::None => {
                let what = "the value is unknown for this endpoint, and keys and plain text cannot express that: set a default, as in {{ zone | default('none') }}";
                return Err(Error::new(ErrorKind::InvalidOperation, what));
            }
            kind => {
                let what =
                    format!("a {kind} is not text: print one of its entries, or all of it as JSON with | tojson");
                return Err(Error::new(ErrorKind::InvalidOperation, what));
            }
        },
    }
    Ok(())
}

fn json(value: &Value) -> Result<String, Error> {
    serde_json::to_string(value).map_err(|cause| Error::new(ErrorKind::BadSerialization, cause.to_string()))
}

/// The filter `tojson`, which escapes for JSON only.
fn to_json(value: &Value) -> Result<Value, Error> {
    let json = json(value)?;
    short_enough(json.len())?;
    Ok(Value::from_safe_string(json))
}

/// The filter `replace` of the language, with a limit on the result.
fn replace(
    state: &mut State<'_, '_>,
    value: StringInput<'_>,
    from: StringInput<'_>,
    to: StringInput<'_>,
) -> Result<Value, Error> {
    let times = value.as_str().matches(from.as_str()).count();
    short_enough(value.as_str().len() + times.saturating_mul(to.as_str().len()))?;
    minijinja::filters::replace(state, value, from, to)
}

/// Rejects an intermediate text that is longer than the longest value.
fn short_enough(bytes: usize) -> Result<(), Error> {
    if bytes <= MAX_VALUE {
        return Ok(());
    }
    let what = format!("the text has {bytes} bytes, and values have at most {MAX_VALUE}: print less");
    Err(Error::new(ErrorKind::InvalidOperation, what))
}

/// The filter `default`: replaces `none` (unknown for this endpoint) and undefined values.
fn default(value: &Value, other: &Value) -> Value {
    let chosen = if value.is_undefined() || value.is_none() {
        other
    } else {
        value
    };
    chosen.clone()
}

/// Returns the error with its position in `source`.
fn reported(place: TemplateLocation, source: &str, error: &Error) -> TemplateError {
    let range = error.range();
    let start_of_its_line = || {
        let lines = source.split_inclusive('\n');
        lines.take(error.line().unwrap_or(1) - 1).map(str::len).sum()
    };
    // After an unexpected character, the range may begin inside a multi-byte character.
    let start = range
        .as_ref()
        .map_or_else(start_of_its_line, |range| source.floor_char_boundary(range.start));
    let before = &source[..start];
    let start_of_line = before.rfind('\n').map_or(0, |at| at + 1);
    let line = before.matches('\n').count() + 1;
    let column = before[start_of_line..].chars().count() + 1;
    if error.kind() == ErrorKind::OutOfFuel {
        return TemplateError::OutOfFuel { place, line, column };
    }
    let culprit = range.and_then(|range| source.get(range)).unwrap_or_default();
    let cause: Cow<'_, str> = match error.kind() {
        ErrorKind::UndefinedError if !culprit.is_empty() => {
            format!("{culprit} is undefined: correct the name, or use {culprit} | default(...)").into()
        }
        kind => match error.detail() {
            Some(detail) => format!("{kind}: {detail}").into(),
            None => kind.to_string().into(),
        },
    };
    TemplateError::Template {
        place,
        line,
        column,
        cause: cause.into_owned(),
    }
}
