//! What native code does with outputs.

use rework_plugin::prelude::*;
use std::{io::Write, process::Command};

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

/// Closes both outputs; what follows goes nowhere, and the next task must not suffer.
pub(crate) fn close_output() {
    for descriptor in [1, 2] {
        // SAFETY: closing a descriptor is always allowed; nobody else in this task owns these two.
        unsafe { libc::close(descriptor) };
    }
}
