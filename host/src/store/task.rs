//! Tasks as clients see them: read, aborted, retried, deleted. `enqueue` queues them, `cycle` writes their
//! progress.

use super::{Document, Store, error::Result};
use crate::model::{TaskId, task::TaskState};
use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;
use std::time::Duration;

/// What `show-task` shows of a task beyond its row.
#[derive(Debug, Clone)]
pub struct TaskDetail {
    /// The progress that the operation reported, from 0 to 1.
    pub progress: Option<f32>,
    /// The message that the operation reported with its progress.
    pub progress_message: Option<String>,
    /// Source file and line of the error.
    pub location: Option<String>,
    /// Backtrace of a panic.
    pub backtrace: Option<String>,
    /// The exit code of the worker, if it exited during the task.
    pub exit_code: Option<i32>,
    /// The signal that ended the worker, if one did.
    pub signal: Option<i32>,
    /// The peak of resident memory in bytes.
    pub peak_memory: Option<i64>,
    /// The processor time in seconds.
    pub cpu_seconds: Option<f64>,
    /// SHA-256 of the plugin that ran the task.
    pub plugin_hash: Option<String>,
}

/// An earlier attempt of a task that was retried.
#[derive(Debug, Clone, Serialize)]
pub struct AttemptRow {
    /// The number of the attempt, from 1.
    pub attempt: i32,
    /// The state in which the attempt ended.
    pub state: String,
    /// Why it did not end well: a keyword, such as `timeout`.
    pub cause: Option<String>,
    /// The cause as a sentence.
    pub error: Option<String>,
    /// The id of the worker that ran the attempt.
    pub worker: Option<i64>,
    /// When the attempt began.
    #[serde(serialize_with = "crate::model::time::serialize_option")]
    pub started: Option<DateTime<Utc>>,
    /// When the attempt ended.
    #[serde(serialize_with = "crate::model::time::serialize_option")]
    pub finished: Option<DateTime<Utc>>,
}

/// An input or output as it is stored in a task's row.
#[derive(Debug, Clone)]
pub struct InputRow {
    /// `fields` or `raw`; `None`: there is none.
    pub encoding: Option<String>,
    pub fields: Option<Value>,
    /// The raw bytes, unless they are stored in chunks.
    pub raw: Option<Vec<u8>>,
}

/// The output of a task, and the state of the task.
#[derive(Debug, Clone)]
pub struct OutputRow {
    pub state: TaskState,
    pub payload: InputRow,
}

/// The progress of a batch of tasks; for the benchmark.
#[derive(Debug, Clone, Copy)]
pub struct BatchRow {
    /// How many tasks have not ended.
    pub open: i64,
    /// How many have ended in another state than `done`.
    pub unwell: i64,
    /// Seconds from the beginning of the first task to the end of the last.
    pub seconds: f64,
}

/// Tasks that are deleted at once: their rows stay locked for some hundredths of a second.
const VACUUM_BATCH: i32 = 5000;

impl Store {
    /// Asks to abort a task. A queued task ends at once (returns `aborted`), a running one as soon as its
    /// monitor has killed it (returns `aborting`).
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

    /// Queues an ended task again, under its id. Returns the number of the attempt to come.
    pub async fn task_retry(&self, task: TaskId) -> Result<i32> {
        let attempt = sqlx::query_scalar!(r#"select rework.task_retry($1) as "attempt!""#, task.0)
            .fetch_one(&self.pool)
            .await?;
        Ok(attempt)
    }

    /// Deletes a task, with its log and its files, unless it is running.
    pub async fn task_delete(&self, task: TaskId) -> Result<()> {
        sqlx::query!("select rework.task_delete($1)", task.0)
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// Deletes tasks of a domain (`None`: of all): those that ended more than `age` ago or, with `queued`,
    /// those that nobody has claimed. It works in batches, so that no lock is held for long. Returns how
    /// many were deleted.
    pub async fn task_vacuum(
        &self,
        domain: Option<&str>,
        age: Duration,
        queued: bool,
    ) -> Result<i64> {
        if queued {
            return self.task_vacuum_queued(domain).await;
        }
        let (mut after, mut deleted) = (0, 0);
        loop {
            let row = sqlx::query!(
                r#"select v.deleted as "deleted!", v.last
                     from rework.task_vacuum($1, clock_timestamp() - $2 * interval '1 second', $3, $4) v"#,
                domain,
                age.as_secs_f64(),
                after,
                VACUUM_BATCH
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

    async fn task_vacuum_queued(&self, domain: Option<&str>) -> Result<i64> {
        // What is queued meanwhile stays.
        let upto = sqlx::query_scalar!("select max(id) from rework.task")
            .fetch_one(&self.pool)
            .await?;
        let mut deleted = 0;
        loop {
            let count = sqlx::query_scalar!(
                r#"select rework.task_vacuum_queued($1, $2, $3) as "count!""#,
                domain,
                upto,
                VACUUM_BATCH
            )
            .fetch_one(&self.pool)
            .await?;
            deleted += i64::from(count);
            if count == 0 {
                return Ok(deleted);
            }
        }
    }

    /// What is stored of a task beyond its row.
    pub async fn task_detail(&self, task: TaskId) -> Result<Option<TaskDetail>> {
        let detail = sqlx::query_as!(
            TaskDetail,
            r#"select t.progress, t.progress_message, t.location, t.backtrace, t.exit_code, t.signal,
                      t.peak_memory, t.cpu_seconds, g.hash as "plugin_hash?"
                 from rework.task_view t
                 left join rework.plugin_operation p on p.id = t.plugin_operation
                 left join rework.plugin g on g.id = p.plugin
                where t.id = $1"#,
            task.0
        )
        .fetch_optional(&self.pool)
        .await?;
        Ok(detail)
    }

    /// The earlier attempts of a task, the oldest first.
    pub async fn task_attempts(&self, task: TaskId) -> Result<Vec<AttemptRow>> {
        let rows = sqlx::query_as!(
            AttemptRow,
            r#"select abs(attempt) as "attempt!", outcome as state, cause, error, worker, started, finished
                 from rework.outcome
                where task = $1 and superseded is not null
                order by abs(attempt), attempt"#,
            task.0
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows)
    }

    /// The states of tasks, read at one instant; unknown ids are missing from the answer.
    pub async fn task_states(&self, tasks: &[TaskId]) -> Result<Vec<(TaskId, TaskState)>> {
        let ids: Vec<i64> = tasks.iter().map(|task| task.0).collect();
        let rows = sqlx::query!(
            r#"select id as "id!", state as "state!" from rework.task_view where id = any($1)"#,
            &ids
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows
            .into_iter()
            .map(|row| {
                (
                    TaskId(row.id),
                    row.state.parse().expect("task_view knows its words"),
                )
            })
            .collect())
    }

    /// The input of a task.
    pub async fn task_input(&self, task: TaskId) -> Result<Option<InputRow>> {
        let row = sqlx::query!(
            r#"select input_encoding as encoding, input as "fields: Document", input_raw as raw
                 from rework.task where id = $1"#,
            task.0
        )
        .fetch_optional(&self.pool)
        .await?;
        Ok(row.map(|row| InputRow {
            encoding: row.encoding,
            fields: row.fields.map(|document| document.0),
            raw: row.raw,
        }))
    }

    /// The output of a task, with the state in which it was read.
    pub async fn task_output(&self, task: TaskId) -> Result<Option<OutputRow>> {
        let row = sqlx::query!(
            r#"select state as "state!", output_encoding as encoding, output as "fields: Document",
                      output_raw as raw
                 from rework.task_view where id = $1"#,
            task.0
        )
        .fetch_optional(&self.pool)
        .await?;
        Ok(row.map(|row| OutputRow {
            state: row.state.parse().expect("task_view knows its words"),
            payload: InputRow {
                encoding: row.encoding,
                fields: row.fields.map(|document| document.0),
                raw: row.raw,
            },
        }))
    }

    /// How far a batch of tasks has come.
    pub async fn task_batch(&self, tasks: &[i64]) -> Result<BatchRow> {
        let row = sqlx::query_as!(
            BatchRow,
            r#"select cardinality($1::bigint[]) - count(*) as "open!",
                      count(*) filter (where outcome <> 'done') as "unwell!",
                      coalesce(extract(epoch from max(finished) - min(started)), 0)::float8 as "seconds!"
                 from rework.outcome where task = any($1) and superseded is null"#,
            tasks
        )
        .fetch_one(&self.pool)
        .await?;
        Ok(row)
    }
}
