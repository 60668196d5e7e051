//! The thread that watches the worker while an operation occupies the main thread. When the monitor is
//! gone, its lease has passed, the operation has closed the socket (which would show the monitor's end) or
//! ended the main thread, it kills everything below this process, and then the process.

use super::memory_trim::Program;
use crate::{
    descendants,
    proc::Stat,
    wire::{Page, SelfEnd, boottime},
};
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sched::{CloneFlags, unshare},
    sys::{
        resource::{Resource, getrlimit, setrlimit},
        signal::{Signal, kill},
    },
    unistd::Pid,
};
use std::{
    os::fd::{BorrowedFd, RawFd},
    time::Duration,
};

/// How often the lease is checked. Leases last seconds, so a quarter of a second is accurate enough.
const CHECK_EVERY: Duration = Duration::from_millis(250);
/// How long the worker waits for killed descendants to be gone. The operation goes on meanwhile, so it is
/// short.
const KILL_PATIENCE: Duration = Duration::from_millis(500);

/// Starts the thread. `socket` must stay open as long as the process lives.
pub(super) fn watch(socket: RawFd, page: &'static Page) {
    std::thread::Builder::new()
        .name("rework-control".to_owned())
        .stack_size(256 * 1024)
        .spawn(move || {
            let program = Program::find();
            let why = loop {
                if let Some(why) = reason_to_end(socket, page) {
                    break why;
                }
                program.release_pages();
            };
            // Whoever reads the page knows whether the monitor was there.
            page.record_self_end(why);
            end_with_all_below();
        })
        .expect("a process that has just started can start a thread");
}

/// Kills everything below this process, and then the process itself. A worker that has lost its monitor
/// must end in this way: if it just exited, its descendants would go on without a parent that ends them.
pub(super) fn end_with_all_below() -> ! {
    have_descriptors();
    descendants::kill_all(Pid::this(), KILL_PATIENCE);
    loop {
        let _ = kill(Pid::this(), Signal::SIGKILL);
    }
}

/// Gives this thread a descriptor table of its own, where that is allowed, and raises the limit to the hard
/// one: reading `/proc` takes descriptors, and the operation may have used all.
fn have_descriptors() {
    if unshare(CloneFlags::CLONE_FILES).is_ok() {
        // SAFETY: only this thread uses this table, and needs none of the descriptors in it.
        unsafe { libc::close_range(0, libc::c_uint::MAX, 0) };
    }
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

/// Waits [`CHECK_EVERY`] for the other end to close, and returns why this worker must end, if it must.
fn reason_to_end(socket: RawFd, page: &Page) -> Option<SelfEnd> {
    if is_closed(socket) {
        Some(SelfEnd::Disconnected)
    } else if boottime() >= page.lease_until() {
        Some(SelfEnd::LeaseExpired)
    } else if !main_thread_lives() {
        Some(SelfEnd::MainThreadEnded)
    } else {
        None
    }
}

fn is_closed(socket: RawFd) -> bool {
    // SAFETY: the session keeps the socket open until the process ends.
    let socket = unsafe { BorrowedFd::borrow_raw(socket) };
    let mut watched = [PollFd::new(socket, PollFlags::empty())];
    let timeout = PollTimeout::try_from(CHECK_EVERY).expect("a quarter of a second fits");
    match poll(&mut watched, timeout) {
        Ok(0) | Err(_) => false,
        Ok(_) => {
            let events = watched[0].revents().unwrap_or(PollFlags::empty());
            events.intersects(PollFlags::POLLNVAL | PollFlags::POLLHUP | PollFlags::POLLERR)
        }
    }
}

/// Whether the main thread lives. While other threads go on, the kernel keeps an ended one as a zombie. If
/// that cannot be read (no descriptor is left, `/proc` is hidden), the thread counts as living.
fn main_thread_lives() -> bool {
    Stat::of(Pid::this().as_raw()).map_or(true, |stat| stat.is_alive())
}
