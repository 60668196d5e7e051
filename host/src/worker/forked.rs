//! The processes that an operation forks. Each is a copy of the worker, with its socket, its pipes
//! and its shared page; only the worker itself may use them to say something of the task.

use super::context::Worker;
use nix::unistd::Pid;
use std::sync::atomic::{AtomicI32, Ordering::Relaxed};

/// The exit code of a forked process that returned from its operation: `EX_SOFTWARE` of
/// sysexits(3), a fault of the program.
const RETURNED: libc::c_int = 70;

/// The worker's process.
static WORKER: AtomicI32 = AtomicI32::new(0);

/// Whether this process has complained; a process that it forks complains for itself.
static HAS_COMPLAINED: AtomicI32 = AtomicI32::new(0);

/// This process is the worker.
pub(super) fn this_is_the_worker() {
    WORKER.store(Pid::this().as_raw(), Relaxed);
}

/// Whether this process is the worker, and not one that an operation has forked, directly or
/// through others.
pub(super) fn is_worker() -> bool {
    Pid::this().as_raw() == WORKER.load(Relaxed)
}

/// Why a forked process is not served.
pub(super) fn refusal(what: &str) -> String {
    let (this, worker) = (Pid::this(), WORKER.load(Relaxed));
    format!(
        "process {this}, which the operation has forked, called {what}: only the worker (process \
         {worker}) may, so nothing was done"
    )
}

/// Says once per process, in the log of the task, that something was not done.
pub(super) fn complain(context: &Worker, what: &str) {
    let this = Pid::this().as_raw();
    if HAS_COMPLAINED.swap(this, Relaxed) != this {
        context.warn(&refusal(what));
    }
}

/// Ends this process if it is not the worker, for it has returned from the operation into the
/// worker's own code. The functions that the worker has registered with atexit(3) are not called:
/// what they put away is still the worker's.
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
