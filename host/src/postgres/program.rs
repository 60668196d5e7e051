//! Runs the programs of PostgreSQL as the server's user, and reads the reason when they fail.

use super::{Error, user::ServerUser};
use std::{
    env, fs, io,
    os::unix::process::CommandExt,
    path::Path,
    process::{Command, Stdio},
};

/// Makes a command run as the server's user. The standard library drops root's supplementary groups when it
/// changes the user.
pub(super) fn as_user(command: &mut Command, user: &ServerUser) {
    if user.is_other {
        command
            .uid(user.user.uid.as_raw())
            .gid(user.user.gid.as_raw());
    }
}

/// The environment variables that the server's programs inherit. The others are meant for clients
/// (`PGPORT`, `PGOPTIONS`) or are secret (`REWORK_DB`).
const INHERITED: [&str; 3] = ["PATH", "LD_LIBRARY_PATH", "TZ"];

/// Runs one of the server's programs to its end, in a directory that the server's user can enter.
pub(super) fn run(
    program: &'static str,
    user: &ServerUser,
    command: &mut Command,
) -> Result<(), Error> {
    command
        .current_dir("/")
        .env_clear()
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    for name in INHERITED {
        if let Some(value) = env::var_os(name) {
            command.env(name, value);
        }
    }
    as_user(command, user);
    let mut child = command
        .spawn()
        .map_err(Error::system(format!("run {program}")))?;
    let status = child
        .wait()
        .map_err(Error::system(format!("wait for {program}")))?;
    if status.success() {
        return Ok(());
    }
    let mut words = String::new();
    if let Some(mut stderr) = child.stderr.take() {
        let _ = io::Read::read_to_string(&mut stderr, &mut words);
    }
    let line = words
        .lines()
        .rev()
        .map(str::trim)
        .find(|line| !line.is_empty());
    let words = line.map_or_else(|| status.to_string(), str::to_owned);
    Err(Error::Program { program, words })
}

/// What the server has logged after the first `said` bytes of its log.
fn logged_since(log: &Path, said: u64) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = text.get(usize::try_from(said).unwrap_or(0)..);
    String::from_utf8_lossy(text.unwrap_or_default()).into_owned()
}

/// Whether the server has logged, after the first `said` bytes of its log, that it cannot start.
pub(super) fn has_failed(log: &Path, said: u64) -> bool {
    let text = logged_since(log, said);
    text.contains("FATAL") || text.contains("PANIC")
}

/// The line of the server's log, after its first `said` bytes, that gives the reason.
pub(super) fn logged_reason(log: &Path, said: u64) -> String {
    let text = logged_since(log, said);
    let lines = || {
        text.lines()
            .rev()
            .map(str::trim)
            .filter(|line| !line.is_empty())
    };
    lines()
        .find(|line| line.contains("FATAL") || line.contains("PANIC") || line.contains("ERROR"))
        .or_else(|| lines().next())
        .map_or_else(
            || format!("it does not start; see {}", log.display()),
            str::to_owned,
        )
}
