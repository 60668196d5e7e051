//! The listing of tasks: the newest that fit, page by page, in one query. The query reads only the tasks
//! that it shows, except with a filter that hardly any task fits: then it reads all.

use super::{Store, error::Result};
use crate::model::{TaskId, task::TaskState};
use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;

/// A task, as `list-tasks` shows it.
#[derive(Debug, Clone, Serialize)]
pub struct TaskRow {
    /// The id of the task.
    pub id: i64,
    /// The name of the operation.
    pub operation: String,
    /// The domain of the operation.
    pub domain: String,
    /// The host that the task is pinned to.
    pub host: Option<String>,
    /// One of the six states, such as `queued`.
    pub state: String,
    /// Why the task did not end well: a keyword, such as `timeout`.
    pub cause: Option<String>,
    /// The cause as a sentence.
    pub error: Option<String>,
    /// Tasks of higher priority run first.
    pub priority: i32,
    /// The number of the last attempt; 0 before the first.
    pub attempt: i32,
    /// How many attempts the task may take.
    pub max_attempts: i32,
    /// Any JSON object that the caller attached to the task.
    pub metadata: Option<Value>,
    /// The caller's idempotency key.
    pub key: Option<String>,
    /// The id of the schedule that queued the task.
    pub schedule: Option<i64>,
    /// The id of the worker that runs the task, or ran it last.
    pub worker: Option<i64>,
    /// When the task was queued, by the server's clock.
    #[serde(serialize_with = "crate::model::time::serialize")]
    pub queued: DateTime<Utc>,
    /// The time before which the task does not run.
    #[serde(serialize_with = "crate::model::time::serialize")]
    pub run_at: DateTime<Utc>,
    /// When its last attempt began.
    #[serde(serialize_with = "crate::model::time::serialize_option")]
    pub started: Option<DateTime<Utc>>,
    /// When it ended.
    #[serde(serialize_with = "crate::model::time::serialize_option")]
    pub finished: Option<DateTime<Utc>>,
    /// How many log lines the task has written; `None` unless [`TaskFilter::log_count`] asks for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_lines: Option<i64>,
    /// Source file and line of the error; `None` unless [`TaskFilter::backtraces`] asks for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub location: Option<String>,
    /// The backtrace of a panic; `None` unless [`TaskFilter::backtraces`] asks for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backtrace: Option<String>,
}

/// Which tasks to list.
#[derive(Debug, Clone, Default)]
pub struct TaskFilter {
    /// Only tasks of this domain.
    pub domain: Option<String>,
    /// Only tasks of operations with this name.
    pub operation: Option<String>,
    /// Only tasks in this state.
    pub state: Option<TaskState>,
    /// Only tasks with a lower id.
    pub before: Option<i64>,
    /// How many tasks to list at most.
    pub limit: i64,
    /// Also count the log lines of each task.
    pub log_count: bool,
    /// Also fetch locations of errors and backtraces.
    pub backtraces: bool,
}

impl Store {
    /// The newest tasks that the filter lets through, the newest first.
    pub async fn task_list(&self, filter: &TaskFilter) -> Result<Vec<TaskRow>> {
        let rows = sqlx::query_as!(
            TaskRow,
            r#"with recursive fitting_operation as materialized (
                select o.id
                  from rework.operation o
                 where ($1::text is null or o.domain = $1)
                   and ($2::text is null or o.name = $2)
            ), place as (
                -- The lanes and ranks of the queue, from one to the next. Within each the index has the order
                -- of ids.
                (select r.lane, r.rank from rework.ready r where $3::text = 'queued'
                  order by r.lane, r.rank limit 1)
                union all
                select n.lane, n.rank
                  from place p,
                       lateral (select r.lane, r.rank
                                  from rework.ready r
                                 where (r.lane, r.rank) > (p.lane, p.rank)
                                 order by r.lane, r.rank
                                 limit 1) n
            ), queued_task as (
                select newest.id
                  from place p
                  join rework.lane l on l.id = p.lane and l.operation in (select id from fitting_operation),
                       lateral (select r.id
                                  from rework.ready r
                                 where r.lane = p.lane and r.rank = p.rank
                                   and r.id < coalesce($4::bigint, 9223372036854775807)
                                 order by r.id desc
                                 limit $5) newest
                union all
                (select d.id
                   from rework.delayed d
                   join rework.lane l on l.id = d.lane
                  where $3 = 'queued'
                    and l.operation in (select id from fitting_operation)
                    and d.id < coalesce($4::bigint, 9223372036854775807)
                  order by d.id desc
                  limit $5)
            ), living_task as (
                -- What has not ended is in few places.
                select v.id
                  from (select id from queued_task where $3::text = 'queued'
                        union all
                        select unnest(c.tasks) from rework.claim c where $3 = 'queued'
                        union all
                        select r.task from rework.running r where $3 = 'running'
                        union all
                        select a.task from rework.abort_request a where $3 = 'aborting') living (id)
                  join rework.task_view v on v.id = living.id
                 where v.state = $3
                   and v.operation_id in (select id from fitting_operation)
                   and v.id < coalesce($4::bigint, 9223372036854775807)
                 order by v.id desc
                 limit $5
            ), unwell_task as (
                select newest.task as id
                  from fitting_operation p,
                       lateral (select o.task
                                  from rework.outcome o
                                 where o.operation = p.id
                                   and o.outcome = $3
                                   and o.outcome <> 'done' and o.superseded is null
                                   and o.task < coalesce($4::bigint, 9223372036854775807)
                                 order by o.task desc
                                 limit $5) newest
                 where $3 in ('failed', 'aborted')
                 order by newest.task desc
                 limit $5
            ), recently_done as materialized (
                -- Of an operation with many queued tasks, those that are done are found sooner among all that
                -- have ended.
                select recent.task as id
                  from (select o.task, o.operation, o.outcome, o.superseded
                          from rework.outcome o
                         where $3 = 'done' and ($1::text is not null or $2::text is not null)
                           and o.task < coalesce($4::bigint, 9223372036854775807)
                         order by o.task desc, o.attempt desc
                         limit 20000) recent
                 where recent.operation in (select id from fitting_operation)
                   and recent.outcome = 'done' and recent.superseded is null
                 order by recent.task desc
                 limit $5
            ), task_of_operation as (
                select newest.id
                  from fitting_operation p,
                       lateral (select t.id
                                  from rework.task t
                                 -- A range over both columns, or the planner may walk over every
                                 -- task there is.
                                 where (t.operation, t.id) > (p.id, 0)
                                   and (t.operation, t.id) < (p.id, coalesce($4::bigint, 9223372036854775807))
                                   -- What the index is for.
                                   and t.operation > 0
                                   and ($3::text is null
                                        or exists (select from rework.outcome o
                                                    where o.task = t.id and o.outcome = $3
                                                      and o.superseded is null))
                                 order by t.operation desc, t.id desc
                                 limit $5) newest
                 where ($1::text is not null or $2::text is not null)
                   and ($3::text is null or $3 = 'done' and (select count(*) from recently_done) < $5)
                 order by newest.id desc
                 limit $5
            ), any_task as (
                select t.id
                  from rework.task t
                 where $1::text is null and $2::text is null and $3::text is null
                   and t.id < coalesce($4::bigint, 9223372036854775807)
                 order by t.id desc
                 limit $5
            ), any_done_task as (
                select o.task as id
                  from rework.outcome o
                 where $1::text is null and $2::text is null and $3 = 'done'
                   and o.outcome = $3 and o.superseded is null
                   and o.task < coalesce($4::bigint, 9223372036854775807)
                 order by o.task desc, o.attempt desc
                 limit $5
            ), picked as (
                select id from living_task
                union select id from unwell_task
                union select id from task_of_operation
                union select id from any_task
                union select id from any_done_task
                union select id from recently_done
            )
            select v.id as "id!", v.operation as "operation!", v.domain as "domain!", v.host,
                   v.state as "state!", v.cause, v.error, v.priority as "priority!",
                   v.attempt as "attempt!", v.max_attempts as "max_attempts!", v.metadata, v.key,
                   v.schedule, v.worker, v.queued as "queued!", v.run_at as "run_at!", v.started,
                   v.finished,
                   case when $6 then (select coalesce(sum(jsonb_array_length(l.lines)), 0)::bigint
                                        from rework.log l where l.task = v.id) end as log_lines,
                   case when $7 then v.location end as location, case when $7 then v.backtrace end as backtrace
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
