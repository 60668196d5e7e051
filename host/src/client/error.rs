//! The errors of a client, each on one line that names what it is about.

use crate::{
    model::{TaskId, task::TaskState},
    store::StoreError,
};
use std::time::Duration;

/// The result of every client method.
pub type Result<T, E = ClientError> = std::result::Result<T, E>;

/// Why a call of the client failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The database argument is not valid.
    #[error("{message}")]
    Database {
        /// What is wrong with it.
        message: String,
        /// What the reader can do about it.
        hint: Option<String>,
    },
    /// The embedded server cannot be used.
    #[error(transparent)]
    Embedded(#[from] crate::postgres::Error),
    /// The name is not valid for a host.
    #[error(transparent)]
    Host(#[from] crate::here::HostError),
    /// The database did not do what was asked.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// No task has this id.
    #[error("no task {0}")]
    UnknownTask(TaskId),
    /// The input does not fit what the operation declares.
    #[error("{0}")]
    Input(String),
    /// A stored value does not have the type that was asked for.
    #[error("the {what} of task {task} is not of the type asked for")]
    Deserialize {
        /// The id of the task.
        task: TaskId,
        /// Which value: `input`, `output` or `metadata`.
        what: &'static str,
        /// Why the value cannot be read as that type.
        #[source]
        source: serde_json::Error,
    },
    /// The payload is raw bytes where fields were asked for, or the other way round.
    #[error("the {what} of task {task} is {found}, not {wanted}")]
    Encoding {
        /// The id of the task.
        task: TaskId,
        /// Which payload: `input` or `output`.
        what: &'static str,
        /// The encoding of the payload: `raw` or `fields`.
        found: String,
        /// The encoding that was asked for: `raw` or `fields`.
        wanted: &'static str,
    },
    /// The payload has no file field of this name.
    #[error("the {what} of task {task} has no field `{field}`")]
    UnknownField {
        /// The id of the task.
        task: TaskId,
        /// Which payload: `input` or `output`.
        what: &'static str,
        /// The name of the field.
        field: String,
    },
    /// A wait has reached its timeout; the task goes on.
    #[error("task {task} is still {state} after {}", crate::model::duration::human(*waited))]
    Timeout {
        /// The id of the task.
        task: TaskId,
        /// The state of the task at the timeout.
        state: TaskState,
        /// The timeout.
        waited: Duration,
    },
    /// The plugin cannot be used, for this reason.
    #[error("{0} (nothing was registered)")]
    Plugin(String),
    /// The plugin cannot be copied to this host's state directory.
    #[error("{message} (nothing was registered)")]
    StateDirectory {
        /// The plugin, the directory, and the reason.
        message: String,
        /// What the reader can do about it.
        hint: String,
    },
    /// The rollback is not possible, for this reason.
    #[error("{0}")]
    Rollback(String),
}

impl ClientError {
    /// Whether the database could not be reached, so that the same call may succeed later.
    pub fn is_outage(&self) -> bool {
        matches!(self, Self::Store(error) if error.is_disconnect())
    }

    /// What the reader can do about the error, if anything.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Database { hint, .. } => hint.clone(),
            Self::StateDirectory { hint, .. } => Some(hint.clone()),
            Self::Store(error) => error.hint(),
            Self::Embedded(error) => error.hint(),
            Self::Rollback(_) => {
                Some("`rework list-plugins` shows the versions of each domain".to_owned())
            }
            Self::UnknownTask(_) => Some("see `rework list-tasks`".to_owned()),
            _ => None,
        }
    }
}
