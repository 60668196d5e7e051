//! The keeper: a small process that stops the server a little after its last user has gone.
//! Users of ours hold a lock; other clients (psql) are seen as backends of the server.

use super::{Cluster, Error, cluster::as_user, user::ServerUser};
use crate::descendants::Processes;
use nix::{
    fcntl::FlockArg,
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{
    env,
    io::Write as _,
    os::unix::process::CommandExt,
    path::Path,
    process::{Command, ExitCode, Stdio},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::Duration,
};

/// How long the server stays up without users.
const LINGER: Duration = Duration::from_secs(10);

/// Whether this program understands `embedded-keeper`.
static IS_REWORK: AtomicBool = AtomicBool::new(false);

/// Says that this program is the `rework` binary, which can run itself as a keeper. In any other
/// program a server that it started stays up until somebody stops it: nobody may execute a
/// stranger's program with arguments that it does not know.
pub fn allow_keeper() {
    IS_REWORK.store(true, Relaxed);
}

/// Starts a keeper that is nobody's child: the shell that starts it ends at once.
#[expect(
    clippy::disallowed_methods,
    reason = "this module runs the server's programs"
)]
pub(super) fn start(directory: &Path, user: &ServerUser) -> Result<(), Error> {
    if !IS_REWORK.load(Relaxed) {
        return Ok(());
    }
    let binary = env::current_exe().map_err(Error::system("find this program"))?;
    let mut command = Command::new("/bin/sh");
    command
        .args([
            "-c",
            "\"$0\" embedded-keeper \"$1\" >/dev/null 2>&1 </dev/null &",
        ])
        .arg(binary)
        .arg(directory)
        .current_dir("/")
        .env_clear()
        // For a test binary, which has to know for whom this is.
        .env("REWORK_EMBEDDED_KEEPER", "1")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0);
    if let Some(linger) = env::var_os("REWORK_EMBEDDED_LINGER") {
        command.env("REWORK_EMBEDDED_LINGER", linger);
    }
    as_user(&mut command, user);
    let status = command
        .status()
        .map_err(Error::system("start the keeper"))?;
    if status.success() {
        return Ok(());
    }
    Err(Error::Program {
        program: "the keeper",
        words: status.to_string(),
    })
}

/// The keeper's whole life: waits until nobody uses the server, lingers, stops it.
pub fn keeper(directory: &Path) -> ExitCode {
    let cluster = Cluster::at(directory.to_owned());
    let linger = env::var("REWORK_EMBEDDED_LINGER")
        .ok()
        .and_then(|seconds| seconds.parse().ok())
        .map_or(LINGER, Duration::from_secs);
    // One at a time; the next one waits, for this one may be about to end.
    let Ok(mut only) = cluster.lock("keeper.lock", FlockArg::LockExclusive) else {
        return ExitCode::FAILURE;
    };
    // For `stop`, which ends us too.
    let _ = only
        .set_len(0)
        .and_then(|()| write!(only, "{}", std::process::id()));
    loop {
        if cluster.pid().is_none() {
            return ExitCode::SUCCESS;
        }
        // Blocks without any cost until the last user has gone.
        let Ok(unused) = cluster.lock("users.lock", FlockArg::LockExclusive) else {
            return ExitCode::FAILURE;
        };
        drop(unused);
        std::thread::sleep(linger);
        if cluster.pid().is_none() {
            return ExitCode::SUCCESS;
        }
        let Ok(_start) = cluster.lock("start.lock", FlockArg::LockExclusive) else {
            return ExitCode::FAILURE;
        };
        // Whoever comes now waits for the start lock, or is seen here.
        let Ok(_unused) = cluster.lock("users.lock", FlockArg::LockExclusiveNonblock) else {
            continue;
        };
        if cluster.pid().is_some_and(has_clients) {
            continue;
        }
        return match cluster.stop_locked() {
            Ok(_) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        };
    }
}

/// Ends the keeper of a server that has been stopped, if there is one.
pub(super) fn dismiss(directory: &Path) {
    let pid = std::fs::read_to_string(directory.join("keeper.lock"))
        .ok()
        .and_then(|text| text.trim().parse::<i32>().ok());
    let Some(pid) = pid else { return };
    // The number may be somebody else's by now.
    let title = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    if String::from_utf8_lossy(&title).contains("embedded-keeper") {
        let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
    }
}

/// Whether somebody is connected who holds no lock: the server gives each client a process whose
/// title names user, database and place.
fn has_clients(server: i32) -> bool {
    Processes::look()
        .children_of(Pid::from_raw(server))
        .iter()
        .any(|child| {
            let title = std::fs::read(format!("/proc/{child}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&title).contains("[local]")
        })
}
