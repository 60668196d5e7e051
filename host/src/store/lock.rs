//! Locks that somebody else holds: how long they are waited for, and who holds them. A session of a
//! command or a client is refused after a limit, with the holder's name. Sessions of monitors wait until
//! the lock is free, and `doctor` names its holder.

use super::{Store, error::Result};
use sqlx::PgExecutor;
use std::{fmt, time::Duration};

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

/// The kind of a wait for the end of one transaction, as for a key or a row that this has written.
pub(super) const ROW: &str = "transactionid";
/// The kind of a lock that our own statements take by its number.
pub(super) const ADVISORY: &str = "advisory";

/// What the holder of a lock has done, where the kind of lock tells.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deed {
    /// [`ROW`] or [`ADVISORY`].
    pub(super) kind: &'static str,
    /// What it has done, for people.
    pub(super) words: &'static str,
}

/// A lock that a session waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wait {
    /// What kind of thing is locked, as the server names it: [`ROW`], [`ADVISORY`], `relation` and others.
    pub kind: String,
    /// Who holds the lock; `None`: nobody can be named.
    pub holder: Option<Holder>,
}

/// The lock that a process of the server waits for, and its holder; `None`: it waits for none. Others may
/// wait for the same lock, ahead of that process: a holder is whoever stands at the end of such a chain and
/// waits for nobody.
pub(super) async fn wait_of(
    connection: impl PgExecutor<'_>,
    waiting: i32,
) -> sqlx::Result<Option<Wait>> {
    let row = sqlx::query!(
        // A prepared transaction has no process: it blocks as process 0. Which one it is, the lock on its
        // own number tells, which it holds under the same virtual transaction as all its others.
        r#"with recursive conflict (mode, held) as (
               -- Table "Conflicting Lock Modes" of the server's manual.
               values ('AccessShareLock', '{AccessExclusive}'::text[]),
                      ('RowShareLock', '{Exclusive,AccessExclusive}'),
                      ('RowExclusiveLock', '{Share,ShareRowExclusive,Exclusive,AccessExclusive}'),
                      ('ShareUpdateExclusiveLock',
                       '{ShareUpdateExclusive,Share,ShareRowExclusive,Exclusive,AccessExclusive}'),
                      ('ShareLock',
                       '{RowExclusive,ShareUpdateExclusive,ShareRowExclusive,Exclusive,AccessExclusive}'),
                      ('ShareRowExclusiveLock', '{RowExclusive,ShareUpdateExclusive,Share,ShareRowExclusive,
                                                  Exclusive,AccessExclusive}'),
                      ('ExclusiveLock', '{RowShare,RowExclusive,ShareUpdateExclusive,Share,ShareRowExclusive,
                                          Exclusive,AccessExclusive}'),
                      ('AccessExclusiveLock', '{AccessShare,RowShare,RowExclusive,ShareUpdateExclusive,Share,
                                                ShareRowExclusive,Exclusive,AccessExclusive}')
           ), chain (waiter, pid) as (
               select $1, b.pid from unnest(pg_blocking_pids($1)) as b (pid)
                union
               select c.pid, b.pid
                 from chain c
                cross join unnest(pg_blocking_pids(c.pid)) as b (pid)
                where c.pid <> 0
           ), ends as (
               select waiter, pid
                 from chain c
                where not exists (select from pg_locks l where l.pid = c.pid and not l.granted)
           ), named as (
               select e.pid, a.application_name, null as gid, a.xact_start as began
                 from ends e
                 join pg_stat_activity a on a.pid = e.pid
                union all
               select e.pid, null, p.gid, p.prepared
                 from ends e
                 join pg_locks w on w.pid = e.waiter and not w.granted
                 join conflict c on c.mode = w.mode
                 join pg_locks h
                   on h.pid is null and h.granted
                  and (h.locktype, h.database, h.relation, h.page, h.tuple, h.virtualxid,
                       h.transactionid::text, h.classid, h.objid, h.objsubid)
                      is not distinct from
                      (w.locktype, w.database, w.relation, w.page, w.tuple, w.virtualxid,
                       w.transactionid::text, w.classid, w.objid, w.objsubid)
                  and replace(h.mode, 'Lock', '') = any(c.held)
                 join pg_locks own
                   on own.virtualtransaction = h.virtualtransaction and own.pid is null and own.granted
                  and own.locktype = 'transactionid'
                 join pg_prepared_xacts p on p.transaction = own.transactionid
                where e.pid = 0
           )
           select w.locktype as "kind!", n.pid as "pid?",
                  coalesce(n.application_name, '') as "application!", n.gid as "gid?"
             from pg_locks w
             -- The one that has lasted longest is the least likely to end by itself.
             left join (select * from named order by began limit 1) n on true
            where w.pid = $1 and not w.granted
            limit 1"#,
        waiting
    )
    .fetch_optional(connection)
    .await?;
    Ok(row.map(|row| Wait {
        kind: row.kind,
        holder: match (row.gid, row.pid) {
            (Some(gid), _) => Some(Holder::Prepared { gid }),
            (None, Some(pid)) => Some(Holder::Session {
                pid,
                application: row.application,
            }),
            (None, None) => None,
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
                holder: wait_of(&self.pool, row.pid)
                    .await?
                    .and_then(|wait| wait.holder),
            });
        }
        Ok(waits)
    }

    /// How many sessions of this database have waited longer than `LONG_WAIT` for a synchronous standby to
    /// have what they committed, and for how long the first of them.
    pub async fn lock_standby(&self) -> Result<Option<(i64, Duration)>> {
        let row = sqlx::query!(
            r#"select count(*) as "sessions!",
                      coalesce(max(extract(epoch from clock_timestamp() - query_start)), 0)::float8 as "seconds!"
                 from pg_stat_activity
                where datname = current_database() and wait_event = 'SyncRep'
                  and query_start < clock_timestamp() - $1::float8 * interval '1 second'"#,
            LONG_WAIT
        )
        .fetch_one(&self.pool)
        .await?;
        Ok((row.sessions > 0).then(|| (row.sessions, whole(row.seconds))))
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
