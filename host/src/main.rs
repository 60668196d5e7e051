//! The `rework` binary. Some hidden subcommands are the children of the others; everything else
//! is the command line.

use std::{env, ffi::OsString, path::Path, process::ExitCode};

fn main() -> ExitCode {
    rework::postgres::allow_keeper();
    let arguments: Vec<OsString> = env::args_os().collect();
    let hidden = (
        arguments.get(1).and_then(|word| word.to_str()),
        arguments.get(2),
        arguments.get(3),
    );
    match hidden {
        (Some("new-worker"), _, _) => rework::worker::main(),
        (Some("probe"), Some(limit), Some(file)) => {
            rework::plugin::supervise(&limit.to_string_lossy(), Path::new(file))
        }
        (Some("probe-load"), Some(file), _) => rework::plugin::load_only(Path::new(file)),
        (Some("embedded-keeper"), Some(directory), _) => {
            rework::postgres::keeper(Path::new(directory))
        }
        _ => rework::cli::main(arguments),
    }
}
