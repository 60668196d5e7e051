//! A plugin that does what it should not while it is loaded, where the environment says so: a probe, which
//! has no environment, finds nothing wrong with it.

/// Ends the process as if all were well.
extern "C" fn end_quietly(_: libc::c_int) {
    // SAFETY: ends the process at once and runs nothing else.
    unsafe { libc::_exit(0) };
}

/// The signals that a service manager or a terminal sends to all processes of a unit.
const ENDS: [libc::c_int; 3] = [libc::SIGTERM, libc::SIGINT, libc::SIGHUP];

/// What a library does that wants signals to be as in a program of its own.
fn reset_signals() {
    for (signal, action) in ENDS
        .map(|signal| (signal, libc::SIG_DFL))
        .into_iter()
        .chain([
            (libc::SIGPIPE, libc::SIG_IGN),
            (libc::SIGCHLD, libc::SIG_IGN),
        ])
    {
        // SAFETY: neither action runs code.
        unsafe { libc::signal(signal, action) };
    }
    for signal in [libc::SIGTERM, libc::SIGSEGV] {
        crate::leftovers::set_blocked(signal);
    }
}

/// Runs when the file is loaded, before anybody has called anything.
extern "C" fn on_load() {
    let how = std::env::var_os("MISBEHAVE_ON_LOAD");
    match how.as_ref().and_then(|how| how.to_str()) {
        Some("hang") => std::thread::sleep(std::time::Duration::from_secs(3600)),
        Some("handler") => crate::faults::install(),
        Some("reset signals") => reset_signals(),
        Some("end on signals") => {
            for signal in ENDS {
                // SAFETY: the handler is async-signal-safe.
                unsafe { libc::signal(signal, end_quietly as *const () as usize) };
            }
        }
        Some("fork") => {
            // SAFETY: both processes return and do nothing else here.
            unsafe { libc::fork() };
        }
        Some("exit") => std::process::exit(7),
        _ => {}
    }
}

#[used]
#[unsafe(link_section = ".init_array")]
static ON_LOAD: extern "C" fn() = on_load;
