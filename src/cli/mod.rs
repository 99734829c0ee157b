//! The command line: the commands, their flags and their output.
//!
//! Owns the names, defaults and help texts of the flags. Makes no decisions: each command calls the module that
//! implements it.

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

#[derive(Parser, Debug)]
#[command(
    name = "leasehold",
    version,
    about = "Kubernetes pods, leased into etcd",
    args_override_self = true
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand, Debug)]
pub enum Command {
    /// Run the operator: register ready pods in etcd until SIGTERM or Ctrl-C
    Run(Box<RunArgs>),
    /// Print the CRDs as YAML, for kubectl apply -f -
    Crds(CrdsArgs),
    /// Print what applying a registration would write to etcd and remove from it; exit with 2 if there are changes
    Plan(PlanArgs),
    /// Diagnose problems with permissions, CRDs, clocks and etcd; exit with 2 if there are any
    Doctor(DoctorArgs),
    /// Remove the keys that the operator registered from etcd, and no others, at once instead of when their lease
    /// expires
    Purge(PurgeArgs),
}

/// Executes the command line `args`, whose first element is the program's name. The caller must have installed a TLS
/// crypto provider for the process: some commands use TLS.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.into_iter().collect();
    let cli = match Cli::try_parse_from(&args) {
        Ok(cli) => cli,
        // To the caller of these commands, exit code 2 would mean that there are changes, or problems.
        Err(answer)
            if args
                .get(1)
                .is_some_and(|command| command == "plan" || command == "doctor")
                && answer.exit_code() != 0 =>
        {
            print_answer(&answer);
            return ExitCode::FAILURE;
        }
        Err(answer) => return print_answer(&answer),
    };
    match cli.command {
        Command::Run(args) => match args.check() {
            Ok(()) => run::run(*args),
            Err(error) => print_answer(&error),
        },
        Command::Crds(args) => crds::crds(&args),
        Command::Plan(args) => plan::plan(&args),
        Command::Doctor(args) => doctor::doctor(&args),
        Command::Purge(args) => purge::purge(&args),
    }
}

/// Prints the output of clap: help to standard output, errors to standard error.
fn print_answer(answer: &clap::Error) -> ExitCode {
    // If even standard error cannot be written to, only the exit code can report the error.
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

    /// Wrappers and charts append flags to those that are already set.
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
