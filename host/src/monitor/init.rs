//! A process above the monitor, where one is needed. The monitor ends every child that it does not
//! know, for that is what a dead worker has left. As the first process of a container it would be the
//! parent of all orphans there (a server that has become a daemon, what `docker exec` has started),
//! and a process that was a shell before has the children of that shell. There the monitor becomes a
//! child of itself: what stays above is an init, which collects whatever ends, passes signals on, and
//! ends as the monitor does; and only what the monitor has started is below the monitor.

use nix::{
    errno::Errno,
    sys::{
        prctl,
        signal::{SigSet, SigmaskHow, Signal, kill, pthread_sigmask, raise},
        wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid},
    },
    unistd::{ForkResult, Pid, fork, getppid},
};
use std::io;

/// The first process of a container.
const FIRST: Pid = Pid::from_raw(1);

/// The signal by which an init tells its monitor that it was told to end. A service manager may tell
/// both of them: with a signal of its own the monitor can count each order once.
pub(super) fn relay() -> libc::c_int {
    libc::SIGRTMIN() + 1
}

/// Goes on in a child of this process if this process has, or will be given, children that no
/// monitor has started. Must be called while this process has one thread.
pub fn stand_below_init() -> io::Result<()> {
    if !is_needed() {
        return Ok(());
    }
    let this = Pid::this();
    let all = SigSet::all();
    pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&all), None)?;
    // SAFETY: the child is a copy of a process with one thread, so nothing in it is held by a thread
    // that it does not have.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => be_init(child),
        ForkResult::Child => {
            prctl::set_pdeathsig(Signal::SIGTERM)?;
            pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?;
            if getppid() != this {
                // It has died before the kernel was told that this process wants a signal then.
                raise(Signal::SIGTERM)?;
            }
            Ok(())
        }
    }
}

/// Whether this process has children that the monitor has not started, or will be given orphans.
fn is_needed() -> bool {
    let look = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    let has_children = waitid(Id::All, look) != Err(Errno::ECHILD);
    let is_reaper = prctl::get_child_subreaper().unwrap_or(false);
    Pid::this() == FIRST || is_reaper || has_children
}

/// The rest of the life of the process above. Every signal is blocked, and taken here.
fn be_init(monitor: Pid) -> ! {
    // The environment may hold the database's URL, and workers may be of the same user.
    let _ = prctl::set_dumpable(false);
    let _ = prctl::set_name(c"rework-init");
    let is_nohup = super::workers::process::is_ignored(Signal::SIGHUP);
    loop {
        let Some((signal, was_sent)) = next_signal() else {
            continue;
        };
        match signal {
            Signal::SIGCHLD => {
                if let Some(status) = collect(monitor) {
                    end_as(status);
                }
            }
            // Blocked signals arrive also where they are ignored.
            Signal::SIGHUP if is_nohup => {}
            Signal::SIGTERM | Signal::SIGINT | Signal::SIGHUP => tell(monitor, relay()),
            // A signal of the terminal reaches the monitor too, which is in the same process group.
            Signal::SIGQUIT | Signal::SIGUSR1 | Signal::SIGUSR2 if was_sent => {
                tell(monitor, signal as libc::c_int);
            }
            Signal::SIGCONT => tell(monitor, libc::SIGCONT),
            Signal::SIGTSTP => {
                if was_sent {
                    tell(monitor, libc::SIGTSTP);
                }
                let _ = kill(Pid::this(), Signal::SIGSTOP);
            }
            _ => {}
        }
    }
}

/// Waits for a signal; whether a process has sent it, and not a terminal or the kernel.
fn next_signal() -> Option<(Signal, bool)> {
    let all = SigSet::all();
    // SAFETY: all-zero is a valid `siginfo_t`, a plain struct of integers.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are to live locals of the right types.
    let number = unsafe { libc::sigwaitinfo(all.as_ref(), &raw mut info) };
    let signal = Signal::try_from(number).ok()?;
    Some((signal, info.si_code <= 0))
}

fn tell(monitor: Pid, number: libc::c_int) {
    // SAFETY: a plain system call. The monitor has not been collected, so the number is its own.
    unsafe { libc::kill(monitor.as_raw(), number) };
}

/// Collects every child that has ended; how the monitor did, if it was among them.
fn collect(monitor: Pid) -> Option<WaitStatus> {
    let mut of_monitor = None;
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) | Err(_) => return of_monitor,
            Ok(status) => {
                if status.pid() == Some(monitor) {
                    of_monitor = Some(status);
                }
            }
        }
    }
}

/// Ends this process as the monitor has ended.
fn end_as(status: WaitStatus) -> ! {
    let WaitStatus::Signaled(_, signal, _) = status else {
        let code = match status {
            WaitStatus::Exited(_, code) => code,
            // By a real-time signal: told to end before it could listen.
            _ => 128 + libc::SIGTERM,
        };
        std::process::exit(code)
    };
    // No second core.
    let _ = prctl::set_dumpable(false);
    // SAFETY: the default action runs no code.
    let _ = unsafe { nix::sys::signal::signal(signal, nix::sys::signal::SigHandler::SigDfl) };
    let _ = raise(signal);
    let _ = pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None);
    // The first process of a container is beyond signals.
    std::process::exit(128 + signal as libc::c_int)
}
