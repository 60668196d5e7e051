//! Starts a monitor.

use super::{
    options::{MonitorError, Options},
    supervisor::Supervisor,
    workers::{Identity, process},
};
use crate::{
    periods::Periods,
    store::{ConnectOptions, Store},
};

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
