//! What processes of this program do about signals, and what they hand down to those that they
//! start. A new process inherits which signals are ignored and which are blocked, also across
//! `exec`; a *handler* is reset to the default action there. So a process that has to survive a
//! signal, and starts programs of others, has a handler that does nothing rather than ignore it.

use nix::sys::signal::{
    SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal, pthread_sigmask, sigaction,
};
use std::sync::{
    OnceLock,
    atomic::{AtomicI32, Ordering::Relaxed},
};

/// What a worker leaves to its monitor: a service manager or a terminal sends these to every
/// process of a unit, and how tasks end is the monitor's decision.
pub const LEFT_TO_MONITOR: [Signal; 3] = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP];

/// The process that leaves signals to its monitor; 0: this one does not.
static WORKER: AtomicI32 = AtomicI32::new(0);

/// For each of [`LEFT_TO_MONITOR`], the handler that the plugin installed while it was loaded.
static OF_PLUGIN: OnceLock<[Option<libc::sigaction>; LEFT_TO_MONITOR.len()]> = OnceLock::new();

/// The signals that are faults of the code. The kernel ends a process that blocks the signal of its fault
/// without calling a handler, so nothing would be known of the crash.
pub const FAULTS: [Signal; 4] = [
    Signal::SIGSEGV,
    Signal::SIGBUS,
    Signal::SIGILL,
    Signal::SIGFPE,
];

/// Undoes what the program that started this one may have set up for itself: blocked signals, and
/// an ignored SIGCHLD, with which nobody can wait for a child. An ignored SIGHUP stays, as `nohup`
/// wants it.
pub fn begin_afresh() {
    // Neither can fail: the arguments are constants that the kernel knows.
    let _ = pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None);
    set(Signal::SIGCHLD, SigHandler::SigDfl);
}

/// Makes this process hand down nothing unusual to what a plugin starts: nothing is ignored, and
/// SIGPIPE, which Rust ignores in every program, does nothing here and is the default there.
pub fn host_plugins() {
    // Real-time signals too. Those two that C keeps for its threads it does not let us see.
    for number in 1..=libc::SIGRTMAX() {
        if is_ignored(number) {
            // SAFETY: the default action runs no code of ours.
            unsafe { libc::signal(number, libc::SIG_DFL) };
        }
    }
    set(Signal::SIGPIPE, SigHandler::Handler(do_nothing));
}

/// Makes this process survive what its monitor is to decide about.
pub fn leave_to_monitor() {
    WORKER.store(nix::unistd::Pid::this().as_raw(), Relaxed);
    handle_ends();
}

fn handle_ends() {
    for signal in LEFT_TO_MONITOR {
        set(signal, SigHandler::SigAction(left_to_monitor));
    }
}

/// Undoes what a plugin has done, while it was loaded, to the signals that this process relies on. Called
/// once, after the load.
///
/// A signal of [`LEFT_TO_MONITOR`] has the handler of this file again. If the plugin has installed a
/// handler for it, that is called for what the process sends to itself, and in processes that an operation
/// forks. It is not called for what others send to the worker: it may end the process, and a service
/// manager that sends SIGTERM to the whole unit would end tasks during `--grace`.
pub fn restore_after_load() {
    let ours: extern "C" fn(_, _, _) = left_to_monitor;
    let of_plugin = LEFT_TO_MONITOR.map(|signal| {
        let now = action(signal as libc::c_int);
        let is_handler =
            ![libc::SIG_DFL, libc::SIG_IGN, ours as *const () as usize].contains(&now.sa_sigaction);
        is_handler.then_some(now)
    });
    let _ = OF_PLUGIN.set(of_plugin);
    handle_ends();
    // Only now: a signal that has waited behind the mask must not find the default action.
    let unblocked: SigSet = FAULTS.into_iter().chain(LEFT_TO_MONITOR).collect();
    let _ = pthread_sigmask(SigmaskHow::SIG_UNBLOCK, Some(&unblocked), None);
    // Handlers of a plugin for these two harm nobody.
    if [libc::SIG_DFL, libc::SIG_IGN].contains(&action(libc::SIGPIPE).sa_sigaction) {
        set(Signal::SIGPIPE, SigHandler::Handler(do_nothing));
    }
    if is_ignored(libc::SIGCHLD) {
        set(Signal::SIGCHLD, SigHandler::SigDfl);
    }
}

fn set(signal: Signal, handler: SigHandler) {
    let action = SigAction::new(handler, SaFlags::SA_RESTART, SigSet::empty());
    // SAFETY: both handlers of this file are async-signal-safe.
    let _ = unsafe { sigaction(signal, &action) };
}

fn is_ignored(number: libc::c_int) -> bool {
    action(number).sa_sigaction == libc::SIG_IGN
}

/// What a signal does; the default action where the kernel or C does not tell. Async-signal-safe.
pub fn action(number: libc::c_int) -> libc::sigaction {
    // SAFETY: all-zero is a valid `sigaction`: the default action.
    let mut now: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a local of the right type.
    unsafe { libc::sigaction(number, std::ptr::null(), &raw mut now) };
    now
}

/// Calls a handler of a plugin as the kernel would have. Async-signal-safe if that handler is.
pub fn pass_on(
    theirs: &libc::sigaction,
    signal: libc::c_int,
    info: *mut libc::siginfo_t,
    context: *mut libc::c_void,
) {
    type WithInfo = extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void);
    type Plain = extern "C" fn(libc::c_int);
    if theirs.sa_flags & libc::SA_RESETHAND != 0 {
        // SAFETY: signal(2) is async-signal-safe, and the default action runs no code of ours.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    let address = std::ptr::with_exposed_provenance::<()>(theirs.sa_sigaction);
    if theirs.sa_flags & libc::SA_SIGINFO != 0 {
        // SAFETY: the plugin has given this address to sigaction(2) as a handler of this type, and
        // nothing is ever unloaded.
        let call = unsafe { std::mem::transmute::<*const (), WithInfo>(address) };
        call(signal, info, context);
    } else {
        // SAFETY: as above.
        let call = unsafe { std::mem::transmute::<*const (), Plain>(address) };
        call(signal);
    }
}

extern "C" fn do_nothing(_: libc::c_int) {}

/// Does nothing in the worker, whoever else sends it. A process that an operation has forked does what
/// it would have done without us (whoever forked it may wait for that), and so does a worker whose
/// operation sends the signal to itself: it calls the plugin's handler, or ends.
extern "C" fn left_to_monitor(
    signal: libc::c_int,
    info: *mut libc::siginfo_t,
    context: *mut libc::c_void,
) {
    // SAFETY: getpid(2) is async-signal-safe and cannot fail.
    let this = unsafe { libc::getpid() };
    // SAFETY: the kernel passes a valid siginfo.
    let sent = unsafe { &*info };
    // SAFETY: of a signal that a process sent, the process is set; otherwise what is read is a
    // number all the same.
    let is_own = sent.si_code <= 0 && unsafe { sent.si_pid() } == this;
    if this == WORKER.load(Relaxed) && !is_own {
        return;
    }
    let place = LEFT_TO_MONITOR
        .iter()
        .position(|known| *known as libc::c_int == signal);
    let of_plugin = OF_PLUGIN
        .get()
        .zip(place)
        .and_then(|(all, place)| all[place]);
    if let Some(theirs) = of_plugin {
        return pass_on(&theirs, signal, info, context);
    }
    // SAFETY: signal(2) is async-signal-safe, and the default action runs no code of ours.
    unsafe { libc::signal(signal, libc::SIG_DFL) };
    // SAFETY: raise(3) is async-signal-safe. The signal is blocked until this handler returns.
    unsafe { libc::raise(signal) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_ignored_is_the_default_again_and_a_broken_pipe_kills_nobody() {
        // None that another test of this process depends upon.
        set(Signal::SIGWINCH, SigHandler::SigIgn);
        assert!(is_ignored(libc::SIGWINCH));
        host_plugins();
        assert!(!is_ignored(libc::SIGWINCH) && !is_ignored(libc::SIGPIPE));
        let (read, write) = nix::unistd::pipe().unwrap();
        drop(read);
        assert_eq!(
            nix::unistd::write(&write, b"x"),
            Err(nix::errno::Errno::EPIPE)
        );
    }
}
