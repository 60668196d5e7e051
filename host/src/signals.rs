//! How processes of this program treat signals, and what processes that they start inherit. A new process
//! inherits which signals are ignored and which are blocked, also across `exec`, while a *handler* is reset
//! to the default action by `exec`. So a process that must survive a signal, and starts programs of others,
//! installs a handler that does nothing instead of ignoring the signal.

use nix::sys::signal::{
    SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal, pthread_sigmask, sigaction,
};
use std::sync::{
    OnceLock,
    atomic::{AtomicI32, Ordering::Relaxed},
};

/// Signals on which a worker does not act, because its monitor decides how tasks end: a service manager or a
/// terminal sends them to every process of a unit.
pub const LEFT_TO_MONITOR: [Signal; 3] = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP];

/// The process id of the worker that leaves these signals to its monitor; 0: this process is not a worker.
static WORKER: AtomicI32 = AtomicI32::new(0);

/// For each of [`LEFT_TO_MONITOR`], the handler that the plugin installed while it was loaded.
static OF_PLUGIN: OnceLock<[Option<libc::sigaction>; LEFT_TO_MONITOR.len()]> = OnceLock::new();

/// Signals that report faults of the code. If a process blocks the signal of its own fault, the kernel
/// kills it without calling a handler, and nothing would be known about the crash.
pub const FAULTS: [Signal; 4] = [
    Signal::SIGSEGV,
    Signal::SIGBUS,
    Signal::SIGILL,
    Signal::SIGFPE,
];

/// Resets what this process has inherited: blocked signals, and an ignored SIGCHLD, with which no child can
/// be waited for. An ignored SIGHUP stays, as `nohup` intends.
pub fn begin_afresh() {
    // Neither can fail: the arguments are constants that the kernel knows.
    let _ = pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None);
    set(Signal::SIGCHLD, SigHandler::SigDfl);
}

/// Prepares this process to start plugins: no signal stays ignored, and SIGPIPE, which Rust ignores in
/// every program, gets a handler that does nothing here and is reset to the default action in programs that
/// a plugin executes.
pub fn host_plugins() {
    // Includes real-time signals. The C library hides the two that it uses for its threads.
    for number in 1..=libc::SIGRTMAX() {
        if is_ignored(number) {
            // SAFETY: the default action runs no code of this program.
            unsafe { libc::signal(number, libc::SIG_DFL) };
        }
    }
    set(Signal::SIGPIPE, SigHandler::Handler(do_nothing));
}

/// Makes this process survive the signals that its monitor is to decide about.
pub fn leave_to_monitor() {
    WORKER.store(nix::unistd::Pid::this().as_raw(), Relaxed);
    handle_ends();
}

fn handle_ends() {
    for signal in LEFT_TO_MONITOR {
        set(signal, SigHandler::SigAction(left_to_monitor));
    }
}

/// Undoes what a plugin did, while it was loaded, to the signals that this process relies on. Called once,
/// after the load. For each signal of [`LEFT_TO_MONITOR`] the handler of this file is installed again. If
/// the plugin had installed one, it is called for signals that the process sends to itself, and in
/// processes that an operation forks. It is not called for signals that others send to the worker: it may
/// end the process, and a service manager that sends SIGTERM to the whole unit would end tasks during
/// `--grace`.
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
    // Unblocked last: a signal that was pending while blocked must not meet the default action.
    let unblocked: SigSet = FAULTS.into_iter().chain(LEFT_TO_MONITOR).collect();
    let _ = pthread_sigmask(SigmaskHow::SIG_UNBLOCK, Some(&unblocked), None);
    // A plugin's own handlers for these two signals do no harm.
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

/// The current action of a signal; the default action if the kernel or the C library does not say.
/// Async-signal-safe.
pub fn action(number: libc::c_int) -> libc::sigaction {
    // SAFETY: all-zero is a valid `sigaction`: the default action.
    let mut now: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a local of the right type.
    unsafe { libc::sigaction(number, std::ptr::null(), &raw mut now) };
    now
}

/// Calls a handler of a plugin as the kernel would. Async-signal-safe if the handler is.
pub fn pass_on(
    theirs: &libc::sigaction,
    signal: libc::c_int,
    info: *mut libc::siginfo_t,
    context: *mut libc::c_void,
) {
    type WithInfo = extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void);
    type Plain = extern "C" fn(libc::c_int);
    if theirs.sa_flags & libc::SA_RESETHAND != 0 {
        // SAFETY: signal(2) is async-signal-safe, and the default action runs no code of this program.
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

/// The handler for [`LEFT_TO_MONITOR`]. In the worker it does nothing about signals that others send. In a
/// process that an operation has forked, and for a signal that the operation sends to its own worker, it
/// does what would happen without this handler: it calls the plugin's handler, or ends the process. Whoever
/// forked the process may wait for that.
extern "C" fn left_to_monitor(
    signal: libc::c_int,
    info: *mut libc::siginfo_t,
    context: *mut libc::c_void,
) {
    // SAFETY: getpid(2) is async-signal-safe and cannot fail.
    let this = unsafe { libc::getpid() };
    // SAFETY: the kernel passes a valid siginfo.
    let sent = unsafe { &*info };
    // SAFETY: for a signal that a process sent, si_pid is set; for others the field holds some number.
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
        pass_on(&theirs, signal, info, context);
        if this == WORKER.load(Relaxed) {
            // Whatever the plugin's handler and its flags have made of it.
            handle_ends();
        }
        return;
    }
    // SAFETY: signal(2) is async-signal-safe, and the default action runs no code of this program.
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
