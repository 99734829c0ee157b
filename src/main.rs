//! The binary; all of its code is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    // An error means that a provider is already installed, which is sufficient.
    let _ = rustls::crypto::ring::default_provider().install_default();
    leasehold::cli::run(std::env::args_os())
}
