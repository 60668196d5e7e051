//! Everything that can happen to a monitor.

use super::{
    claim, cron, housekeeping, lease, plugins,
    tasks::{Fetched, Saved},
    unsaid::Kept,
};
use crate::{
    model::{TaskId, WorkerId},
    store::{CycleResult, Ended, Notification, StoreError, WorkerSave},
    wire::{FromWorker, WireError},
};
use std::os::fd::OwnedFd;

/// Something happened.
#[derive(Debug)]
pub(super) enum Event {
    /// The database said something.
    Notified(Notification),
    /// A worker said something; descriptors may have come with it.
    Said(WorkerId, FromWorker, Vec<OwnedFd>),
    /// A worker sent what cannot be read; nothing more will be heard of it.
    Garbled(WorkerId, WireError),
    /// A worker closed its end of the socket.
    Hung(WorkerId),
    /// A message could not be sent to a worker that lives; the task that it was about.
    Unsaid(WorkerId, Option<TaskId>, WireError),
    /// What a task left has been unpacked, or cannot be stored.
    Unpacked(Box<Ended>, Result<Saved, String>),
    /// There is something to read in this output of a worker.
    Readable(WorkerId, u64),
    /// A child changed its state.
    Child,
    /// Somebody wants us to end.
    Interrupted,
    /// The init above the monitor was told to end.
    Relayed,
    /// The cycle in flight has come back.
    Cycled(Result<CycleResult, StoreError>),
    /// Rows of the log have been deleted (or not): others have taken their place.
    LinesDeleted(Result<(), StoreError>, Vec<(TaskId, i64)>),
    /// What this host may run.
    Catalog(claim::Event),
    /// Which of our tasks somebody wants to end, and what they say.
    Aborts(Result<Vec<(TaskId, Option<String>)>, StoreError>),
    /// What a claim did not bring along: large fields, and contents beside the row.
    Fetched(TaskId, Result<Fetched, StoreError>),
    /// The contents beside a task's output are stored (or not).
    Stored(TaskId, Result<(), StoreError>),
    /// Something about schedules.
    Cron(cron::Event),
    /// Which of this monitor's workers somebody wants to end, and whether at once.
    StopRequests(Result<Vec<(WorkerId, bool)>, StoreError>),
    /// Something about promotion, old rows, or numbers for workers.
    Housekeeping(housekeeping::Event),
    /// A running task asked for another one.
    Scheduled(WorkerId, Result<i64, String>),
    /// Something about the monitor's lease, its claims, or other monitors.
    Lease(lease::Event),
    /// The database now knows that this monitor sleeps, or that it does not.
    SleepTold(Result<(), StoreError>),
    /// These workers have been written down (or not).
    WorkersSaved(Result<(), StoreError>, Vec<WorkerSave>),
    /// Something about plugins: drop-in directories, examiners, what others publish.
    Plugins(plugins::Event),
    /// Results that wait have been kept on the disk (or not), or need not be any more.
    Kept(Kept),
    /// Something that is tried again by itself was refused.
    Refused(StoreError),
}
