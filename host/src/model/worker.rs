//! Why a worker process ended, as `list-workers` shows it.

use super::task::Cause;
use std::fmt;

/// The keyword of the `cause` column of a dead worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WorkerCause {
    /// Somebody asked it to end after its task.
    Shutdown,
    /// Somebody killed it.
    Killed,
    /// There was nothing to do for it.
    Idle,
    /// It had run as many tasks as it may.
    MaxRuns,
    /// It had grown beyond what it may keep.
    MaxMem,
    /// A task has left its process changed, and not all of that can be put back.
    Leftovers,
    /// It was not ready in time.
    StartTimeout,
    /// A worker of another plugin of its domain was needed in its place.
    MadeRoom,
    /// Another version of its plugin took over.
    Upgrade,
    /// Its monitor was told to end.
    MonitorExit,
    /// Its monitor was lost.
    MonitorLost,
    /// It died with its task, or of it.
    Task(Cause),
}

impl WorkerCause {
    /// The keyword.
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
            Self::MonitorLost => "monitor lost",
            Self::Task(cause) => cause.as_str(),
        }
    }

    /// What its death means for the task it had begun.
    pub fn task_cause(self) -> Cause {
        match self {
            Self::Shutdown | Self::Killed => Cause::WorkerKilled,
            Self::MonitorExit => Cause::MonitorExit,
            Self::MonitorLost => Cause::MonitorLost,
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
