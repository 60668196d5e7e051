//! A monitor from outside: its options, how it starts, and why it could not go on.

use super::{
    identity::{Identity, IdentityError},
    pool::PoolOptions,
    process,
    supervisor::Supervisor,
};
use crate::{
    model::MonitorId,
    periods::Periods,
    plugin::TrustedKey,
    store::{ConnectOptions, Store, StoreError},
};
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

/// Runs a monitor until it is interrupted and drained. Must be called on the main thread of a
/// process that does nothing else: it becomes a child subreaper and reaps every child.
pub fn run(database: ConnectOptions, options: Options) -> Result<(), MonitorError> {
    let system = |doing: &str| {
        let doing = doing.to_owned();
        move |source| MonitorError::System { doing, source }
    };
    let worker_user = options
        .worker_user
        .as_deref()
        .map(Identity::of)
        .transpose()?;
    if options.no_network {
        process::check_landlock().map_err(MonitorError::NoLandlock)?;
    }
    process::become_monitor().map_err(system("could not become the reaper of its workers"))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(system("could not start the event loop"))?;
    let ended = runtime.block_on(async {
        let local = tokio::task::LocalSet::new();
        let ended = local
            .run_until(async {
                let store = Store::connect(database.clone().with_lock_limit(None), 5).await?;
                store.schema_check().await?;
                // The lease must not wait for anything else that is asked of the database. A renewal that
                // waits for a lock is given up before its time is over, so that the holder is named.
                let limit = Periods::current().lease / 4;
                let lease = Store::connect(database.with_lock_limit(Some(limit)), 1).await?;
                let mut supervisor = Supervisor::start(store, lease, options, worker_user).await?;
                supervisor.run().await
            })
            .await;
        // Inside the runtime: what the local tasks hold (a listener) needs it to be dropped.
        drop(local);
        ended
    });
    // A thread that waits for a disk that does not answer keeps nobody.
    runtime.shutdown_background();
    ended
}
