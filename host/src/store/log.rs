//! Reading a task's lines; they are written by the monitor's cycle.

use super::{Store, error::Result};
use crate::model::TaskId;
use chrono::{DateTime, Utc};

/// One line of a task, as `log-task --json` shows it.
#[derive(Debug, Clone, serde::Serialize)]
pub struct LogRow {
    /// Runs from 1 within the task.
    pub id: i64,
    /// The task.
    pub task: i64,
    /// In which attempt it was written.
    pub attempt: i32,
    /// When, on the clock of the host that ran it.
    #[serde(serialize_with = "crate::model::time::serialize")]
    pub time: DateTime<Utc>,
    /// `stdout`, `stderr` or `log`.
    pub stream: String,
    /// In lower case.
    pub level: String,
    /// Where in the code, for records.
    pub target: Option<String>,
    /// The text.
    pub line: String,
}

impl Store {
    /// The next lines of a task after line `after`, at most `limit` of them.
    pub async fn log_lines(&self, task: TaskId, after: i64, limit: i64) -> Result<Vec<LogRow>> {
        let rows = sqlx::query_as!(
            LogRow,
            r#"select id as "id!", task as "task!", attempt as "attempt!", time as "time!",
                      stream as "stream!", level as "level!", target, line as "line!"
                 from rework.log_line
                where task = $1 and id > $2
                order by id
                limit $3"#,
            task.0,
            after,
            limit
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows)
    }
}
