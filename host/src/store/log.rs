//! Reading a task's lines; they are written by the monitor's cycle.

use super::{Store, error::Result};
use crate::model::TaskId;
use chrono::{DateTime, Utc};

/// One line of a task's log, as `log-task --json` shows it.
#[derive(Debug, Clone, serde::Serialize)]
pub struct LogRow {
    /// The number of the line within the task, from 1.
    pub id: i64,
    /// The id of the task.
    pub task: i64,
    /// The attempt that wrote the line.
    pub attempt: i32,
    /// When the line was written, by the clock of the host that ran the task.
    #[serde(serialize_with = "crate::model::time::serialize")]
    pub time: DateTime<Utc>,
    /// `stdout`, `stderr` or `log`.
    pub stream: String,
    /// The log level in lower case, such as `info`.
    pub level: String,
    /// The module path of a log record; `None` for output lines.
    pub target: Option<String>,
    /// The text without its newline.
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

    /// The number of a task's last line; 0 if it has none.
    pub async fn log_end(&self, task: TaskId) -> Result<i64> {
        let end = sqlx::query_scalar!(
            r#"select coalesce((select l.first + jsonb_array_length(l.lines) - 1
                                  from rework.log l
                                 where l.task = $1
                                 order by l.first desc
                                 limit 1), 0) as "end!""#,
            task.0
        )
        .fetch_one(&self.pool)
        .await?;
        Ok(end)
    }

    /// The last lines of a task, up to the line number `until`, in one of these levels: at most `limit` of
    /// them, the oldest first.
    pub async fn log_tail(
        &self,
        task: TaskId,
        levels: &[String],
        until: i64,
        limit: i64,
    ) -> Result<Vec<LogRow>> {
        let mut rows = sqlx::query_as!(
            LogRow,
            r#"select l.first + n - 1 as "id!", l.task, l.attempt,
                      to_timestamp(0) + (line->>0)::bigint * interval '1 microsecond' as "time!",
                      line->>1 as "stream!", line->>2 as "level!", line->>3 as target,
                      line->>4 as "line!"
                 from rework.log l,
                      jsonb_array_elements(l.lines) with ordinality as unfolded (line, n)
                where l.task = $1
                  and line->>2 = any($2::text[])
                  and l.first + n - 1 <= $3::bigint
                order by 1 desc
                limit $4"#,
            task.0,
            levels,
            until,
            limit
        )
        .fetch_all(&self.pool)
        .await?;
        rows.reverse();
        Ok(rows)
    }

    /// Deletes chunks of log lines that other chunks have replaced. Each is named by its task and the
    /// number of its first line.
    pub async fn log_delete(&self, chunks: &[(TaskId, i64)]) -> Result<()> {
        let (tasks, numbers): (Vec<i64>, Vec<i64>) =
            chunks.iter().map(|(task, first)| (task.0, *first)).unzip();
        sqlx::query!(
            "delete from rework.log l
              using unnest($1::bigint[], $2::bigint[]) as superseded (task, first)
              where l.task = superseded.task
                and l.first = superseded.first",
            &tasks,
            &numbers
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// The last lines of a task's last attempt: at most `limit` of them, the oldest first.
    pub async fn log_last_lines(&self, task: TaskId, limit: i64) -> Result<Vec<String>> {
        let mut lines = sqlx::query_scalar!(
            r#"with last_chunks as (
                   -- Each holds a line at least.
                   select g.first, g.lines
                     from rework.log g
                    where g.task = $1
                      and g.attempt = (select v.attempt from rework.task_view v where v.id = $1)
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
