//! Tasks as clients see them: looked at, ended, tried again, removed. They are queued by `enqueue`,
//! and their progress is written by `cycle`.

use super::{Document, Store, error::Result};
use crate::model::{TaskId, task::TaskState};
use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;
use std::time::Duration;

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

/// A batch of tasks, taken together.
#[derive(Debug, Clone, Copy)]
pub struct BatchRow {
    /// How many have not ended.
    pub open: i64,
    /// How many have ended, and not well.
    pub unwell: i64,
    /// From the beginning of the first to the end of the last.
    pub seconds: f64,
}

impl Store {
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

    /// The output of a task, with the state that it was read in.
    pub async fn task_output(&self, task: TaskId) -> Result<Option<OutputRow>> {
        let row = sqlx::query!(
            r#"select rework.task_state(t.status, t.outcome, a.task is not null) as "state!",
                      t.output_encoding as encoding, t.output as "fields: Document",
                      t.output_raw as raw
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
                fields: row.fields.map(|document| document.0),
                raw: row.raw,
            },
        }))
    }

    /// How far a batch of tasks has come.
    pub async fn task_batch(&self, tasks: &[i64]) -> Result<BatchRow> {
        let row = sqlx::query_as!(
            BatchRow,
            r#"select count(*) filter (where status <> 'done') as "open!",
                      count(*) filter (where outcome <> 'done') as "unwell!",
                      coalesce(extract(epoch from max(finished) - min(started)), 0)::float8 as "seconds!"
                 from rework.task where id = any($1)"#,
            tasks
        )
        .fetch_one(&self.pool)
        .await?;
        Ok(row)
    }
}
