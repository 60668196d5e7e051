//! The two children of a probe: one that loads the plugin, and above it one that waits, judges how
//! that ended, and leaves no process behind.

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

/// Where the verdict goes: out of the way of code that closes what it did not open.
const VERDICT_FD: i32 = 200;
/// So much of the end of what a plugin prints while it is loaded may explain its end.
const LAST_WORDS: usize = 4096;
/// No plugin needs so much memory to be loaded.
const MEMORY: u64 = 4 << 30;
/// Killing what it has left behind may take so long.
const PATIENCE: std::time::Duration = std::time::Duration::from_millis(500);

/// The child in the middle: lets another one load the plugin, and answers what became of it.
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
    // Nobody is left to tell.
    let _ = written.and_then(|()| stdout.flush());
    ExitCode::SUCCESS
}

#[expect(
    clippy::disallowed_methods,
    reason = "a probe is one of the three kinds of child"
)]
fn judge(file: &Path, limit: Duration) -> io::Result<Result<(), String>> {
    // Whatever the plugin forks comes to us when its parent is gone.
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
        // Who cannot reach the copy is handed it.
        Some((user, group)) => command
            .arg("/proc/self/fd/0")
            .stdin(Cache::open_for_others(file)?)
            .uid(user)
            .gid(group),
    };
    let mut child = command.spawn()?;
    let verdict = child.stdout.take().expect("it is piped");
    let printed = child.stderr.take().expect("it is piped");
    // Read all the time: a plugin that prints a lot must not wait for us.
    let (say, words) = mpsc::channel();
    thread::spawn(move || say.send(last_line(printed)));
    let group = Pid::from_raw(child.id().cast_signed());
    let has_ended = wait(group, limit)?;
    // All that stayed in its group at once, however fast it forks; the group is there until it is
    // collected.
    let _ = killpg(group, Signal::SIGKILL);
    let status = child.wait()?;
    leave_nothing();
    if !has_ended {
        return Ok(Err(not_finished(limit)));
    }
    // Nobody has the other ends any more, unless it could not be killed: then what is there now
    // has to do.
    let said = what_is_there(verdict);
    let words = words.recv_timeout(PATIENCE).unwrap_or_default();
    Ok(verdict_of(status, &said, &words))
}

/// Ends what the plugin has forked and what has left its group, and collects it.
fn leave_nothing() {
    descendants::kill_all(Pid::this(), PATIENCE);
    while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
        if status == WaitStatus::StillAlive {
            break;
        }
    }
}

/// Waits until a child has ended, and does not collect it; false if the time is up, or if nobody
/// wants to know any more.
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

/// What has been written to a pipe, whether or not somebody still could write more.
fn what_is_there(pipe: ChildStdout) -> Vec<u8> {
    let mut said = Vec::new();
    if fcntl(&pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).is_ok() {
        // An error ends it where the end of the pipe would have.
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

/// The last line that explains something.
fn last_line(mut printed: impl Read) -> String {
    let mut end = VecDeque::new();
    let mut buffer = [0; LAST_WORDS];
    while let Ok(count @ 1..) = printed.read(&mut buffer) {
        end.extend(&buffer[..count]);
        let surplus = end.len().saturating_sub(LAST_WORDS);
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

/// The child at the end: loads the plugin, says what came of it, and is gone at once, for what a
/// plugin does at its end is not asked here.
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
    // SAFETY: ends the process without running anything else; nothing of ours waits to be done.
    unsafe { libc::_exit(i32::from(written.is_err())) }
}

/// Moves the verdict out of the way of what the plugin prints, and makes this process like a worker.
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
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { File::from_raw_fd(verdict) })
}

/// Loads a plugin and compares what it offers with what its notes announce.
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
    fn the_last_words_are_the_ones_that_explain() {
        let flood = format!("{}\nthe reason\n\nnote: run with…\n", "x".repeat(10_000));
        assert_eq!(last_line(flood.as_bytes()), "the reason");
        assert_eq!(last_line(&b""[..]), "");
        assert_eq!(last_line(&b"torn \xff\xfe"[..]), "torn \u{fffd}\u{fffd}");
    }
}
