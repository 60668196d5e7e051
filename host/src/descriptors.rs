//! Descriptors that the program which started this one left open.

use std::{io, os::fd::RawFd};

/// Hands none of them on to what this process starts: the embedded server or a worker outlives the command,
/// and would hold a lock or keep a pipe open for as long (`flock lock rework …`). What Rust opens closes
/// itself at `exec` anyway.
pub fn close_inherited_on_exec() -> io::Result<()> {
    let open: Vec<RawFd> = std::fs::read_dir("/proc/self/fd")?
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|number| *number > 2)
        .collect();
    for number in open {
        // SAFETY: a plain system call; of a descriptor that is closed by now (the directory's own) it fails.
        unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) };
    }
    Ok(())
}
