//! Everything that can happen to a monitor.

use super::{
    claim, cron, housekeeping, lease, plugins,
    shutdown::Interrupt,
    tasks::{Fetched, Saved},
    unsaid::Kept,
    workers,
};
use crate::{
    model::{TaskId, WorkerId},
    store::{CycleResult, Ended, Notification, StoreError},
};

/// Something happened.
#[derive(Debug)]
pub(super) enum Event {
    /// The database has notified this monitor.
    Notified(Notification),
    /// Something about workers.
    Workers(workers::Event),
    /// What a task left has been unpacked, or cannot be stored.
    Unpacked(Box<Ended>, Result<Saved, String>),
    /// A child has changed its state.
    Child,
    /// Somebody wants this monitor to end.
    Interrupted(Interrupt),
    /// The cycle in flight has come back.
    Cycled(Result<CycleResult, StoreError>),
    /// Rows of the log have been deleted (or not): others have taken their place.
    LinesDeleted(Result<(), StoreError>, Vec<(TaskId, i64)>),
    /// What this host may run.
    Catalog(claim::Event),
    /// Which of this monitor's tasks somebody wants to end, and with which message.
    Aborts(Result<Vec<(TaskId, Option<String>)>, StoreError>),
    /// What a claim did not bring along: large fields, and contents beside the row.
    Fetched(TaskId, Result<Fetched, StoreError>),
    /// The contents beside a task's output are stored (or not).
    Stored(TaskId, Result<(), StoreError>),
    /// Something about schedules.
    Cron(cron::Event),
    /// Something about promotion, old rows, or numbers for workers.
    Housekeeping(housekeeping::Event),
    /// The task that a worker's running task asked for is queued (or not).
    Enqueued(WorkerId, Result<i64, String>),
    /// Something about the monitor's lease, its claims, or other monitors.
    Lease(lease::Event),
    /// The database now knows that this monitor sleeps, or that it does not.
    SleepAnnounced(Result<(), StoreError>),
    /// Something about plugins: drop-in directories, examiners, what others publish.
    Plugins(plugins::Event),
    /// Results that wait have been kept on the disk (or not), or need not be any more.
    Kept(Kept),
    /// Something that is tried again by itself was refused.
    Refused(StoreError),
}
