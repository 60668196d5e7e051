//! Monitors: their lease, whether they sleep, and what becomes of those that are lost.

use super::{Store, error::Result};
use crate::model::MonitorId;
use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;

/// A monitor, as `list-monitors` shows it.
#[derive(Debug, Clone, Serialize)]
pub struct MonitorRow {
    /// The monitor.
    pub id: i64,
    /// Where it runs.
    pub host: String,
    /// Its process there.
    pub pid: i32,
    /// What it claims for; empty: all domains.
    pub domains: Vec<String>,
    /// How it was started.
    pub options: Value,
    /// When.
    #[serde(serialize_with = "crate::model::time::serialize")]
    pub started: DateTime<Utc>,
    /// When it last renewed its lease.
    #[serde(serialize_with = "crate::model::time::serialize")]
    pub last_seen: DateTime<Utc>,
    /// Whether its lease has expired.
    pub stale: bool,
}

/// A monitor that is gone without having said so.
#[derive(Debug, Clone)]
pub struct LostMonitor {
    /// The monitor.
    pub id: MonitorId,
    /// Where it ran.
    pub host: String,
    /// The directory of its workers' pages there.
    pub pages: String,
    /// Whether its lease has expired, so that anybody may clean up after it.
    pub stale: bool,
}

impl Store {
    /// Announces a monitor.
    pub async fn monitor_start(
        &self,
        host: &str,
        pid: i32,
        domains: &[String],
        options: &Value,
        pages: &str,
    ) -> Result<MonitorId> {
        let id = sqlx::query_scalar!(
            "insert into rework.monitor (host, pid, domains, options, pages)
             values ($1, $2, $3, $4, $5) returning id",
            host,
            pid,
            domains,
            options,
            pages
        )
        .fetch_one(&self.pool)
        .await?;
        Ok(MonitorId(id))
    }

    /// Renews the lease; false if somebody has declared the monitor lost.
    pub async fn monitor_renew(&self, monitor: MonitorId) -> Result<bool> {
        let done = sqlx::query!(
            "update rework.monitor set last_seen = clock_timestamp() where id = $1",
            monitor.0
        )
        .execute(&self.pool)
        .await?;
        Ok(done.rows_affected() == 1)
    }

    /// Says whether whoever enqueues must wake this monitor.
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

    /// The last words of a monitor that ends in order.
    pub async fn monitor_end(&self, monitor: MonitorId) -> Result<()> {
        sqlx::query!(
            "with ended_claim as (delete from rework.claim where monitor = $1)
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
                      last_seen + lease < clock_timestamp() as "stale!"
                 from rework.monitor
                order by id"#
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows)
    }

    /// Monitors that may have been lost: those of this host, and those whose lease has expired.
    pub async fn monitor_suspects(&self, me: MonitorId, host: &str) -> Result<Vec<LostMonitor>> {
        let rows = sqlx::query!(
            r#"select id, host, pages, last_seen + lease < clock_timestamp() as "stale!"
                 from rework.monitor
                where id <> $1
                  and (host = $2 or last_seen + lease < clock_timestamp())"#,
            me.0,
            host
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows
            .into_iter()
            .map(|row| LostMonitor {
                id: MonitorId(row.id),
                host: row.host,
                pages: row.pages,
                stale: row.stale,
            })
            .collect())
    }

    /// Buries a lost monitor in one transaction: what it held and may have begun ends `aborted`
    /// with the cause `monitor lost`, or is tried again if its operation allows; what certainly has
    /// not begun (`never_begun`) goes back to the queue; its workers are dead. Answers how many
    /// tasks it held, or `None` if it came back, or somebody else buried it.
    pub async fn monitor_bury(
        &self,
        lost: &LostMonitor,
        never_begun: &[i64],
    ) -> Result<Option<i64>> {
        let mut transaction = self.pool.begin().await?;
        let buried = sqlx::query_scalar!(
            "delete from rework.monitor
              where id = $1 and ($2 or last_seen + lease < clock_timestamp())
             returning id",
            lost.id.0,
            !lost.stale
        )
        .fetch_optional(&mut *transaction)
        .await?;
        if buried.is_none() {
            return Ok(None);
        }
        let held = sqlx::query_scalar!(
            r#"with gone_claim as (
                   delete from rework.claim where monitor = $1 returning tasks
               ), held as materialized (
                   select t.id, t.lane, -t.priority as rank, t.attempt, t.max_attempts, t.status,
                          t.worker, t.started,
                          t.id = any($2) as unbegun,
                          a.task is not null as aborting, a.message
                     from gone_claim c, unnest(c.tasks) as h (id)
                     join rework.task t on t.id = h.id
                     left join rework.abort_request a on a.task = t.id
                    where t.status <> 'done' and t.token >> 36 = $1
                    order by t.id
                      for update of t
               ), fate as materialized (
                   select *, case when aborting then 'end'
                                  when unbegun then 'release'
                                  when attempt < max_attempts then 'retry'
                                  else 'end' end as fate
                     from held
               ), updated_task as (
                   update rework.task t
                      set status = case f.fate when 'end' then 'done' else 'queued' end,
                          outcome = case f.fate when 'end' then 'aborted' end,
                          cause = case when f.fate = 'end' then
                                       case when f.aborting then 'abort' else 'monitor lost' end end,
                          error = case when f.fate = 'end' then
                                       case when f.aborting then f.message
                                            else 'the monitor on host ' || $3 || ' was lost' end end,
                          finished = case f.fate when 'end' then clock_timestamp() end,
                          started = case f.fate when 'end' then t.started end,
                          token = case f.fate when 'end' then t.token end,
                          attempt = t.attempt - (f.fate = 'release')::int
                     from fate f
                    where t.id = f.id
               ), superseded as (
                   insert into rework.attempt (task, attempt, outcome, cause, error, worker, started, finished)
                   select id, attempt, 'aborted', 'monitor lost',
                          'the monitor on host ' || $3 || ' was lost', worker, started, clock_timestamp()
                     from fate where fate = 'retry'
                   on conflict do nothing
               ), queued_again as (
                   insert into rework.ready (lane, rank, id)
                   select lane, rank, id from fate where fate <> 'end'
               ), gone_request as (
                   delete from rework.abort_request where task in (select id from fate where fate = 'end')
               ), dead_worker as (
                   update rework.worker
                      set state = 'dead', task = null, cause = 'monitor lost', finished = clock_timestamp()
                    where monitor = $1 and state <> 'dead'
               ), woken as (
                   select pg_notify('rework_ready', ''),
                          rework.task_tell(array(select id from fate where fate = 'end'))
               )
               select count(*) as "count!" from fate, woken"#,
            lost.id.0,
            never_begun,
            lost.host
        )
        .fetch_one(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(Some(held))
    }
}
