//! The keeper: a small process that stops the server a little after its last user has gone. Users of this
//! program hold a lock; other clients (psql) are recognised by the server's processes.

use super::{Cluster, Error, cluster::USERS_LOCK, program::as_user, user::ServerUser};
use crate::{
    descendants::Processes,
    periods::{self, Periods},
    proc::command_line,
};
use nix::{
    fcntl::FlockArg,
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{
    env,
    fs::OpenOptions,
    io::Write as _,
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, ExitCode, Stdio},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::Duration,
};

/// How long the server stays up without users, by default.
const LINGER: Duration = Duration::from_secs(10);
/// Says otherwise, in seconds.
const LINGER_SECONDS: &str = "REWORK_EMBEDDED_LINGER";
/// The environment variable that distinguishes the process which starts the keeper from the keeper.
const DETACH: &str = "REWORK_EMBEDDED_DETACH";

/// Whether this program understands the command `embedded-keeper`.
static IS_REWORK: AtomicBool = AtomicBool::new(false);

/// Declares that this program is the `rework` binary, which can run itself as a keeper. In another program
/// that embeds this library, a server that it started stays up until somebody stops it: the program must
/// not be executed with arguments that it does not know.
pub fn allow_keeper() {
    IS_REWORK.store(true, Relaxed);
}

/// Starts a keeper as a process without parent: the process that starts it ends at once.
pub(super) fn start(directory: &Path, user: &ServerUser) -> Result<(), Error> {
    if !IS_REWORK.load(Relaxed) {
        return Ok(());
    }
    let mut command = this_program(directory);
    command.env(DETACH, "1").stderr(Stdio::piped());
    as_user(&mut command, user);
    let failed = Error::system("start the keeper");
    let child = command.spawn();
    let output = child.and_then(Child::wait_with_output).map_err(failed)?;
    if output.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&output.stderr);
    let words = words.trim();
    Err(Error::Program {
        program: "the keeper",
        words: match words {
            "" => output.status.to_string(),
            words => words.to_owned(),
        },
    })
}

/// The command that runs this program as a keeper, through `/proc/self/exe`, which survives a replacement
/// of the file.
#[expect(
    clippy::disallowed_methods,
    reason = "this module runs the server's programs"
)]
fn this_program(directory: &Path) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command
        .arg0("rework-keeper")
        .arg("embedded-keeper")
        .arg(directory)
        .current_dir("/")
        .env_clear()
        // Tells a test binary that is started as a keeper what it is started for.
        .env("REWORK_EMBEDDED_KEEPER", "1")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .process_group(0);
    for name in [LINGER_SECONDS, periods::VARIABLE] {
        if let Some(value) = env::var_os(name) {
            command.env(name, value);
        }
    }
    command
}

/// Starts the keeper that stays, and ends, so that the keeper has no parent. Its errors go to the server's
/// log.
fn detach(directory: &Path) -> ExitCode {
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .open(directory.join("server.log"));
    let started = log.and_then(|log| {
        let mut command = this_program(directory);
        command.stderr(log).spawn()
    });
    match started {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => complain(&error),
    }
}

fn complain(error: &dyn std::error::Error) -> ExitCode {
    eprintln!("rework keeper: {error}");
    ExitCode::FAILURE
}

/// The keeper: waits until nobody uses the server, then [`linger`], then stops the server.
pub fn keeper(directory: &Path) -> ExitCode {
    if env::var_os(DETACH).is_some() {
        return detach(directory);
    }
    match keep(&Cluster::at(directory.to_owned())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => complain(&error),
    }
}

/// How long a server stays up without users.
pub(super) fn linger() -> Duration {
    env::var(LINGER_SECONDS)
        .ok()
        .and_then(|seconds| seconds.parse().ok())
        .map_or(LINGER, Duration::from_secs)
}

fn keep(cluster: &Cluster) -> Result<(), Error> {
    // Otherwise the process would be listed as `exe`.
    let _ = nix::sys::prctl::set_name(c"rework-keeper");
    let linger = linger();
    // One keeper runs at a time; the next one waits, since this one may be about to end.
    let mut only = cluster.lock("keeper.lock", FlockArg::LockExclusive)?;
    // The process id, for `stop`, which ends the keeper too.
    let _ = only
        .set_len(0)
        .and_then(|()| write!(only, "{}", std::process::id()));
    loop {
        if cluster.pid().is_none() {
            return Ok(());
        }
        // Blocks until the last user is gone; waiting costs nothing.
        drop(cluster.lock(USERS_LOCK, FlockArg::LockExclusive)?);
        std::thread::sleep(linger);
        if cluster.pid().is_none() {
            return Ok(());
        }
        if cluster.is_kept() {
            std::thread::sleep(Periods::current().keeper_look);
            continue;
        }
        let _start = cluster.lock("start.lock", FlockArg::LockExclusive)?;
        // A user who comes now waits for the start lock, or is noticed here.
        let Ok(_unused) = cluster.lock(USERS_LOCK, FlockArg::LockExclusiveNonblock) else {
            continue;
        };
        if cluster.pid().is_some_and(has_clients) {
            continue;
        }
        cluster.stop_locked()?;
        return Ok(());
    }
}

/// Ends the keeper of a server that has been stopped, if there is one.
pub(super) fn dismiss(directory: &Path) {
    let pid = std::fs::read_to_string(directory.join("keeper.lock"))
        .ok()
        .and_then(|text| text.trim().parse::<i32>().ok());
    let Some(pid) = pid else { return };
    // The process id may belong to another process by now.
    if command_line(pid).contains("embedded-keeper") {
        let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
    }
}

/// Whether a client is connected that holds no lock. The server has a process for each client, whose title
/// names user, database and address.
fn has_clients(server: i32) -> bool {
    Processes::look()
        .children_of(Pid::from_raw(server))
        .iter()
        .any(|child| command_line(child.as_raw()).contains("[local]"))
}
