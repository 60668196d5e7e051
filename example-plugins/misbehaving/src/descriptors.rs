//! Descriptors of others, closed as daemons do it.

use rework_plugin::prelude::*;
use std::{thread, time::Duration};

/// Sends its input over every socket of its worker, from a process of its own, and then waits.
#[operation(domain = "misbehaving")]
fn speak_from_a_child(task: &mut Task) {
    let bytes = task.raw_input().to_vec();
    // SAFETY: the child only calls what is async-signal-safe, and ends.
    if unsafe { libc::fork() } == 0 {
        for descriptor in 3..1024 {
            // SAFETY: the pointer is to a buffer of this length; what is no socket refuses.
            unsafe { libc::send(descriptor, bytes.as_ptr().cast(), bytes.len(), 0) };
        }
        // SAFETY: ends the process at once.
        unsafe { libc::_exit(0) };
    }
    thread::sleep(Duration::from_secs(3600));
}

/// Closes all that a program has which knows of no more than twenty.
pub(crate) fn close_low_ones() {
    // SAFETY: closing is always allowed; nothing that this task does afterwards needs them.
    let closed = unsafe { libc::close_range(3, 20, 0) };
    assert_eq!(closed, 0, "every Linux since 5.9 can do it");
}

/// Writes into every socket that it finds.
pub(crate) fn send_garbage() {
    for descriptor in 3..1024 {
        let garbage = [0xff_u8; 64];
        // SAFETY: the pointer is to a local of this length; what is no socket refuses.
        unsafe { libc::send(descriptor, garbage.as_ptr().cast(), garbage.len(), 0) };
    }
}

/// Ends the connection of every socket, and goes on working.
pub(crate) fn shut_down_sockets(patience: Duration) {
    for descriptor in 3..1024 {
        // SAFETY: what is no socket refuses.
        unsafe { libc::shutdown(descriptor, libc::SHUT_RDWR) };
    }
    thread::sleep(patience);
}

/// No more than few descriptors from now on.
pub(crate) fn lower_the_limit() {
    let limit = libc::rlimit {
        rlim_cur: 300,
        rlim_max: 300,
    };
    // SAFETY: the pointer is to a local of the right type.
    let lowered = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
    assert_eq!(lowered, 0, "a limit can be lowered");
}

/// Opens files until there is no descriptor left.
pub(crate) fn use_up() {
    // SAFETY: the text ends with a NUL.
    while unsafe { libc::open(c"/dev/null".as_ptr(), libc::O_RDONLY) } >= 0 {}
    println!("nothing is left");
}

/// Closes every descriptor from this one on, the worker's own among them, and goes on working.
pub(crate) fn close_everything(first: u32, patience: Duration) {
    // SAFETY: closing is always allowed; nothing that this task does afterwards needs them.
    let closed = unsafe { libc::close_range(first, u32::MAX, 0) };
    assert_eq!(closed, 0, "every Linux since 5.9 can do it");
    thread::sleep(patience);
}
