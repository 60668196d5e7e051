//! What a process of this program is: the command line, or one of the three kinds of child that
//! the command line starts of itself.

use crate::{cli, plugin, postgres, worker};
use std::{ffi::OsString, path::Path, process::ExitCode};

/// Does what the arguments say; `arguments[0]` is the program's name.
pub fn main(arguments: Vec<OsString>) -> ExitCode {
    postgres::allow_keeper();
    let hidden = (
        arguments.get(1).and_then(|word| word.to_str()),
        arguments.get(2),
    );
    match hidden {
        (Some("new-worker"), _) => worker::main(),
        (Some("probe"), Some(file)) => plugin::probe_child(Path::new(file)),
        (Some("embedded-keeper"), Some(directory)) => postgres::keeper(Path::new(directory)),
        _ => cli::main(arguments),
    }
}
