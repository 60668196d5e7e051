//! What happens to workers, and what follows from it for the tasks that they run.

use super::slots::Revoked;
use crate::{
    model::{TaskId, WorkerId, log::Printed},
    monitor::fault::{Fault, Ran},
    store::{StoreError, WorkerSave},
    wire::{Finished, FromWorker, WireError},
};
use chrono::{DateTime, Utc};
use std::os::fd::OwnedFd;

/// Something happened to a worker.
#[derive(Debug)]
pub(in crate::monitor) enum Event {
    /// A worker has sent a message; descriptors may have come with it.
    Message(WorkerId, FromWorker, Vec<OwnedFd>),
    /// A worker has sent what cannot be read; nothing that it sends later will be.
    ProtocolError(WorkerId, WireError),
    /// A worker has closed its end of the socket.
    Disconnected(WorkerId),
    /// A message could not be sent to a worker that lives; the task that the message was about.
    SendFailed(WorkerId, Option<TaskId>, WireError),
    /// There is something to read in this output pipe of a worker.
    Readable(WorkerId, u64),
    /// The workers that somebody wants to end, and whether at once.
    StopRequests(Result<Vec<(WorkerId, bool)>, StoreError>),
    /// These rows about workers have been written (or not).
    Saved(Result<(), StoreError>, Vec<WorkerSave>),
}

/// What follows for others.
#[derive(Debug)]
pub(in crate::monitor) enum News {
    /// A task was taken out of the hands of its worker before it began: it waits for another worker.
    Revoked(Revoked),
    /// Tasks have printed this.
    Printed(Vec<(TaskId, Printed)>),
    /// Nothing more can be printed by a task that has ended, nor by what it has left.
    OutputClosed(TaskId),
    /// A task runs, and tells how far it is.
    Progress {
        task: TaskId,
        worker: WorkerId,
        /// When it began.
        started: DateTime<Utc>,
        /// The part that is done, from 0 to 1, and a message.
        progress: (f32, String),
    },
    /// A worker says that it has finished a task.
    Finished(Box<Report>),
    /// A task has ended without a report of its worker.
    Ended {
        task: TaskId,
        fault: Fault,
        ran: Ran,
    },
    /// The running task of a worker wants another one queued; the worker waits for the answer.
    Request {
        worker: WorkerId,
        /// The request, as JSON.
        request: String,
        /// The raw input of the new task.
        raw_input: Result<Option<Vec<u8>>, WireError>,
    },
    /// Workers can take more tasks than before.
    HasRoom,
    /// The database has not done something.
    DatabaseFailed(StoreError),
}

/// The end of a task as its worker reports it.
#[derive(Debug)]
pub(in crate::monitor) struct Report {
    pub(in crate::monitor) worker: WorkerId,
    pub(in crate::monitor) finished: Finished,
    /// The large parts of the output.
    pub(in crate::monitor) descriptors: Vec<OwnedFd>,
    /// The task had been told to end, for this reason.
    pub(in crate::monitor) stopped_for: Option<Fault>,
    /// Whether children that the task has left may still print.
    pub(in crate::monitor) goes_on: bool,
}
