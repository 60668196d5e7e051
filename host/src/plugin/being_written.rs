//! Whether another process is still writing a file.

use std::{
    fs::OpenOptions,
    io,
    os::{fd::AsRawFd, unix::fs::OpenOptionsExt},
    path::Path,
};

/// Makes this process survive SIGIO, by which the kernel asks for a lease back. By default the signal would
/// kill it if somebody opened the file for writing while the lease is held.
pub(super) fn ignore_lease_breaks() {
    use nix::sys::signal::{SigHandler, Signal, signal};
    // SAFETY: ignoring a signal installs no handler.
    let _ = unsafe { signal(Signal::SIGIO, SigHandler::SigIgn) };
}

/// Whether a process has a file open for writing, as a slow `cp` has. The kernel grants a read lease only
/// while no process does; see fcntl(2). Where leases do not exist (network file systems, files of other
/// users) the answer is `false`, and the caller has to check that the file does not change.
pub(super) fn is_being_written(file: &Path) -> bool {
    // Other kinds of files are refused later; opening a FIFO would block.
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(file);
    let Ok(file) = opened else {
        return false;
    };
    let lease = |kind: i32| {
        // SAFETY: a plain system call on an open descriptor.
        unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, kind) }
    };
    if lease(libc::F_RDLCK) == 0 {
        lease(libc::F_UNLCK);
        return false;
    }
    io::Error::last_os_error().kind() == io::ErrorKind::WouldBlock
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs::File, io::Write};

    #[test]
    fn an_open_writer_is_seen_until_it_is_gone() {
        ignore_lease_breaks();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.so");
        let mut writer = File::create(&path).unwrap();
        writer.write_all(b"half").unwrap();
        assert!(is_being_written(&path));
        drop(writer);
        assert!(!is_being_written(&path));
    }
}
