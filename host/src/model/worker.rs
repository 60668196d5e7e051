//! Why a worker process ended, as `list-workers` shows it.

use super::task::Cause;
use std::fmt;

/// The keyword of the `cause` column of a dead worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WorkerCause {
    /// Somebody asked the worker to end after its task.
    Shutdown,
    /// Somebody killed the worker.
    Killed,
    /// The worker had nothing to do for too long.
    Idle,
    /// The worker had run as many tasks as one worker may.
    MaxRuns,
    /// The worker's memory had grown beyond the limit.
    MaxMem,
    /// A task has changed the state of the process in a way that cannot be undone.
    Leftovers,
    /// The worker did not load its plugin in time.
    StartTimeout,
    /// The pool needed the slot for a worker of another plugin of the domain.
    MadeRoom,
    /// Another version of the plugin took over.
    Upgrade,
    /// The monitor was told to end.
    MonitorExit,
    /// The worker died during a task, with this cause.
    Task(Cause),
}

impl WorkerCause {
    /// The keyword in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Shutdown => "shutdown",
            Self::Killed => "killed",
            Self::Idle | Self::MadeRoom => "idle",
            Self::MaxRuns => "maxruns",
            Self::MaxMem => "maxmem",
            Self::Leftovers => "leftovers",
            Self::StartTimeout => "start timeout",
            Self::Upgrade => "upgrade",
            Self::MonitorExit => "monitor exit",
            Self::Task(cause) => cause.as_str(),
        }
    }

    /// The cause with which a task ends if the worker dies from this cause while it runs the task.
    pub fn task_cause(self) -> Cause {
        match self {
            Self::Shutdown | Self::Killed => Cause::WorkerKilled,
            Self::MonitorExit => Cause::MonitorExit,
            Self::Idle
            | Self::MadeRoom
            | Self::MaxRuns
            | Self::MaxMem
            | Self::Leftovers
            | Self::StartTimeout
            | Self::Upgrade => Cause::Crash,
            Self::Task(cause) => cause,
        }
    }
}

impl fmt::Display for WorkerCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
