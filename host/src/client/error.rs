//! What a client can be told, each in one line that names the thing.

use crate::{
    model::{TaskId, task::TaskState},
    store::StoreError,
};
use std::time::Duration;

/// The result of every client method.
pub type Result<T, E = ClientError> = std::result::Result<T, E>;

/// Why a client was not served.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The database argument means nothing.
    #[error("{message}")]
    Database {
        /// What is wrong with it.
        message: String,
        /// What to do.
        hint: Option<String>,
    },
    /// The embedded server cannot be had.
    #[error(transparent)]
    Embedded(#[from] crate::postgres::Error),
    /// This host cannot be called that.
    #[error(transparent)]
    Host(#[from] crate::here::HostError),
    /// The database could not do it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// There is no such task.
    #[error("no task {0}")]
    UnknownTask(TaskId),
    /// The input does not fit what the operation declares.
    #[error("{0}")]
    Input(String),
    /// What is stored is not of the type that was asked for.
    #[error("the {what} of task {task} is not of the type asked for")]
    Deserialize {
        /// The task.
        task: TaskId,
        /// `input`, `output` or `metadata`.
        what: &'static str,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// Fields were asked for and bytes are stored, or the other way round.
    #[error("the {what} of task {task} is {found}, not {wanted}")]
    Encoding {
        /// The task.
        task: TaskId,
        /// `input` or `output`.
        what: &'static str,
        /// `raw` or `fields`.
        found: String,
        /// `raw` or `fields`.
        wanted: &'static str,
    },
    /// There is no such file field.
    #[error("the {what} of task {task} has no field `{field}`")]
    UnknownField {
        /// The task.
        task: TaskId,
        /// `input` or `output`.
        what: &'static str,
        /// The field.
        field: String,
    },
    /// A wait took too long; the task goes on.
    #[error("task {task} is still {state} after {}", crate::model::duration::human(*waited))]
    Timeout {
        /// The task.
        task: TaskId,
        /// Its state when the time was up.
        state: TaskState,
        /// How long that was.
        waited: Duration,
    },
    /// The plugin cannot be used.
    #[error("{0} (nothing was registered)")]
    Plugin(String),
    /// The plugin cannot be kept on this host.
    #[error("{message} (nothing was registered)")]
    StateDirectory {
        /// The plugin, the directory, and why.
        message: String,
        /// What to do.
        hint: String,
    },
    /// There is no way back.
    #[error("{0}")]
    Rollback(String),
}

impl ClientError {
    /// Whether the database could not be asked, so that the same question may be answered later.
    pub fn is_outage(&self) -> bool {
        matches!(self, Self::Store(error) if error.is_disconnect())
    }

    /// What the reader can do about it, if anything.
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
