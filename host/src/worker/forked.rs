//! The processes that an operation forks. Each is a copy of the worker, with its socket, its pipes and its
//! shared page; only the worker itself may use them.

use super::context::Worker;
use nix::unistd::Pid;
use std::sync::atomic::{AtomicI32, Ordering::Relaxed};

/// The exit code of a forked process that has returned from its operation: `EX_SOFTWARE` of sysexits(3).
const RETURNED: libc::c_int = 70;

/// The process id of the worker.
static WORKER: AtomicI32 = AtomicI32::new(0);

/// The process id of the last process that has logged a complaint; a process that it forks logs its own.
static HAS_COMPLAINED: AtomicI32 = AtomicI32::new(0);

/// Notes that this process is the worker.
pub(super) fn this_is_the_worker() {
    WORKER.store(Pid::this().as_raw(), Relaxed);
}

/// Whether this process is the worker, and not one that an operation has forked, directly or indirectly.
pub(super) fn is_worker() -> bool {
    Pid::this().as_raw() == WORKER.load(Relaxed)
}

/// Why a forked process cannot use a function of the task's context.
pub(super) fn refusal(what: &str) -> String {
    let (this, worker) = (Pid::this(), WORKER.load(Relaxed));
    format!(
        "process {this}, which the operation has forked, called {what}: only the worker (process \
         {worker}) may, so nothing was done"
    )
}

/// Logs once per process, in the task's log, that something was not done.
pub(super) fn complain(context: &Worker, what: &str) {
    let this = Pid::this().as_raw();
    if HAS_COMPLAINED.swap(this, Relaxed) != this {
        context.warn(&refusal(what));
    }
}

/// Ends this process if it is not the worker: it was forked by an operation, and has returned from it into
/// the worker's own code. Functions that were registered with atexit(3) are not called: what they clean up
/// still belongs to the worker.
pub(super) fn end_if_forked(context: &Worker) {
    if is_worker() {
        return;
    }
    let (this, worker) = (Pid::this(), WORKER.load(Relaxed));
    context.warn(&format!(
        "process {this}, which the operation has forked, returned from it and was ended: only what \
         the worker (process {worker}) returns counts"
    ));
    // SAFETY: ends the process at once and runs nothing else.
    unsafe { libc::_exit(RETURNED) };
}
