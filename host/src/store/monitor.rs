//! Monitors: their leases, whether they sleep, and how the tasks of a lost monitor are recovered.

use super::{Store, error::Result, lock::Holder};
use crate::{model::MonitorId, periods::Periods};
use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;
use std::time::Duration;

/// A monitor, as `list-monitors` shows it.
#[derive(Debug, Clone, Serialize)]
pub struct MonitorRow {
    /// The id of the monitor.
    pub id: i64,
    /// The host that the monitor runs on.
    pub host: String,
    /// The process id of the monitor on its host.
    pub pid: i32,
    /// The domains that the monitor serves; empty: all.
    pub domains: Vec<String>,
    /// The options that it was started with.
    pub options: Value,
    /// When the monitor started, by the server's clock.
    #[serde(serialize_with = "crate::model::time::serialize")]
    pub started: DateTime<Utc>,
    /// When it last renewed its lease, by the server's clock.
    #[serde(serialize_with = "crate::model::time::serialize")]
    pub last_seen: DateTime<Utc>,
    /// Whether its lease has expired, by the server's clock.
    pub stale: bool,
    /// Which of its writes the database refuses, in one line; `None`: none.
    pub trouble: Option<String>,
}

/// A monitor other than the caller, alive or dead.
#[derive(Debug, Clone)]
pub struct OtherMonitor {
    pub id: MonitorId,
    /// The host that it runs on, or ran on.
    pub host: String,
    /// The directory on that host in which its workers' pages lie.
    pub pages: String,
    /// A text that changes with every renewal of the lease (the row's `xmin`). Observers compare two
    /// readings and measure the time in between by their own clock, so no clocks are compared.
    pub sign: String,
    /// How long after a renewal the lease is valid.
    pub lease: Duration,
}

/// Why a monitor is taken for dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gone {
    /// The lock file of its pages, on this host, is free.
    Unlocked,
    /// Its row has not changed for longer than its lease. The row is compared once more under lock: if it
    /// has changed by then, the monitor is not declared lost.
    Silent,
}

impl Store {
    /// Inserts the row of a monitor that starts.
    pub async fn monitor_start(
        &self,
        host: &str,
        pid: i32,
        domains: &[String],
        options: &Value,
        pages: &str,
    ) -> Result<MonitorId> {
        let id = sqlx::query_scalar!(
            "with known_host as (
                 insert into rework.host (name) values ($1)
                     on conflict (name) do update set last_seen = clock_timestamp()
             )
             insert into rework.monitor (host, pid, domains, options, pages, lease)
             values ($1, $2, $3, $4, $5, make_interval(secs => $6)) returning id",
            host,
            pid,
            domains,
            options,
            pages,
            Periods::current().lease.as_secs_f64()
        )
        .fetch_one(&self.pool)
        .await?;
        Ok(MonitorId(id))
    }

    /// Renews the lease, and records which writes of the monitor the database refuses, if any. Returns
    /// `false` if somebody has declared the monitor lost.
    pub async fn monitor_renew(&self, monitor: MonitorId, trouble: Option<&str>) -> Result<bool> {
        let done = sqlx::query!(
            "update rework.monitor set last_seen = clock_timestamp(), trouble = $2 where id = $1",
            monitor.0,
            trouble
        )
        .execute(&self.pool)
        .await?;
        Ok(done.rows_affected() == 1)
    }

    /// Who holds a lock on the row of a monitor; `None`: nobody.
    pub async fn monitor_locker(&self, monitor: i64) -> Result<Option<Holder>> {
        let row = sqlx::query!(
            r#"select a.pid as "pid!", coalesce(a.application_name, '') as "application!"
                 from rework.monitor m
                 join pg_locks l on l.locktype = 'transactionid' and l.granted
                                and l.transactionid = m.xmax
                 join pg_stat_activity a on a.pid = l.pid
                where m.id = $1
                limit 1"#,
            monitor
        )
        .fetch_optional(&self.pool)
        .await?;
        Ok(row.map(|row| Holder::Session {
            pid: row.pid,
            application: row.application,
        }))
    }

    /// Records whether a transaction that queues a task must notify this monitor.
    pub async fn monitor_sleep(&self, monitor: MonitorId, asleep: bool) -> Result<()> {
        sqlx::query!(
            "update rework.monitor set asleep = $2 where id = $1",
            monitor.0,
            asleep
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Records that a monitor ends in order; its row is deleted.
    pub async fn monitor_end(&self, monitor: MonitorId) -> Result<()> {
        sqlx::query!(
            "with ended_claim as (delete from rework.claim where monitor = $1),
                  left_host as (update rework.host h set last_seen = clock_timestamp()
                                  from rework.monitor m where m.id = $1 and h.name = m.host)
             delete from rework.monitor where id = $1",
            monitor.0
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Every monitor that has not ended in order.
    pub async fn monitor_list(&self) -> Result<Vec<MonitorRow>> {
        let rows = sqlx::query_as!(
            MonitorRow,
            r#"select id, host, pid, domains, options, started, last_seen,
                      not rework.is_alive(last_seen, lease) as "stale!", trouble
                 from rework.monitor
                order by id"#
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows)
    }

    /// Every monitor but the caller.
    pub async fn monitor_others(&self, me: MonitorId) -> Result<Vec<OtherMonitor>> {
        let rows = sqlx::query!(
            // `xmin` is the id of the transaction that wrote the row: each renewal has its own.
            r#"select id, host, pages, xmin::text as "sign!",
                      extract(epoch from lease)::float8 as "lease!"
                 from rework.monitor
                where id <> $1"#,
            me.0
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows
            .into_iter()
            .map(|row| OtherMonitor {
                id: MonitorId(row.id),
                host: row.host,
                pages: row.pages,
                sign: row.sign,
                lease: Duration::try_from_secs_f64(row.lease).unwrap_or_default(),
            })
            .collect())
    }

    /// Declares a monitor lost, in one transaction: the tasks that it held and may have begun end as
    /// `aborted` with the cause `monitor lost`, or are tried again if their operation allows; those that
    /// have certainly not begun (`never_begun`) return to the queue; its workers are marked dead. Returns
    /// how many tasks it held; `None` if the monitor has come back, another monitor has declared it lost,
    /// or somebody holds a lock on its row.
    pub async fn monitor_bury(
        &self,
        lost: &OtherMonitor,
        gone: Gone,
        never_begun: &[i64],
    ) -> Result<Option<i64>> {
        let mut transaction = self.pool.begin().await?;
        let buried = sqlx::query_scalar!(
            r#"with buried as (
                   delete from rework.monitor
                    -- Whoever holds a lock on the row keeps the monitor from renewing its lease: the monitor
                    -- may live.
                    where id = (select id from rework.monitor
                                 where id = $1 and ($2 or xmin::text = $3)
                                   for update skip locked)
                   returning id, host, last_seen
               ), left_host as (
                   insert into rework.host (name, last_seen) select host, last_seen from buried
                       on conflict (name) do update
                          set last_seen = greatest(host.last_seen, excluded.last_seen)
               )
               select id as "id!" from buried"#,
            lost.id.0,
            gone == Gone::Unlocked,
            lost.sign
        )
        .fetch_optional(&mut *transaction)
        .await?;
        if buried.is_none() {
            return Ok(None);
        }
        // The claims first, and what follows in a statement of its own: this waits for the end of a report
        // that is being written, and what it has written is seen by the next statement.
        let claims = sqlx::query!(
            r#"with gone_claim as (delete from rework.claim where monitor = $1 returning cycle, tasks, attempts)
               select cycle, held.task as "task!", held.attempt as "attempt!"
                 from gone_claim c, unnest(c.tasks, c.attempts) as held (task, attempt)
                order by held.task"#,
            lost.id.0
        )
        .fetch_all(&mut *transaction)
        .await?;
        let (tasks, attempts): (Vec<i64>, Vec<i32>) = claims
            .iter()
            .map(|claim| (claim.task, claim.attempt))
            .unzip();
        let cycles: Vec<i64> = claims.iter().map(|claim| claim.cycle).collect();
        let held = sqlx::query_scalar!(
            r#"with held as materialized (
                   select h.task, h.attempt, h.cycle, t.operation, t.lane, -t.priority as rank,
                          greatest(t.max_attempts, h.attempt) as max_attempts,
                          r.worker, r.started, r.plugin_operation, r.progress, r.progress_message,
                          h.task = any($2) as unbegun,
                          a.task is not null as aborting, a.message
                     from unnest($4::bigint[], $5::int[], $6::bigint[]) as h (task, attempt, cycle)
                     join rework.task t on t.id = h.task
                     left join rework.running r on r.task = h.task
                     left join rework.abort_request a on a.task = h.task
                    where not exists (select from rework.outcome o
                                       where o.task = h.task and o.attempt = h.attempt)
               ), fate as materialized (
                   select *, case when aborting then 'end'
                                  when unbegun then 'release'
                                  when attempt < max_attempts then 'retry'
                                  else 'end' end as fate
                     from held
               ), ended_attempt as (
                   insert into rework.outcome
                          (task, attempt, operation, outcome, cause, error, token, worker, plugin_operation,
                           started, finished, superseded, progress, progress_message)
                   select task, attempt, operation, 'aborted',
                          case when aborting then 'abort' else 'monitor lost' end,
                          case when aborting then message else 'the monitor on host ' || $3 || ' was lost' end,
                          $1::bigint << 36 | cycle, worker, plugin_operation, started, clock_timestamp(),
                          case fate when 'retry' then clock_timestamp() end, progress, progress_message
                     from fate where fate <> 'release'
               ), queued_again as (
                   insert into rework.ready (lane, rank, id, attempt)
                   select lane, rank, task, attempt + (fate = 'retry')::int from fate where fate <> 'end'
               ), no_longer_shown as (
                   delete from rework.running where task in (select task from fate)
               ), gone_request as (
                   delete from rework.abort_request where task in (select task from fate where fate = 'end')
               ), dead_worker as (
                   update rework.worker
                      set state = 'dead', task = null, cause = 'monitor lost', finished = clock_timestamp()
                    where monitor = $1 and state <> 'dead'
               ), woken as (
                   select rework.tell('rework_ready', ''),
                          rework.task_tell(array(select task from fate where fate = 'end'))
               )
               select count(*) as "count!" from fate, woken"#,
            lost.id.0,
            never_begun,
            lost.host,
            &tasks,
            &attempts,
            &cycles
        )
        .fetch_one(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(Some(held))
    }
}
