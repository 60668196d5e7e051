//! The two processes of a probe: one loads the plugin; the other, above it, waits, judges how the first one
//! ended, and leaves no process behind.

use super::{
    Cache,
    inspect::inspect_copy,
    load,
    probe::{Confinement, LOADED, PROBE, PROBING, REFUSED, not_finished},
};
use crate::descendants;
use nix::{
    fcntl::{FcntlArg, OFlag, fcntl},
    sys::{
        prctl,
        resource::{Resource, getrlimit, setrlimit},
        signal::{Signal, killpg},
        wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid},
    },
    unistd::{Pid, dup2_stdout},
};
use std::{
    collections::VecDeque,
    env,
    fmt::Display,
    fs::File,
    io::{self, Read, Write},
    os::{
        fd::FromRawFd,
        unix::process::{CommandExt, ExitStatusExt},
    },
    path::Path,
    process::{ChildStdout, Command, ExitCode, ExitStatus, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

/// The descriptor for the verdict, with a high number so that code which closes unknown descriptors leaves
/// it alone.
const VERDICT_FD: i32 = 200;
/// How many bytes of the end of a plugin's output are read to explain why its process ended.
const OUTPUT_TAIL: usize = 4096;
/// The memory limit of the loading process, in bytes; no plugin needs this much to be loaded.
const MEMORY: u64 = 4 << 30;
/// How long killing what the plugin has left behind may take.
const PATIENCE: std::time::Duration = std::time::Duration::from_millis(500);

/// The supervising process: lets a child load the plugin, and answers how that ended.
pub fn supervise(limit_ms: &str, file: &Path) -> ExitCode {
    let limit = Duration::from_millis(limit_ms.parse().unwrap_or(10_000));
    let judged =
        judge(file, limit).unwrap_or_else(|error| Err(format!("could not be probed: {error}")));
    let mut stdout = io::stdout().lock();
    let written = match judged {
        Ok(()) => stdout.write_all(LOADED),
        Err(reason) => stdout
            .write_all(REFUSED)
            .and_then(|()| stdout.write_all(reason.as_bytes())),
    };
    // A closed stdout means that the parent is gone.
    let _ = written.and_then(|()| stdout.flush());
    ExitCode::SUCCESS
}

#[expect(
    clippy::disallowed_methods,
    reason = "a probe is one of the three kinds of child"
)]
fn judge(file: &Path, limit: Duration) -> io::Result<Result<(), String>> {
    // A process that the plugin forks becomes a child of this one when its parent is gone.
    prctl::set_child_subreaper(true)?;
    let confinement = Confinement::of_this_probe()?;
    let mut command = Command::new("/proc/self/exe");
    command
        .arg0(PROBE)
        .arg("probe-load")
        .env_clear()
        .envs(confinement.environment)
        .envs(env::vars_os().filter(|(name, _)| name == PROBING))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0);
    match confinement.user {
        None => command.arg(file).stdin(Stdio::null()),
        // A user who cannot enter the cache gets the copy as a descriptor.
        Some((user, group)) => command
            .arg("/proc/self/fd/0")
            .stdin(Cache::open_for_others(file)?)
            .uid(user)
            .gid(group),
    };
    let mut child = command.spawn()?;
    let verdict = child.stdout.take().expect("it is piped");
    let printed = child.stderr.take().expect("it is piped");
    // Read without pause: a plugin that prints a lot must not block on a full pipe.
    let (say, words) = mpsc::channel();
    thread::spawn(move || say.send(last_line(printed)));
    let group = Pid::from_raw(child.id().cast_signed());
    let has_ended = wait(group, limit)?;
    // Kills everything that has stayed in the child's process group at once, however fast it forks. The
    // group exists until the child is reaped.
    let _ = killpg(group, Signal::SIGKILL);
    let status = child.wait()?;
    leave_nothing();
    if !has_ended {
        return Ok(Err(not_finished(limit)));
    }
    // The other ends are closed now, unless a process could not be killed; then what has arrived has to do.
    let said = what_is_there(verdict);
    let words = words.recv_timeout(PATIENCE).unwrap_or_default();
    Ok(verdict_of(status, &said, &words))
}

/// Kills processes of the plugin that have left the group, and reaps them.
fn leave_nothing() {
    descendants::kill_all(Pid::this(), PATIENCE);
    while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
        if status == WaitStatus::StillAlive {
            break;
        }
    }
}

/// Waits until a child has ended, without reaping it; `false` if the time is up, or if the parent is gone.
fn wait(child: Pid, limit: Duration) -> nix::Result<bool> {
    let asker = Pid::parent();
    let deadline = Instant::now() + limit;
    let look = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    loop {
        if waitid(Id::Pid(child), look)? != WaitStatus::StillAlive {
            return Ok(true);
        }
        if Instant::now() >= deadline || Pid::parent() != asker {
            return Ok(false);
        }
        thread::sleep(Duration::from_millis(1));
    }
}

/// What has been written to a pipe so far, whether or not a process could still write more.
fn what_is_there(pipe: ChildStdout) -> Vec<u8> {
    let mut said = Vec::new();
    if fcntl(&pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).is_ok() {
        // An error ends the reading like the end of the pipe.
        let _ = pipe.take(64 * 1024).read_to_end(&mut said);
    }
    said
}

fn verdict_of(status: ExitStatus, said: &[u8], words: &str) -> Result<(), String> {
    let words = if words.is_empty() {
        String::new()
    } else {
        format!(": {words}")
    };
    if let Some(signal) = status.signal() {
        let name = Signal::try_from(signal).map_or_else(
            |_| format!("signal {signal}"),
            |signal| signal.as_str().to_owned(),
        );
        return Err(format!("crashed while loading ({name}){words}"));
    }
    if said == LOADED {
        return Ok(());
    }
    match said.strip_prefix(REFUSED) {
        Some(reason) => Err(String::from_utf8_lossy(reason).into_owned()),
        None => Err(format!(
            "ended the process (exit {}) while loading{words}",
            status.code().unwrap_or_default()
        )),
    }
}

/// The last line of the output that is not empty.
fn last_line(mut printed: impl Read) -> String {
    let mut end = VecDeque::new();
    let mut buffer = [0; OUTPUT_TAIL];
    while let Ok(count @ 1..) = printed.read(&mut buffer) {
        end.extend(&buffer[..count]);
        let surplus = end.len().saturating_sub(OUTPUT_TAIL);
        end.drain(..surplus);
    }
    let end = Vec::from(end);
    let end = String::from_utf8_lossy(&end);
    let line = end
        .lines()
        .map(str::trim)
        .rfind(|line| !line.is_empty() && !line.starts_with("note: "));
    line.unwrap_or_default().chars().take(200).collect()
}

/// The loading process: loads the plugin, writes the verdict, and ends at once, without running the
/// plugin's exit handlers.
pub fn load_only<E: Display>(file: &Path, give_up_network: fn() -> Result<(), E>) -> ExitCode {
    let verdict = match prepare() {
        Ok(verdict) => verdict,
        Err(error) => {
            eprintln!("could not prepare the probe: {error}");
            return ExitCode::FAILURE;
        }
    };
    let confined = match Confinement::of_this_probe() {
        Ok(confinement) if confinement.no_network => {
            give_up_network().map_err(|error| error.to_string())
        }
        Ok(_) => Ok(()),
        Err(error) => Err(error.to_string()),
    };
    let confined = confined.map_err(|reason| format!("could not be probed: {reason}"));
    let answer = match confined.and_then(|()| examine(file)) {
        Ok(()) => LOADED.to_vec(),
        Err(reason) => [REFUSED, reason.as_bytes()].concat(),
    };
    let written = (&verdict).write_all(&answer);
    // SAFETY: ends the process without running anything else; nothing of this process is left to be done.
    unsafe { libc::_exit(i32::from(written.is_err())) }
}

/// Moves the verdict's descriptor away from what the plugin prints, and gives this process the attributes
/// of a worker.
fn prepare() -> nix::Result<File> {
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    prctl::set_no_new_privs()?;
    prctl::set_name(c"rework-probe")?;
    // A command is started with whatever its shell has open.
    // SAFETY: nothing in this process uses any of them.
    unsafe { libc::close_range(3, libc::c_uint::MAX, 0) };
    let (_, hard) = getrlimit(Resource::RLIMIT_DATA)?;
    setrlimit(Resource::RLIMIT_DATA, MEMORY.min(hard), MEMORY.min(hard))?;
    let (_, hard) = getrlimit(Resource::RLIMIT_CORE)?;
    setrlimit(Resource::RLIMIT_CORE, 1.min(hard), 1.min(hard))?;
    let verdict = fcntl(io::stdout(), FcntlArg::F_DUPFD_CLOEXEC(VERDICT_FD))?;
    dup2_stdout(io::stderr())?;
    // SAFETY: the kernel has just created this descriptor for this process.
    Ok(unsafe { File::from_raw_fd(verdict) })
}

/// Loads a plugin and compares its registry with its notes.
fn examine(file: &Path) -> Result<(), String> {
    let announced = inspect_copy(file, "", file).map_err(|error| error.reason)?;
    let loaded = load(file, file).map_err(|error| error.reason)?.names();
    let announced: Vec<(String, String)> = announced
        .operations
        .into_iter()
        .map(|note| (note.domain, note.name))
        .collect();
    if let Some((domain, name)) = announced.iter().find(|key| !loaded.contains(key)) {
        return Err(format!(
            "is inconsistent: operation {domain}/{name} is in its notes only"
        ));
    }
    if let Some((domain, name)) = loaded.iter().find(|key| !announced.contains(key)) {
        return Err(format!(
            "is inconsistent: operation {domain}/{name} has no note"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_explains_the_end() {
        let flood = format!("{}\nthe reason\n\nnote: run with…\n", "x".repeat(10_000));
        assert_eq!(last_line(flood.as_bytes()), "the reason");
        assert_eq!(last_line(&b""[..]), "");
        assert_eq!(last_line(&b"torn \xff\xfe"[..]), "torn \u{fffd}\u{fffd}");
    }
}
