//! Which kind of process this is: the command line, or one of the child processes that the command line
//! starts by executing itself.

use crate::{cli, descriptors, monitor, periods::Periods, plugin, postgres, signals, worker};
use std::{ffi::OsString, path::Path, process::ExitCode};

/// The names (`argv[0]`) under which monitors and registrations start child processes of this program.
pub const CHILDREN: [&str; 3] = [monitor::WORKER, monitor::EXAMINER, plugin::PROBE];

/// Runs what the arguments ask for; `arguments[0]` is the name of the program.
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
            // It fails without /proc; whatever needs /proc later reports that.
            let _ = descriptors::close_inherited_on_exec();
            cli::main(arguments)
        }
    }
}
