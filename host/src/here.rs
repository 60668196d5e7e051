//! This host: its name, its time zone, and where it keeps cached plugins and the pages of its workers.

use crate::{
    model::name::{InvalidName, parse_name},
    zones::Zone,
};
use std::path::PathBuf;

/// The directory for the host's state: `$REWORK_STATE_DIR`, else `/var/lib/rework` as root, else the user's
/// state directory.
pub fn state_dir() -> PathBuf {
    let of = |name: &str| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    if let Some(named) = of("REWORK_STATE_DIR") {
        // Absolute, because workers run in other directories.
        return std::path::absolute(&named).unwrap_or(named);
    }
    if nix::unistd::geteuid().is_root() {
        return PathBuf::from("/var/lib/rework");
    }
    if let Some(state) = of("XDG_STATE_HOME") {
        return state.join("rework");
    }
    // A user without a home gets an error about `/`, where nobody can write. A directory in `/tmp` would
    // belong to whoever created it first.
    let home = home().unwrap_or_else(|| PathBuf::from("/"));
    home.join(".local/state/rework")
}

/// The user's home: `$HOME`, else what the user database says; `None` if it says nothing.
pub fn home() -> Option<PathBuf> {
    let named = std::env::var_os("HOME").filter(|value| !value.is_empty());
    named.map(PathBuf::from).or_else(|| {
        let user = nix::unistd::User::from_uid(nix::unistd::geteuid());
        user.ok().flatten().map(|user| user.dir)
    })
}

/// The private, content-addressed cache of plugins.
pub fn plugin_cache_dir() -> PathBuf {
    state_dir().join("plugins")
}

/// The name of this host: `asked` if given, else `$REWORK_HOST`, else the system's host name. It is never
/// looked up in the network. An error if the name is not one word.
pub fn host_name(asked: Option<&str>) -> Result<String, HostError> {
    let environment = || {
        std::env::var("REWORK_HOST")
            .ok()
            .filter(|name| !name.is_empty())
    };
    if let Some(name) = asked.map(str::to_owned).or_else(environment) {
        return parse_name(&name).map_err(|reason| HostError { name, reason });
    }
    let own = nix::unistd::gethostname().ok();
    Ok(own
        .and_then(|name| name.into_string().ok())
        .unwrap_or_else(|| "localhost".to_owned()))
}

/// The error for a host name that is not valid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{name}` (--host or REWORK_HOST) cannot name a host: {reason}")]
pub struct HostError {
    name: String,
    reason: InvalidName,
}

/// The time zone of this host or user: `$TZ`, else the system's; UTC if neither is known.
pub fn zone() -> Zone {
    let environment = std::env::var("TZ").ok();
    environment
        .as_deref()
        .map(|name| name.trim_start_matches(':'))
        // `TZ` may be the path of a zone's file.
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
