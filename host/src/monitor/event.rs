//! Everything that can happen to a monitor.

use super::{cycle::Fetched, plugins, report::Saved, unsaid::Kept, witness::Witness};
use crate::{
    model::{ScheduleId, TaskId, WorkerId},
    store::{
        CatalogRow, CycleResult, Ended, Notification, SchedulePlans, ScheduledFire, StoreError,
        WorkerSave,
    },
    wire::{FromWorker, WireError},
};
use chrono::{DateTime, Utc};
use std::{os::fd::OwnedFd, time::Duration};

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
    Unpacked(TaskId, Box<Ended>, Result<Saved, String>),
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
    Catalog(Result<Vec<CatalogRow>, StoreError>),
    /// Which of our tasks somebody wants to end, and what they say.
    Aborts(Result<Vec<(TaskId, Option<String>)>, StoreError>),
    /// What a claim did not bring along: large fields, and contents beside the row.
    Fetched(TaskId, Result<Fetched, StoreError>),
    /// The contents beside a task's output are stored (or not).
    Stored(TaskId, Result<(), StoreError>),
    /// Schedules of our domains.
    Schedules(Result<SchedulePlans, StoreError>),
    /// A run of a schedule has been queued (or not).
    Fired(ScheduleId, DateTime<Utc>, Result<ScheduledFire, StoreError>),
    /// Which of our workers somebody wants to end, and whether at once.
    Asked(Result<Vec<(WorkerId, bool)>, StoreError>),
    /// Old tasks and workers have been removed: how many.
    Vacuumed(Result<(i64, u64), StoreError>),
    /// A running task asked for another one.
    Scheduled(WorkerId, Result<i64, String>),
    /// Whether our lease was renewed, asked at this time of `CLOCK_BOOTTIME`; false: somebody has
    /// declared us lost.
    Renewed(u64, Result<bool, StoreError>),
    /// The database now knows that we sleep, or that we do not.
    SleepSaid(Result<(), StoreError>),
    /// Ids for workers to come.
    Reserved(Result<Vec<WorkerId>, StoreError>),
    /// These workers have been written down (or not).
    WorkersSaved(Result<(), StoreError>, Vec<WorkerSave>),
    /// Delayed tasks have been looked through: how many are ready now, how long until the next one
    /// is due.
    Promoted(Result<(i64, Option<Duration>), StoreError>),
    /// What our claims cover according to the database.
    Held(Result<Vec<(TaskId, crate::model::Token)>, StoreError>),
    /// Something about plugins: drop-in directories, examiners, what others publish.
    Plugins(plugins::Event),
    /// Lost monitors have been looked for: what was seen, and how many tasks were taken from them.
    Recovered(Witness, Result<i64, StoreError>),
    /// Results that wait have been kept on the disk (or not), or need not be any more.
    Kept(Kept),
    /// Something that is tried again by itself was refused.
    Refused(StoreError),
}
