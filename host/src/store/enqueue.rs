//! Queuing tasks whose input has been checked: one, or many in one statement.

use super::{
    Document, FileContent, Store, StoreError,
    error::Result,
    lock::{self, Deed},
    session::Session,
};
use crate::model::{OperationId, ScheduleId, TaskId, input::sha256};
use chrono::{DateTime, Utc};
use serde_json::Value;

/// A task to insert, its input already checked against the operation's declaration.
#[derive(Debug, Clone, Default)]
pub struct Enqueue {
    /// The name of the operation, for messages.
    pub operation_name: String,
    /// The host that the task is pinned to.
    pub host: Option<String>,
    /// The input, if its encoding is `fields`.
    pub input: Option<Value>,
    /// The input, if its encoding is `raw`.
    pub input_raw: Option<Vec<u8>>,
    /// The contents of the input's file fields.
    pub files: Vec<FileContent>,
    /// Any JSON object that the caller attached to the task.
    pub metadata: Option<Value>,
    /// Tasks of higher priority run first.
    pub priority: i32,
    /// When the task may run at the earliest.
    pub run_at: Option<DateTime<Utc>>,
    /// How many milliseconds from now, by the server's clock, the task may run at the earliest; ignored if
    /// `run_at` is given.
    pub delay_ms: Option<i64>,
    /// The caller's idempotency key: while a task of the operation with this key exists, no second one is
    /// queued.
    pub key: Option<String>,
    /// Input fields whose value depends on the time of the call (`(today)`): they are left out when the
    /// inputs of two calls with one key are compared.
    pub relative: Vec<String>,
    /// How many attempts the task may take.
    pub max_attempts: i32,
    pub schedule: Option<ScheduleId>,
    /// The digest of the declared inputs that accept this input; it selects the lane. `None`: every version
    /// accepts it.
    pub accepts: Option<String>,
}

/// The result of queueing a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Queued {
    pub id: TaskId,
    /// Whether this call queued the task; `false`: a task with the same key existed already.
    pub is_new: bool,
}

/// A raw payload of more bytes is stored in chunks in a table of its own, so that rows of the queue stay
/// small.
pub const RAW_IN_ROW: usize = 64 * 1024;

impl Enqueue {
    fn encoding(&self) -> Option<&'static str> {
        match (&self.input_raw, &self.input) {
            (Some(_), _) => Some("raw"),
            (None, Some(_)) => Some("fields"),
            (None, None) => None,
        }
    }

    fn raw_in_row(&self) -> Option<&[u8]> {
        let raw = self.input_raw.as_deref();
        raw.filter(|raw| raw.len() <= RAW_IN_ROW)
    }

    /// The contents that are stored in chunks beside the row.
    fn contents(&self) -> Vec<FileContent> {
        let mut files = self.files.clone();
        if let Some(raw) = &self.input_raw
            && raw.len() > RAW_IN_ROW
        {
            files.push(FileContent {
                name: String::new(),
                content: raw.clone(),
            });
        }
        files
    }

    /// The message of a failure, without its cause: `the task was not queued`.
    fn failure(&self) -> String {
        let name = &self.operation_name;
        match &self.key {
            Some(key) => format!("could not schedule `{name}` with the key `{key}`"),
            None => format!("could not schedule `{name}`"),
        }
    }

    /// Roughly how many bytes are sent for the task, its files aside.
    fn bytes(&self) -> usize {
        let json = [&self.input, &self.metadata].into_iter().flatten();
        let json: usize = json.map(json_length).sum();
        json + self.raw_in_row().map_or(0, <[u8]>::len)
    }
}

/// The length of a document in bytes of JSON text.
fn json_length(document: &Value) -> usize {
    struct Length(usize);
    impl std::io::Write for Length {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut length = Length(0);
    serde_json::to_writer(&mut length, document).expect("every document can be written");
    length.0
}

impl Store {
    /// Queues a task in a transaction of its own.
    pub async fn task_enqueue(&self, operation: OperationId, task: &Enqueue) -> Result<Queued> {
        let mut transaction = self.pool.begin_limited().await?;
        let queued = self
            .task_enqueue_in(&mut transaction, operation, task)
            .await?;
        transaction.commit().await?;
        Ok(queued)
    }

    /// Queues a task in the caller's transaction.
    pub async fn task_enqueue_in(
        &self,
        connection: &mut Session<'_>,
        operation: OperationId,
        task: &Enqueue,
    ) -> Result<Queued> {
        connection.sends(task.bytes());
        let queued = sqlx::query!(
            r#"select task_id as "id!", is_new as "is_new!"
                 from rework.task_enqueue(
                          $1, $2, $3, $4, $5, $6, $7,
                          coalesce($8, clock_timestamp() + $13::bigint * interval '1 ms'),
                          $9, $10, $11, $12, $14)"#,
            operation.0,
            task.host.as_deref(),
            task.encoding(),
            task.input.clone().map(Document) as _,
            task.raw_in_row(),
            task.metadata,
            task.priority,
            task.run_at,
            task.key.as_deref(),
            task.max_attempts,
            task.schedule.map(|schedule| schedule.0),
            task.accepts.as_deref(),
            task.delay_ms,
            &task.relative
        )
        .fetch_one(&mut *connection)
        .await
        .map_err(|error| {
            // Without a key no other task can be in the way.
            let deed = task.key.is_some().then_some(Deed {
                kind: lock::ROW,
                words: "has scheduled the same",
            });
            StoreError::from(error).of_lock(|| task.failure(), deed)
        })?;
        let queued = Queued {
            id: TaskId(queued.id),
            is_new: queued.is_new,
        };
        let files = task.contents();
        if queued.is_new {
            if !files.is_empty() {
                self.file_save(connection, queued.id, "input", &files)
                    .await?;
            }
        } else if let Some(key) = &task.key {
            self.check_known(connection, queued.id, key, &files).await?;
        }
        Ok(queued)
    }

    /// Refuses a call whose file contents differ from those of the existing task with the same key.
    /// `rework.task_enqueue` has compared fields and raw bytes in the row already, and file fields by their
    /// placeholders.
    async fn check_known(
        &self,
        connection: &mut Session<'_>,
        known: TaskId,
        key: &str,
        files: &[FileContent],
    ) -> Result<()> {
        let raw = files.iter().find(|file| file.name.is_empty());
        let known_sha256 = sqlx::query_scalar!(
            "select sha256 from rework.task_file
              where task = $1 and direction = 'input' and name = ''",
            known.0
        )
        .fetch_optional(&mut *connection)
        .await?;
        if known_sha256 == raw.map(|raw| sha256(&raw.content)) {
            return Ok(());
        }
        Err(StoreError::Refused {
            code: "RW003".to_owned(),
            message: format!("task {known} has the key `{key}` already, with another input"),
            hint: Some(format!(
                "`rework get-input {known}` shows it; another task needs another key"
            )),
        })
    }

    /// Queues many tasks in the given order within the caller's transaction. Consecutive tasks without keys
    /// are inserted by one statement.
    pub async fn task_enqueue_many_in(
        &self,
        connection: &mut Session<'_>,
        tasks: &[(OperationId, Enqueue)],
    ) -> Result<Vec<Queued>> {
        let mut queued = Vec::with_capacity(tasks.len());
        for alike in tasks.chunk_by(|(_, a), (_, b)| a.key.is_none() && b.key.is_none()) {
            match alike {
                [(operation, task)] => {
                    queued.push(self.task_enqueue_in(connection, *operation, task).await?);
                }
                many => {
                    let ids = self.task_enqueue_plain(connection, many).await?;
                    queued.extend(ids.into_iter().map(|id| Queued { id, is_new: true }));
                }
            }
        }
        Ok(queued)
    }

    /// Queues tasks without keys with one statement.
    async fn task_enqueue_plain(
        &self,
        connection: &mut Session<'_>,
        tasks: &[(OperationId, Enqueue)],
    ) -> Result<Vec<TaskId>> {
        fn column<'t, T>(
            tasks: &'t [(OperationId, Enqueue)],
            of: impl Fn(&'t Enqueue) -> T,
        ) -> Vec<T> {
            tasks.iter().map(|(_, task)| of(task)).collect()
        }
        connection.sends(tasks.iter().map(|(_, task)| task.bytes()).sum());
        let operations: Vec<i32> = tasks.iter().map(|(operation, _)| operation.0).collect();
        let ids = sqlx::query_scalar!(
            r#"select id as "id!"
                 from rework.task_enqueue_many(
                          $1, $2, $3, $4, $5, $6, $7, $8,
                          array(select coalesce(g.run_at, clock_timestamp() + g.delay_ms * interval '1 ms')
                                  from unnest($9::timestamptz[], $11::bigint[])
                                       with ordinality as g (run_at, delay_ms, place)
                                 order by g.place),
                          $10) as id"#,
            &operations,
            &column(tasks, |t| t.host.as_deref()) as &[Option<&str>],
            &column(tasks, |t| t.accepts.as_deref()) as &[Option<&str>],
            &column(tasks, Enqueue::encoding) as &[Option<&str>],
            &column(tasks, |t| t.input.clone().map(Document)) as &[Option<Document>],
            &column(tasks, Enqueue::raw_in_row) as &[Option<&[u8]>],
            &column(tasks, |t| t.metadata.clone()) as &[Option<Value>],
            &column(tasks, |t| t.priority),
            &column(tasks, |t| t.run_at) as &[Option<DateTime<Utc>>],
            &column(tasks, |t| t.max_attempts),
            &column(tasks, |t| t.delay_ms) as &[Option<i64>],
        )
        .fetch_all(&mut *connection)
        .await?;
        let ids: Vec<TaskId> = ids.into_iter().map(TaskId).collect();
        for (id, (_, task)) in ids.iter().zip(tasks) {
            let contents = task.contents();
            if !contents.is_empty() {
                self.file_save(connection, *id, "input", &contents).await?;
            }
        }
        Ok(ids)
    }

    /// Queues `count` tasks of an operation that takes no input, with one statement.
    pub async fn task_enqueue_copies(
        &self,
        operation: OperationId,
        count: u32,
    ) -> Result<Vec<i64>> {
        let ids = sqlx::query_scalar!(
            r#"select (rework.task_enqueue($1, null, null, null, null, null, 0, null, null, 1)).task_id as "id!"
                 from generate_series(1, $2)"#,
            operation.0,
            count.cast_signed()
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(ids)
    }
}
