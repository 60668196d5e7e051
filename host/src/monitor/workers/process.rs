//! The one place that spawns, signals and reaps workers.
//!
//! The monitor is a child subreaper, and so is each worker: whatever a task leaves behind, however
//! often it forks and whatever session it makes, stays below its worker while that lives and then
//! comes to the monitor. So nothing escapes: the descendants of a worker are found by walking the
//! process table, and a child of the monitor that is no worker is a dead worker's orphan.

use super::identity::Identity;
use crate::{
    descendants::{self, Processes},
    monitor::fault::Exit,
    plugin::{LOAD_ENVIRONMENT, load_environment},
    proc::Stat,
    wire::{PAGE_FD, SOCKET_FD},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{
    io,
    os::{
        fd::{AsRawFd, OwnedFd, RawFd},
        unix::process::CommandExt,
    },
    process::{Command, Stdio},
    time::Duration,
};

/// The name of a worker's process.
pub const WORKER: &str = "rework-worker";
/// The name of an examiner's process.
pub const EXAMINER: &str = "rework-examiner";
/// How long the loop may wait until killed processes are gone; the next look for orphans finds the rest.
const KILL_PATIENCE: Duration = Duration::from_millis(100);

/// The monitor's ends of a new worker.
#[derive(Debug)]
pub(in crate::monitor) struct Spawned {
    pub(in crate::monitor) pid: Pid,
    /// The read end of its stdout.
    pub(in crate::monitor) stdout: OwnedFd,
    /// The read end of its stderr.
    pub(in crate::monitor) stderr: OwnedFd,
}

/// Makes this process the one that orphans below it come to, and unreadable to its children.
pub(in crate::monitor) fn become_monitor() -> io::Result<()> {
    nix::sys::prctl::set_child_subreaper(true)?;
    nix::sys::prctl::set_dumpable(false)?;
    Ok(())
}

/// Starts a worker: this binary again, by the magic link that survives its replacement, with
/// nothing of the monitor's environment but what is named, and no descriptor but its own.
#[expect(
    clippy::disallowed_methods,
    reason = "the one place that spawns workers"
)]
pub(in crate::monitor) fn spawn_worker(
    socket: &OwnedFd,
    page: &OwnedFd,
    environment: &[(String, String)],
    user: Option<&Identity>,
) -> io::Result<Spawned> {
    let (stdout, child_stdout) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
    let (stderr, child_stderr) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
    for end in [&stdout, &stderr] {
        let flags = nix::fcntl::OFlag::O_NONBLOCK;
        nix::fcntl::fcntl(end, nix::fcntl::FcntlArg::F_SETFL(flags))?;
    }
    let mut command = Command::new("/proc/self/exe");
    command
        .arg0(WORKER)
        .arg("new-worker")
        .env_clear()
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(child_stdout)
        .stderr(child_stderr)
        .process_group(0);
    let (socket, page) = (socket.as_raw_fd(), page.as_raw_fd());
    let user = user.cloned();
    let prepare = move || {
        place_descriptors(socket, page)?;
        user.as_ref().map_or(Ok(()), become_user)
    };
    // SAFETY: between fork and exec both make only async-signal-safe system calls and allocate
    // nothing.
    unsafe { command.pre_exec(prepare) };
    let child = command.spawn()?;
    let pid = Pid::from_raw(child.id().cast_signed());
    Ok(Spawned {
        pid,
        stdout,
        stderr,
    })
}

/// Starts an examiner of a plugin file (`plugin::examine_child`): this binary again, with nothing of the
/// monitor but the request and the environment that plugins are loaded with. Answers its process, and the
/// read end of the pipe into which it will print its verdict.
#[expect(
    clippy::disallowed_methods,
    reason = "the one place that starts the monitor's children"
)]
pub(in crate::monitor) fn spawn_examiner(
    request: &str,
    environment: &[(String, String)],
) -> io::Result<(Pid, OwnedFd)> {
    let (output, child_output) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
    let child = Command::new("/proc/self/exe")
        .arg0(EXAMINER)
        .args(["examine", request])
        .env_clear()
        .env(LOAD_ENVIRONMENT, load_environment(environment))
        .stdin(Stdio::null())
        .stdout(child_output)
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()?;
    Ok((Pid::from_raw(child.id().cast_signed()), output))
}

/// In the child: gives the socket and the page the descriptor numbers where the worker looks for them. By way of
/// high numbers, because one of them may have the number that the other has to get.
fn place_descriptors(socket: RawFd, page: RawFd) -> io::Result<()> {
    let duplicate_high = |fd| {
        // SAFETY: a plain system call on a descriptor that is open in the child.
        let high = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 100) };
        if high < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(high)
        }
    };
    let place = |fd, target| {
        // SAFETY: as above; `dup2` clears close-on-exec, which is what is wanted here.
        let placed = unsafe { libc::dup2(fd, target) };
        if placed < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(())
        }
    };
    let socket = duplicate_high(socket)?;
    let page = duplicate_high(page)?;
    place(socket, SOCKET_FD)?;
    place(page, PAGE_FD)
}

/// In the child, which is still root: becomes the worker's user, for good.
fn become_user(identity: &Identity) -> io::Result<()> {
    nix::unistd::setgroups(&identity.groups)?;
    nix::unistd::setgid(identity.group)?;
    nix::unistd::setuid(identity.user)?;
    Ok(())
}

/// Whether the kernel can deny TCP to a process; an error says what it lacks.
pub(in crate::monitor) fn check_landlock() -> Result<(), String> {
    const VERSION: u32 = 1;
    const WITH_TCP: i64 = 4;
    // SAFETY: with this flag the kernel reads no memory and answers its version.
    let version = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::null::<u8>(),
            0_usize,
            VERSION,
        )
    };
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let kernel = kernel.trim();
    match version {
        WITH_TCP.. => Ok(()),
        1.. => Err(format!(
            "this kernel ({kernel}) has version {version} of Landlock"
        )),
        _ => Err(format!(
            "this kernel ({kernel}) has no Landlock, or it is off"
        )),
    }
}

/// Ends a worker and all that it has started: stopped first, so that it cannot fork any more, then
/// its descendants until none remains, then itself. Its death comes back through [`reap`].
pub(in crate::monitor) fn kill_tree(worker: Pid) {
    // ESRCH everywhere below: it has died by itself, which is what is wanted.
    let _ = kill(worker, Signal::SIGSTOP);
    descendants::kill_all(worker, KILL_PATIENCE);
    let _ = kill(worker, Signal::SIGKILL);
}

/// Kills the children of this process that are none of `known`, with all below them: what dead workers have
/// left. The process table is read once, however many there are; what forks meanwhile is left to the next call.
pub(in crate::monitor) fn kill_orphans(known: &dyn Fn(Pid) -> bool) {
    let processes = Processes::look();
    for &child in processes.children_of(Pid::this()) {
        if known(child) {
            continue;
        }
        for process in std::iter::once(child).chain(processes.below(child)) {
            // ESRCH: it has died by itself.
            let _ = kill(process, Signal::SIGKILL);
        }
    }
}

/// Kills everything below this process: what dead workers have left, and what that has forked meanwhile.
pub(in crate::monitor) fn leave_nothing() {
    descendants::kill_all(Pid::this(), KILL_PATIENCE);
}

/// Reaps a child that has ended, if there is one.
pub(in crate::monitor) fn reap() -> Option<Exit> {
    let mut status = 0;
    // SAFETY: all-zero is a valid `rusage`, a plain struct of integers.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are to live locals of the right types.
    let pid = unsafe { libc::wait4(-1, &raw mut status, libc::WNOHANG, &raw mut usage) };
    if pid <= 0 {
        return None;
    }
    let time = |t: libc::timeval| {
        Duration::from_secs(t.tv_sec.cast_unsigned())
            + Duration::from_micros(t.tv_usec.cast_unsigned())
    };
    Some(Exit {
        pid: Pid::from_raw(pid),
        code: libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status)),
        signal: libc::WIFSIGNALED(status).then(|| libc::WTERMSIG(status)),
        peak_memory: usage.ru_maxrss.cast_unsigned() * 1024,
        cpu: time(usage.ru_utime) + time(usage.ru_stime),
    })
}

/// Whether this process was started with a signal ignored; see proc_pid_status(5).
pub(in crate::monitor) fn is_ignored(signal: Signal) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (signal as i32 - 1) & 1 == 1)
}

/// What a process and all below it use.
#[derive(Debug, Clone, Copy)]
pub(in crate::monitor) struct Figures {
    /// Resident memory, in bytes.
    pub(in crate::monitor) resident_bytes: u64,
    /// Processor time so far.
    pub(in crate::monitor) cpu_seconds: f64,
}

impl Figures {
    /// What is used beyond what was used before.
    pub(super) fn less(self, before: Self) -> Self {
        Self {
            resident_bytes: self.resident_bytes.saturating_sub(before.resident_bytes),
            cpu_seconds: (self.cpu_seconds - before.cpu_seconds).max(0.0),
        }
    }
}

/// Adds up a process and those below it; `None` if it is gone.
pub(in crate::monitor) fn figures(pid: Pid, below: &[Pid]) -> Option<Figures> {
    let mut sum = one_process(pid)?;
    for figures in below.iter().filter_map(|pid| one_process(*pid)) {
        sum.resident_bytes += figures.resident_bytes;
        sum.cpu_seconds += figures.cpu_seconds;
    }
    Some(sum)
}

/// Resident memory of a process and those below it, where a page that several share counts once.
/// Slower than [`figures`]: the kernel walks through every page.
pub(in crate::monitor) fn proportional_bytes(pid: Pid, below: &[Pid]) -> u64 {
    below
        .iter()
        .chain([&pid])
        .filter_map(|pid| proportional_share(*pid).or(Some(one_process(*pid)?.resident_bytes)))
        .sum()
}

/// Reads `/proc/PID/smaps_rollup`; see proc_pid_smaps(5).
fn proportional_share(pid: Pid) -> Option<u64> {
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let share = rollup.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    let kilobytes: u64 = share.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kilobytes * 1024)
}

/// What one process uses; see proc_pid_stat(5).
fn one_process(pid: Pid) -> Option<Figures> {
    let stat = Stat::of(pid.as_raw()).ok()?;
    let unit = |name| {
        nix::unistd::sysconf(name)
            .ok()
            .flatten()
            .map(|value| value.cast_unsigned())
    };
    let ticks = unit(nix::unistd::SysconfVar::CLK_TCK)?;
    let page = unit(nix::unistd::SysconfVar::PAGE_SIZE)?;
    Some(Figures {
        resident_bytes: stat.number(24)? * page,
        // User and system, of itself and of the children that it has collected.
        cpu_seconds: (14..=17)
            .filter_map(|field| stat.number(field))
            .sum::<u64>() as f64
            / ticks as f64,
    })
}
