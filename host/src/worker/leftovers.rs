//! What a task changes in its process. The next task of the worker must find the process as the first one
//! found it: what can be restored is restored; for the rest, a change is detected, and then the worker runs
//! no other task.
//!
//! The reference is the state after the plugin was loaded. Signal handlers, timers and modes that its
//! constructors have set up belong to the plugin and stay.
//!
//! A full check takes some twenty microseconds, more than a very short operation itself; half of that is
//! `/proc/self/status`, which saves one call for each of 64 signals. So an operation that has left nothing
//! behind [`TRUSTED`] times in a row is checked only after a run that took long ([`LONG`]), after every
//! sixteenth run, and before something else follows: another operation, or a run after a pause. What such
//! an operation leaves for the first time can therefore only reach runs of itself that follow at once. What
//! takes few system calls is restored after every run, including everything that affects what the next task
//! computes or when it runs. The handlers for faults are also checked after every run, so that no earlier
//! task hides a crash.

use super::{crash, environment::Environment, floating::Modes};
use crate::{
    signals,
    wire::{WireError, high},
};
use nix::{
    fcntl::AtFlags,
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    sys::{
        prctl,
        resource::{Resource, getrlimit, rlim_t, setrlimit},
        signal::{SigSet, SigmaskHow, Signal, pthread_sigmask},
        stat::{Mode, fstatat, umask},
    },
    unistd::{Pid, fchdir},
};
use std::{
    collections::HashMap,
    ffi::{CStr, CString},
    fs::{File, OpenOptions},
    os::{
        fd::OwnedFd,
        unix::fs::{FileExt, MetadataExt, OpenOptionsExt},
    },
    time::{Duration, Instant},
};

/// After this many runs in a row that leave nothing behind, an operation is checked less often.
const TRUSTED: u32 = 100;
/// A trusted operation is checked after every so many runs.
const SAMPLE: u32 = 16;
/// A run that took longer than this is always checked, since the check costs little in comparison.
const LONG: Duration = Duration::from_micros(500);

/// The numbers of all signals.
const NUMBERS: std::ops::RangeInclusive<libc::c_int> = 1..=64;
/// The signals that glibc reserves for itself, and installs handlers for when it first needs them.
const OF_GLIBC: [libc::c_int; 2] = [32, 33];

/// Every resource limit of a process.
const LIMITS: [Resource; 16] = [
    Resource::RLIMIT_AS,
    Resource::RLIMIT_CORE,
    Resource::RLIMIT_CPU,
    Resource::RLIMIT_DATA,
    Resource::RLIMIT_FSIZE,
    Resource::RLIMIT_LOCKS,
    Resource::RLIMIT_MEMLOCK,
    Resource::RLIMIT_MSGQUEUE,
    Resource::RLIMIT_NICE,
    Resource::RLIMIT_NOFILE,
    Resource::RLIMIT_NPROC,
    Resource::RLIMIT_RSS,
    Resource::RLIMIT_RTPRIO,
    Resource::RLIMIT_RTTIME,
    Resource::RLIMIT_SIGPENDING,
    Resource::RLIMIT_STACK,
];

/// Lines of `/proc/self/status` that cannot be restored, and what a changed line means.
const STATUS_LINES: [(&str, &str); 9] = [
    ("Uid:", "another user"),
    ("Gid:", "another group"),
    ("Groups:", "other supplementary groups"),
    ("CapInh:", "other inheritable capabilities"),
    ("CapPrm:", "other permitted capabilities"),
    ("CapEff:", "other effective capabilities"),
    ("CapBnd:", "another bounding set of capabilities"),
    ("Seccomp:", "a seccomp filter"),
    // In a container the worker begins with a filter; then only the number of filters shows a new one.
    ("Seccomp_filters:", "a seccomp filter"),
];

/// Files of `/proc/self/ns`, whose inode identifies the namespace, and what a changed one means.
const NAMESPACES: [(&str, &str); 8] = [
    ("mnt", "another mount namespace"),
    ("net", "another network namespace"),
    ("uts", "another UTS namespace"),
    ("ipc", "another IPC namespace"),
    ("cgroup", "another cgroup namespace"),
    ("pid_for_children", "another PID namespace for children"),
    ("user", "another user namespace"),
    ("time_for_children", "another time namespace for children"),
];

const INTERVAL_TIMERS: [libc::c_int; 3] =
    [libc::ITIMER_REAL, libc::ITIMER_VIRTUAL, libc::ITIMER_PROF];

/// The state of the process that each task is to find, and how far each operation is trusted not to change
/// it.
#[derive(Debug)]
pub(super) struct Leftovers {
    umask: Mode,
    /// The working directory, valid even if it is removed.
    directory: Option<OwnedFd>,
    mask: SigSet,
    modes: Modes,
    environment: Environment,
    alternate_stack: libc::stack_t,
    /// Which of [`INTERVAL_TIMERS`] the plugin started while it was loaded.
    has_timer: [bool; 3],
    locale: Option<CString>,
    affinity: Option<CpuSet>,
    nice: libc::c_int,
    policy: libc::c_int,
    rest: Rest,
    /// How many runs in a row have left nothing behind, by operation.
    clean_runs: HashMap<String, u32>,
    /// The operation whose last run has not been checked, and when the run ended.
    unchecked: Option<(String, Instant)>,
    is_final: bool,
}

/// The state that is checked less often.
#[derive(Debug)]
struct Rest {
    status: Option<File>,
    status_lines: Vec<Option<String>>,
    posix_timers: Option<File>,
    posix_timer_count: usize,
    actions: Vec<libc::sigaction>,
    limits: Vec<Option<(rlim_t, rlim_t)>>,
    personality: libc::c_int,
    parent_death: Option<Signal>,
    /// Whether other processes of the same user may inspect this one, which helpers of the plugin may need.
    is_dumpable: bool,
    /// `/proc/self/oom_score_adj`: how likely the kernel kills this process when memory runs out.
    oom_score: Option<File>,
    oom_score_before: String,
    /// Device and inode of the root directory.
    root: Option<(u64, u64)>,
    /// `/proc/self/ns`, open in case a task changes the root directory.
    namespaces: Option<OwnedFd>,
    /// The inodes of [`NAMESPACES`] before the first task.
    namespaces_before: [Option<u64>; NAMESPACES.len()],
}

impl Leftovers {
    /// Notes the state of this process before its first task.
    pub(super) fn note() -> Result<Self, WireError> {
        let mask =
            SigSet::thread_get_mask().map_err(WireError::system("ask for blocked signals"))?;
        // The only way to read the mask is to set it.
        let mode = umask(Mode::empty());
        umask(mode);
        let path_only = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_PATH | libc::O_DIRECTORY)
            .open(".");
        Ok(Self {
            umask: mode,
            directory: path_only.ok().map(high).transpose()?,
            mask,
            modes: Modes::now(),
            environment: Environment::now(),
            alternate_stack: alternate_stack(),
            has_timer: INTERVAL_TIMERS.map(is_armed),
            locale: locale(),
            affinity: sched_getaffinity(Pid::from_raw(0)).ok(),
            nice: nice(),
            policy: policy(),
            rest: Rest::note()?,
            clean_runs: HashMap::new(),
            unchecked: None,
            is_final: false,
        })
    }

    /// Whether a task has changed something that cannot be restored, so that no other task may run here.
    pub(super) fn is_final(&self) -> bool {
        self.is_final
    }

    /// Marks the process as changed, as other code has found out.
    pub(super) fn run_nothing_more(&mut self) {
        self.is_final = true;
    }

    /// Before a run of `operation`: checks what the last run has left behind, if that was not checked, and
    /// was of another operation or ended a while ago. Returns its operation, and what it has changed that
    /// cannot be restored, in words.
    pub(super) fn check_before(&mut self, operation: &str) -> Option<(String, String)> {
        let (earlier, ended) = self.unchecked.as_ref()?;
        if earlier == operation && ended.elapsed() < LONG {
            return None;
        }
        let (earlier, _) = self.unchecked.take()?;
        let left = self.rest.restore();
        if left.is_empty() {
            return None;
        }
        self.is_final = true;
        Some((earlier, left.join(", ")))
    }

    /// After a run of an operation: restores what the run has changed, and returns what cannot be restored,
    /// in words.
    pub(super) fn restore(&mut self, operation: &str, took: Duration) -> Option<String> {
        let mut left = self.restore_cheap();
        let clean_runs = self.clean_runs.get(operation).copied().unwrap_or(0);
        if clean_runs < TRUSTED
            || took >= LONG
            || clean_runs.is_multiple_of(SAMPLE)
            || !crash::is_installed()
        {
            self.unchecked = None;
            left.extend(self.rest.restore());
        } else {
            self.unchecked = Some((operation.to_owned(), Instant::now()));
        }
        if !left.is_empty() {
            self.is_final = true;
            return Some(left.join(", "));
        }
        match self.clean_runs.get_mut(operation) {
            Some(runs) => *runs = runs.saturating_add(1),
            None => drop(self.clean_runs.insert(operation.to_owned(), 1)),
        }
        None
    }

    /// Restores what can be checked at little cost. Returns what cannot be restored, in words.
    fn restore_cheap(&mut self) -> Vec<String> {
        // Timers come first, because one that expires now may end this process.
        for (timer, has_timer) in INTERVAL_TIMERS.iter().zip(self.has_timer) {
            if !has_timer {
                disarm(*timer);
            }
        }
        self.restore_mask();
        umask(self.umask);
        if let Some(directory) = &self.directory {
            let _ = fchdir(directory);
        }
        self.modes.restore();
        self.environment.restore();
        if alternate_stack().ss_sp != self.alternate_stack.ss_sp {
            // SAFETY: the memory of this stack was leaked when it was installed, or the plugin has provided
            // it for its whole life.
            unsafe { libc::sigaltstack(&raw const self.alternate_stack, std::ptr::null_mut()) };
        }
        if let Some(before) = &self.locale
            && locale().as_ref() != Some(before)
        {
            // SAFETY: the name is a string that the C library returned itself.
            unsafe { libc::setlocale(libc::LC_ALL, before.as_ptr()) };
        }
        self.restore_scheduling()
    }

    fn restore_scheduling(&self) -> Vec<String> {
        let mut left = Vec::new();
        if policy() != self.policy {
            let none = libc::sched_param { sched_priority: 0 };
            // SAFETY: the pointer is to a local of the right type.
            unsafe { libc::sched_setscheduler(0, self.policy, &raw const none) };
            if policy() != self.policy {
                left.push("another scheduling policy".to_owned());
            }
        }
        if nice() != self.nice {
            // SAFETY: a plain system call.
            unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, self.nice) };
            let now = nice();
            if now != self.nice {
                left.push(format!("a nice value of {now}"));
            }
        }
        if let Some(before) = &self.affinity
            && sched_getaffinity(Pid::from_raw(0)).as_ref() != Ok(before)
        {
            let _ = sched_setaffinity(Pid::from_raw(0), before);
        }
        left
    }

    fn restore_mask(&self) {
        if SigSet::thread_get_mask() == Ok(self.mask) {
            return;
        }
        // Signals that are pending behind the mask were meant for the task that has ended.
        for number in pending() {
            let is_to_stay =
                Signal::try_from(number).is_ok_and(|signal| self.mask.contains(signal));
            if !is_to_stay {
                discard(number);
            }
        }
        let _ = pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&self.mask), None);
    }
}

impl Rest {
    fn note() -> Result<Self, WireError> {
        // Opened once: a task may leave no free descriptor, or change the root directory.
        let open = |path: &str| -> Result<Option<File>, WireError> {
            let file = File::open(path).ok().map(high).transpose()?;
            Ok(file.map(File::from))
        };
        let status = open("/proc/self/status")?;
        let posix_timers = open("/proc/self/timers")?;
        let oom_score = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/proc/self/oom_score_adj");
        let oom_score = oom_score.ok().map(high).transpose()?.map(File::from);
        let namespaces = File::open("/proc/self/ns").ok().map(high).transpose()?;
        let text = read(status.as_ref());
        Ok(Self {
            status_lines: STATUS_LINES
                .iter()
                .map(|(name, _)| line_of(&text, name).map(str::to_owned))
                .collect(),
            status,
            posix_timer_count: count_timers(posix_timers.as_ref()),
            posix_timers,
            actions: NUMBERS.map(signals::action).collect(),
            limits: LIMITS
                .iter()
                .map(|resource| getrlimit(*resource).ok())
                .collect(),
            personality: personality(ASK_PERSONALITY),
            parent_death: prctl::get_pdeathsig().ok().flatten(),
            is_dumpable: prctl::get_dumpable().unwrap_or(true),
            oom_score_before: read_short(oom_score.as_ref()),
            oom_score,
            root: root(),
            namespaces_before: inodes(namespaces.as_ref()),
            namespaces,
        })
    }

    /// Restores what can be restored, and returns what cannot, in words.
    fn restore(&self) -> Vec<String> {
        let text = read(self.status.as_ref());
        let mut left = self.restore_actions(&text);
        for ((name, words), before) in STATUS_LINES.iter().zip(&self.status_lines) {
            if line_of(&text, name) != before.as_deref() {
                left.push((*words).to_owned());
            }
        }
        // A filter changes two lines.
        left.dedup();
        if count_timers(self.posix_timers.as_ref()) > self.posix_timer_count {
            left.push("a timer (timer_create)".to_owned());
        }
        left.extend(self.restore_limits());
        if personality(ASK_PERSONALITY) != self.personality {
            // The call returns the former value.
            personality(self.personality.cast_unsigned().into());
        }
        let _ = prctl::set_pdeathsig(self.parent_death);
        let _ = prctl::set_child_subreaper(true);
        if root() != self.root {
            left.push("another root directory".to_owned());
        }
        let now = inodes(self.namespaces.as_ref());
        for (((_, words), before), now) in NAMESPACES.iter().zip(self.namespaces_before).zip(now) {
            if now != before {
                left.push((*words).to_owned());
            }
        }
        if prctl::get_dumpable() != Ok(self.is_dumpable) {
            let _ = prctl::set_dumpable(self.is_dumpable);
        }
        if read_short(self.oom_score.as_ref()) != self.oom_score_before
            && let Some(file) = &self.oom_score
            && file.write_at(self.oom_score_before.as_bytes(), 0).is_err()
        {
            left.push("another oom_score_adj".to_owned());
        }
        left
    }

    fn restore_actions(&self, status: &str) -> Vec<String> {
        let bits = |name| {
            let line = line_of(status, name)?;
            u64::from_str_radix(line.trim(), 16).ok()
        };
        let (ignored, caught) = (bits("SigIgn:"), bits("SigCgt:"));
        let mut left = Vec::new();
        for (number, before) in NUMBERS.zip(&self.actions) {
            let is_set = |mask: Option<u64>| mask.is_none_or(|mask| mask >> (number - 1) & 1 == 1);
            let was_caught = ![libc::SIG_DFL, libc::SIG_IGN].contains(&before.sa_sigaction);
            let was_ignored = before.sa_sigaction == libc::SIG_IGN;
            let is_same_kind = is_set(caught) == was_caught && is_set(ignored) == was_ignored;
            // A handler in the place of another handler is no change of kind.
            if OF_GLIBC.contains(&number) || is_same_kind && !was_caught {
                continue;
            }
            let now = signals::action(number);
            if now.sa_sigaction == before.sa_sigaction {
                continue;
            }
            if is_restored(number, now.sa_sigaction) {
                // SAFETY: the action existed when this worker began, and no code is ever unloaded.
                unsafe { libc::sigaction(number, before, std::ptr::null_mut()) };
            } else {
                left.push(in_words(number, now.sa_sigaction));
            }
        }
        left
    }

    fn restore_limits(&self) -> Vec<String> {
        let mut left = Vec::new();
        for (resource, before) in LIMITS.iter().zip(&self.limits) {
            let Some((soft, hard)) = *before else {
                continue;
            };
            if getrlimit(*resource) != Ok((soft, hard)) && setrlimit(*resource, soft, hard).is_err()
            {
                left.push(format!("a lower {resource:?}"));
            }
        }
        left
    }
}

/// Whether the action of a signal can be restored without harm to what a plugin may still do. That holds
/// for the signals that a worker leaves to its monitor, for SIGPIPE, and for SIGCHLD; whoever installed
/// another handler may rely on it.
fn is_restored(number: libc::c_int, now: usize) -> bool {
    let Ok(signal) = Signal::try_from(number) else {
        return false;
    };
    match signal {
        Signal::SIGPIPE => [libc::SIG_IGN, libc::SIG_DFL].contains(&now),
        Signal::SIGCHLD => now == libc::SIG_IGN,
        other => signals::LEFT_TO_MONITOR.contains(&other),
    }
}

/// An action in words: `a handler for SIGSEGV`.
fn in_words(number: libc::c_int, action: usize) -> String {
    let name = Signal::try_from(number)
        .map_or_else(|_| format!("signal {number}"), |signal| signal.to_string());
    match action {
        libc::SIG_IGN => format!("{name} ignored"),
        libc::SIG_DFL => format!("no handler for {name}"),
        _ => format!("a handler for {name}"),
    }
}

/// The signals that are pending because they are blocked.
fn pending() -> Vec<libc::c_int> {
    let mut set = SigSet::empty().as_ref().to_owned();
    // SAFETY: the pointer is to a local of the right type.
    unsafe { libc::sigpending(&raw mut set) };
    // SAFETY: as above.
    NUMBERS
        .filter(|number| unsafe { libc::sigismember(&raw const set, *number) } == 1)
        .collect()
}

/// Discards a pending signal by ignoring it.
fn discard(number: libc::c_int) {
    let before = signals::action(number);
    // SAFETY: ignoring a signal runs no code.
    unsafe { libc::signal(number, libc::SIG_IGN) };
    // SAFETY: restores the action of a moment ago.
    unsafe { libc::sigaction(number, &raw const before, std::ptr::null_mut()) };
}

fn is_armed(timer: libc::c_int) -> bool {
    let mut now = NEVER;
    // SAFETY: the pointer is to a local of the right type.
    unsafe { libc::getitimer(timer, &raw mut now) };
    now.it_value.tv_sec != 0 || now.it_value.tv_usec != 0
}

fn disarm(timer: libc::c_int) {
    // SAFETY: the pointer is to a constant of the right type; a null pointer asks for no former value.
    unsafe { libc::setitimer(timer, &raw const NEVER, std::ptr::null_mut()) };
}

static NEVER: libc::itimerval = libc::itimerval {
    it_interval: libc::timeval {
        tv_sec: 0,
        tv_usec: 0,
    },
    it_value: libc::timeval {
        tv_sec: 0,
        tv_usec: 0,
    },
};

fn alternate_stack() -> libc::stack_t {
    let mut now = libc::stack_t {
        ss_sp: std::ptr::null_mut(),
        ss_flags: libc::SS_DISABLE,
        ss_size: 0,
    };
    // SAFETY: the pointer is to a local of the right type.
    unsafe { libc::sigaltstack(std::ptr::null(), &raw mut now) };
    now
}

/// The nice value of this thread.
fn nice() -> libc::c_int {
    // SAFETY: a plain system call.
    unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) }
}

/// The scheduling policy of this thread.
fn policy() -> libc::c_int {
    // SAFETY: a plain system call.
    unsafe { libc::sched_getscheduler(0) }
}

/// The argument of personality(2) that only reads the value.
const ASK_PERSONALITY: libc::c_ulong = 0xffff_ffff;

fn personality(wanted: libc::c_ulong) -> libc::c_int {
    // SAFETY: a plain system call.
    unsafe { libc::personality(wanted) }
}

fn root() -> Option<(u64, u64)> {
    let root = std::fs::metadata("/").ok()?;
    Some((root.dev(), root.ino()))
}

/// The inodes of [`NAMESPACES`] in this directory.
fn inodes(directory: Option<&OwnedFd>) -> [Option<u64>; NAMESPACES.len()] {
    NAMESPACES.map(|(name, _)| {
        let found = fstatat(directory?, name, AtFlags::empty());
        found.ok().map(|file| file.st_ino)
    })
}

/// The C library's current locale, which affects how numbers are read and written.
fn locale() -> Option<CString> {
    // SAFETY: a null pointer only reads the locale.
    let name = unsafe { libc::setlocale(libc::LC_ALL, std::ptr::null()) };
    if name.is_null() {
        return None;
    }
    // SAFETY: the string is valid until the next call, and is copied now.
    Some(unsafe { CStr::from_ptr(name) }.to_owned())
}

/// The present content of a file of `/proc`; the kernel generates it whenever it is read from the start.
fn read(file: Option<&File>) -> String {
    let mut bytes = vec![0; 8192];
    let length = file.map_or(Ok(0), |file| file.read_at(&mut bytes, 0));
    bytes.truncate(length.unwrap_or(0));
    String::from_utf8(bytes).unwrap_or_default()
}

/// Like [`read`], for a file that holds one number.
fn read_short(file: Option<&File>) -> String {
    let mut bytes = [0; 32];
    let length = file.map_or(Ok(0), |file| file.read_at(&mut bytes, 0));
    String::from_utf8_lossy(&bytes[..length.unwrap_or(0)]).into_owned()
}

/// The rest of the line that begins with `name`.
fn line_of<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(name))
}

/// How many timers of timer_create(2) exist, if the kernel says so.
fn count_timers(file: Option<&File>) -> usize {
    let text = read(file);
    text.lines().filter(|line| line.starts_with("ID:")).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handlers_that_somebody_may_rely_on_stay() {
        let handler = in_words as *const () as usize;
        for (number, now, expected) in [
            (libc::SIGPIPE, libc::SIG_IGN, true),
            (libc::SIGPIPE, handler, false),
            (libc::SIGCHLD, libc::SIG_IGN, true),
            (libc::SIGCHLD, handler, false),
            (libc::SIGTERM, handler, true),
            (libc::SIGTERM, libc::SIG_DFL, true),
            (libc::SIGSEGV, handler, false),
            (libc::SIGUSR1, libc::SIG_IGN, false),
            (40, handler, false),
        ] {
            assert_eq!(is_restored(number, now), expected, "{number} {now}");
        }
        assert_eq!(in_words(11, handler), "a handler for SIGSEGV");
        assert_eq!(in_words(40, libc::SIG_IGN), "signal 40 ignored");
    }

    #[test]
    fn lines_of_a_status_are_found_by_their_names() {
        let text = "Name:\tx\nUid:\t0\t0\t0\t0\nSigIgn:\t0000000000001000\n";
        assert_eq!(line_of(text, "Uid:"), Some("\t0\t0\t0\t0"));
        assert_eq!(line_of(text, "Seccomp:"), None);
    }
}
