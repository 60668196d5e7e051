//! Locks that other sessions hold: how long they are waited for, and who holds them. A command fails after
//! a limit, with the holder's name; a monitor, which no person waits for, waits without limit, and `doctor`
//! names the holder.

use super::{Store, error::Result};
use sqlx::PgExecutor;
use std::{
    fmt,
    time::{Duration, Instant},
};

/// A command, and whatever queues a task, waits so long for a lock: longer than our own transactions
/// hold one, and not so long that a person wonders.
pub(super) const LOCK_LIMIT: Duration = Duration::from_secs(10);

/// Who holds a lock that somebody waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holder {
    /// A session of the server.
    Session {
        /// The process id of the server process.
        pid: i32,
        /// Its `application_name`; may be empty.
        application: String,
    },
    /// A transaction that was prepared and neither committed nor rolled back.
    Prepared {
        /// The name (gid) under which it was prepared.
        gid: String,
    },
}

impl Holder {
    /// What the reader can do to release the lock.
    pub fn hint(&self) -> String {
        match self {
            Self::Session { pid, .. } => format!(
                "let that transaction end, or end its session: `select pg_terminate_backend({pid})`"
            ),
            Self::Prepared { gid } => {
                let gid = gid.replace('\'', "''");
                format!("`commit prepared '{gid}'` or `rollback prepared '{gid}'` ends it")
            }
        }
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Session { pid, application } if application.is_empty() => {
                write!(f, "the transaction of the server's process {pid}")
            }
            Self::Session { pid, application } => {
                write!(
                    f,
                    "the transaction of the server's process {pid} ({application})"
                )
            }
            Self::Prepared { gid } => write!(f, "the prepared transaction `{gid}`"),
        }
    }
}

/// What is known of a statement that waits for its answer.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) since: Instant,
    /// Who held the lock that the statement waited for when the server was last asked.
    pub(super) holder: Option<Holder>,
}

impl Waiting {
    pub(super) fn begin() -> Self {
        Self {
            since: Instant::now(),
            holder: None,
        }
    }
}

/// Who holds the lock that a server process waits for; `None`: it waits for no lock, or its holder cannot
/// be found.
pub(super) async fn holder(
    connection: impl PgExecutor<'_>,
    waiting: i32,
) -> sqlx::Result<Option<Holder>> {
    let row = sqlx::query!(
        // A prepared transaction has no process: `pg_blocking_pids` names it as process 0. The lock on its
        // own transaction id identifies it: it is held under the same virtual transaction as all its locks.
        r#"select b.pid as "pid!", coalesce(a.application_name, '') as "application!", p.gid as "gid?"
             from pg_locks w
            cross join unnest(pg_blocking_pids($1)) as b (pid)
             left join pg_stat_activity a on a.pid = b.pid
             left join pg_locks h
                    on b.pid = 0 and h.pid is null and h.granted
                   and (h.locktype, h.database, h.relation, h.page, h.tuple, h.virtualxid,
                        h.transactionid::text, h.classid, h.objid, h.objsubid)
                       is not distinct from
                       (w.locktype, w.database, w.relation, w.page, w.tuple, w.virtualxid,
                        w.transactionid::text, w.classid, w.objid, w.objsubid)
             left join pg_locks own
                    on own.virtualtransaction = h.virtualtransaction and own.pid is null and own.granted
                   and own.locktype = 'transactionid'
             left join pg_prepared_xacts p on p.transaction = own.transactionid
            where w.pid = $1 and not w.granted and (b.pid <> 0 or p.gid is not null)
            order by b.pid
            limit 1"#,
        waiting
    )
    .fetch_optional(connection)
    .await?;
    Ok(row.map(|row| match row.gid {
        Some(gid) => Holder::Prepared { gid },
        None => Holder::Session {
            pid: row.pid,
            application: row.application,
        },
    }))
}

/// A session that works on tables of rework and waits for a lock.
#[derive(Debug, Clone)]
pub struct LockWait {
    /// The process id of its server process.
    pub pid: i32,
    /// How long the session has waited.
    pub waited: Duration,
    /// Who holds the lock, if that can be found.
    pub holder: Option<Holder>,
}

/// Seconds that a session may wait for a lock before doctor reports it.
const LONG_WAIT: f64 = 5.0;
/// Seconds that a transaction may stay prepared before doctor reports it: a transaction manager commits it
/// at once.
const FORGOTTEN: f64 = 10.0;

impl Store {
    /// Sessions that have waited for a lock longer than `LONG_WAIT`, the longest first.
    pub async fn lock_waits(&self) -> Result<Vec<LockWait>> {
        let rows = sqlx::query!(
            r#"select w.pid as "pid!", extract(epoch from clock_timestamp() - w.waitstart)::float8 as "seconds!"
                 from pg_locks w
                where not w.granted
                  and w.waitstart < clock_timestamp() - $1::float8 * interval '1 second'
                  and w.pid in (select h.pid
                                  from pg_locks h
                                  join pg_class c on c.oid = h.relation
                                 where h.database = (select oid from pg_database
                                                      where datname = current_database())
                                   and c.relnamespace = 'rework'::regnamespace)
                order by w.waitstart
                limit 10"#,
            LONG_WAIT
        )
        .fetch_all(&self.pool)
        .await?;
        let mut waits = Vec::with_capacity(rows.len());
        for row in rows {
            waits.push(LockWait {
                pid: row.pid,
                waited: whole(row.seconds),
                holder: holder(&self.pool, row.pid).await?,
            });
        }
        Ok(waits)
    }

    /// Transactions that were prepared more than `FORGOTTEN` ago and hold locks on tables of rework, with
    /// the time since each was prepared.
    pub async fn lock_forgotten(&self) -> Result<Vec<(Holder, Duration)>> {
        let rows = sqlx::query!(
            r#"select p.gid as "gid!", extract(epoch from clock_timestamp() - p.prepared)::float8 as "seconds!"
                 from pg_prepared_xacts p
                where p.database = current_database()
                  and p.prepared < clock_timestamp() - $1::float8 * interval '1 second'
                  and exists (select from pg_locks own
                                join pg_locks h on h.virtualtransaction = own.virtualtransaction
                                               and h.pid is null
                                join pg_class c on c.oid = h.relation
                               where own.transactionid = p.transaction and own.pid is null
                                 and c.relnamespace = 'rework'::regnamespace)
                order by p.prepared
                limit 10"#,
            FORGOTTEN
        )
        .fetch_all(&self.pool)
        .await?;
        let rows = rows.into_iter();
        Ok(rows
            .map(|row| (Holder::Prepared { gid: row.gid }, whole(row.seconds)))
            .collect())
    }
}

/// Whole seconds for messages, from a difference of the server's clock; 0 if that clock was set back
/// meanwhile.
fn whole(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds.floor()).unwrap_or_default()
}
