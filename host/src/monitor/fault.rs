//! Why a task did not end well: what an operation says of its own failure, and what a worker's
//! death means for the task that it ran. One line of words, a cause, and all else that is known.

use crate::{
    model::{WorkerId, duration::human, task::Cause, worker::WorkerCause},
    wire::{Crash, Failure, Limits, SelfEnd},
};
use chrono::{DateTime, Utc};
use nix::{sys::signal::Signal, unistd::Pid};
use std::time::Duration;

/// Why a task did not end well, with all that is known of it.
#[derive(Debug, Default)]
pub(super) struct Fault {
    pub(super) cause: Option<Cause>,
    pub(super) error: Option<String>,
    pub(super) location: Option<String>,
    pub(super) backtrace: Option<String>,
    pub(super) exit_code: Option<i32>,
    pub(super) signal: Option<i32>,
}

impl Fault {
    /// A cause and what is shown of it, nothing else.
    pub(super) fn of(cause: Cause, error: Option<String>) -> Self {
        Self {
            cause: Some(cause),
            error,
            ..Self::default()
        }
    }
}

/// What is known of the run of a task whose worker has not reported its end. The default: it never ran.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Ran {
    /// When the task began, by the worker's clock.
    pub(super) started: Option<DateTime<Utc>>,
    /// The most memory that its worker had, in bytes.
    pub(super) peak_memory: Option<i64>,
    /// The processor time that it used.
    pub(super) cpu_seconds: Option<f64>,
    /// The worker that ran it.
    pub(super) worker: Option<WorkerId>,
}

#[cfg(test)]
impl Exit {
    /// The end of a process that used nothing.
    pub(super) fn example(code: Option<i32>, signal: Option<i32>) -> Self {
        Self {
            pid: Pid::from_raw(100),
            code,
            signal,
            peak_memory: 0,
            cpu: Duration::ZERO,
        }
    }
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Exit {
    pub(super) pid: Pid,
    /// Its exit code, if it exited.
    pub(super) code: Option<i32>,
    /// The signal that ended it, if one did.
    pub(super) signal: Option<i32>,
    /// Its largest resident memory, in bytes.
    pub(super) peak_memory: u64,
    /// Processor time, its reaped children included.
    pub(super) cpu: Duration,
}

impl Exit {
    /// How the process ended, as the rest of a sentence that begins with its name.
    pub(super) fn in_words(&self) -> String {
        match (self.code, self.signal) {
            (Some(code), _) => format!("ended the process (exit {code})"),
            (None, Some(number)) => {
                let name = Signal::try_from(number);
                let name =
                    name.map_or_else(|_| format!("signal {number}"), |name| name.to_string());
                format!("crashed ({name})")
            }
            (None, None) => "ended".to_owned(),
        }
    }
}

/// What an operation's own failure means, under these limits.
pub(super) fn of_failure(failure: &Failure, limits: Limits) -> Fault {
    let cause = match failure.kind.as_str() {
        "panic" => Cause::Panic,
        "bad output" => Cause::BadOutput,
        _ => Cause::Error,
    };
    Fault {
        cause: Some(cause),
        error: Some(failure.message.clone() + &limit_met(&failure.message, limits)),
        location: failure.location.clone(),
        backtrace: failure.backtrace.clone(),
        ..Fault::default()
    }
}

/// The limit that an operation has met which then failed by itself, as far as the system's message tells; as an
/// addition to that message.
fn limit_met(message: &str, limits: Limits) -> String {
    let says = |words: &str| message.contains(words);
    if let Some(files) = limits.open_files.filter(|_| says("Too many open files")) {
        return format!("; its limit is {files} open files");
    }
    let is_memory = says("Cannot allocate memory") || says("memory allocation failed");
    match limits.memory_bytes.filter(|_| is_memory) {
        Some(limit) => format!("; its limit is {}", megabytes(limit)),
        None => String::new(),
    }
}

/// Everything that is known of a worker's death.
#[derive(Debug, Clone, Copy)]
pub(super) struct Death<'a> {
    /// How the process ended.
    pub(super) exit: &'a Exit,
    /// Why the monitor killed it, if it did.
    pub(super) killed: Option<WorkerCause>,
    /// The same in words.
    pub(super) because: Option<&'a str>,
    /// A panic that had begun.
    pub(super) panic: Option<&'a Failure>,
    /// The last line on stderr.
    pub(super) stderr_tail: Option<&'a str>,
    /// What its signal handler wrote.
    pub(super) crash: Option<&'a Crash>,
    /// Whether the handler was in place.
    pub(super) had_handler: bool,
    /// What its task was allowed.
    pub(super) limits: Limits,
    /// The kernel has killed something in its cgroup for want of memory.
    pub(super) out_of_memory: bool,
    /// Why the worker has ended itself.
    pub(super) self_end: Option<SelfEnd>,
}

impl<'a> Death<'a> {
    /// Nothing is known but how the process ended.
    pub(super) fn of(exit: &'a Exit) -> Self {
        Self {
            exit,
            killed: None,
            because: None,
            panic: None,
            stderr_tail: None,
            crash: None,
            had_handler: true,
            limits: Limits::default(),
            out_of_memory: false,
            self_end: None,
        }
    }

    /// What it means. The first of these that is known counts: the reason for which the monitor killed it, a panic
    /// that had begun, the last line on stderr about memory, the crash record, the way the process ended.
    pub(super) fn fault(&self) -> Fault {
        let known = self
            .killed_by_us()
            .or_else(|| self.panicked())
            .or_else(|| self.allocation_refused())
            .or_else(|| self.crashed())
            .or_else(|| self.used_up())
            .or_else(|| self.ended_itself())
            .unwrap_or_else(|| self.by_status());
        Fault {
            exit_code: self.exit.code,
            signal: self.exit.signal,
            ..known
        }
    }

    fn killed_by_us(&self) -> Option<Fault> {
        let cause = self.killed?.task_cause();
        Some(Fault::of(cause, self.because.map(str::to_owned)))
    }

    fn panicked(&self) -> Option<Fault> {
        self.panic.map(|panic| of_failure(panic, self.limits))
    }

    /// Rust and C++ abort the process when there is no memory, and say so on stderr.
    fn allocation_refused(&self) -> Option<Fault> {
        let words = self.stderr_tail.filter(|words| is_about_memory(words))?;
        if self.exit.signal != Some(libc::SIGABRT) {
            return None;
        }
        Some(Fault::of(
            Cause::Memory,
            Some(format!("out of memory: {words}{}", self.memory_limit())),
        ))
    }

    fn memory_limit(&self) -> String {
        self.limits.memory_bytes.map_or_else(String::new, |limit| {
            format!("; its limit is {}", megabytes(limit))
        })
    }

    fn crashed(&self) -> Option<Fault> {
        let crash = self
            .crash
            .filter(|crash| self.exit.signal == Some(crash.signal))?;
        Some(Fault {
            location: crash.place.clone().filter(|_| crash.is_fault()),
            ..Fault::of(
                Cause::Crash,
                Some(crash_words(crash, self.exit.pid.as_raw())),
            )
        })
    }

    /// The kernel has ended it for its processor time.
    fn used_up(&self) -> Option<Fault> {
        let limit = Duration::from_millis(self.limits.cpu_ms?);
        (self.exit.signal == Some(libc::SIGXCPU)).then(|| {
            let words = format!("used up its processor time, its limit is {}", human(limit));
            Fault::of(Cause::Cpu, Some(words))
        })
    }

    /// A worker that can no longer do its part kills itself, and everything below it.
    fn ended_itself(&self) -> Option<Fault> {
        let why = self
            .self_end
            .filter(|_| self.exit.signal == Some(libc::SIGKILL))?;
        let (cause, words) = match why {
            SelfEnd::Disconnected => (
                Cause::Crash,
                "the operation has closed the worker's connection to its monitor",
            ),
            SelfEnd::MainThreadEnded => (
                Cause::Crash,
                "the operation has ended the worker's main thread, or the kernel has (seccomp)",
            ),
            SelfEnd::LeaseExpired => (
                Cause::MonitorLost,
                "its monitor could not renew its lease in time, and the worker ended itself",
            ),
        };
        Some(Fault::of(cause, Some(words.to_owned())))
    }

    fn by_status(&self) -> Fault {
        let Some(signal) = self.exit.signal else {
            let code = self.exit.code.unwrap_or_default();
            let words = format!("the operation ended the process (exit code {code})");
            return Fault::of(Cause::ProcessExit, Some(self.with_stderr_tail(words)));
        };
        let (cause, words) = match signal {
            libc::SIGKILL if self.out_of_memory => (
                Cause::Memory,
                format!("out of memory (cgroup){}", self.memory_limit()),
            ),
            libc::SIGKILL => (Cause::Crash, "killed from outside (SIGKILL)".to_owned()),
            // A thread of a plugin has no stack for the handler.
            libc::SIGSEGV if self.had_handler => (
                Cause::Crash,
                "SIGSEGV, probably a stack overflow in a thread".to_owned(),
            ),
            _ => (
                Cause::Crash,
                self.with_stderr_tail(format!("{} ended the worker process", signal_name(signal))),
            ),
        };
        Fault::of(cause, Some(words))
    }

    fn with_stderr_tail(&self, words: String) -> String {
        match self.stderr_tail {
            Some(last) => format!("{words}; last words: {last}"),
            None => words,
        }
    }
}

/// Whether this is what a runtime says when an allocation has failed.
pub(super) fn is_about_memory(line: &str) -> bool {
    let of_rust = line.starts_with("memory allocation of ") && line.ends_with(" failed");
    of_rust || line.contains("std::bad_alloc")
}

/// Whether a line tells why a process ended: it is not empty, and not part of a backtrace, which follows the line
/// that tells.
pub(super) fn is_telling(line: &str) -> bool {
    let words = line.trim_start();
    let is_indented = words.len() < line.len();
    let is_frame = words.starts_with("at ")
        || words
            .split_once(':')
            .is_some_and(|(number, _)| number.parse::<u32>().is_ok());
    let is_around = words.starts_with("stack backtrace:")
        || words.starts_with("note: ") && line.contains("RUST_BACKTRACE");
    !(words.is_empty() || is_around || is_indented && is_frame)
}

/// `SIGSEGV at address 0x8 in libmisbehaving.so+0x34150`.
fn crash_words(crash: &Crash, worker: i32) -> String {
    /// The code of a signal for an access to an address that no process can have.
    const SI_KERNEL: i32 = 0x80;
    let name = short_name(crash.signal);
    if !crash.is_fault() {
        return if u64::try_from(worker) == Ok(crash.address) {
            format!("{name}, which the operation sent to itself")
        } else {
            format!("{name}, sent by process {}", crash.address)
        };
    }
    let place = crash.place.as_deref().map_or_else(
        || format!(" in code at 0x{:x}", crash.pc),
        |place| format!(" in {place}"),
    );
    if crash.is_stack_overflow() {
        return format!(
            "stack overflow{place} ({name} at address 0x{:x})",
            crash.address
        );
    }
    match crash.signal {
        libc::SIGSEGV if crash.code == SI_KERNEL => {
            format!("{name} at an impossible address{place}")
        }
        libc::SIGSEGV | libc::SIGBUS => {
            format!("{name} at address 0x{:x}{place}", crash.address)
        }
        libc::SIGFPE => format!("{name} (a division by zero, or one that overflows){place}"),
        libc::SIGILL => format!("{name} (an illegal instruction){place}"),
        _ => format!("{name}{place}"),
    }
}

/// `512 MB`; smaller amounts with a digit.
pub(super) fn megabytes(bytes: u64) -> String {
    let megabytes = bytes as f64 / 1_048_576.0;
    if megabytes < 10.0 {
        format!("{megabytes:.1} MB")
    } else {
        format!("{megabytes:.0} MB")
    }
}

/// `SIGSEGV`.
fn short_name(number: i32) -> String {
    Signal::try_from(number).map_or_else(
        |_| format!("signal {number}"),
        |signal| signal.as_str().to_owned(),
    )
}

/// `SIGSEGV (signal 11)`.
fn signal_name(number: i32) -> String {
    match Signal::try_from(number) {
        Ok(signal) => format!("{} (signal {number})", signal.as_str()),
        Err(_) => format!("signal {number}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crash(signal: i32, code: i32, address: u64) -> Crash {
        Crash {
            signal,
            code,
            address,
            pc: 0x40_1000,
            sp: 0x70_0000_0000,
            stack_end: 0,
            place: Some("lib.so+0x1000".into()),
        }
    }

    fn words(death: &Death<'_>) -> (Cause, String) {
        let fault = death.fault();
        (fault.cause.unwrap(), fault.error.unwrap())
    }

    #[test]
    fn our_own_reason_comes_first() {
        let exit = Exit::example(None, Some(9));
        let death = Death {
            killed: Some(WorkerCause::Task(Cause::Timeout)),
            because: Some("too long"),
            crash: Some(&crash(11, 1, 8)),
            ..Death::of(&exit)
        };
        assert_eq!(words(&death), (Cause::Timeout, "too long".into()));
        assert_eq!(death.fault().signal, Some(9));
    }

    #[test]
    fn an_exit_of_zero_is_still_the_operations_doing() {
        let exit = Exit::example(Some(0), None);
        let fault = Death::of(&exit).fault();
        assert_eq!(fault.cause, Some(Cause::ProcessExit));
        assert_eq!(
            fault.error.as_deref(),
            Some("the operation ended the process (exit code 0)")
        );
    }

    #[test]
    fn a_panic_that_took_the_process_with_it_is_a_panic() {
        let panic = Failure {
            kind: "panic".into(),
            message: "twice".into(),
            location: Some("src/lib.rs:1:1".into()),
            backtrace: None,
        };
        let exit = Exit::example(None, Some(6));
        let fault = Death {
            panic: Some(&panic),
            ..Death::of(&exit)
        }
        .fault();
        assert_eq!(fault.cause, Some(Cause::Panic));
        assert_eq!(fault.signal, Some(6));
        assert_eq!(fault.location.as_deref(), Some("src/lib.rs:1:1"));
    }

    #[test]
    fn what_stderr_says_of_memory_counts_with_an_abort_only() {
        let stderr_tail = Some("memory allocation of 16 bytes failed");
        let limits = Limits {
            memory_bytes: Some(512 << 20),
            ..Limits::default()
        };
        let abort = Exit::example(None, Some(6));
        let death = Death {
            stderr_tail,
            limits,
            ..Death::of(&abort)
        };
        let expected = "out of memory: memory allocation of 16 bytes failed; its limit is 512 MB";
        assert_eq!(words(&death), (Cause::Memory, expected.into()));
        let left = Exit::example(Some(1), None);
        let death = Death {
            stderr_tail,
            ..Death::of(&left)
        };
        assert_eq!(words(&death).0, Cause::ProcessExit);
    }

    #[test]
    fn backtraces_are_not_the_stderr_tail() {
        for line in [
            "",
            "stack backtrace:",
            "   0: std::panicking::begin_panic",
            "             at ./src/lib.rs:1:2",
            "  12:     0x7f9a99af624a - __libc_start_call_main",
            "note: run with `RUST_BACKTRACE=1` environment variable to display a backtrace",
        ] {
            assert!(!is_telling(line), "{line}");
        }
        for line in [
            "at last",
            "12: no such thing",
            "  what():  std::bad_alloc",
            "note: x",
        ] {
            assert!(is_telling(line), "{line}");
        }
    }

    #[test]
    fn crash_records_tell_the_signals_apart() {
        let said = |signal, code, address| {
            let exit = Exit::example(None, Some(signal));
            let crash = crash(signal, code, address);
            words(&Death {
                crash: Some(&crash),
                ..Death::of(&exit)
            })
            .1
        };
        assert_eq!(said(11, 1, 8), "SIGSEGV at address 0x8 in lib.so+0x1000");
        assert_eq!(
            said(11, 1, 0x6f_ffff_fff8),
            "stack overflow in lib.so+0x1000 (SIGSEGV at address 0x6ffffffff8)"
        );
        assert_eq!(
            said(11, 0x80, 0),
            "SIGSEGV at an impossible address in lib.so+0x1000"
        );
        assert_eq!(said(11, 0, 7), "SIGSEGV, sent by process 7");
        assert_eq!(
            said(8, -6, 100),
            "SIGFPE, which the operation sent to itself"
        );
        assert!(said(4, 2, 0x40_1000).starts_with("SIGILL (an illegal instruction) in lib.so"));
    }

    #[test]
    fn without_a_record_the_signal_has_to_do() {
        let said = |signal, change: fn(&mut Death<'_>)| {
            let exit = Exit::example(None, Some(signal));
            let mut death = Death::of(&exit);
            change(&mut death);
            words(&death)
        };
        assert_eq!(
            said(11, |_| {}).1,
            "SIGSEGV, probably a stack overflow in a thread"
        );
        assert_eq!(
            said(11, |death| death.had_handler = false).1,
            "SIGSEGV (signal 11) ended the worker process"
        );
        assert_eq!(
            said(9, |_| {}),
            (Cause::Crash, "killed from outside (SIGKILL)".into())
        );
        assert_eq!(
            said(9, |death| death.out_of_memory = true),
            (Cause::Memory, "out of memory (cgroup)".into())
        );
        assert_eq!(said(libc::SIGXCPU, |_| {}).0, Cause::Crash);
        assert_eq!(
            said(libc::SIGXCPU, |death| death.limits.cpu_ms = Some(10_000)),
            (
                Cause::Cpu,
                "used up its processor time, its limit is 10s".into()
            )
        );
        assert_eq!(
            said(6, |death| death.stderr_tail = Some("assertion failed")).1,
            "SIGABRT (signal 6) ended the worker process; last words: assertion failed"
        );
    }
}
