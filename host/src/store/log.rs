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
            r#"select l.first + n - 1 as "id!", l.task, l.attempt,
                      to_timestamp(0) + (line->>0)::bigint * interval '1 microsecond' as "time!",
                      line->>1 as "stream!", line->>2 as "level!", line->>3 as target,
                      line->>4 as "line!"
                 from rework.log l,
                      jsonb_array_elements(l.lines) with ordinality as unfolded (line, n)
                where l.task = $1
                  -- As rework.log_line has it, but without unfolding what is not asked for: from
                  -- the chunk that may hold the next line to the last that may be needed.
                  and l.first >= coalesce((select max(c.first) from rework.log c
                                            where c.task = $1 and c.first <= $2::bigint + 1), 0)
                  and l.first < coalesce((select min(c.first) from rework.log c
                                           where c.task = $1 and c.first > $2), $2 + 1) + $3::bigint
                  and l.first + n - 1 > $2
                order by 1
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
