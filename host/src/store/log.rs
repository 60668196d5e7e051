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

    /// The last lines of a task's last attempt, at most `limit` of them, in their order.
    pub async fn log_last_lines(&self, task: TaskId, limit: i64) -> Result<Vec<String>> {
        let mut lines = sqlx::query_scalar!(
            r#"with last_chunks as (
                   -- Each holds a line at least.
                   select g.first, g.lines
                     from rework.log g
                     join rework.task t on t.id = g.task and t.attempt = g.attempt
                    where g.task = $1
                    order by g.first desc
                    limit $2
               )
               select l.line ->> 4 as "line!"
                 from last_chunks c,
                      jsonb_array_elements(c.lines) with ordinality as l (line, place)
                order by c.first desc, l.place desc
                limit $2"#,
            task.0,
            limit
        )
        .fetch_all(&self.pool)
        .await?;
        lines.reverse();
        Ok(lines)
    }
}
