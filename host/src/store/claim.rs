//! What the database believes that a monitor holds; the monitor compares it with what it holds itself.

use super::{Store, error::Result};
use crate::model::{MonitorId, TaskId, Token};

/// An attempt that the database believes to be held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Claim {
    pub task: TaskId,
    /// The number of the attempt, from 1.
    pub attempt: i32,
    pub token: Token,
}

impl Store {
    /// The attempts that a monitor has claimed and not ended.
    pub async fn claim_held(&self, monitor: MonitorId) -> Result<Vec<Claim>> {
        let rows = sqlx::query!(
            r#"select held.task as "task!", held.attempt as "attempt!", c.cycle
                 from rework.claim c, unnest(c.tasks, c.attempts) as held (task, attempt)
                 -- What has ended may have been deleted.
                 join rework.task t on t.id = held.task
                where c.monitor = $1
                  and not exists (select from rework.outcome o
                                   where o.task = held.task and o.attempt = held.attempt)"#,
            monitor.0
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows
            .into_iter()
            .map(|row| Claim {
                task: TaskId(row.task),
                attempt: row.attempt,
                token: Token::new(monitor, row.cycle.cast_unsigned()),
            })
            .collect())
    }

    /// Which of these tasks somebody has asked to abort, with the message given.
    pub async fn claim_aborts(&self, tasks: &[TaskId]) -> Result<Vec<(TaskId, Option<String>)>> {
        let ids: Vec<i64> = tasks.iter().map(|task| task.0).collect();
        let rows = sqlx::query!(
            "select task, message from rework.abort_request where task = any($1)",
            &ids
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows
            .into_iter()
            .map(|row| (TaskId(row.task), row.message))
            .collect())
    }
}
