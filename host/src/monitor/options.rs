//! A monitor from outside: its options, and why it could not go on.

use super::workers::{IdentityError, PoolOptions};
use crate::{model::MonitorId, plugin::TrustedKey, store::StoreError};
use std::time::Duration;

/// How a monitor is to work.
#[derive(Debug, Clone)]
pub struct Options {
    /// The host it works for.
    pub host: String,
    /// What it claims for; empty: every domain.
    pub domains: Vec<String>,
    /// How each domain's workers are kept.
    pub pool: PoolOptions,
    /// How long running tasks may go on after an interrupt.
    pub grace: Duration,
    /// How long a task that has asked `cancelled()` may take to end.
    pub kill_grace: Duration,
    /// Tasks and workers that ended so long ago are removed; `None`: they stay.
    pub vacuum: Option<Duration>,
    /// Names of environment variables that workers get.
    pub environment: Vec<String>,
    /// The user that workers run as, if not the monitor's own.
    pub worker_user: Option<String>,
    /// Whether TCP is denied to plugins.
    pub no_network: bool,
    /// Drop-in directories, by their canonical paths.
    pub plugin_dirs: Vec<std::path::PathBuf>,
    /// Whether to run what other hosts have published.
    pub fetch_plugins: bool,
    /// The key that drop-in files and fetched plugins have to be signed with.
    pub key: Option<TrustedKey>,
}

/// Why a monitor could not go on.
#[derive(Debug, thiserror::Error)]
pub enum MonitorError {
    /// The database could not do it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It could not renew its lease for too long, and others have taken over.
    #[error("monitor {0} was declared lost while it was away; its workers have ended")]
    Lost(MonitorId),
    /// It was told to end, and the database did not take in time what became of its tasks.
    #[error(
        "monitor {monitor} has ended, but the database has not taken all that it had to say \
         (results: {results}); {rest}"
    )]
    Unheard {
        /// The monitor.
        monitor: MonitorId,
        /// How many ends of tasks wait.
        results: usize,
        /// Where they are now.
        rest: String,
    },
    /// Workers cannot run as the user that was asked for.
    #[error(transparent)]
    WorkerUser(#[from] IdentityError),
    /// The kernel cannot deny the network.
    #[error("--no-network needs Landlock with rules for TCP (Linux 6.7); {0}")]
    NoLandlock(String),
    /// The system could not do it.
    #[error("{doing}")]
    System {
        /// What was attempted.
        doing: String,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
}
