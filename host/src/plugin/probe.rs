//! Loads a plugin in a child process as a trial: if its constructors crash, exit, hang or fork, they do so
//! there.
//!
//! ```text
//! who asks (probe) ── the child (supervise) ── its child (load_only)
//!                     ours, a subreaper         the plugin
//! ```
//!
//! The supervising child runs no foreign code: it waits, up to the limit, and kills everything that the
//! plugin has left before it answers.

use super::PluginError;
use crate::descendants;
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use std::{
    ffi::{OsStr, OsString},
    io::{self, Read},
    os::unix::{ffi::OsStrExt, process::CommandExt},
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

/// The process name (`argv[0]`) of both processes of a probe.
pub const PROBE: &str = "rework-probe";

/// How long a probe may load a plugin by default. Loading takes milliseconds; a constructor that takes
/// longer than this hangs.
pub const PROBE_LIMIT: Duration = Duration::from_secs(10);

/// How long the supervising process may take, after the limit, to end what the plugin has left behind.
const GRACE: Duration = Duration::from_secs(2);

/// The answer of the probe when the plugin was loaded; otherwise the reason follows `REFUSED`.
pub(super) const LOADED: &[u8] = b"loaded";
pub(super) const REFUSED: &[u8] = b"refused ";
/// The environment variable of a probe's processes that holds the [`Confinement`].
pub(super) const PROBING: &str = "REWORK_PROBE";

/// How the process that loads a plugin is confined. A monitor confines its probes like its workers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confinement {
    /// The ids of the user and group to load as, if they are not the caller's.
    pub user: Option<(u32, u32)>,
    /// Whether TCP is denied.
    pub no_network: bool,
    /// The environment to load with.
    #[serde(default)]
    pub environment: Vec<(String, OsString)>,
}

/// The variables of this process's environment with these names, as far as they are set: `--env` names
/// them, and the plugin is loaded with them.
pub fn environment_of(names: &[String]) -> Vec<(String, OsString)> {
    let named = |name: &String| Some((name.clone(), std::env::var_os(name)?));
    names.iter().filter_map(named).collect()
}

impl Confinement {
    /// The confinement of the probe that this process belongs to. Without it nothing is loaded.
    pub(super) fn of_this_probe() -> io::Result<Self> {
        let text = std::env::var(PROBING).map_err(io::Error::other)?;
        Ok(serde_json::from_str(&text)?)
    }

    fn to_text(&self) -> String {
        serde_json::to_string(self).expect("it is plain data")
    }
}

/// Lets a child process load a copy (`file`) of a plugin, which messages call `named`. Returns an error if
/// the child cannot load it within the limit.
#[expect(
    clippy::disallowed_methods,
    reason = "a probe is one of the three kinds of child"
)]
pub fn probe(
    file: &Path,
    named: &Path,
    limit: Duration,
    confinement: &Confinement,
) -> Result<(), PluginError> {
    let unable = |why: &str| PluginError::new(named, format!("could not be probed: {why}"));
    // A program that embeds this library and registers plugins when it starts would otherwise start itself
    // without end.
    if std::env::var_os(PROBING).is_some() {
        return Err(unable(
            "this program is not rework: use `rework register-operations`",
        ));
    }
    let mut child = Command::new("/proc/self/exe")
        .arg0(PROBE)
        .arg("probe")
        .arg(limit.as_millis().to_string())
        .arg(file)
        .env_clear()
        .env(PROBING, confinement.to_text())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .map_err(|error| unable(&error.to_string()))?;
    let answer = answer_within(&mut child, limit + GRACE);
    if answer.is_none() {
        // The plugin keeps the supervising process from answering; that process still reaps what is killed
        // here.
        descendants::kill_all(Pid::from_raw(child.id().cast_signed()), GRACE);
        let _ = child.kill();
    }
    let status = child.wait().map_err(|error| unable(&error.to_string()))?;
    match answer.as_deref() {
        None => Err(PluginError::new(named, not_finished(limit))),
        Some(LOADED) => Ok(()),
        Some(answer) => match answer.strip_prefix(REFUSED) {
            Some(reason) => {
                let reason = OsStr::from_bytes(reason).to_string_lossy();
                Err(PluginError::new(named, reason))
            }
            None => Err(unable(&format!("the probe ended with {status}"))),
        },
    }
}

/// Everything that a child writes until it closes its stdout; `None` if the time is up.
fn answer_within(child: &mut Child, limit: Duration) -> Option<Vec<u8>> {
    let mut stdout = child.stdout.take()?;
    let (say, said) = mpsc::channel();
    thread::spawn(move || {
        let mut answer = Vec::new();
        let _ = stdout.read_to_end(&mut answer);
        // Fails if the receiver has given up waiting.
        let _ = say.send(answer);
    });
    said.recv_timeout(limit).ok()
}

/// The error for a plugin that is not loaded within the limit.
pub(super) fn not_finished(limit: Duration) -> String {
    format!("did not finish loading in {} s", limit.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_reads_as_people_write_it() {
        let said = |milliseconds| not_finished(Duration::from_millis(milliseconds));
        assert_eq!(said(10_000), "did not finish loading in 10 s");
        assert_eq!(said(250), "did not finish loading in 0.25 s");
    }
}
