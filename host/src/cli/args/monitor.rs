//! What `monitor` and the commands about monitors and workers take.

use super::values::{duration, integer_in, variable};
use crate::{
    model::{WorkerId, name::parse_name},
    plugin::TrustedKey,
};
use clap::Args;
use std::{path::PathBuf, time::Duration};

#[derive(Debug, Args)]
pub(crate) struct MonitorArgs {
    /// The database; `-`: what standard input says in its first line
    pub(crate) db: String,
    /// Claim tasks of this domain; repeatable
    #[arg(
        long,
        default_value = "default",
        conflicts_with = "all_domains",
        value_parser = parse_name
    )]
    pub(crate) domain: Vec<String>,
    /// Claim tasks of every domain that this host has plugins for
    #[arg(long)]
    pub(crate) all_domains: bool,
    /// The host to work for, instead of this one
    #[arg(long, value_parser = parse_name)]
    pub(crate) host: Option<String>,
    /// Pass this environment variable on to workers, and to the children that try out plugins;
    /// repeatable
    #[arg(long, value_name = "NAME", value_parser = variable)]
    pub(crate) env: Vec<String>,
    /// Run workers as this user; the monitor has to be root
    #[arg(long, value_name = "NAME")]
    pub(crate) worker_user: Option<String>,
    /// Deny TCP connections to plugins, by Landlock (Linux 6.7); not UDP, not Unix sockets
    #[arg(long)]
    pub(crate) no_network: bool,
    /// Register DIR/*.so, and DIR/<domain>/*.so under that domain, when they appear or change, and
    /// retire what vanishes; repeatable
    #[arg(long, value_name = "DIR")]
    pub(crate) plugin_dir: Vec<PathBuf>,
    /// Run what other hosts have published for these domains
    #[arg(long)]
    pub(crate) fetch_plugins: bool,
    /// Refuse files of --plugin-dir and fetched plugins unless they are signed by this key: a public
    /// key of minisign, or the file that holds it
    #[arg(long, value_name = "KEY", value_parser = TrustedKey::read)]
    pub(crate) require_signature: Option<TrustedKey>,
    /// Never more workers per domain than this, over all of its plugins
    #[arg(long, default_value_t = 2, value_parser = integer_in::<u16>(1..=65_535))]
    pub(crate) maxworkers: u16,
    /// Never fewer
    #[arg(long, default_value_t = 1, value_parser = integer_in::<u16>(0..=65_535))]
    pub(crate) minworkers: u16,
    /// A worker ends after so many tasks; 0: never
    #[arg(long, default_value_t = 0, value_parser = integer_in::<u64>(0..=i64::MAX))]
    pub(crate) maxruns: u64,
    /// A worker that has grown beyond so many MB ends after its task; 0: never
    #[arg(long, default_value_t = 0, value_name = "MB", value_parser = integer_in::<u64>(0..=1 << 40))]
    pub(crate) maxmem: u64,
    /// A worker that is not ready after so many seconds is killed
    #[arg(
        long,
        default_value_t = 30,
        value_name = "SECONDS",
        value_parser = integer_in::<u64>(1..=86_400)
    )]
    pub(crate) start_timeout: u64,
    /// Delete tasks and workers that ended so long ago; 0s: never
    #[arg(
        long,
        default_value = "P1D",
        allow_hyphen_values = true,
        value_parser = duration,
        value_name = "DURATION"
    )]
    pub(crate) vacuum: Duration,
    /// How long running tasks may go on after ctrl-c
    #[arg(
        long,
        default_value = "0s",
        allow_hyphen_values = true,
        value_parser = duration,
        value_name = "DURATION"
    )]
    pub(crate) grace: Duration,
    /// How long a task that asks `cancelled()` may take to end before it is killed
    #[arg(
        long,
        default_value = "3s",
        allow_hyphen_values = true,
        value_parser = duration,
        value_name = "DURATION"
    )]
    pub(crate) kill_grace: Duration,
    /// Log more
    #[arg(long)]
    pub(crate) debug: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ListMonitorsArgs {
    /// The database
    pub(crate) db: String,
    /// One JSON document
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ListWorkersArgs {
    /// The database
    pub(crate) db: String,
    /// Only of this domain
    #[arg(long)]
    pub(crate) domain: Option<String>,
    /// Also those that died more than a day ago
    #[arg(long)]
    pub(crate) all: bool,
    /// One JSON document
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct WorkerArgs {
    /// The database
    pub(crate) db: String,
    /// The worker
    pub(crate) id: WorkerId,
}
