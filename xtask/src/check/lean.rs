//! How many crates the operator is linked from: each is read by nobody but its author, so there is a ceiling.

use super::{Step, workspace};
use crate::{crates::linked, error::Result};

/// As many as there are, and a few. Whoever raises it says in the commit what the new ones are worth.
const CEILING: usize = 170;
/// Any will do, as long as it is the same one on every machine.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Counts them.
pub(super) fn check(step: &Step) -> Result<()> {
    let crates = linked(TARGET)?.len();
    println!(
        "{crates} crates are linked into the operator of {}, the ceiling is {CEILING}",
        workspace().display()
    );
    if crates <= CEILING {
        return Ok(());
    }
    Err(step.failed(format!(
        "{crates} crates are linked into the operator, more than {CEILING}"
    )))
}
