//! The program: all of it is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    // An error means that a provider is there already, which is all that is needed.
    let _ = rustls::crypto::ring::default_provider().install_default();
    leasehold::cli::run(std::env::args_os())
}
