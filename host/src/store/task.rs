//! Tasks as clients see them: queued, looked at, aborted. Their progress is written by `cycle`.

use super::{FileContent, Store, error::Result};
use crate::model::{OperationId, ScheduleId, TaskId, task::TaskState};
use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;
use std::time::Duration;

/// A task to queue, its input already checked against the specs.
#[derive(Debug, Clone, Default)]
pub struct Enqueue {
    /// The host it is pinned to.
    pub host: Option<String>,
    /// Fields, if that is the input's encoding.
    pub input: Option<Value>,
    /// Bytes, if that is the input's encoding.
    pub input_raw: Option<Vec<u8>>,
    /// The contents of file fields.
    pub files: Vec<FileContent>,
    /// The caller's notes.
    pub metadata: Option<Value>,
    /// Higher runs first.
    pub priority: i32,
    /// Not before.
    pub run_at: Option<DateTime<Utc>>,
    /// While a task with this key exists, it is that task.
    pub key: Option<String>,
    /// How often it may be tried.
    pub max_attempts: i32,
    /// The schedule that queues it.
    pub schedule: Option<ScheduleId>,
}

/// A raw payload beyond this travels in chunks beside the row.
const RAW_IN_ROW: usize = 64 * 1024;

/// A task, as `list-tasks` shows it.
#[derive(Debug, Clone, Serialize)]
pub struct TaskRow {
    /// The task.
    pub id: i64,
    /// The operation's name.
    pub operation: String,
    /// The operation's domain.
    pub domain: String,
    /// The host it is pinned to.
    pub host: Option<String>,
    /// One of the six states.
    pub state: String,
    /// Why it did not end well.
    pub cause: Option<String>,
    /// The cause in words.
    pub error: Option<String>,
    /// Higher runs first.
    pub priority: i32,
    /// Of the last run; 0 before the first.
    pub attempt: i32,
    /// How often it may be tried.
    pub max_attempts: i32,
    /// The caller's notes.
    pub metadata: Option<Value>,
    /// The caller's idempotency key.
    pub key: Option<String>,
    /// The schedule that queued it.
    pub schedule: Option<i64>,
    /// The worker that runs or ran it.
    pub worker: Option<i64>,
    /// When it was queued.
    #[serde(serialize_with = "crate::model::time::serialize")]
    pub queued: DateTime<Utc>,
    /// Not before.
    #[serde(serialize_with = "crate::model::time::serialize")]
    pub run_at: DateTime<Utc>,
    /// When its last attempt began.
    #[serde(serialize_with = "crate::model::time::serialize_option")]
    pub started: Option<DateTime<Utc>>,
    /// When it ended.
    #[serde(serialize_with = "crate::model::time::serialize_option")]
    pub finished: Option<DateTime<Utc>>,
    /// How many lines it has written; only where asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_lines: Option<i64>,
    /// The backtrace of a panic; only where asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backtrace: Option<String>,
}

/// What `show-task` knows beyond the row.
#[derive(Debug, Clone)]
pub struct TaskDetail {
    /// How far it is, 0 to 1.
    pub progress: Option<f32>,
    /// A word about it.
    pub progress_message: Option<String>,
    /// Where it failed.
    pub location: Option<String>,
    /// Backtrace of a panic.
    pub backtrace: Option<String>,
    /// How its process ended.
    pub exit_code: Option<i32>,
    /// How its process ended.
    pub signal: Option<i32>,
    /// In bytes.
    pub peak_memory: Option<i64>,
    /// Processor time.
    pub cpu_seconds: Option<f64>,
    /// The code that ran it.
    pub plugin_hash: Option<String>,
}

/// A superseded attempt.
#[derive(Debug, Clone, Serialize)]
pub struct AttemptRow {
    /// From 1.
    pub attempt: i32,
    /// How it ended.
    pub state: String,
    /// Why.
    pub cause: Option<String>,
    /// The cause in words.
    pub error: Option<String>,
    /// Who ran it.
    pub worker: Option<i64>,
    /// When it began.
    #[serde(serialize_with = "crate::model::time::serialize_option")]
    pub started: Option<DateTime<Utc>>,
    /// When it ended.
    #[serde(serialize_with = "crate::model::time::serialize_option")]
    pub finished: Option<DateTime<Utc>>,
}

/// The input of a task as stored in its row.
#[derive(Debug, Clone)]
pub struct InputRow {
    /// `fields` or `raw`; `None`: no input.
    pub encoding: Option<String>,
    /// The fields.
    pub fields: Option<Value>,
    /// The bytes, unless they are in chunks.
    pub raw: Option<Vec<u8>>,
}

/// The output of a task as stored in its row.
#[derive(Debug, Clone)]
pub struct OutputRow {
    /// The state the task is in.
    pub state: TaskState,
    /// The output itself.
    pub payload: InputRow,
}

/// Which tasks to list.
#[derive(Debug, Clone, Default)]
pub struct TaskFilter {
    /// Only of this domain.
    pub domain: Option<String>,
    /// Only of operations of this name.
    pub operation: Option<String>,
    /// Only in this state.
    pub state: Option<TaskState>,
    /// Only before this id.
    pub before: Option<i64>,
    /// At most so many.
    pub limit: i64,
    /// Also count log lines.
    pub log_count: bool,
    /// Also fetch backtraces.
    pub backtraces: bool,
}

impl Store {
    /// Queues a task in a transaction of its own.
    pub async fn task_enqueue(&self, operation: OperationId, task: &Enqueue) -> Result<TaskId> {
        let mut transaction = self.pool.begin().await?;
        let id = self
            .task_enqueue_in(&mut transaction, operation, task)
            .await?;
        transaction.commit().await?;
        Ok(id)
    }

    /// Queues a task in the caller's transaction.
    pub async fn task_enqueue_in(
        &self,
        connection: &mut sqlx::PgConnection,
        operation: OperationId,
        task: &Enqueue,
    ) -> Result<TaskId> {
        let encoding = if task.input_raw.is_some() {
            Some("raw")
        } else {
            task.input.as_ref().map(|_| "fields")
        };
        let large = task
            .input_raw
            .as_ref()
            .is_some_and(|raw| raw.len() > RAW_IN_ROW);
        let raw = task.input_raw.as_deref().filter(|_| !large);
        let id = sqlx::query_scalar!(
            r#"select rework.task_enqueue($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) as "id!""#,
            operation.0,
            task.host.as_deref(),
            encoding,
            task.input,
            raw,
            task.metadata,
            task.priority,
            task.run_at,
            task.key.as_deref(),
            task.max_attempts,
            task.schedule.map(|schedule| schedule.0)
        )
        .fetch_one(&mut *connection)
        .await?;
        let id = TaskId(id);
        let mut files = task.files.clone();
        if large && let Some(raw) = &task.input_raw {
            files.push(FileContent {
                name: String::new(),
                content: raw.clone(),
            });
        }
        if !files.is_empty() && self.file_count_in(connection, id).await? == 0 {
            self.file_save(connection, id, "input", &files).await?;
        }
        Ok(id)
    }

    /// Input files that a task has already: those of a known key are not replaced.
    async fn file_count_in(
        &self,
        connection: &mut sqlx::PgConnection,
        task: TaskId,
    ) -> Result<i64> {
        let count = sqlx::query_scalar!(
            r#"select count(*) as "count!" from rework.task_file where task = $1 and direction = 'input'"#,
            task.0
        )
        .fetch_one(connection)
        .await?;
        Ok(count)
    }

    /// Ends a queued task at once (answers `aborted`), asks for the end of a running one
    /// (`aborting`).
    pub async fn task_abort(&self, task: TaskId, message: Option<&str>) -> Result<TaskState> {
        let word = sqlx::query_scalar!(
            r#"select rework.task_abort($1, $2) as "state!""#,
            task.0,
            message
        )
        .fetch_one(&self.pool)
        .await?;
        Ok(word.parse().expect("task_abort answers a state"))
    }

    /// Queues an ended task once more, under its id; the number of the attempt to come.
    pub async fn task_retry(&self, task: TaskId) -> Result<i32> {
        let attempt = sqlx::query_scalar!(r#"select rework.task_retry($1) as "attempt!""#, task.0)
            .fetch_one(&self.pool)
            .await?;
        Ok(attempt)
    }

    /// Removes a task, with its log and its files, unless it is running.
    pub async fn task_delete(&self, task: TaskId) -> Result<()> {
        sqlx::query!("select rework.task_delete($1)", task.0)
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// Removes tasks of a domain (`None`: of all): those that ended before `age` ago, or with
    /// `queued` those that nobody has claimed. In batches, so that nobody waits for long. Answers
    /// how many.
    pub async fn task_vacuum(
        &self,
        domain: Option<&str>,
        age: Duration,
        queued: bool,
    ) -> Result<i64> {
        let (mut after, mut deleted) = (0, 0);
        loop {
            let row = sqlx::query!(
                r#"select v.deleted as "deleted!", v.last
                     from rework.task_vacuum($1, clock_timestamp() - $2 * interval '1 second', $3, $4, 5000) v"#,
                domain,
                age.as_secs_f64(),
                queued,
                after
            )
            .fetch_one(&self.pool)
            .await?;
            deleted += i64::from(row.deleted);
            match row.last {
                Some(last) => after = last,
                None => return Ok(deleted),
            }
        }
    }

    /// The newest tasks that fit.
    pub async fn task_list(&self, filter: &TaskFilter) -> Result<Vec<TaskRow>> {
        let rows = sqlx::query_as!(
            TaskRow,
            r#"select v.id as "id!", v.operation as "operation!", v.domain as "domain!", v.host,
                      v.state as "state!", v.cause, v.error, v.priority as "priority!",
                      v.attempt as "attempt!", v.max_attempts as "max_attempts!", v.metadata, v.key,
                      v.schedule, v.worker, v.queued as "queued!", v.run_at as "run_at!", v.started,
                      v.finished,
                      case when $6 then (select coalesce(sum(jsonb_array_length(l.lines)), 0)::bigint
                                           from rework.log l where l.task = v.id) end as log_lines,
                      case when $7 then (select t.backtrace from rework.task t where t.id = v.id) end
                          as backtrace
                 from rework.task_view v
                where ($1::text is null or v.domain = $1)
                  and ($2::text is null or v.operation = $2)
                  and ($3::text is null or v.state = $3)
                  and ($4::bigint is null or v.id < $4)
                order by v.id desc
                limit $5"#,
            filter.domain,
            filter.operation,
            filter.state.map(TaskState::as_str),
            filter.before,
            filter.limit,
            filter.log_count,
            filter.backtraces
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows)
    }

    /// One task.
    pub async fn task_row(&self, task: TaskId) -> Result<Option<TaskRow>> {
        let filter = TaskFilter {
            before: Some(task.0 + 1),
            limit: 1,
            ..TaskFilter::default()
        };
        let row = self.task_list(&filter).await?.pop();
        Ok(row.filter(|row| row.id == task.0))
    }

    /// What is known of a task beyond its row.
    pub async fn task_detail(&self, task: TaskId) -> Result<Option<TaskDetail>> {
        let detail = sqlx::query_as!(
            TaskDetail,
            r#"select t.progress, t.progress_message, t.location, t.backtrace, t.exit_code, t.signal,
                      t.peak_memory, t.cpu_seconds, g.hash as "plugin_hash?"
                 from rework.task t
                 left join rework.plugin_operation p on p.id = t.plugin_operation
                 left join rework.plugin g on g.id = p.plugin
                where t.id = $1"#,
            task.0
        )
        .fetch_optional(&self.pool)
        .await?;
        Ok(detail)
    }

    /// Its superseded attempts, the first one first.
    pub async fn task_attempts(&self, task: TaskId) -> Result<Vec<AttemptRow>> {
        let rows = sqlx::query_as!(
            AttemptRow,
            "select attempt, outcome as state, cause, error, worker, started, finished
               from rework.attempt where task = $1 order by attempt",
            task.0
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows)
    }

    /// The states of tasks, in one look; unknown ids are missing from the answer.
    pub async fn task_states(&self, tasks: &[TaskId]) -> Result<Vec<(TaskId, TaskState)>> {
        let ids: Vec<i64> = tasks.iter().map(|task| task.0).collect();
        let rows = sqlx::query!(
            r#"select t.id as "id!", rework.task_state(t.status, t.outcome, a.task is not null) as "state!"
                 from rework.task t
                 left join rework.abort_request a on a.task = t.id
                where t.id = any($1)"#,
            &ids
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows
            .into_iter()
            .map(|row| {
                (
                    TaskId(row.id),
                    row.state.parse().expect("task_state knows its words"),
                )
            })
            .collect())
    }

    /// The input of a task.
    pub async fn task_input(&self, task: TaskId) -> Result<Option<InputRow>> {
        let row = sqlx::query_as!(
            InputRow,
            "select input_encoding as encoding, input as fields, input_raw as raw
               from rework.task where id = $1",
            task.0
        )
        .fetch_optional(&self.pool)
        .await?;
        Ok(row)
    }

    /// The output of a task, with the state that it was read in.
    pub async fn task_output(&self, task: TaskId) -> Result<Option<OutputRow>> {
        let row = sqlx::query!(
            r#"select rework.task_state(t.status, t.outcome, a.task is not null) as "state!",
                      t.output_encoding as encoding, t.output as fields, t.output_raw as raw
                 from rework.task t
                 left join rework.abort_request a on a.task = t.id
                where t.id = $1"#,
            task.0
        )
        .fetch_optional(&self.pool)
        .await?;
        Ok(row.map(|row| OutputRow {
            state: row.state.parse().expect("task_state knows its words"),
            payload: InputRow {
                encoding: row.encoding,
                fields: row.fields,
                raw: row.raw,
            },
        }))
    }

    /// Queues so many tasks of an operation that takes no input, in one statement.
    pub async fn task_enqueue_copies(
        &self,
        operation: OperationId,
        count: u32,
    ) -> Result<Vec<i64>> {
        let ids = sqlx::query_scalar!(
            r#"select rework.task_enqueue($1, null, null, null, null, null, 0, null, null, 1) as "id!"
                 from generate_series(1, $2)"#,
            operation.0,
            count.cast_signed()
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(ids)
    }

    /// How many of these tasks have not ended.
    pub async fn task_count_open(&self, tasks: &[i64]) -> Result<i64> {
        let count = sqlx::query_scalar!(
            r#"select count(*) as "count!" from rework.task where id = any($1) and status <> 'done'"#,
            tasks
        )
        .fetch_one(&self.pool)
        .await?;
        Ok(count)
    }

    /// From the beginning of the first of these tasks to the end of the last, in seconds.
    pub async fn task_run_seconds(&self, tasks: &[i64]) -> Result<f64> {
        let seconds = sqlx::query_scalar!(
            r#"select coalesce(extract(epoch from max(finished) - min(started)), 0)::float8 as "seconds!"
                 from rework.task where id = any($1)"#,
            tasks
        )
        .fetch_one(&self.pool)
        .await?;
        Ok(seconds)
    }
}
