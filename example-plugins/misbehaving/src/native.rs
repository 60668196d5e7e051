//! What only native code can do wrong.

use rework_plugin::prelude::*;
use std::{io::Write, process::Command, time::Duration};

/// Writes where nothing is.
pub(crate) fn segfault() {
    let nowhere = std::ptr::without_provenance_mut::<u8>(8);
    // SAFETY: there is none, and that is the point: page 0 is never mapped, so the kernel ends the
    // process here.
    unsafe { nowhere.write_volatile(1) };
}

/// Calls itself until the stack is used up.
#[expect(unconditional_recursion, reason = "that is what it is for")]
pub(crate) fn overflow(depth: u64) -> u64 {
    let page = std::hint::black_box([depth; 512]);
    overflow(depth + 1) + page[7]
}

#[expect(
    clippy::disallowed_methods,
    reason = "a child of a task is what this is about"
)]
/// Prints through Rust, C, the system and a child, in this order.
pub(crate) fn print_in_every_way() -> Result<()> {
    println!("from Rust");
    std::io::stdout().flush()?;
    // SAFETY: `puts` reads a string that ends with a NUL and keeps nothing of it.
    unsafe { libc::puts(c"from C".as_ptr()) };
    let raw = b"from the system\n";
    // SAFETY: the buffer is as long as is said, and descriptor 1 is open.
    unsafe { libc::write(1, raw.as_ptr().cast(), raw.len()) };
    let status = Command::new("/bin/echo").arg("from a child").status()?;
    if !status.success() {
        return Err("echo failed".into());
    }
    print!("without a newline");
    Ok(())
}

#[expect(
    clippy::disallowed_methods,
    reason = "a child of a task is what this is about"
)]
/// Leaves a grandchild behind, in a session of its own, that goes on printing.
pub(crate) fn child_that_outlives(patience: Duration) -> Result<()> {
    let seconds = patience.as_secs_f64();
    let script =
        format!("setsid sh -c 'echo child lives; sleep 0.2; echo child speaks; sleep {seconds}' &");
    let status = Command::new("/bin/sh").args(["-c", &script]).status()?;
    if !status.success() {
        return Err("the shell failed".into());
    }
    println!("the parent is done");
    Ok(())
}

/// Closes both outputs; what follows goes nowhere, and the next task must not suffer.
pub(crate) fn close_output() {
    for descriptor in [1, 2] {
        // SAFETY: closing a descriptor is always allowed; nobody else in this task owns these two.
        unsafe { libc::close(descriptor) };
    }
}
