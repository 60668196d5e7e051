//! This host: its name, its time zone, and where it keeps cached plugins and the pages of its workers.

use crate::{
    model::word::{NotAWord, word},
    zones::Zone,
};
use std::path::PathBuf;

/// `$REWORK_STATE_DIR`, else `/var/lib/rework` as root, else the user's state directory.
pub fn state_dir() -> PathBuf {
    let of = |name: &str| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    if let Some(named) = of("REWORK_STATE_DIR") {
        // Some of those who use it work in other directories.
        return std::path::absolute(&named).unwrap_or(named);
    }
    if nix::unistd::geteuid().is_root() {
        return PathBuf::from("/var/lib/rework");
    }
    if let Some(state) = of("XDG_STATE_HOME") {
        return state.join("rework");
    }
    // Where nobody can write, so that they are told: in `/tmp` it would be whoever comes first.
    let home = home().unwrap_or_else(|| PathBuf::from("/"));
    home.join(".local/state/rework")
}

/// The home of the user: `$HOME`, else what the system says of the user id; `None`: it says nothing.
pub fn home() -> Option<PathBuf> {
    let named = std::env::var_os("HOME").filter(|value| !value.is_empty());
    named.map(PathBuf::from).or_else(|| {
        let user = nix::unistd::User::from_uid(nix::unistd::geteuid());
        user.ok().flatten().map(|user| user.dir)
    })
}

/// The private content-addressed cache of plugins.
pub fn plugin_cache_dir() -> PathBuf {
    state_dir().join("plugins")
}

/// The name of this host: what was asked for, `REWORK_HOST`, or the host name. Never a network
/// probe.
///
/// # Errors
///
/// If it is not one word.
pub fn host_name(asked: Option<&str>) -> Result<String, HostError> {
    let environment = || {
        std::env::var("REWORK_HOST")
            .ok()
            .filter(|name| !name.is_empty())
    };
    if let Some(name) = asked.map(str::to_owned).or_else(environment) {
        return word(&name).map_err(|reason| HostError { name, reason });
    }
    let own = nix::unistd::gethostname().ok();
    Ok(own
        .and_then(|name| name.into_string().ok())
        .unwrap_or_else(|| "localhost".to_owned()))
}

/// A host cannot have this name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{name}` (--host or REWORK_HOST) cannot name a host: {reason}")]
pub struct HostError {
    name: String,
    reason: NotAWord,
}

/// The time zone of this host or user: `TZ`, else the system's; UTC if neither is known.
pub fn zone() -> Zone {
    let environment = std::env::var("TZ").ok();
    environment
        .as_deref()
        .map(|name| name.trim_start_matches(':'))
        // It may name the file of the zone.
        .map(|name| {
            name.rsplit_once("/zoneinfo/")
                .map_or(name, |(_, zone)| zone)
        })
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .or_else(|| iana_time_zone::get_timezone().ok())
        .and_then(|name| Zone::find(&name))
        .unwrap_or_else(Zone::utc)
}
