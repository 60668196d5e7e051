//! Reads a command line: `REWORK_DB` stands in for a missing `DB`, and every help names its exit codes.

use super::{Cli, Command};
use clap::{CommandFactory, FromArgMatches, error::ErrorKind};
use std::{
    env,
    ffi::{OsStr, OsString},
};

/// The database of commands that name none: what `REWORK_DB` says, if anything.
pub(crate) fn default_database() -> Option<OsString> {
    env::var_os("REWORK_DB").filter(|database| !database.is_empty())
}

/// Parses a command line. If an argument is missing and `REWORK_DB` is set, it is `DB`.
pub(crate) fn parse(arguments: Vec<OsString>) -> Result<Cli, clap::Error> {
    let database = default_database();
    let first = match read(&arguments) {
        Ok(cli) => match &database {
            // Of `abort-task 1 2` both are tasks.
            Some(database) if cli.command.takes_task_for_database() => {
                let mut completed = arguments;
                completed.insert(2, database.clone());
                return read(&completed);
            }
            _ => return Ok(cli),
        },
        Err(error) => error,
    };
    // A database was given: something else is missing.
    let has_database = arguments
        .get(2)
        .is_some_and(|argument| names_database(argument));
    // A path that is not UTF-8 has been taken for the database.
    let is_path = first.kind() == ErrorKind::InvalidUtf8;
    if let Some(database) = database
        && (first.kind() == ErrorKind::MissingRequiredArgument || is_path)
        && arguments.len() >= 2
        && !NEED_NO_DATABASE.iter().any(|name| arguments[1] == *name)
        && !has_database
    {
        let mut completed = arguments;
        completed.insert(2, database);
        return read(&completed).map_err(|error| match error.kind() {
            _ if is_path => first,
            _ => error,
        });
    }
    Err(first)
}

/// Reads a command line. `-3` is a value, which the option then refuses if it has to be positive.
fn read(arguments: &[OsString]) -> Result<Cli, clap::Error> {
    Cli::from_arg_matches(&command().try_get_matches_from(arguments)?)
}

/// The command tree, with what the derived one leaves out.
fn command() -> clap::Command {
    Cli::command().mut_subcommands(|command| {
        with_exit_codes(command.allow_negative_numbers(true)).mut_subcommands(with_exit_codes)
    })
}

/// Says at the end of a command's help what its exit codes mean.
fn with_exit_codes(command: clap::Command) -> clap::Command {
    let [done, failed] = match command.get_name() {
        "schedule" => [
            "queued, or with --wait: it ended `done`",
            "refused, or with --wait: it did not end `done`, or not in time",
        ],
        "monitor" => [
            "it has ended in order, as it was told to",
            "it could not start, or could not go on",
        ],
        "doctor" => ["all is well", "there is a problem"],
        "check-plugin" => ["it can be registered", "it is refused"],
        "get-input" => ["printed", "there is no such task, or it has none"],
        "get-output" => ["printed", "there is no such task, or it has none (yet)"],
        "abort-task" | "retry-task" | "delete-task" => [
            "done, for each of the tasks",
            "not done, for one of them at least: no such task, or in the wrong state",
        ],
        "unprepare" => ["removed", "there is no such schedule"],
        "unregister-operation" => [
            "withdrawn, or there was nothing to withdraw",
            "the command could not do it",
        ],
        _ => ["done", "the command could not do it"],
    };
    command.after_help(format!(
        "Exit codes: 0 {done}; 1 {failed}; 2 the command line is wrong"
    ))
}

impl Command {
    /// Whether what stands where the database should is a task, and so are all that follow.
    fn takes_task_for_database(&self) -> bool {
        let db = match self {
            Self::AbortTask(args) => &args.db,
            Self::RetryTask(args) | Self::DeleteTask(args) => &args.db,
            _ => return false,
        };
        !db.is_empty() && db.bytes().all(|byte| byte.is_ascii_digit())
    }
}

/// Commands that know no `DB`.
const NEED_NO_DATABASE: [&str; 3] = ["check-plugin", "completions", "embedded"];

/// Whether an argument can only be a `DB`.
fn names_database(argument: &OsStr) -> bool {
    let text = argument.to_string_lossy();
    let schemes = ["postgres://", "postgresql://", "embedded:"];
    schemes.iter().any(|scheme| text.starts_with(scheme))
}

pub(crate) fn completions(shell: clap_complete::Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command(), "rework", &mut script);
    script
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_tree_is_sound() {
        command().debug_assert();
    }

    #[test]
    fn every_help_names_exit_codes() {
        fn check(command: &clap::Command) {
            for one in command.get_subcommands() {
                let help = one.clone().render_help().to_string();
                assert!(help.contains("Exit codes: 0 "), "{help}");
                check(one);
            }
        }
        check(&command());
        let help = command().render_long_help().to_string();
        assert!(help.contains("Exit codes: 0 "), "{help}");
    }
}
