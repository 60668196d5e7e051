//! The listing of tasks: the newest that fit, page by page, in one query. It reads what it shows; for an
//! end that hardly any task has come to, all of them.

use super::{Store, error::Result};
use crate::model::{TaskId, task::TaskState};
use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;

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
    /// Where its error was made; only where asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub location: Option<String>,
    /// The backtrace of a panic; only where asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backtrace: Option<String>,
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
    /// Also fetch where errors were made, and backtraces.
    pub backtraces: bool,
}

impl Store {
    /// The newest tasks that fit.
    pub async fn task_list(&self, filter: &TaskFilter) -> Result<Vec<TaskRow>> {
        let rows = sqlx::query_as!(
            TaskRow,
            r#"with fitting_operation as materialized (
                select o.id
                  from rework.operation o
                 where ($1::text is null or o.domain = $1)
                   and ($2::text is null or o.name = $2)
            ), queued_task as (
                -- Rows of the queue are few where tasks are many, and the other way round.
                (select r.id
                   from rework.ready r
                   join rework.lane l on l.id = r.lane
                  where l.operation in (select id from fitting_operation)
                    and r.id < coalesce($4::bigint, 9223372036854775807)
                  order by r.id desc
                  limit $5)
                union all
                (select d.id
                   from rework.delayed d
                   join rework.lane l on l.id = d.lane
                  where l.operation in (select id from fitting_operation)
                    and d.id < coalesce($4::bigint, 9223372036854775807)
                  order by d.id desc
                  limit $5)
            ), living_task as (
                -- Claimed, begun or not.
                select t.id
                  from (select * from queued_task
                        union all
                        select unnest(c.tasks) from rework.claim c) living (id)
                  join rework.task t on t.id = living.id
                  left join rework.abort_request a on a.task = t.id
                 where $3::text in ('queued', 'running', 'aborting')
                   and rework.task_state(t.status, t.outcome, a.task is not null) = $3
                   and t.operation in (select id from fitting_operation)
                   and t.id < coalesce($4::bigint, 9223372036854775807)
                 order by t.id desc
                 limit $5
            ), task_of_operation as (
                select newest.id
                  from fitting_operation o,
                       lateral (select t.id
                                  from rework.task t
                                 -- A range over both columns, or the planner may walk over every
                                 -- task there is.
                                 where (t.operation, t.id) > (o.id, 0)
                                   and (t.operation, t.id) < (o.id, coalesce($4::bigint, 9223372036854775807))
                                   and ($3::text is null or t.outcome = $3)
                                 order by t.operation desc, t.id desc
                                 limit $5) newest
                 where ($1::text is not null or $2::text is not null)
                   and ($3::text is null or $3 not in ('queued', 'running', 'aborting'))
                 order by newest.id desc
                 limit $5
            ), any_task as (
                select t.id
                  from rework.task t
                 where $1::text is null and $2::text is null
                   and ($3::text is null or $3 not in ('queued', 'running', 'aborting'))
                   and t.id < coalesce($4::bigint, 9223372036854775807)
                   and ($3::text is null or t.outcome = $3)
                 order by t.id desc
                 limit $5
            ), picked as (
                select id from living_task
                union all select id from task_of_operation
                union all select id from any_task
            )
            select v.id as "id!", v.operation as "operation!", v.domain as "domain!", v.host,
                   v.state as "state!", v.cause, v.error, v.priority as "priority!",
                   v.attempt as "attempt!", v.max_attempts as "max_attempts!", v.metadata, v.key,
                   v.schedule, v.worker, v.queued as "queued!", v.run_at as "run_at!", v.started,
                   v.finished,
                   case when $6 then (select coalesce(sum(jsonb_array_length(l.lines)), 0)::bigint
                                        from rework.log l where l.task = v.id) end as log_lines,
                   case when $7 then (select t.location from rework.task t where t.id = v.id) end
                       as location,
                   case when $7 then (select t.backtrace from rework.task t where t.id = v.id) end
                       as backtrace
              from rework.task_view v
             where v.id = any(array(select p.id from picked p order by p.id desc limit $5))
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
            before: Some(task.0.saturating_add(1)),
            limit: 1,
            ..TaskFilter::default()
        };
        let row = self.task_list(&filter).await?.pop();
        Ok(row.filter(|row| row.id == task.0))
    }
}
