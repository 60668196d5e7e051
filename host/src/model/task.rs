//! The states of a task, and every transition between them. The database repeats the rules as named `CHECK`
//! constraints on `rework.outcome`.

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// The state of a task, as users see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TaskState {
    /// The task waits, or was handed to a worker that has not begun it.
    Queued,
    /// A worker has begun the task.
    Running,
    /// Somebody asked to abort the task, and its worker is being killed.
    Aborting,
    /// The task was ended from outside, or its process died; the cause says how.
    Aborted,
    /// The operation returned an error, panicked, or saved an invalid output.
    Failed,
    /// The operation returned normally.
    Done,
}

impl TaskState {
    /// Every state, in the order of a task's life.
    pub const ALL: [Self; 6] = [
        Self::Queued,
        Self::Running,
        Self::Aborting,
        Self::Aborted,
        Self::Failed,
        Self::Done,
    ];

    /// The states in which a task has ended.
    pub const TERMINAL: [Self; 3] = [Self::Aborted, Self::Failed, Self::Done];

    /// Whether the task has ended.
    pub fn is_terminal(self) -> bool {
        Self::TERMINAL.contains(&self)
    }

    /// The name of the state in listings and in SQL.
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

/// The error for a text that is not a state.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not a task state (queued, running, aborting, aborted, failed, done)")]
pub struct UnknownState(String);

/// Why a task did not end well: the keyword of the column `cause`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "&'static str", try_from = "String")]
pub enum Cause {
    /// The operation returned an error.
    Error,
    /// The operation panicked.
    Panic,
    /// The output is not what the operation declares, or cannot be stored.
    BadOutput,
    /// Somebody asked to abort the task.
    Abort,
    /// The task ran longer than the operation's timeout.
    Timeout,
    /// The task used more memory than the operation may.
    Memory,
    /// The task used more processor time than the operation may.
    Cpu,
    /// Somebody killed the worker.
    WorkerKilled,
    /// The monitor was told to end.
    MonitorExit,
    /// The monitor or its host was lost.
    MonitorLost,
    /// A signal ended the worker process.
    Crash,
    /// The operation ended the worker process by itself.
    ProcessExit,
}

impl Cause {
    /// Every cause, in the order of the declaration.
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

    /// The keyword in the database.
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

    /// The outcome of a task with this cause: the operation's own failure, or an end from outside.
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

    /// Whether another attempt may follow, if the operation allows several. What a person asked for (an
    /// abort) is never retried.
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
    /// The task was ended from outside, or its process died.
    Aborted,
}

impl Outcome {
    /// The keyword in the column `outcome`.
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
    /// A worker has begun the task.
    Begin,
    /// Its end was reported, with this outcome.
    End(Outcome),
    /// It returns to the queue: it never began, or is to be tried again.
    Requeue,
    /// Somebody asked to abort it.
    Abort {
        /// Whether a monitor has claimed the task. If so, the monitor ends it.
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

/// The error for an event that cannot happen in a state.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("a task that is {state} cannot {event}")]
pub struct WrongState {
    /// The state of the task.
    pub state: TaskState,
    /// The event.
    pub event: TaskEvent,
}

/// The state after an event, or an error if the event cannot happen. This is the whole state machine of a
/// task.
///
/// What carries it out is SQL, where the rows are locked: the cycle of a monitor (`store/cycle.rs`)
/// and the functions `rework.task_abort` and `rework.task_retry`. `tests/states.rs` lets every event
/// happen in every state of a real task and compares.
pub fn next_state(state: TaskState, event: TaskEvent) -> Result<TaskState, WrongState> {
    use TaskState::{Aborted, Aborting, Done, Failed, Queued, Running};
    match (state, event) {
        (Queued, TaskEvent::Begin) => Ok(Running),
        (Queued, TaskEvent::Abort { claimed: false }) => Ok(Aborted),
        // A task can begin and end within one cycle, so that its beginning was never written.
        (Queued | Running | Aborting, TaskEvent::End(Outcome::Done)) => Ok(Done),
        (Queued | Running | Aborting, TaskEvent::End(Outcome::Failed)) => Ok(Failed),
        (Queued | Running | Aborting, TaskEvent::End(Outcome::Aborted)) => Ok(Aborted),
        (Queued | Running, TaskEvent::Requeue) => Ok(Queued),
        (Queued | Running | Aborting, TaskEvent::Abort { claimed: true }) => Ok(Aborting),
        // Somebody has been told that the task ends, so it is not queued again.
        (Aborting, TaskEvent::Requeue) => Ok(Aborted),
        // Somebody retries an ended task.
        (Aborted | Failed | Done, TaskEvent::Requeue) => Ok(Queued),
        (Running | Aborting | Aborted | Failed | Done, TaskEvent::Begin)
        // A task that no monitor has claimed does not run.
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
