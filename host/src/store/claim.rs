//! What the database believes that a monitor holds; the monitor compares it with what it holds itself.

use super::{Store, error::Result};
use crate::model::{MonitorId, TaskId, Token};

impl Store {
    /// The tasks that a monitor has claimed and not ended, with the token of each claim.
    pub async fn claim_held(&self, monitor: MonitorId) -> Result<Vec<(TaskId, Token)>> {
        let rows = sqlx::query!(
            r#"select t.id, t.token as "token!"
                 from rework.claim c, unnest(c.tasks) as held (id)
                 join rework.task t on t.id = held.id
                where c.monitor = $1
                  and t.status <> 'done'
                  and t.token >> 36 = $1"#,
            monitor.0
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows
            .into_iter()
            .map(|row| (TaskId(row.id), Token(row.token)))
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
