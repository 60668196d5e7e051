//! Turns a test binary into `rework` where it is started as one, before its own `main` begins.

use crate::program;
use nix::sys::signal::{SigHandler, Signal, kill, signal};
use std::{
    env,
    ffi::OsString,
    io::{self, Read},
    process::ExitCode,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

/// The name under which a test starts itself as the command line.
pub(super) const COMMAND_LINE: &str = "rework-testing";

static IS_ENABLED: AtomicBool = AtomicBool::new(false);

/// Makes this test binary able to be its own monitor and workers. Stands once, anywhere in the
/// file of an integration test (or in the root of a crate with unit tests).
///
/// Workers are started by executing the running program again. In a test binary that would run the
/// tests; so this puts a function where the system calls it before `main`, and a process that was
/// started as one of ours never gets to the tests.
#[macro_export]
#[doc(hidden)]
macro_rules! __testing_enable {
    () => {
        const _: () = {
            extern "C" fn before_main() {
                $crate::testing::become_rework();
            }
            #[used]
            #[unsafe(link_section = ".init_array")]
            static BEFORE_MAIN: extern "C" fn() = before_main;
        };
    };
}

/// Whether `enable!()` stands somewhere in this program.
pub(super) fn is_enabled() -> bool {
    IS_ENABLED.load(Relaxed)
}

/// Does not return if this process was started to be `rework`.
pub fn become_rework() {
    IS_ENABLED.store(true, Relaxed);
    let arguments: Vec<OsString> = env::args_os().collect();
    let name = arguments.first().and_then(|name| name.to_str());
    let is_keeper = arguments
        .get(1)
        .is_some_and(|word| word == "embedded-keeper")
        && env::var_os("REWORK_EMBEDDED_KEEPER").is_some();
    match name {
        Some(COMMAND_LINE) => end_with_parent(),
        Some(name) if program::CHILDREN.contains(&name) => {}
        _ if is_keeper => {}
        _ => return,
    }
    // What Rust does before `main`, and every part of `rework` relies on.
    // SAFETY: ignoring a signal runs no code of ours.
    let _ = unsafe { signal(Signal::SIGPIPE, SigHandler::SigIgn) };
    let code = program::main(arguments);
    std::process::exit(number(code));
}

/// A monitor must not outlive the test that started it, however that ends: its standard input is a
/// pipe that only the test holds open.
fn end_with_parent() {
    std::thread::spawn(|| {
        let mut end = [0_u8; 1];
        while matches!(io::stdin().read(&mut end), Ok(1)) {}
        let _ = kill(nix::unistd::Pid::this(), Signal::SIGTERM);
    });
}

/// An exit code as a number, which the standard library keeps to itself.
fn number(code: ExitCode) -> i32 {
    (0..=u8::MAX)
        .find(|number| ExitCode::from(*number) == code)
        .map_or(1, i32::from)
}
