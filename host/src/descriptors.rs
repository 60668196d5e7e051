//! Descriptors that the program which started this one left open.

use std::{io, os::fd::RawFd};

/// Marks all inherited descriptors close-on-exec: the embedded server or a worker outlives the command, and
/// would otherwise keep a lock or a pipe of the caller open (`flock lock rework …`). Descriptors that Rust
/// opens are close-on-exec anyway.
pub fn close_inherited_on_exec() -> io::Result<()> {
    let open: Vec<RawFd> = std::fs::read_dir("/proc/self/fd")?
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|number| *number > 2)
        .collect();
    for number in open {
        // SAFETY: a plain system call; on a descriptor that is closed by now (the directory's own) it
        // fails.
        unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) };
    }
    Ok(())
}
