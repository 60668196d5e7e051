//! The two pipes that a task prints into, and the markers that say which task the output belongs to. The
//! pipes last as long as the worker, unless a task leaves child processes behind: those keep the old pipes.

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

/// The write ends of the pipes, under numbers that operations do not close by accident.
#[derive(Debug)]
struct Ends {
    stdout: OwnedFd,
    stderr: OwnedFd,
}

/// The output pipes of this worker.
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

    /// A writer of log records.
    pub(super) fn log_writer(&self) -> LogWriter {
        LogWriter {
            ends: Arc::clone(&self.ends),
            marker: self.marker.clone(),
        }
    }

    /// Marks the beginning of a task's output. With `stdio`, printed lines are stored.
    pub(super) fn begin(&self, task: i64, attempt: u32, stdio: bool) -> Result<(), WireError> {
        self.restore()?;
        let mut marker = self.marker.begin(task, attempt);
        if !stdio {
            marker.extend(self.marker.stdio(false));
        }
        self.write_both(&marker);
        Ok(())
    }

    /// Marks the end of a task's output.
    pub(super) fn end(&self, task: i64) -> Result<(), WireError> {
        flush_c();
        self.write_both(&self.marker.end(task));
        // Before anything else is opened: it would get the numbers that the task has closed, and would be
        // closed when they are restored.
        self.restore()?;
        dup2_stdin(&self.stdin).map_err(WireError::system("restore stdin"))?;
        self.make_blocking();
        Ok(())
    }

    /// Makes both pipes blocking again. The mode belongs to the pipe, not to the descriptor: if one task
    /// leaves a pipe non-blocking, a later task fails to print.
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

    /// Restores descriptors 1 and 2, which an operation may have closed or redirected.
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

    /// Replaces both pipes; children of the old task go on printing into the old ones. Returns the read
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
    /// Writes a log record of the running task.
    pub(super) fn record(&self, level: u8, time_us: i64, target: &str, text: &str) {
        let ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        for marker in self.marker.record(level, time_us, target, text) {
            write_all(ends.stdout.as_fd(), &marker);
        }
    }

    /// Marks that printed lines are stored from here on, or are not.
    pub(super) fn stdio(&self, on: bool) {
        flush_c();
        let marker = self.marker.stdio(on);
        let ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        write_all(ends.stdout.as_fd(), &marker);
        write_all(ends.stderr.as_fd(), &marker);
    }
}

/// Whether a process that a task started is still alive below this worker. Dead children are reaped.
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

/// Writes all bytes. An error is ignored: it means that the monitor is gone, and nobody reads the pipe.
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

/// Flushes what C code has printed into the buffers of the C library.
fn flush_c() {
    // SAFETY: flushing all of C's streams is allowed at any time.
    unsafe { libc::fflush(std::ptr::null_mut()) };
}

fn c_stdout() -> *mut libc::FILE {
    unsafe extern "C" {
        static stdout: *mut libc::FILE;
    }
    // SAFETY: glibc initialises this variable before `main`.
    unsafe { stdout }
}
