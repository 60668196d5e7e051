//! Denies TCP to plugins, by Landlock: a process gives up access for ever, for itself and for all threads
//! and processes that it starts. See landlock(7).

use crate::wire::WireError;
use nix::errno::Errno;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// `struct landlock_ruleset_attr`: what is denied unless a rule allows it; there will be no rules.
#[repr(C)]
struct Ruleset {
    files: u64,
    network: u64,
}

const BIND_TCP: u64 = 1;
const CONNECT_TCP: u64 = 1 << 1;

/// Denies this thread, and everything that it starts, to bind and to connect TCP sockets.
/// `PR_SET_NO_NEW_PRIVS` must be set already.
pub fn give_up() -> Result<(), WireError> {
    let failed = WireError::system("deny the network by Landlock (Linux 6.7)");
    let ruleset = Ruleset {
        files: 0,
        network: BIND_TCP | CONNECT_TCP,
    };
    // SAFETY: the kernel reads as many bytes of the live local as are announced.
    let created = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            &raw const ruleset,
            size_of::<Ruleset>(),
            0,
        )
    };
    let fd = i32::try_from(Errno::result(created).map_err(&failed)?)
        .map_err(|_| failed(Errno::EBADF))?;
    // SAFETY: the kernel has just created this descriptor for this process.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: a plain system call on a ruleset that is open.
    let restricted = unsafe { libc::syscall(libc::SYS_landlock_restrict_self, fd.as_raw_fd(), 0) };
    Errno::result(restricted).map(drop).map_err(&failed)
}
