//! Cargo, run by a program that cargo runs.

use std::process::Command;

/// Cargo, as if a person had started it. A program that cargo runs finds in its environment which package it is
/// from, and would hand that down: build scripts that look there (ring's does) would take every change from one
/// program to the next for a reason to build again.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            command.env_remove(name);
        }
    }
    command
}
