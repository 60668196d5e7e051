//! Descriptors of others, closed as daemons do it.

use std::{thread, time::Duration};

/// Closes every descriptor from this one on, the worker's own among them, and goes on working.
pub(crate) fn close_everything(first: u32, patience: Duration) {
    // SAFETY: closing is always allowed; nothing that this task does afterwards needs them.
    let closed = unsafe { libc::close_range(first, u32::MAX, 0) };
    assert_eq!(closed, 0, "every Linux since 5.9 can do it");
    thread::sleep(patience);
}
