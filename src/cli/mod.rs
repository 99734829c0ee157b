//! How people start the program: its commands, their flags, and what they print.
//!
//! Owns names, defaults and help texts of flags. Decides nothing: a command is handed to the part that carries it out.

mod crds;
mod doctor;
mod entry;
mod flags;
mod identity;
mod once;
mod plan;
mod purge;
mod run;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

pub use crds::CrdsArgs;
pub use doctor::DoctorArgs;
pub use flags::RunArgs;
pub use plan::PlanArgs;
pub use purge::PurgeArgs;

/// The command line.
#[derive(Parser, Debug)]
#[command(
    name = "leasehold",
    version,
    about = "Kubernetes pods, leased into etcd",
    args_override_self = true
)]
pub struct Cli {
    /// What is to be done.
    #[command(subcommand)]
    pub command: Command,
}

/// What the program can do.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Run the operator: register ready pods in etcd until SIGTERM or Ctrl-C
    Run(Box<RunArgs>),
    /// Print the definitions of the kinds (CRDs) as YAML, for kubectl apply -f -
    Crds(CrdsArgs),
    /// Print what applying a registration would write to etcd and remove from it; exit with 2 if that is anything
    Plan(PlanArgs),
    /// Look for what keeps leasehold from working: rights, definitions, clocks, etcd; exit with 2 if something does
    Doctor(DoctorArgs),
    /// Remove from etcd what the operator has registered, and only that, at once instead of within a TTL
    Purge(PurgeArgs),
}

/// Does what the command line `args` (the program's name first) says. Nothing is asked of TLS before the caller has
/// installed a crypto provider for the process.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.into_iter().collect();
    let cli = match Cli::try_parse_from(&args) {
        Ok(cli) => cli,
        // To whoever called it, 2 would mean that there are changes, or problems.
        Err(answer)
            if args
                .get(1)
                .is_some_and(|command| command == "plan" || command == "doctor")
                && answer.exit_code() != 0 =>
        {
            told(&answer);
            return ExitCode::FAILURE;
        }
        Err(answer) => return told(&answer),
    };
    match cli.command {
        Command::Run(args) => match args.check() {
            Ok(()) => run::run(*args),
            Err(error) => told(&error),
        },
        Command::Crds(args) => crds::crds(&args),
        Command::Plan(args) => plan::plan(&args),
        Command::Doctor(args) => doctor::doctor(&args),
        Command::Purge(args) => purge::purge(&args),
    }
}

/// Prints what clap has to say: help to standard output, errors to standard error.
fn told(answer: &clap::Error) -> ExitCode {
    // When not even standard error can be written to, the exit code is all that is left to say.
    let _ = answer.print();
    u8::try_from(answer.exit_code()).map_or(ExitCode::FAILURE, ExitCode::from)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_of_the_command_line_makes_sense() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_and_flag_is_explained() {
        for command in Cli::command().get_subcommands() {
            let name = command.get_name();
            assert!(command.get_about().is_some(), "{name} has no description");
            for flag in command.get_arguments() {
                assert!(
                    flag.get_help().is_some() || flag.get_long_help().is_some(),
                    "{name}: {} is not explained",
                    flag.get_id()
                );
            }
        }
    }

    /// Wrappers and charts add flags to those that are there already.
    #[test]
    fn no_command_refuses_a_repeated_flag() {
        let mut root = Cli::command();
        root.build();
        for command in root.get_subcommands() {
            assert!(command.is_args_override_self(), "{}", command.get_name());
        }
    }

    #[test]
    fn help_is_no_failure_and_a_wrong_flag_is() {
        let run = |args: &[&str]| format!("{:?}", super::run(args.iter().map(OsString::from)));
        assert_eq!(
            run(&["leasehold", "crds", "--help"]),
            format!("{:?}", ExitCode::SUCCESS)
        );
        assert_eq!(
            run(&["leasehold", "crds", "--folder"]),
            format!("{:?}", ExitCode::from(2))
        );
    }
}
