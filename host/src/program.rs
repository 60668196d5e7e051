//! What a process of this program is: the command line, or one of the kinds of child that the
//! command line starts of itself.

use crate::{cli, descriptors, monitor, periods::Periods, plugin, postgres, signals, worker};
use std::{ffi::OsString, path::Path, process::ExitCode};

/// The names under which monitors and registrations start their children: `argv[0]`.
pub const CHILDREN: [&str; 3] = [monitor::WORKER, monitor::EXAMINER, plugin::PROBE];

/// Does what the arguments say; `arguments[0]` is the program's name.
pub fn main(arguments: Vec<OsString>) -> ExitCode {
    postgres::allow_keeper();
    signals::begin_afresh();
    if let Err(error) = Periods::take_from_environment() {
        eprintln!("error: {error}");
        return ExitCode::from(2);
    }
    let hidden = (
        arguments.get(1).and_then(|word| word.to_str()),
        arguments.get(2),
        arguments.get(3),
    );
    match hidden {
        (Some("new-worker"), ..) => {
            signals::host_plugins();
            worker::main()
        }
        (Some("probe"), Some(limit), Some(file)) => {
            plugin::supervise(&limit.to_string_lossy(), Path::new(file))
        }
        (Some("examine"), Some(request), _) => plugin::examine_child(&request.to_string_lossy()),
        (Some("probe-load"), Some(file), _) => {
            signals::host_plugins();
            plugin::load_only(Path::new(file), worker::give_up_network)
        }
        (Some("embedded-keeper"), Some(directory), _) => postgres::keeper(Path::new(directory)),
        _ => {
            // Without /proc nothing can be looked at, and what starts is told so later.
            let _ = descriptors::close_inherited_on_exec();
            cli::main(arguments)
        }
    }
}
