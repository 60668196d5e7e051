//! A connection, and what all that is said on it relies on: settings that a role, a database or a
//! server may have otherwise, an answer to every question within a limit, and that a connection that
//! did not answer is closed and not used again.

use super::{
    error::{Result, StoreError},
    pool::{Manager, Shared},
    silence::answered,
};
use crate::periods::Periods;
use chrono::{DateTime, Utc};
use deadpool::managed::Object;
use futures_util::{
    FutureExt, StreamExt, TryFutureExt, TryStreamExt,
    future::BoxFuture,
    stream::{self, BoxStream},
};
use sqlx::{
    Either, Execute, Executor, PgConnection, Postgres,
    postgres::{PgQueryResult, PgRow, PgStatement, PgTypeInfo},
};
use std::{
    fmt,
    ops::{Deref, DerefMut},
    sync::Arc,
    time::{Duration, Instant},
};

/// What every session of ours sets, whatever its role or database has by default; in the units of the
/// server. `synchronous_commit` is left as it is: who turns it off accepts to lose the last moments
/// before a crash of the server. The driver itself sets `DateStyle`, `TimeZone`, `client_encoding` and
/// `extra_float_digits` when it connects.
pub(super) const SETTINGS: [(&str, &str); 26] = [
    // Claims skip what others have locked, and see what has been committed.
    ("default_transaction_isolation", "read committed"),
    ("default_transaction_deferrable", "off"),
    // Limits are ours: see `silence`, and `lock` for sessions that people wait for.
    ("statement_timeout", "0"),
    ("lock_timeout", "0"),
    ("transaction_timeout", "0"),
    ("idle_session_timeout", "0"),
    // A transaction of ours waits for nothing but its own next statement.
    ("idle_in_transaction_session_timeout", "5min"),
    // A statement whose client has gone ends: who interrupts a command that waits for a lock does not want it
    // to happen later.
    ("client_connection_check_interval", "1s"),
    ("standard_conforming_strings", "on"),
    ("transform_null_equals", "off"),
    ("array_nulls", "on"),
    ("bytea_output", "hex"),
    ("IntervalStyle", "postgres"),
    // Statements of ours name their schema; `public` is for triggers that somebody has put on our tables.
    ("search_path", "pg_catalog, public"),
    // Rows that a policy hides would be lost: a claim that does not see the task of its row of the queue has
    // deleted that row. With `off` such a statement is an error, and does nothing.
    ("row_security", "off"),
    ("check_function_bodies", "on"),
    ("default_table_access_method", "heap"),
    ("restrict_nonsystem_relation_kind", ""),
    ("exit_on_error", "off"),
    ("plpgsql.extra_errors", "none"),
    ("plpgsql.extra_warnings", "none"),
    // Queries of the queue are short and their tables change quickly: statistics may be missing.
    ("jit", "off"),
    ("plan_cache_mode", "auto"),
    ("enable_indexscan", "on"),
    ("enable_nestloop", "on"),
    ("enable_partition_pruning", "on"),
];

/// What the session of the cycle sets besides. A plan that is made once, for batches of any size, must be right
/// also where the statistics say that most of a table is wanted: rows are found one by one by an index.
const CYCLE_SETTINGS: [(&str, &str); 6] = [
    ("plan_cache_mode", "force_generic_plan"),
    ("enable_seqscan", "off"),
    ("enable_bitmapscan", "off"),
    // Where an index has the order.
    ("enable_sort", "off"),
    ("enable_hashjoin", "off"),
    ("enable_mergejoin", "off"),
];

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Statements of any kind.
    Any,
    /// The statement of the cycle ([`super::Store::cycle`]), many times a second. It is planned once per
    /// connection: planning takes three times as long as running it for one task, and the server may
    /// otherwise decide to plan it anew each time, by the batches that it happened to see first.
    Cycle,
}

/// A connection as it is kept by the pool.
pub(super) struct Live {
    pub(super) connection: PgConnection,
    purpose: Purpose,
    shared: Arc<Shared>,
    /// Its process of the server, and since when that is there: a number alone may be used again.
    pub(super) backend: Backend,
    /// Since when all connections that are as old have been believed; see [`Shared::distrust`].
    pub(super) generation: u64,
    /// Whether its server accepted writes when it was made.
    accepted_writes: bool,
    /// A question has been sent whose answer has not been read to its end.
    unanswered: bool,
    /// Nothing more is to be said on it.
    broken: bool,
    in_transaction: bool,
    /// What is about to be sent has so many bytes, in a statement; see [`Session::sends`].
    bytes: u64,
    pub(super) made: Instant,
    idle_since: Instant,
}

/// A process of the server.
#[derive(Debug, Clone, Copy)]
pub(super) struct Backend {
    pub(super) pid: i32,
    pub(super) started: Option<DateTime<Utc>>,
}

/// A connection that was silent for so long is asked whether its server still accepts writes before it
/// is used; otherwise it is only asked whether it is there.
const STALE: Duration = Duration::from_secs(1);
/// A connection that waits in the pool has to answer within this: it is a word, not work.
const WORD: Duration = Duration::from_secs(3);
/// A connection is used for so long, as memory of its server grows with what it has done.
const LONGEST_LIFE: Duration = Duration::from_secs(30 * 60);

impl Live {
    /// Makes a session of a new connection.
    pub(super) async fn new(
        mut connection: PgConnection,
        shared: Arc<Shared>,
        purpose: Purpose,
    ) -> Result<Self> {
        let generation = shared.generation();
        let state = settle(&mut connection, shared.lock_limit(), purpose).await?;
        Ok(Self {
            connection,
            purpose,
            shared,
            backend: Backend {
                pid: state.pid,
                started: state.started,
            },
            generation,
            accepted_writes: !state.read_only,
            unanswered: false,
            broken: false,
            in_transaction: false,
            bytes: 0,
            made: Instant::now(),
            idle_since: Instant::now(),
        })
    }

    /// Whether it can be used once more; an error is a reason to make another one.
    pub(super) async fn is_well(&mut self) -> Result<bool> {
        if self.unanswered
            || self.broken
            || self.generation != self.shared.generation()
            || self.made.elapsed() > LONGEST_LIFE
        {
            return Ok(false);
        }
        if self.purpose == Purpose::Cycle && self.idle_since.elapsed() < STALE {
            // A question before each cycle would take a fifth of its time. A cycle whose connection was
            // lost is said again by its monitor.
            return Ok(true);
        }
        self.unanswered = true;
        let asked = async {
            if self.idle_since.elapsed() < STALE {
                sqlx::Connection::ping(&mut self.connection).await?;
                return Ok(true);
            }
            let writes = accepts_writes(&mut self.connection).await?;
            Ok::<_, sqlx::Error>(writes || !self.accepted_writes)
        };
        let answer = tokio::time::timeout(WORD, asked).await;
        if !matches!(answer, Ok(Ok(true))) {
            // Neither are the others of its age worth much.
            self.shared.distrust();
            return Ok(false);
        }
        self.unanswered = false;
        Ok(true)
    }
}

/// The server's side of a session.
pub(super) struct State {
    pid: i32,
    started: Option<DateTime<Utc>>,
    /// Whether the server refuses writes.
    read_only: bool,
    /// Whether the role or the database has transactions begin as read-only.
    begins_read_only: bool,
    /// Whether triggers and rules are those of a replica.
    is_replica: bool,
}

/// Sets what our statements rely on. `lock_limit`: the longest wait for a lock; `None`: as long as it takes.
pub(super) async fn settle(
    connection: &mut PgConnection,
    lock_limit: Option<Duration>,
    purpose: Purpose,
) -> Result<State, sqlx::Error> {
    let lock_timeout = lock_limit.map(setting);
    let of_purpose = match purpose {
        Purpose::Any => &[],
        Purpose::Cycle => &CYCLE_SETTINGS[..],
    };
    let (names, values): (Vec<&str>, Vec<&str>) = SETTINGS
        .iter()
        .chain(of_purpose)
        .map(|(name, value)| match (*name, &lock_timeout) {
            ("lock_timeout", Some(limit)) => ("lock_timeout", limit.as_str()),
            _ => (*name, *value),
        })
        .unzip();
    // One statement: every command begins with it. Not every server knows all of the settings.
    let mut state = sqlx::query_as!(
        State,
        r#"with applied as materialized (
               select count(set_config(w.name, w.value, false))
                 from unnest($1::text[], $2::text[]) as w (name, value)
                where current_setting(w.name, true) is not null
                  and current_setting(w.name, true) is distinct from w.value
           )
           select pg_backend_pid() as "pid!",
                  (select backend_start from pg_stat_get_activity(pg_backend_pid())) as started,
                  current_setting('transaction_read_only')::bool as "read_only!",
                  current_setting('default_transaction_read_only')::bool as "begins_read_only!",
                  current_setting('session_replication_role') <> 'origin' as "is_replica!"
             from applied"#,
        &names as &[&str],
        &values as &[&str]
    )
    .fetch_one(&mut *connection)
    .await?;
    if state.begins_read_only {
        // What a role has by default is about people. A server or a database that is read-only is meant to
        // be: it may be about to be replaced.
        sqlx::query!(
            r#"select set_config('default_transaction_read_only', 'off', false) as "value!"
                where (select source in ('user', 'database user', 'client')
                         from pg_settings where name = 'default_transaction_read_only')"#
        )
        .fetch_optional(&mut *connection)
        .await?;
        state.read_only = !accepts_writes(connection).await?;
    }
    if state.is_replica {
        // Otherwise what belongs to a file would stay when the file is deleted.
        sqlx::query!(
            r#"select set_config('session_replication_role', 'origin', false) as "value!""#
        )
        .fetch_one(&mut *connection)
        .await
        .map_err(|_| {
            let reason = "the role or database has `session_replication_role` set, with which rules of \
                          the schema do not hold, and this role may not change that";
            sqlx::Error::Configuration(reason.into())
        })?;
    }
    Ok(state)
}

/// A duration as the server's settings have it.
fn setting(duration: Duration) -> String {
    format!("{}ms", duration.as_millis())
}

/// Whether the server of a connection accepts writes; a standby does not.
pub(super) async fn accepts_writes(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    let read_only = sqlx::query_scalar!(
        r#"select current_setting('transaction_read_only')::bool as "read_only!""#
    )
    .fetch_one(connection)
    .await?;
    Ok(!read_only)
}

/// A connection for a while: one of the pool, or one of somebody else, to whose settings and limits it
/// is left.
pub struct Session<'c> {
    held: Held<'c>,
}

enum Held<'c> {
    /// `None` only while it is dropped.
    Ours(Option<Object<Manager>>),
    Theirs(&'c mut PgConnection),
}

impl Session<'static> {
    pub(super) fn ours(object: Object<Manager>) -> Self {
        Self {
            held: Held::Ours(Some(object)),
        }
    }
}

impl<'c> Session<'c> {
    /// Statements within a transaction of somebody else.
    pub fn theirs(connection: &'c mut PgConnection) -> Self {
        Self {
            held: Held::Theirs(connection),
        }
    }

    fn live(&mut self) -> Option<&mut Live> {
        match &mut self.held {
            Held::Ours(object) => object.as_deref_mut(),
            Held::Theirs(_) => None,
        }
    }

    /// Statements that follow may hold so many bytes each: on a slow line they are longer on their way.
    pub(super) fn sends(&mut self, bytes: usize) {
        if let Some(live) = self.live() {
            live.bytes = bytes as u64;
        }
    }

    /// The connection itself, for what has no limit of ours; it is closed afterwards.
    pub(super) fn unlimited(&mut self) -> &mut PgConnection {
        match &mut self.held {
            Held::Ours(object) => {
                let live = &mut **object.as_mut().expect("it is there until it is dropped");
                live.unanswered = true;
                &mut live.connection
            }
            Held::Theirs(connection) => connection,
        }
    }

    /// Does several things on the connection, which is closed afterwards. The server may be at work on each
    /// for as long as it takes.
    pub(super) async fn run<T>(
        &mut self,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<T>,
    ) -> Result<T> {
        let Some(live) = self.live() else {
            return work(self.unlimited()).await;
        };
        live.unanswered = true;
        let mut wait = None;
        let done = work(&mut live.connection);
        match answered(done, live.backend, 0, &live.shared, &mut wait).await? {
            Err(error) if error.is_locked() => {
                Err(StoreError::locked(wait, live.shared.lock_limit()))
            }
            done => done,
        }
    }

    /// Asks, and waits for the whole answer within limits.
    pub(super) async fn ask<'q, E>(
        &mut self,
        query: E,
    ) -> Result<Vec<Either<PgQueryResult, PgRow>>, sqlx::Error>
    where
        E: 'q + Execute<'q, Postgres>,
    {
        let live = match &mut self.held {
            Held::Ours(object) => &mut **object.as_mut().expect("it is there until it is dropped"),
            Held::Theirs(connection) => return connection.fetch_many(query).try_collect().await,
        };
        // Whoever stops waiting in between leaves a connection that is of no use.
        live.unanswered = true;
        let mut parts = Vec::new();
        let mut wait = None;
        let mut answer = live.connection.fetch_many(query);
        let error = loop {
            let next = answer.next();
            match answered(next, live.backend, live.bytes, &live.shared, &mut wait).await {
                Ok(Some(Ok(part))) => parts.push(part),
                Ok(None) => break None,
                Ok(Some(Err(error))) => break Some(error),
                Err(silent) => {
                    live.shared.distrust();
                    return Err(silent);
                }
            }
        };
        drop(answer);
        live.unanswered = false;
        match error {
            None => Ok(parts),
            Some(error) => {
                if is_useless_after(&error) {
                    live.broken = true;
                    live.shared.distrust();
                }
                Err(if is_locked(&error) {
                    carried(StoreError::locked(wait, live.shared.lock_limit()))
                } else {
                    error
                })
            }
        }
    }
}

/// Whether a lock was not to be had in time.
pub(super) fn is_locked(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Database(error) if error.code().is_some_and(|code| code == "55P03"))
}

/// Whether a connection is of no use after this error, nor others to its server: it was lost, the
/// server goes away or is full (57P..), or it has become read-only (25006).
fn is_useless_after(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(error) => error.code().is_some_and(|code| {
            code == "25006" || code == "25P03" || code.starts_with("08") || code.starts_with("57P")
        }),
        sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::Protocol(_) => true,
        _ => false,
    }
}

impl fmt::Debug for Session<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Session")
    }
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        let Held::Ours(object) = &mut self.held else {
            return;
        };
        let Some(mut object) = object.take() else {
            return;
        };
        object.idle_since = Instant::now();
        object.bytes = 0;
        if object.unanswered || object.broken {
            // Closed at once, so that the server lets go of what it holds; and those that wait in the
            // pool with it, if they are not believed any more.
            let pool = Object::pool(&object);
            drop(Object::take(object));
            if let Some(pool) = pool {
                pool.retain(|live, _| live.generation == live.shared.generation());
            }
        } else if object.in_transaction {
            roll_back_later(object);
        }
    }
}

/// Rolls back a transaction that was left, beside whoever left it.
fn roll_back_later(mut object: Object<Manager>) {
    let Ok(runtime) = tokio::runtime::Handle::try_current() else {
        drop(Object::take(object));
        return;
    };
    runtime.spawn(async move {
        object.unanswered = true;
        let rolled_back = sqlx::raw_sql("rollback").execute(&mut object.connection);
        if let Ok(Ok(_)) = tokio::time::timeout(WORD, rolled_back).await {
            object.unanswered = false;
            object.in_transaction = false;
        } else {
            drop(Object::take(object));
        }
    });
}

impl<'s> Executor<'s> for &'s mut Session<'_> {
    type Database = Postgres;

    fn fetch_many<'e, 'q: 'e, E>(
        self,
        query: E,
    ) -> BoxStream<'e, Result<Either<PgQueryResult, PgRow>, sqlx::Error>>
    where
        's: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        self.ask(query)
            .map_ok(|parts| stream::iter(parts).map(Ok))
            .try_flatten_stream()
            .boxed()
    }

    fn fetch_optional<'e, 'q: 'e, E>(
        self,
        query: E,
    ) -> BoxFuture<'e, Result<Option<PgRow>, sqlx::Error>>
    where
        's: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        self.ask(query)
            .map(|parts| Ok(parts?.into_iter().find_map(Either::right)))
            .boxed()
    }

    fn prepare_with<'e>(
        self,
        sql: sqlx::SqlStr,
        parameters: &'e [PgTypeInfo],
    ) -> BoxFuture<'e, Result<PgStatement, sqlx::Error>>
    where
        's: 'e,
    {
        self.unlimited().prepare_with(sql, parameters)
    }

    fn describe<'e>(
        self,
        sql: sqlx::SqlStr,
    ) -> BoxFuture<'e, Result<sqlx::Describe<Postgres>, sqlx::Error>>
    where
        's: 'e,
    {
        self.unlimited().describe(sql)
    }
}

/// A transaction on a connection of the pool; rolled back unless it is committed.
#[derive(Debug)]
pub(super) struct Transaction {
    session: Session<'static>,
}

impl Transaction {
    pub(super) async fn begin(mut session: Session<'static>) -> Result<Self, sqlx::Error> {
        if let Some(live) = session.live() {
            live.in_transaction = true;
        }
        session.ask(sqlx::raw_sql("begin")).await?;
        Ok(Self { session })
    }

    /// In this transaction no lock is waited for beyond the limit of commands, whoever's session it is.
    pub(super) async fn limit_locks(&mut self) -> Result<(), sqlx::Error> {
        let value = setting(Periods::current().lock_wait);
        sqlx::query!(
            r#"select set_config('lock_timeout', $1, true) as "value!""#,
            value
        )
        .fetch_one(&mut self.session)
        .await?;
        Ok(())
    }

    /// Makes it true.
    pub(super) async fn commit(self) -> Result<(), sqlx::Error> {
        self.end("commit").await
    }

    /// Makes it undone.
    pub(super) async fn rollback(self) -> Result<(), sqlx::Error> {
        self.end("rollback").await
    }

    async fn end(mut self, word: &'static str) -> Result<(), sqlx::Error> {
        self.session.ask(sqlx::raw_sql(word)).await?;
        if let Some(live) = self.session.live() {
            live.in_transaction = false;
        }
        Ok(())
    }
}

impl Deref for Transaction {
    type Target = Session<'static>;

    fn deref(&self) -> &Self::Target {
        &self.session
    }
}

impl DerefMut for Transaction {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.session
    }
}

/// The error of the driver that carries one of ours through the driver's interfaces.
pub(super) fn carried(error: StoreError) -> sqlx::Error {
    match error {
        StoreError::Query(error) => *error,
        error => sqlx::Error::Configuration(Box::new(error)),
    }
}
