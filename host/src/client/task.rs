//! One task: waiting for it, reading its input and output, ending it.

use super::{
    Client,
    error::{ClientError, Result},
};
use crate::{
    model::{TaskId, WorkerId, task::TaskState},
    store::{AttemptRow, FileInfo, InputRow, LogRow, Queued, StoreError, TaskDetail, TaskRow},
};
use chrono::{DateTime, Utc};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::{sync::Arc, time::Duration};

/// A handle of a task in the database. It holds no connection; every method queries anew.
#[derive(Clone, Debug)]
pub struct Task {
    client: Client,
    id: TaskId,
    is_new: bool,
}

/// An input or an output of a task.
#[derive(Debug, Clone, PartialEq)]
pub enum Payload {
    /// There is none.
    None,
    /// A JSON document; a file field is shown as `{"bytes", "sha256"}`.
    Fields(Value),
    /// Raw bytes.
    Raw(Vec<u8>),
}

/// How many log lines a report on a task contains.
const LAST_LINES: i64 = 10;

/// Everything that is known about one task.
#[derive(Debug, Clone)]
pub struct TaskReport {
    /// The task as the listing shows it.
    pub row: TaskRow,
    /// What the listing does not show.
    pub detail: TaskDetail,
    /// The input of the task.
    pub input: Payload,
    /// The output of the task.
    pub output: Payload,
    /// The earlier attempts, if the task was retried.
    pub attempts: Vec<AttemptRow>,
    /// The files of the input.
    pub input_files: Vec<FileInfo>,
    /// The files of the output.
    pub output_files: Vec<FileInfo>,
    /// The last lines of its log, if the task runs or did not end well.
    pub last_lines: Vec<String>,
    /// What a queued task waits for, in words.
    pub waits: Option<String>,
}

impl Task {
    pub(super) fn new(client: Client, id: TaskId) -> Self {
        let is_new = false;
        Self { client, id, is_new }
    }

    pub(super) fn queued(client: Client, queued: Queued) -> Self {
        let Queued { id, is_new } = queued;
        Self { client, id, is_new }
    }

    /// Whether the call that returned this handle has queued the task. `false`: a task with its key existed
    /// already ([`Schedule::key`](super::Schedule::key)), or the handle was made from an id.
    pub fn is_new(&self) -> bool {
        self.is_new
    }

    /// The id of the task.
    pub fn id(&self) -> TaskId {
        self.id
    }

    /// The state of the task.
    pub async fn state(&self) -> Result<TaskState> {
        let states = self.client.store().task_states(&[self.id]).await?;
        states
            .first()
            .map(|(_, state)| *state)
            .ok_or(ClientError::UnknownTask(self.id))
    }

    /// `queued`, `running` or `done`, however the task ended; [`Task::state`] is more precise.
    pub async fn status(&self) -> Result<&'static str> {
        Ok(match self.state().await? {
            TaskState::Queued => "queued",
            TaskState::Running | TaskState::Aborting => "running",
            TaskState::Aborted | TaskState::Failed | TaskState::Done => "done",
        })
    }

    /// Waits until the task has ended, and returns its final state.
    pub async fn join(&self) -> Result<TaskState> {
        self.wait(false).await
    }

    /// Like [`Task::join`], but gives up after `timeout` with an error that names the task and its state.
    pub async fn join_timeout(&self, timeout: Duration) -> Result<TaskState> {
        match tokio::time::timeout(timeout, self.join()).await {
            Ok(state) => state,
            Err(_) => match self.state().await? {
                // The task ended just before the timeout.
                state if state.is_terminal() => Ok(state),
                state => Err(ClientError::Timeout {
                    task: self.id,
                    state,
                    waited: timeout,
                }),
            },
        }
    }

    /// Waits until the task has begun, or ended.
    pub async fn join_running(&self) -> Result<TaskState> {
        self.wait(true).await
    }

    async fn wait(&self, running: bool) -> Result<TaskState> {
        match self.client.inner.watch.wait(self.id, running).await {
            Ok(state) => state.ok_or(ClientError::UnknownTask(self.id)),
            Err(error) => Err(match Arc::try_unwrap(error) {
                Ok(error) => error.into(),
                Err(shared) => ClientError::Store(StoreError::Connect {
                    place: self.client.store().place(),
                    reason: shared.to_string(),
                }),
            }),
        }
    }

    /// The task as the listing shows it.
    pub async fn row(&self) -> Result<TaskRow> {
        let row = self.client.store().task_row(self.id).await?;
        row.ok_or(ClientError::UnknownTask(self.id))
    }

    /// The metadata of the task; `{}` if it has none.
    pub async fn metadata(&self) -> Result<Value> {
        let row = self.row().await?;
        Ok(row
            .metadata
            .unwrap_or_else(|| Value::Object(serde_json::Map::new())))
    }

    /// The cause and the message of a task that did not end well; `None` if it ended well, or has not
    /// ended.
    pub async fn error(&self) -> Result<Option<String>> {
        let row = self.row().await?;
        Ok(row.cause.map(|cause| match row.error {
            Some(error) => format!("{cause}: {error}"),
            None => cause,
        }))
    }

    /// The input, deserialized; `None` if the task has none.
    pub async fn input<T: DeserializeOwned>(&self) -> Result<Option<T>> {
        self.typed("input", self.input_payload().await?)
    }

    /// The input as raw bytes; `None` if the task has none.
    pub async fn raw_input(&self) -> Result<Option<Vec<u8>>> {
        self.raw("input", self.input_payload().await?)
    }

    /// The output, deserialized; `None` if the task has saved none yet.
    pub async fn output<T: DeserializeOwned>(&self) -> Result<Option<T>> {
        self.typed("output", self.output_payload().await?)
    }

    /// The output as raw bytes; `None` if the task has saved none yet.
    pub async fn raw_output(&self) -> Result<Option<Vec<u8>>> {
        self.raw("output", self.output_payload().await?)
    }

    /// The content of one file field of the input.
    pub async fn input_file(&self, field: &str) -> Result<Vec<u8>> {
        self.file("input", field).await
    }

    /// The content of one file field of the output.
    pub async fn output_file(&self, field: &str) -> Result<Vec<u8>> {
        self.file("output", field).await
    }

    async fn file(&self, what: &'static str, field: &str) -> Result<Vec<u8>> {
        let content = self.client.store().file_read(self.id, what, field).await?;
        match content {
            Some(content) => Ok(content),
            None => {
                self.state().await?;
                let field = field.to_owned();
                Err(ClientError::UnknownField {
                    task: self.id,
                    what,
                    field,
                })
            }
        }
    }

    /// The input in its own encoding.
    pub async fn input_payload(&self) -> Result<Payload> {
        let row = self.client.store().task_input(self.id).await?;
        self.payload("input", row.ok_or(ClientError::UnknownTask(self.id))?)
            .await
    }

    /// The output in its own encoding.
    pub async fn output_payload(&self) -> Result<Payload> {
        let row = self.client.store().task_output(self.id).await?;
        self.payload(
            "output",
            row.ok_or(ClientError::UnknownTask(self.id))?.payload,
        )
        .await
    }

    async fn payload(&self, what: &'static str, row: InputRow) -> Result<Payload> {
        Ok(match (row.encoding.as_deref(), row.fields, row.raw) {
            (Some("raw"), _, Some(raw)) => Payload::Raw(raw),
            (Some("raw"), _, None) => Payload::Raw(self.file(what, "").await?),
            (Some(_), Some(fields), _) => Payload::Fields(fields),
            (Some(_), None, _) => Payload::Fields(Value::Null),
            (None, ..) => Payload::None,
        })
    }

    fn typed<T: DeserializeOwned>(
        &self,
        what: &'static str,
        payload: Payload,
    ) -> Result<Option<T>> {
        match payload {
            Payload::None => Ok(None),
            Payload::Fields(fields) => serde_json::from_value(fields).map(Some).map_err(|source| {
                ClientError::Deserialize {
                    task: self.id,
                    what,
                    source,
                }
            }),
            Payload::Raw(_) => Err(self.wrong_encoding(what, "raw", "fields")),
        }
    }

    fn raw(&self, what: &'static str, payload: Payload) -> Result<Option<Vec<u8>>> {
        match payload {
            Payload::None => Ok(None),
            Payload::Raw(bytes) => Ok(Some(bytes)),
            Payload::Fields(_) => Err(self.wrong_encoding(what, "fields", "raw")),
        }
    }

    fn wrong_encoding(&self, what: &'static str, found: &str, wanted: &'static str) -> ClientError {
        ClientError::Encoding {
            task: self.id,
            what,
            found: found.to_owned(),
            wanted,
        }
    }

    /// At most a thousand log lines after the line with number `after`; 0: from the first line.
    pub async fn logs(&self, after: i64) -> Result<Vec<LogRow>> {
        let lines = self.client.log_lines(self.id, after, 1000).await?;
        if lines.is_empty() && after == 0 {
            // No lines may mean that the task does not exist; a caller who has seen a line knows that it
            // does.
            self.state().await?;
        }
        Ok(lines)
    }

    /// Asks to abort the task: a queued task is `aborted` at once, a running one is killed.
    pub async fn abort(&self, message: Option<&str>) -> Result<TaskState> {
        Ok(self.client.store().task_abort(self.id, message).await?)
    }

    /// When the monitor of a running task was last seen, if it is no longer alive.
    pub(crate) async fn lost_monitor(&self) -> Result<Option<DateTime<Utc>>> {
        match self.row().await?.worker {
            Some(worker) => self.client.lost_monitor(WorkerId(worker)).await,
            None => Ok(None),
        }
    }

    /// Queues an ended task again, under its id. Returns the number of the attempt to come.
    pub async fn retry(&self) -> Result<i32> {
        Ok(self.client.store().task_retry(self.id).await?)
    }

    /// Deletes the task, with its log and its files, unless it is running.
    pub async fn delete(&self) -> Result<()> {
        Ok(self.client.store().task_delete(self.id).await?)
    }

    /// Everything that is known about the task.
    pub async fn report(&self) -> Result<TaskReport> {
        let store = self.client.store();
        let unknown = || ClientError::UnknownTask(self.id);
        let row = self.row().await?;
        let is_running = ["running", "aborting"].contains(&row.state.as_str());
        let last_lines = if row.cause.is_some() || is_running {
            store.log_last_lines(self.id, LAST_LINES).await?
        } else {
            Vec::new()
        };
        Ok(TaskReport {
            row,
            last_lines,
            waits: self.client.task_waits(self.id).await?,
            detail: store.task_detail(self.id).await?.ok_or_else(unknown)?,
            input: self.input_payload().await?,
            output: self.output_payload().await?,
            attempts: store.task_attempts(self.id).await?,
            input_files: store.file_list(self.id, "input").await?,
            output_files: store.file_list(self.id, "output").await?,
        })
    }
}
