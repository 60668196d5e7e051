//! What processes of this program do about signals, and what they hand down to those that they
//! start. A new process inherits which signals are ignored and which are blocked, also across
//! `exec`; a *handler* is reset to the default action there. So a process that has to survive a
//! signal, and starts programs of others, has a handler that does nothing rather than ignore it.

use nix::sys::signal::{
    SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal, pthread_sigmask, sigaction,
};
use std::sync::atomic::{AtomicI32, Ordering::Relaxed};

/// What a worker leaves to its monitor: a service manager or a terminal sends these to every
/// process of a unit, and how tasks end is the monitor's decision.
pub const LEFT_TO_MONITOR: [Signal; 3] = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP];

/// The process that leaves signals to its monitor; 0: this one does not.
static WORKER: AtomicI32 = AtomicI32::new(0);

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
    for signal in LEFT_TO_MONITOR {
        set(signal, SigHandler::SigAction(left_to_monitor));
    }
}

fn set(signal: Signal, handler: SigHandler) {
    let action = SigAction::new(handler, SaFlags::SA_RESTART, SigSet::empty());
    // SAFETY: both handlers of this file are async-signal-safe.
    let _ = unsafe { sigaction(signal, &action) };
}

fn is_ignored(number: libc::c_int) -> bool {
    let mut now = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: the pointer is to a local of the right type, which the call fills in.
    let asked = unsafe { libc::sigaction(number, std::ptr::null(), now.as_mut_ptr()) };
    // SAFETY: all-zero is a valid `sigaction`, whether or not the call has filled it in.
    let now = unsafe { now.assume_init() };
    asked == 0 && now.sa_sigaction == libc::SIG_IGN
}

extern "C" fn do_nothing(_: libc::c_int) {}

/// Does nothing in the worker, whoever else sends it. A process that an operation has forked ends as
/// it would have without us (whoever forked it may wait for that), and so does a worker whose
/// operation sends the signal to itself.
extern "C" fn left_to_monitor(
    signal: libc::c_int,
    info: *mut libc::siginfo_t,
    _: *mut libc::c_void,
) {
    // SAFETY: getpid(2) is async-signal-safe and cannot fail.
    let this = unsafe { libc::getpid() };
    // SAFETY: the kernel passes a valid siginfo.
    let info = unsafe { &*info };
    // SAFETY: of a signal that a process sent, the process is set; otherwise what is read is a
    // number all the same.
    let is_own = info.si_code <= 0 && unsafe { info.si_pid() } == this;
    if this == WORKER.load(Relaxed) && !is_own {
        return;
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
