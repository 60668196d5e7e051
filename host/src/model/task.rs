//! The states of a task and every way from one to another.
//! The database repeats the rule as named `CHECK` constraints on `rework.task`.

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// What people see of a task's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TaskState {
    /// It waits, or was handed to a worker that has not begun it.
    Queued,
    /// Its operation has begun.
    Running,
    /// Somebody asked for its end; its worker is being killed.
    Aborting,
    /// It was ended, or its process died; the cause says how.
    Aborted,
    /// Its operation returned an error, panicked or gave a bad output.
    Failed,
    /// Its operation returned normally.
    Done,
}

impl TaskState {
    /// Every state, in the order of a life.
    pub const ALL: [Self; 6] = [
        Self::Queued,
        Self::Running,
        Self::Aborting,
        Self::Aborted,
        Self::Failed,
        Self::Done,
    ];

    /// The states in which nothing more will happen by itself.
    pub const TERMINAL: [Self; 3] = [Self::Aborted, Self::Failed, Self::Done];

    /// Whether the task has ended.
    pub fn is_terminal(self) -> bool {
        Self::TERMINAL.contains(&self)
    }

    /// The word for it, as in every listing and in SQL.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Aborting => "aborting",
            Self::Aborted => "aborted",
            Self::Failed => "failed",
            Self::Done => "done",
        }
    }
}

impl fmt::Display for TaskState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for TaskState {
    type Err = UnknownState;
    fn from_str(word: &str) -> Result<Self, UnknownState> {
        Self::ALL
            .into_iter()
            .find(|state| state.as_str() == word)
            .ok_or_else(|| UnknownState(word.to_owned()))
    }
}

/// A word that is no state of a task.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not a task state (queued, running, aborting, aborted, failed, done)")]
pub struct UnknownState(String);

/// Why a task did not end well; the keyword of the `cause` column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "&'static str", try_from = "String")]
pub enum Cause {
    /// The operation returned an error.
    Error,
    /// The operation panicked.
    Panic,
    /// What it saved is not what it declared, or cannot be stored.
    BadOutput,
    /// Somebody asked for its end.
    Abort,
    /// It ran longer than its operation's timeout.
    Timeout,
    /// It used more memory than its operation may.
    Memory,
    /// It used more processor time than its operation may.
    Cpu,
    /// Somebody killed the worker that ran it.
    WorkerKilled,
    /// Its monitor was told to end.
    MonitorExit,
    /// Its monitor, or the host, was lost.
    MonitorLost,
    /// A signal ended its worker process.
    Crash,
    /// The operation ended its own process.
    ProcessExit,
}

impl Cause {
    /// Every cause.
    pub const ALL: [Self; 12] = [
        Self::Error,
        Self::Panic,
        Self::BadOutput,
        Self::Abort,
        Self::Timeout,
        Self::Memory,
        Self::Cpu,
        Self::WorkerKilled,
        Self::MonitorExit,
        Self::MonitorLost,
        Self::Crash,
        Self::ProcessExit,
    ];

    /// The keyword.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Panic => "panic",
            Self::BadOutput => "bad output",
            Self::Abort => "abort",
            Self::Timeout => "timeout",
            Self::Memory => "memory",
            Self::Cpu => "cpu",
            Self::WorkerKilled => "worker killed",
            Self::MonitorExit => "monitor exit",
            Self::MonitorLost => "monitor lost",
            Self::Crash => "crash",
            Self::ProcessExit => "process exit",
        }
    }

    /// The outcome that goes with it: the operation's own failure, or an end from outside.
    pub fn outcome(self) -> Outcome {
        match self {
            Self::Error | Self::Panic | Self::BadOutput => Outcome::Failed,
            Self::Abort
            | Self::Timeout
            | Self::Memory
            | Self::Cpu
            | Self::WorkerKilled
            | Self::MonitorExit
            | Self::MonitorLost
            | Self::Crash
            | Self::ProcessExit => Outcome::Aborted,
        }
    }

    /// Whether another attempt may follow, if the operation allows several. What a person asked
    /// for is not repeated behind their back.
    pub fn is_retried(self) -> bool {
        !matches!(self, Self::Abort | Self::WorkerKilled)
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl From<Cause> for &'static str {
    fn from(cause: Cause) -> Self {
        cause.as_str()
    }
}

impl TryFrom<String> for Cause {
    type Error = String;
    fn try_from(word: String) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|cause| cause.as_str() == word)
            .ok_or_else(|| format!("`{word}` is not a cause"))
    }
}

/// How a task ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Outcome {
    /// The operation returned normally.
    Done,
    /// The operation failed.
    Failed,
    /// It was ended from outside, or its process died.
    Aborted,
}

impl Outcome {
    /// The word in the `outcome` column.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Aborted => "aborted",
        }
    }
}

/// What can happen to a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskEvent {
    /// A worker has begun it.
    Begin,
    /// Its end was reported.
    End(Outcome),
    /// It goes back to the queue: never begun, or to be tried again.
    Requeue,
    /// Somebody asked for its end: of a claimed task, its monitor.
    Abort {
        /// Whether a monitor has it, begun or not.
        claimed: bool,
    },
}

impl fmt::Display for TaskEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Begin => "begin",
            Self::End(_) => "end",
            Self::Requeue => "go back to the queue",
            Self::Abort { .. } => "be aborted",
        })
    }
}

/// A transition that does not exist.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("a task that is {state} cannot {event}")]
pub struct WrongState {
    /// Where it is.
    pub state: TaskState,
    /// What was to happen.
    pub event: TaskEvent,
}

/// The state after an event, or why there is none. The whole state machine of a task.
///
/// What carries it out is SQL, where the rows are locked: the cycle of a monitor (`store/cycle.rs`)
/// and the functions `rework.task_abort` and `rework.task_retry`. `tests/states.rs` lets every event
/// happen in every state of a real task and compares.
pub fn next_state(state: TaskState, event: TaskEvent) -> Result<TaskState, WrongState> {
    use TaskState::{Aborted, Aborting, Done, Failed, Queued, Running};
    match (state, event) {
        (Queued, TaskEvent::Begin) => Ok(Running),
        (Queued, TaskEvent::Abort { claimed: false }) => Ok(Aborted),
        // A task can end in the cycle that would have written its beginning.
        (Queued | Running | Aborting, TaskEvent::End(Outcome::Done)) => Ok(Done),
        (Queued | Running | Aborting, TaskEvent::End(Outcome::Failed)) => Ok(Failed),
        (Queued | Running | Aborting, TaskEvent::End(Outcome::Aborted)) => Ok(Aborted),
        (Queued | Running, TaskEvent::Requeue) => Ok(Queued),
        (Queued | Running | Aborting, TaskEvent::Abort { claimed: true }) => Ok(Aborting),
        // Somebody has been told that it ends.
        (Aborting, TaskEvent::Requeue) => Ok(Aborted),
        // An operator's retry.
        (Aborted | Failed | Done, TaskEvent::Requeue) => Ok(Queued),
        (Running | Aborting | Aborted | Failed | Done, TaskEvent::Begin)
        // Nobody runs what no monitor has.
        | (Running | Aborting, TaskEvent::Abort { claimed: false })
        | (Aborted | Failed | Done, TaskEvent::Abort { .. } | TaskEvent::End(_)) => {
            Err(WrongState { state, event })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_round_trip() {
        for state in TaskState::ALL {
            assert_eq!(state.as_str().parse::<TaskState>().unwrap(), state);
        }
        for cause in Cause::ALL {
            assert_eq!(Cause::try_from(cause.as_str().to_owned()), Ok(cause));
        }
    }

    #[test]
    fn an_ended_task_only_leaves_by_requeue() {
        for state in TaskState::TERMINAL {
            assert_eq!(next_state(state, TaskEvent::Requeue), Ok(TaskState::Queued));
            for event in [
                TaskEvent::Begin,
                TaskEvent::Abort { claimed: true },
                TaskEvent::End(Outcome::Done),
            ] {
                assert_eq!(next_state(state, event), Err(WrongState { state, event }));
            }
        }
    }

    #[test]
    fn aborting_ends_but_is_never_requeued() {
        for event in [TaskEvent::Requeue, TaskEvent::End(Outcome::Aborted)] {
            assert_eq!(
                next_state(TaskState::Aborting, event),
                Ok(TaskState::Aborted)
            );
        }
    }
}
