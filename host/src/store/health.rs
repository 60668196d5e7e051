//! What `doctor` asks of the database.

use super::{Store, error::Result, sched::ScheduleRow};
use crate::model::{OperationId, TaskId};
use chrono::{DateTime, Utc};
use std::time::Duration;

/// Doctor reports a worker that has been loading its plugin for longer than this. Most plugins load in
/// milliseconds; large numerical libraries take a second or two.
pub const SLOW_LOAD: Duration = Duration::from_secs(5);

/// What doctor asks of the server.
#[derive(Debug, Clone)]
pub struct Health {
    /// `server_version_num`: 180001 is 18.1.
    pub server: i32,
    /// The server's clock.
    pub now: DateTime<Utc>,
}

/// A host that may run the tasks of a lane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaneHost {
    pub host: String,
    /// SHA-256 of the plugin that would run them on this host.
    pub plugin: String,
    /// Whether a living monitor on this host serves the domain.
    pub is_served: bool,
    /// Whether any monitor on this host is alive.
    pub is_alive: bool,
    /// When a monitor on this host was last alive; `None`: never.
    pub last_seen: Option<DateTime<Utc>>,
}

/// The tasks that wait in one lane, and the hosts that could run them.
#[derive(Debug, Clone)]
pub struct WaitingLane {
    pub domain: String,
    pub operation: String,
    /// The host that the tasks are pinned to.
    pub host: Option<String>,
    /// The id of one of the tasks, as an example.
    pub task: i64,
    /// How many tasks wait, counted up to 1000. Claimed tasks that have not begun are included.
    pub waiting: i64,
    /// The hosts that may run the tasks.
    pub hosts: Vec<LaneHost>,
    /// Whether the domain or the operation is paused.
    pub paused: bool,
}

/// What a queued task waits for.
#[derive(Debug, Clone)]
pub struct TaskWait {
    pub domain: String,
    pub operation: String,
    /// The host that the task is pinned to.
    pub host: Option<String>,
    /// The time before which the task must not run, if it lies ahead.
    pub until: Option<DateTime<Utc>>,
    /// Whether its domain or its operation is paused.
    pub paused: bool,
    /// The host whose monitor has claimed the task.
    pub claimed_on: Option<String>,
    /// The hosts that may run the task.
    pub hosts: Vec<LaneHost>,
}

/// A host that has operations and no living monitor.
#[derive(Debug, Clone)]
pub struct GoneHost {
    pub host: String,
    /// How many operations are registered for the host.
    pub operations: i64,
    /// An operation that no host with a living monitor offers.
    pub only_here: Option<String>,
    /// When a monitor on the host was last alive; `None`: never.
    pub last_seen: Option<DateTime<Utc>>,
}

/// A plugin of a domain whose workers die before they are ready, or take long to become ready.
#[derive(Debug, Clone)]
pub struct StartHealth {
    pub domain: String,
    pub host: String,
    /// SHA-256 of the plugin.
    pub plugin: String,
    /// The name of the plugin's crate.
    pub name: String,
    /// How the last worker ended; `None`: it is still loading the plugin.
    pub error: Option<String>,
    /// How long a worker has been loading the plugin, in seconds; 0 if the workers die.
    pub loading: f64,
}

impl StartHealth {
    /// The problem as doctor words it, after the name of the plugin.
    pub fn in_words(&self) -> String {
        match &self.error {
            Some(error) => format!("die before they are ready: {error}"),
            None => format!("have been loading it for {:.0} s", self.loading),
        }
    }
}

impl Store {
    /// Plugins whose last worker (of a domain on a host, within a day) died before it was ready, and
    /// plugins without a ready worker of which one has been loading for [`SLOW_LOAD`].
    pub async fn health_starts(&self) -> Result<Vec<StartHealth>> {
        let rows = sqlx::query_as!(
            StartHealth,
            r#"with judged as (
                   select distinct on (domain, host, plugin) w.*
                     from rework.worker w
                    where created > clock_timestamp() - interval '1 day'
                      -- Not those that still try, or that we ended for a reason of our own.
                      and (started is not null
                           or state = 'dead'
                              and cause not in ('monitor exit', 'monitor lost', 'killed', 'shutdown',
                                                'upgrade', 'idle'))
                    order by domain, host, plugin, id desc
               ),
               failing as (
                   select domain, host, plugin, coalesce(error, cause, '') as error
                     from judged
                    where state = 'dead' and started is null
               ),
               loading as (
                   select w.domain, w.host, w.plugin,
                          max(extract(epoch from clock_timestamp() - w.created))::float8 as seconds
                     from rework.worker w
                     join rework.monitor m on m.id = w.monitor
                    where w.state = 'unstarted'
                      and w.created < clock_timestamp() - $1 * interval '1 second'
                      and rework.is_alive(m.last_seen, m.lease)
                      -- While another one runs tasks, nobody waits for this one.
                      and not exists (select from rework.worker other
                                       where other.state in ('idle', 'running')
                                         and (other.domain, other.host, other.plugin)
                                             = (w.domain, w.host, w.plugin))
                    group by w.domain, w.host, w.plugin
               )
               select starts.domain as "domain!", starts.host as "host!", g.hash as plugin, g.name,
                      starts.error as "error?", coalesce(starts.seconds, 0) as "loading!"
                 from (failing full join loading using (domain, host, plugin)) as starts
                 join rework.plugin g on g.hash = starts.plugin
                -- What has been replaced or withdrawn is nobody's concern any more.
                where exists (select from rework.plugin_operation p
                                join rework.deployment d on d.plugin_operation = p.id
                               where p.plugin = g.id and d.host = starts.host and d.retired is null)
                order by starts.domain, starts.host, g.name"#,
            SLOW_LOAD.as_secs_f64()
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows)
    }

    /// The version and the clock of the server.
    pub async fn health(&self) -> Result<Health> {
        let row = sqlx::query!(
            r#"select current_setting('server_version_num')::int as "server!",
                      clock_timestamp() as "now!""#
        )
        .fetch_one(&self.pool)
        .await?;
        Ok(Health {
            server: row.server,
            now: row.now,
        })
    }

    /// Every lane with tasks that wait and may run now. A claimed task counts as waiting until it has
    /// begun: otherwise it would appear and disappear in turns while workers fail to start.
    pub async fn health_waiting(&self) -> Result<Vec<WaitingLane>> {
        let rows = sqlx::query!(
            r#"with waiting as (
                   select l.id as lane, first.id as task,
                          (select count(*) from (select from rework.ready r
                                                  where r.lane = l.id limit 1000) counted) as tasks
                     from rework.lane l
                    cross join lateral (select id from rework.ready r where r.lane = l.id
                                         order by rank, id limit 1) first
                   union all
                   select t.lane, min(t.id), count(*)
                     from rework.claim c, unnest(c.tasks, c.attempts) as held (task, attempt)
                     join rework.task t on t.id = held.task
                    where not exists (select from rework.running r where r.task = held.task)
                      and not exists (select from rework.outcome e
                                       where e.task = held.task and e.attempt = held.attempt)
                    group by t.lane
               )
               select o.id, o.domain, o.name as operation, l.host, l.accepts, min(w.task) as "task!",
                      least(sum(w.tasks), 1000)::bigint as "waiting!",
                      o.paused or exists (select from rework.paused_domain s where s.domain = o.domain)
                          as "paused!"
                 from waiting w
                 join rework.lane l on l.id = w.lane
                 join rework.operation o on o.id = l.operation
                group by o.id, l.id
                order by o.domain, o.name, l.host nulls first, l.id"#
        )
        .fetch_all(&self.pool)
        .await?;
        let mut lanes = Vec::with_capacity(rows.len());
        for row in rows {
            let hosts = self
                .lane_hosts(
                    OperationId(row.id),
                    row.host.as_deref(),
                    row.accepts.as_deref(),
                )
                .await?;
            lanes.push(WaitingLane {
                domain: row.domain,
                operation: row.operation,
                host: row.host,
                task: row.task,
                waiting: row.waiting,
                hosts,
                paused: row.paused,
            });
        }
        Ok(lanes)
    }

    /// What a task waits for; `None`: the task is not queued, or does not exist.
    pub async fn health_task(&self, task: TaskId) -> Result<Option<TaskWait>> {
        let row = sqlx::query!(
            r#"select o.id, o.domain, o.name as operation, l.host, l.accepts,
                      case when t.run_at > clock_timestamp() then t.run_at end as until,
                      o.paused or exists (select from rework.paused_domain s where s.domain = o.domain)
                          as "paused!",
                      -- A claim keeps those of its tasks that have ended; then this task waits for another
                      -- attempt, in the queue.
                      (select m.host
                         from rework.claim c, unnest(c.tasks, c.attempts) as held (task, attempt), rework.monitor m
                        where t.id = any(c.tasks) and held.task = t.id and m.id = c.monitor
                          and not exists (select from rework.outcome e
                                           where e.task = held.task and e.attempt = held.attempt)
                        limit 1) as claimed_on
                 from rework.task_view t
                 join rework.lane l on l.id = t.lane
                 join rework.operation o on o.id = t.operation_id
                where t.id = $1 and t.state = 'queued'"#,
            task.0
        )
        .fetch_optional(&self.pool)
        .await?;
        let Some(row) = row else { return Ok(None) };
        let hosts = self
            .lane_hosts(
                OperationId(row.id),
                row.host.as_deref(),
                row.accepts.as_deref(),
            )
            .await?;
        Ok(Some(TaskWait {
            domain: row.domain,
            operation: row.operation,
            host: row.host,
            until: row.until,
            paused: row.paused,
            claimed_on: row.claimed_on,
            hosts,
        }))
    }

    /// The hosts that may run the next task of a schedule; an error if its operation would refuse the task.
    pub async fn health_schedule(&self, row: &ScheduleRow) -> Result<Vec<LaneHost>> {
        let request = row.request(Utc::now())?;
        let (operation, host, accepts) = self.task_lane(&request).await?;
        self.lane_hosts(operation, host.as_deref(), accepts.as_deref())
            .await
    }

    async fn lane_hosts(
        &self,
        operation: OperationId,
        host: Option<&str>,
        accepts: Option<&str>,
    ) -> Result<Vec<LaneHost>> {
        let rows = sqlx::query_as!(
            LaneHost,
            r#"select host as "host!", plugin as "plugin!", is_served as "is_served!", is_alive as "is_alive!", last_seen
                 from rework.lane_hosts($1, $2, $3)"#,
            operation.0,
            host,
            accepts
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows)
    }

    /// Hosts that have operations and no living monitor. Empty if no monitor is alive on any host.
    pub async fn health_gone_hosts(&self) -> Result<Vec<GoneHost>> {
        let rows = sqlx::query_as!(
            GoneHost,
            r#"with alive as (
                   select distinct host from rework.monitor m where rework.is_alive(m.last_seen, m.lease)
               )
               select d.host, count(*) as "operations!",
                      min(o.name) filter (
                          where not exists (select from rework.deployment other
                                             where other.operation = d.operation
                                               and other.retired is null
                                               and other.host in (select host from alive)))
                          as only_here,
                      greatest((select h.last_seen from rework.host h where h.name = d.host),
                               (select max(m.last_seen) from rework.monitor m where m.host = d.host))
                          as last_seen
                 from rework.deployment d
                 join rework.operation o on o.id = d.operation
                where d.retired is null
                  and d.host not in (select host from alive)
                  and exists (select from alive)
                group by d.host
                order by d.host"#
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows)
    }

    /// Inserts, claims and ends a task of its own, touching each table that takes part, and rolls back. The
    /// error is the one that a monitor would get.
    pub async fn health_write(&self) -> Result<()> {
        let mut transaction = self.pool.begin().await?;
        for statement in [
            // Another doctor that tries the same is waited for.
            "select pg_advisory_xact_lock(hashtext('rework.doctor'))",
            "insert into rework.task (id, operation, lane, run_at) overriding system value
             values (-1, 0, 0, clock_timestamp())",
            "insert into rework.ready (lane, rank, id) values (-1, 0, -1)",
            "delete from rework.ready where lane = -1",
            "insert into rework.delayed (run_at, id, lane, rank) values ('epoch', -1, -1, 0)",
            "delete from rework.delayed where id = -1",
            "insert into rework.claim (monitor, cycle, tasks, attempts) values (-1, 0, '{-1}', '{1}')",
            "select from rework.claim where monitor = -1 and cycle = 0 for key share",
            "delete from rework.claim where monitor = -1",
            "insert into rework.worker (id, host, domain, monitor) overriding system value
             values (-1, '', '', -1)",
            "update rework.worker set state = 'idle' where id = -1",
            "delete from rework.worker where id = -1",
            "insert into rework.running (task, attempt, worker, plugin_operation, started)
             values (-1, 1, -1, 0, clock_timestamp())",
            "delete from rework.running where task = -1",
            "insert into rework.log (task, attempt, first, lines) values (-1, 1, 1, '[]')",
            "delete from rework.log where task = -1",
            "insert into rework.abort_request (task) values (-1)",
            "delete from rework.abort_request where task = -1",
            "insert into rework.task_file (id, task, direction, name, size, sha256)
             overriding system value values (-1, -1, 'output', '', 1, '')",
            "insert into rework.task_file_chunk (file, chunk, content) values (-1, 0, '\\x00')",
            "delete from rework.task_file where id = -1",
            "insert into rework.outcome (task, attempt, operation, outcome, finished)
             values (-1, 1, 0, 'done', clock_timestamp())",
            "delete from rework.outcome where task = -1",
            "delete from rework.task where id = -1",
        ] {
            sqlx::raw_sql(statement).execute(&mut *transaction).await?;
        }
        transaction.rollback().await?;
        Ok(())
    }
}
