//! Workers, as their monitor last saved them.

use super::{Store, error::Result};
use crate::model::{MonitorId, WorkerId};
use chrono::{DateTime, Utc};
use serde::Serialize;
use std::time::Duration;

/// A worker, as `list-workers` shows it.
#[derive(Debug, Clone, Serialize)]
pub struct WorkerRow {
    /// The id of the worker.
    pub id: i64,
    /// The host that the worker runs on.
    pub host: String,
    /// The process id of the worker on its host.
    pub pid: Option<i32>,
    /// The domain whose tasks it runs.
    pub domain: String,
    /// The name of the plugin's crate.
    pub plugin: Option<String>,
    /// How long the worker has been loading its plugin, in seconds; `None` once it is ready, or when its
    /// monitor does not live.
    pub loading_seconds: Option<f64>,
    /// The id of the monitor that started it.
    pub monitor: i64,
    /// `unstarted`, `idle`, `running` or `dead`.
    pub state: String,
    /// The id of the task that it runs.
    pub task: Option<i64>,
    /// How many tasks have ended on it.
    pub runs: i64,
    /// The resident memory of the worker and its descendants, in MB.
    pub memory_mb: Option<f64>,
    /// The processor time it uses, in per cent of one processor.
    pub cpu_percent: Option<f64>,
    /// When the process was started.
    #[serde(serialize_with = "crate::model::time::serialize")]
    pub created: DateTime<Utc>,
    /// When the plugin was loaded.
    #[serde(serialize_with = "crate::model::time::serialize_option")]
    pub started: Option<DateTime<Utc>>,
    /// When the process ended.
    #[serde(serialize_with = "crate::model::time::serialize_option")]
    pub finished: Option<DateTime<Utc>>,
    /// Why the worker ended: a keyword, such as `idle`.
    pub cause: Option<String>,
    /// The cause as a sentence.
    pub error: Option<String>,
}

/// The state of a worker as its monitor saves it.
#[derive(Debug, Clone)]
pub struct WorkerSave {
    pub id: WorkerId,
    pub pid: i32,
    /// The domain whose tasks it runs.
    pub domain: String,
    pub plugin: String,
    /// `unstarted`, `idle`, `running` or `dead`.
    pub state: &'static str,
    /// The id of the task that it runs.
    pub task: Option<i64>,
    /// How many tasks have ended on it.
    pub runs: i64,
    /// The resident memory of the worker and its descendants, in bytes.
    pub memory: Option<i64>,
    /// The processor time it uses, in per cent of one processor.
    pub cpu: Option<f64>,
    pub created: DateTime<Utc>,
    /// When the plugin was loaded.
    pub started: Option<DateTime<Utc>>,
    pub finished: Option<DateTime<Utc>>,
    /// Why the worker ended: a keyword.
    pub cause: Option<&'static str>,
    /// The cause as a sentence.
    pub error: Option<String>,
}

impl Store {
    /// Reserves ids for workers to come, so that a worker can be started without waiting for the database.
    pub async fn worker_reserve(&self, count: i32) -> Result<Vec<WorkerId>> {
        let ids = sqlx::query_scalar!(
            r#"select nextval(pg_get_serial_sequence('rework.worker', 'id')) as "id!"
                 from generate_series(1, $1)"#,
            count
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(ids.into_iter().map(WorkerId).collect())
    }

    /// Saves workers, with one statement.
    pub async fn worker_save(
        &self,
        host: &str,
        monitor: MonitorId,
        workers: &[WorkerSave],
    ) -> Result<()> {
        fn column<T>(workers: &[WorkerSave], of: impl Fn(&WorkerSave) -> T) -> Vec<T> {
            workers.iter().map(of).collect()
        }
        sqlx::query!(
            "insert into rework.worker as w
                 (host, monitor, id, pid, domain, plugin, state, task, runs, memory, cpu,
                  created, started, finished, cause, error)
             overriding system value
             select $1, $2, s.*
               from unnest($3::bigint[], $4::int[], $5::text[], $16::text[], $6::text[], $7::bigint[],
                           $8::bigint[], $9::bigint[], $10::float8[], $11::timestamptz[],
                           $12::timestamptz[], $13::timestamptz[], $14::text[], $15::text[]) as s
             on conflict (id) do update
                set state = excluded.state, task = excluded.task, runs = excluded.runs,
                    memory = coalesce(excluded.memory, w.memory), cpu = excluded.cpu,
                    started = excluded.started, finished = excluded.finished,
                    cause = excluded.cause, error = excluded.error
              -- A write that nobody waits for any more may come after the last one.
              where w.state <> 'dead'",
            host,
            monitor.0,
            &column(workers, |w| w.id.0),
            &column(workers, |w| w.pid),
            &column(workers, |w| w.domain.clone()),
            &column(workers, |w| w.state.to_owned()),
            &column(workers, |w| w.task) as &[Option<i64>],
            &column(workers, |w| w.runs),
            &column(workers, |w| w.memory) as &[Option<i64>],
            &column(workers, |w| w.cpu) as &[Option<f64>],
            &column(workers, |w| w.created),
            &column(workers, |w| w.started) as &[Option<DateTime<Utc>>],
            &column(workers, |w| w.finished) as &[Option<DateTime<Utc>>],
            &column(workers, |w| w.cause.map(str::to_owned)) as &[Option<String>],
            &column(workers, |w| w.error.clone()) as &[Option<String>],
            &column(workers, |w| w.plugin.clone()),
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Asks a worker to end: after its task or, with `kill`, at once.
    pub async fn worker_ask(&self, worker: WorkerId, kill: bool) -> Result<()> {
        let asked = if kill { "kill" } else { "shutdown" };
        sqlx::query!("select rework.worker_ask($1, $2)", worker.0, asked)
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// The living workers of a monitor that somebody asked to end, and whether to kill them.
    pub async fn worker_asked(&self, monitor: MonitorId) -> Result<Vec<(WorkerId, bool)>> {
        let rows = sqlx::query!(
            r#"select id, asked = 'kill' as "kill!"
                 from rework.worker
                where monitor = $1 and state <> 'dead' and asked is not null"#,
            monitor.0
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows
            .into_iter()
            .map(|row| (WorkerId(row.id), row.kill))
            .collect())
    }

    /// When the monitor of a worker was last seen, if it is no longer alive.
    pub async fn worker_lost_monitor(&self, worker: WorkerId) -> Result<Option<DateTime<Utc>>> {
        let seen = sqlx::query_scalar!(
            "select m.last_seen
               from rework.worker w
               join rework.monitor m on m.id = w.monitor
              where w.id = $1 and not rework.is_alive(m.last_seen, m.lease)",
            worker.0
        )
        .fetch_optional(&self.pool)
        .await?;
        Ok(seen)
    }

    /// Deletes workers that died more than `age` ago; their tasks stay. Returns how many were deleted.
    pub async fn worker_vacuum(&self, domain: Option<&str>, age: Duration) -> Result<u64> {
        let deleted = sqlx::query!(
            "delete from rework.worker
              where state = 'dead'
                and ($1::text is null or domain = $1)
                and finished < clock_timestamp() - $2 * interval '1 second'",
            domain,
            age.as_secs_f64()
        )
        .execute(&self.pool)
        .await?;
        Ok(deleted.rows_affected())
    }

    /// Workers by id. Without `all`, workers that died more than a day ago are left out.
    pub async fn worker_list(&self, domain: Option<&str>, all: bool) -> Result<Vec<WorkerRow>> {
        let rows = sqlx::query_as!(
            WorkerRow,
            r#"select w.id, w.host, w.pid, w.domain, g.name as "plugin?", w.monitor, w.state, w.task, w.runs,
                      memory::float8 / 1048576 as memory_mb, cpu as cpu_percent,
                      case when w.state = 'unstarted' and rework.is_alive(m.last_seen, m.lease)
                           then extract(epoch from clock_timestamp() - w.created)::float8
                      end as loading_seconds,
                      w.created, w.started, w.finished, w.cause, w.error
                 from rework.worker w
                 left join rework.plugin g on g.hash = w.plugin
                 left join rework.monitor m on m.id = w.monitor
                where ($1::text is null or w.domain = $1)
                  and ($2 or w.finished is null or w.finished > clock_timestamp() - interval '1 day')
                order by w.id"#,
            domain,
            all
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows)
    }
}
