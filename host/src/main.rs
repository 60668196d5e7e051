//! The `rework` binary. Four hidden subcommands are the children of the others; everything else
//! is the command line.

use std::{env, ffi::OsString, path::Path, process::ExitCode};

fn main() -> ExitCode {
    rework::postgres::allow_keeper();
    let arguments: Vec<OsString> = env::args_os().collect();
    let hidden = (
        arguments.get(1).and_then(|word| word.to_str()),
        arguments.get(2),
    );
    match hidden {
        (Some("new-worker"), _) => rework::worker::main(),
        (Some("examine"), Some(request)) => {
            rework::plugin::examine_child(&request.to_string_lossy())
        }
        (Some("probe"), Some(file)) => rework::plugin::probe_child(Path::new(file)),
        (Some("embedded-keeper"), Some(directory)) => {
            rework::postgres::keeper(Path::new(directory))
        }
        _ => rework::cli::main(arguments),
    }
}
