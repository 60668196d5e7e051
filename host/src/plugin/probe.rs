//! A child that loads a plugin only to describe it: what its constructors do, crash, exit or hang,
//! they do there.

use super::{PluginError, inspect, load};
use std::{
    io::Read,
    os::unix::process::{CommandExt, ExitStatusExt},
    path::Path,
    process::{Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

/// Loading takes milliseconds; a constructor that takes longer than this hangs.
const TIME_LIMIT: Duration = Duration::from_secs(10);
/// What the child says is in here when it could load the plugin.
const LOADED: &str = "loaded:";
const REFUSED: &str = "refused:";

/// Lets a child load a cached copy (`file`) of a plugin that the user knows as `named`; refuses it
/// if the child cannot.
#[expect(
    clippy::disallowed_methods,
    reason = "a probe is one of the three kinds of child"
)]
pub fn probe(file: &Path, named: &Path) -> Result<(), PluginError> {
    let refused = |reason: String| PluginError::new(named, reason);
    let unable = |error: std::io::Error| refused(format!("could not be probed: {error}"));
    let mut child = Command::new("/proc/self/exe")
        .arg0("rework-probe")
        .arg("probe")
        .arg(file)
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .map_err(unable)?;
    let deadline = Instant::now() + TIME_LIMIT;
    let status = loop {
        match child.try_wait().map_err(unable)? {
            Some(status) => break status,
            None if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(1)),
            None => {
                let group = nix::unistd::Pid::from_raw(child.id().cast_signed());
                let _ = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL);
                let _ = child.wait();
                let limit = TIME_LIMIT.as_secs();
                return Err(refused(format!("did not finish loading in {limit} s")));
            }
        }
    };
    let mut said = String::new();
    if let Some(mut stdout) = child.stdout.take() {
        // It has ended; what it left in the pipe is short.
        let mut bytes = Vec::new();
        let _ = stdout.by_ref().take(64 * 1024).read_to_end(&mut bytes);
        said = String::from_utf8_lossy(&bytes).into_owned();
    }
    let verdict = said.lines().rev().find_map(|line| {
        line.strip_prefix(REFUSED)
            .map(Err)
            .or_else(|| line.strip_prefix(LOADED).map(Ok))
    });
    match (status.signal(), verdict) {
        (Some(signal), _) => {
            let name = nix::sys::signal::Signal::try_from(signal).map_or_else(
                |_| format!("signal {signal}"),
                |signal| signal.as_str().to_owned(),
            );
            Err(refused(format!("crashed while loading ({name})")))
        }
        (None, Some(Ok(_))) => Ok(()),
        (None, Some(Err(reason))) => Err(refused(reason.trim().to_owned())),
        (None, None) => Err(refused(format!(
            "ended the process while loading (exit {})",
            status.code().unwrap_or_default()
        ))),
    }
}

/// The child's side.
pub fn child(file: &Path) -> ExitCode {
    match examine(file) {
        Ok(operations) => println!("{LOADED}{operations}"),
        Err(reason) => println!("{REFUSED}{reason}"),
    }
    ExitCode::SUCCESS
}

/// Loads a plugin and compares what it offers with what its notes announce.
fn examine(file: &Path) -> Result<usize, String> {
    let announced = inspect(file, file).map_err(|error| error.reason)?;
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
    Ok(loaded.len())
}
