//! What happens when a plugin is loaded, found out in a child, so that what its constructors do,
//! crash, exit, hang or fork, they do there.
//!
//! ```text
//! who asks (probe) ── the child (supervise) ── its child (load_only)
//!                     ours, a subreaper         the plugin
//! ```
//!
//! The child in the middle runs nothing foreign: it waits, up to the limit, and kills whatever the
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

/// The name of both processes of a probe.
pub const PROBE: &str = "rework-probe";

/// Loading takes milliseconds; a constructor that takes longer than this hangs.
pub const PROBE_LIMIT: Duration = Duration::from_secs(10);

/// What the child in the middle may take beyond the limit, to end what the plugin has left.
const GRACE: Duration = Duration::from_secs(2);

/// What the child answers when the plugin was loaded; otherwise the reason follows `REFUSED`.
pub(super) const LOADED: &[u8] = b"loaded";
pub(super) const REFUSED: &[u8] = b"refused ";
/// In the environment of a child; its value is the [`Confinement`].
pub(super) const PROBING: &str = "REWORK_PROBE";

/// What is taken from whoever loads plugins, and what is given to them: a monitor does with its probes
/// as with its workers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confinement {
    /// The user and the group to load as, if not our own.
    pub user: Option<(u32, u32)>,
    /// Without TCP.
    pub no_network: bool,
    /// The environment to load in.
    #[serde(default)]
    pub environment: Vec<(String, OsString)>,
}

/// These variables of our own environment, where they are set: what a plugin is loaded with that
/// `--env` names.
pub fn environment_of(names: &[String]) -> Vec<(String, OsString)> {
    let named = |name: &String| Some((name.clone(), std::env::var_os(name)?));
    names.iter().filter_map(named).collect()
}

impl Confinement {
    /// That of the probe that this process belongs to; without knowing it nothing is loaded.
    pub(super) fn of_this_probe() -> io::Result<Self> {
        let text = std::env::var(PROBING).map_err(io::Error::other)?;
        Ok(serde_json::from_str(&text)?)
    }

    fn to_text(&self) -> String {
        serde_json::to_string(self).expect("it is plain data")
    }
}

/// Lets a child load a copy (`file`) of a plugin that the user knows as `named`; refuses it if the
/// child cannot, or not within the limit.
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
    // A program that embeds this library and registers at its start would start itself for ever.
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
        // The plugin keeps the one in the middle from answering; that is still there to collect what
        // is killed.
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

/// All that a child says until it closes its stdout; `None` if the time is up.
fn answer_within(child: &mut Child, limit: Duration) -> Option<Vec<u8>> {
    let mut stdout = child.stdout.take()?;
    let (say, said) = mpsc::channel();
    thread::spawn(move || {
        let mut answer = Vec::new();
        let _ = stdout.read_to_end(&mut answer);
        // Nobody may wait any more.
        let _ = say.send(answer);
    });
    said.recv_timeout(limit).ok()
}

/// The reason to refuse what does not come to an end.
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
