//! The two pipes that a task prints into, and the markers that tell whose output it is. They last
//! as long as the worker, unless a task leaves children behind: then those keep the old ones.

use crate::wire::{WireError, high, marker::Marker};
use nix::{
    errno::Errno,
    fcntl::{FcntlArg, OFlag, fcntl},
    sys::wait::{Id, WaitPidFlag, waitid},
    unistd::{dup2_stderr, dup2_stdin, dup2_stdout, pipe2},
};
use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{Arc, Mutex, PoisonError},
};

/// The write ends, where no operation closes them by accident.
#[derive(Debug)]
struct Ends {
    stdout: OwnedFd,
    stderr: OwnedFd,
}

/// The pipes of this worker.
#[derive(Debug)]
pub(super) struct Capture {
    stdin: OwnedFd,
    ends: Arc<Mutex<Ends>>,
    marker: Marker,
}

/// Writes log records between the printed lines, from any thread.
#[derive(Debug, Clone)]
pub(super) struct LogWriter {
    ends: Arc<Mutex<Ends>>,
    marker: Marker,
}

impl Capture {
    /// Takes over descriptors 1 and 2 as the monitor has set them up.
    pub(super) fn new(marker: Marker) -> Result<Self, WireError> {
        let ends = Ends {
            stdout: high(std::io::stdout().as_fd())?,
            stderr: high(std::io::stderr().as_fd())?,
        };
        // C's stdout is fully buffered on a pipe; a crash would lose it.
        // SAFETY: `stdout` is C's own stream, used here before any operation runs; a null buffer
        // lets C allocate one.
        unsafe { libc::setvbuf(c_stdout(), std::ptr::null_mut(), libc::_IOLBF, 0) };
        Ok(Self {
            stdin: high(std::io::stdin().as_fd())?,
            ends: Arc::new(Mutex::new(ends)),
            marker,
        })
    }

    /// What writes log records.
    pub(super) fn log_writer(&self) -> LogWriter {
        LogWriter {
            ends: Arc::clone(&self.ends),
            marker: self.marker.clone(),
        }
    }

    /// The output of this task begins; with `stdio`, what it prints counts.
    pub(super) fn begin(&self, task: i64, attempt: u32, stdio: bool) -> Result<(), WireError> {
        self.restore()?;
        let mut marker = self.marker.begin(task, attempt);
        if !stdio {
            marker.extend(self.marker.stdio(false));
        }
        self.write_both(&marker);
        Ok(())
    }

    /// The output of this task has ended.
    pub(super) fn end(&self, task: i64) -> Result<(), WireError> {
        flush_c();
        self.write_both(&self.marker.end(task));
        // Before anything else is opened: it would get the numbers that the task has closed, and
        // be closed in its turn when they are restored.
        self.restore()?;
        dup2_stdin(&self.stdin).map_err(WireError::system("restore stdin"))?;
        self.make_blocking();
        Ok(())
    }

    /// The mode belongs to the pipe, not to the descriptor: where one task leaves a pipe non-blocking,
    /// a later one fails to print.
    fn make_blocking(&self) {
        let ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        for end in [&ends.stdout, &ends.stderr] {
            let flags = fcntl(end, FcntlArg::F_GETFL).map(OFlag::from_bits_retain);
            if let Ok(flags) = flags
                && flags.intersects(OFlag::O_NONBLOCK | OFlag::O_ASYNC)
            {
                let flags = flags.difference(OFlag::O_NONBLOCK | OFlag::O_ASYNC);
                let _ = fcntl(end, FcntlArg::F_SETFL(flags));
            }
        }
    }

    /// An operation may have closed or redirected descriptors 1 and 2.
    fn restore(&self) -> Result<(), WireError> {
        let ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        dup2_stdout(&ends.stdout).map_err(WireError::system("restore stdout"))?;
        dup2_stderr(&ends.stderr).map_err(WireError::system("restore stderr"))
    }

    fn write_both(&self, marker: &[u8]) {
        let ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        write_all(ends.stdout.as_fd(), marker);
        write_all(ends.stderr.as_fd(), marker);
    }

    /// Makes new pipes; what the old children print goes on into the old ones. Answers the read
    /// ends for the monitor.
    pub(super) fn replace_pipes(&mut self) -> Result<Vec<OwnedFd>, WireError> {
        let pipe = || pipe2(OFlag::O_CLOEXEC).map_err(WireError::system("make a pipe"));
        let (stdout, write_stdout) = pipe()?;
        let (stderr, write_stderr) = pipe()?;
        {
            let mut ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
            let fresh = Ends {
                stdout: high(write_stdout.as_fd())?,
                stderr: high(write_stderr.as_fd())?,
            };
            *ends = fresh;
        }
        self.restore()?;
        Ok(vec![stdout, stderr])
    }
}

impl LogWriter {
    /// A record of the task at hand.
    pub(super) fn record(&self, level: u8, time_us: i64, target: &str, text: &str) {
        let ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        for marker in self.marker.record(level, time_us, target, text) {
            write_all(ends.stdout.as_fd(), &marker);
        }
    }

    /// From here on printed lines count, or do not.
    pub(super) fn stdio(&self, on: bool) {
        flush_c();
        let marker = self.marker.stdio(on);
        let ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        write_all(ends.stdout.as_fd(), &marker);
        write_all(ends.stderr.as_fd(), &marker);
    }
}

/// Whether something that a task started still lives below this worker. Dead children are
/// collected on the way.
pub(super) fn left_children() -> bool {
    use nix::sys::wait::WaitStatus;
    loop {
        match waitid(Id::All, WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG) {
            Ok(WaitStatus::StillAlive) => return true,
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => return false,
        }
    }
}

/// The monitor reads as fast as it can; if it is gone, nobody misses this.
fn write_all(fd: BorrowedFd<'_>, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        match nix::unistd::write(fd, bytes) {
            Ok(count) => bytes = &bytes[count..],
            // An operation made the pipe non-blocking: wait until there is room.
            Err(Errno::EAGAIN) => {
                let mut watched = [nix::poll::PollFd::new(fd, nix::poll::PollFlags::POLLOUT)];
                let _ = nix::poll::poll(&mut watched, nix::poll::PollTimeout::NONE);
            }
            Err(Errno::EINTR) => {}
            Err(_) => return,
        }
    }
}

/// What C code has printed and not flushed.
fn flush_c() {
    // SAFETY: flushing all of C's streams is allowed at any time.
    unsafe { libc::fflush(std::ptr::null_mut()) };
}

fn c_stdout() -> *mut libc::FILE {
    unsafe extern "C" {
        static stdout: *mut libc::FILE;
    }
    // SAFETY: glibc initialises this before `main`.
    unsafe { stdout }
}
