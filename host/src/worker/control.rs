//! The thread that watches over the worker while an operation has the main one: when the monitor
//! is gone, or its lease has passed, or the operation has closed the socket that would tell,
//! everything below this process ends, and then it does.

use super::lean::Program;
use crate::{descendants, wire::Page};
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sched::{CloneFlags, unshare},
    sys::{
        resource::{Resource, getrlimit, setrlimit},
        signal::{Signal, kill},
    },
    time::{ClockId, clock_gettime},
    unistd::Pid,
};
use std::{
    os::fd::{BorrowedFd, RawFd},
    time::Duration,
};

/// How often the lease is looked at; it only counts in seconds.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How long those below may take to be gone. The operation goes on meanwhile, so it is not much.
const KILL_PATIENCE: Duration = Duration::from_millis(500);

/// Starts the thread. The socket stays open as long as the process.
pub(super) fn watch(socket: RawFd, page: &'static Page) {
    std::thread::Builder::new()
        .name("rework-control".to_owned())
        .stack_size(256 * 1024)
        .spawn(move || {
            let program = Program::find();
            while !is_gone(socket, page) && boottime() < page.lease_until() {
                program.let_go();
            }
            end_with_all_below();
        })
        .expect("a process that has just started can start a thread");
}

/// Ends everything below this process, and then the process. A worker that has lost its monitor ends in
/// no other way: if it just exited, its descendants would be left to nobody.
pub(super) fn end_with_all_below() -> ! {
    have_descriptors();
    descendants::kill_all(Pid::this(), KILL_PATIENCE);
    loop {
        let _ = kill(Pid::this(), Signal::SIGKILL);
    }
}

/// Looking at processes takes descriptors, and the operation may have used up all there are: this
/// thread gets a table of its own, with room, where that is allowed, and the hard limit.
fn have_descriptors() {
    if unshare(CloneFlags::CLONE_FILES).is_ok() {
        // SAFETY: nobody but this thread has this table, and it needs nothing of what is in it.
        unsafe { libc::close_range(0, libc::c_uint::MAX, 0) };
    }
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

/// Waits a little for the other end to close; true when it has.
fn is_gone(socket: RawFd, page: &Page) -> bool {
    // SAFETY: the session keeps the socket open until the process ends.
    let socket = unsafe { BorrowedFd::borrow_raw(socket) };
    let mut watched = [PollFd::new(socket, PollFlags::empty())];
    let timeout = PollTimeout::try_from(LOOK_EVERY).expect("a quarter of a second fits");
    match poll(&mut watched, timeout) {
        Ok(0) | Err(_) => false,
        Ok(_) => {
            let events = watched[0].revents().unwrap_or(PollFlags::empty());
            let is_closed = events.contains(PollFlags::POLLNVAL);
            if is_closed {
                // Without it this worker can neither say anything nor see its monitor die.
                page.say_cut_off();
            }
            is_closed || events.intersects(PollFlags::POLLHUP | PollFlags::POLLERR)
        }
    }
}

/// The clock that goes on while a machine sleeps, in nanoseconds.
fn boottime() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME).expect("every Linux has CLOCK_BOOTTIME");
    now.tv_sec().cast_unsigned() * 1_000_000_000 + now.tv_nsec().cast_unsigned()
}
