//! What an application, the command line and the web UI can do: register, schedule, inspect, wait, abort.
//! Everything goes through Postgres; the monitors may be on other machines.
//!
//! ```no_run
//! # async fn example() -> Result<(), rework::client::ClientError> {
//! use std::time::Duration;
//!
//! let rework = rework::Client::connect("postgres://babar:password@localhost/jobstore").await?;
//! let task = rework.schedule("my_first_task").input("hello").await?;
//! task.join_timeout(Duration::from_secs(5)).await?;
//! assert_eq!(task.output::<String>().await?.as_deref(), Some("hellohello"));
//! # Ok(())
//! # }
//! ```

mod doctor;
mod error;
mod inspect;
mod operate;
mod prepare;
mod register;
mod schedule;
mod target;
mod task;
mod transfer;
mod version;
mod waiting;
mod watch;

pub use crate::{
    model::{
        OperationId, ScheduleId, TaskId, WorkerId,
        difference::{Change, ChangeKind},
        rule::CatchUp,
        task::{Cause, Outcome, TaskState},
    },
    plugin::TrustedKey,
    store::{
        AttemptRow, ConnectOptions, DropInRow, FileInfo, LogRow, MonitorRow, OperationRow,
        PluginRow, Retired, RollbackRow, StoreError, TaskDetail, TaskFilter, TaskRow, WorkerRow,
    },
};
pub use doctor::Finding;
pub use error::{ClientError, Result};
pub use operate::Paused;
pub use prepare::{PlannedRun, Prepare, ScheduleReport};
pub use register::{Registration, RegistrationOptions};
pub use schedule::Schedule;
pub use target::Target;
pub(crate) use target::cluster_of;
pub use task::{Payload, Task, TaskReport};
pub use transfer::ScheduleFile;
pub use version::RollbackOptions;

use crate::store::Store;
use std::sync::Arc;

/// A connection to a rework database. Cheap to clone; clones share a few connections.
#[derive(Clone, Debug)]
pub struct Client {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    store: Store,
    watch: watch::Watch,
    /// Keeps the server running while the client exists, if it is an embedded one.
    _target: Target,
}

impl Client {
    /// Connects to a database whose schema this version can use.
    ///
    /// `database` is what the command line takes: a URL, an alias of the configuration file,
    /// `embedded` or `embedded:/some/dir`.
    pub async fn connect(database: &str) -> Result<Self> {
        let client = Self::connect_any(Target::resolve(database)?).await?;
        client.inner.store.schema_check().await?;
        Ok(client)
    }

    /// Connects without checking the schema.
    pub async fn connect_any(target: Target) -> Result<Self> {
        let store = Store::connect(target.options().clone(), 4).await?;
        Ok(Self {
            inner: Arc::new(Inner {
                watch: watch::Watch::new(store.clone()),
                store,
                _target: target,
            }),
        })
    }

    /// Brings the schema to this program's version and returns the version. Drops no tables.
    pub async fn migrate(&self) -> Result<i64> {
        Ok(self.store().schema_migrate().await?)
    }

    /// Drops the schema and everything in it; `false` if there was none.
    pub async fn drop_schema(&self) -> Result<bool> {
        Ok(self.store().schema_drop().await?)
    }

    /// A channel that holds the reason while the database does not answer, as far as tasks are being waited
    /// for, and `None` otherwise. The waits go on meanwhile.
    pub fn outages(&self) -> tokio::sync::watch::Receiver<Option<String>> {
        self.inner.watch.outages()
    }

    /// Closes the connections.
    pub async fn close(&self) {
        self.inner.store.close().await;
    }

    /// The servers of the database, without credentials.
    pub fn place(&self) -> String {
        self.store().place()
    }

    pub(crate) fn store(&self) -> &Store {
        &self.inner.store
    }
}
