//! Connecting: what a URL means, who is there, and the few connections that a process keeps.

use super::{
    error::{Result, StoreError, words},
    server::{Server, Servers},
    session::{self, Live, Purpose, Session, Transaction, accepts_writes, carried},
};
use crate::periods::Periods;
use deadpool::managed::{self, Metrics, PoolError, QueueMode, RecycleError, RecycleResult};
use futures_util::{
    FutureExt, StreamExt, TryFutureExt,
    future::BoxFuture,
    stream::{self, BoxStream},
};
use sqlx::{
    Connection, Either, Execute, Executor, PgConnection, Postgres,
    postgres::{PgConnectOptions, PgQueryResult, PgRow, PgStatement, PgTypeInfo},
};
use std::{
    fmt,
    str::FromStr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use tokio::{sync::watch, task::JoinSet};

/// The pauses between tries to reach a server that starts: the first, and the longest.
const PAUSES: [Duration; 2] = [Duration::from_millis(10), Duration::from_secs(1)];

/// Where the database is: one server, or several of which one accepts writes. Printing it never shows
/// a password.
#[derive(Clone)]
pub struct ConnectOptions {
    servers: Arc<Servers>,
    /// How long a session waits for a lock; `None`: as long as it takes.
    lock_limit: Option<Duration>,
}

impl ConnectOptions {
    /// The servers without credentials, for messages.
    pub fn place(&self) -> String {
        let places: Vec<&str> = self.servers.all.iter().map(|s| s.place.as_str()).collect();
        places.join(" or ")
    }

    /// Of the URL of a server that this program has started: what the environment says of databases is
    /// about others.
    pub fn of_own_server(url: &str) -> Result<Self> {
        let servers = Arc::new(Servers::of_own(url)?);
        Ok(Self {
            servers,
            lock_limit: Some(Periods::current().lock_wait),
        })
    }

    /// For a monitor: it goes on whatever its sessions wait for, so they wait for locks as long as it
    /// takes.
    #[must_use]
    pub fn without_lock_limit(self) -> Self {
        Self {
            lock_limit: None,
            ..self
        }
    }
}

impl fmt::Debug for ConnectOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.place())
    }
}

impl FromStr for ConnectOptions {
    type Err = StoreError;

    fn from_str(url: &str) -> Result<Self> {
        let servers = Arc::new(Servers::of(url)?);
        Ok(Self {
            servers,
            lock_limit: Some(Periods::current().lock_wait),
        })
    }
}

/// A connection, and the way by which it was made.
type Connected = (PgConnection, PgConnectOptions);

/// Why a server will not do.
struct Reason {
    text: String,
    /// It may do in a moment: it starts, or is about to.
    is_starting: bool,
}

impl ConnectOptions {
    /// Connects to the server that answers and, where there are several, accepts writes. All are tried
    /// at once: one whose machine is gone does not answer for long.
    async fn connect(&self) -> Result<Connected, (StoreError, bool)> {
        let must_write = self.servers.must_write;
        let limit = self.servers.connect_timeout;
        let mut tries: JoinSet<_> = self
            .servers
            .all
            .iter()
            .cloned()
            .map(|server| async move { connect_to(&server, must_write, limit).await })
            .collect();
        let mut reasons = Vec::new();
        let mut is_starting = false;
        while let Some(tried) = tries.join_next().await {
            match tried {
                Ok(Ok(connected)) => return Ok(connected),
                Ok(Err(reason)) => {
                    is_starting |= reason.is_starting;
                    reasons.push(reason.text);
                }
                Err(error) => reasons.push(error.to_string()),
            }
        }
        let error = StoreError::Connect {
            place: self.place(),
            reason: reasons.join("; "),
        };
        Err((error, is_starting))
    }
}

/// Connects to a server by the first of its ways that is open.
async fn connect_to(
    server: &Server,
    must_write: bool,
    limit: Duration,
) -> Result<Connected, Reason> {
    let begin = Instant::now();
    let mut refusal = None;
    for way in &server.ways {
        let left = limit.saturating_sub(begin.elapsed());
        let connect = async {
            let mut connection = PgConnection::connect_with(way).await?;
            let will_do = !must_write || accepts_writes(&mut connection).await?;
            Ok::<_, sqlx::Error>(will_do.then_some(connection))
        };
        let error = match tokio::time::timeout(left, connect).await {
            Ok(Ok(Some(connection))) => return Ok((connection, way.clone())),
            Ok(Ok(None)) => {
                return Err(Reason {
                    text: "it does not accept writes".to_owned(),
                    is_starting: true,
                });
            }
            Ok(Err(error)) => error,
            Err(_) => {
                let text = format!("no answer within {} s", limit.as_secs());
                return Err(refusal.unwrap_or(Reason {
                    text,
                    is_starting: false,
                }));
            }
        };
        // Only who is refused at the door tries another one.
        let is_refused = matches!(&error, sqlx::Error::Database(error)
            if error.code().is_some_and(|code| code.starts_with("28")));
        let reason = Reason {
            is_starting: is_starting(&error),
            text: match &server.remark {
                Some(remark) if is_refused => format!("{}; {remark}", words(&error)),
                _ => words(&error),
            },
        };
        if !is_refused {
            return Err(refusal.unwrap_or(reason));
        }
        refusal.get_or_insert(reason);
    }
    Err(refusal.expect("every server has a way"))
}

/// Whether a server that did not let us in may do so in a moment: nobody listens yet, or it starts
/// (57P03) or has no connection to spare (53300).
fn is_starting(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(error) => error.kind() == std::io::ErrorKind::ConnectionRefused,
        sqlx::Error::Database(error) => error
            .code()
            .is_some_and(|code| code == "57P03" || code == "53300"),
        _ => false,
    }
}

/// What the connections of a pool have in common.
pub(super) struct Shared {
    options: ConnectOptions,
    server: Mutex<Known>,
    /// Rises when connections are not to be believed any more; whoever listens hears of it.
    generation: watch::Sender<u64>,
}

/// What is known of the server.
#[derive(Default)]
struct Known {
    /// The last one that let us in.
    last: Option<PgConnectOptions>,
    /// It is tried before others are looked for.
    is_believed: bool,
}

impl Shared {
    /// Connections made before now are closed when they come back, and the server is looked for anew:
    /// behind its name there may be another one.
    pub(super) fn distrust(&self) {
        self.known().is_believed = false;
        self.generation.send_modify(|generation| *generation += 1);
    }

    pub(super) fn lock_limit(&self) -> Option<Duration> {
        self.options.lock_limit
    }

    pub(super) fn generation(&self) -> u64 {
        *self.generation.borrow()
    }

    /// The server that last let us in.
    pub(super) fn last_server(&self) -> Option<PgConnectOptions> {
        self.known().last.clone()
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.server.lock().expect("no holder of this lock panics")
    }

    fn believe(&self, server: PgConnectOptions) {
        *self.known() = Known {
            last: Some(server),
            is_believed: true,
        };
    }

    async fn connect(&self) -> Result<PgConnection, (StoreError, bool)> {
        let believed = {
            let known = self.known();
            known.last.clone().filter(|_| known.is_believed)
        };
        if let Some(way) = believed {
            let server = Server {
                place: String::new(),
                ways: vec![way],
                remark: None,
            };
            let servers = &self.options.servers;
            match connect_to(&server, servers.must_write, servers.connect_timeout).await {
                Ok((connection, _)) => return Ok(connection),
                Err(_) => self.known().is_believed = false,
            }
        }
        let (connection, way) = self.options.connect().await?;
        self.believe(way);
        Ok(connection)
    }
}

/// Makes and mends connections for a pool.
pub(super) struct Manager {
    shared: Arc<Shared>,
    purpose: Purpose,
}

impl managed::Manager for Manager {
    type Type = Live;
    type Error = (StoreError, bool);

    async fn create(&self) -> Result<Live, Self::Error> {
        let connection = self.shared.connect().await?;
        let settled = Live::new(connection, Arc::clone(&self.shared), self.purpose);
        let limit = self.shared.options.servers.connect_timeout;
        match tokio::time::timeout(limit, settled).await {
            Ok(Ok(live)) => Ok(live),
            Ok(Err(error)) => {
                let reason = match error {
                    StoreError::Query(error) => words(&error),
                    error => error.to_string(),
                };
                Err((self.failed(reason), false))
            }
            Err(_) => Err((
                self.failed(format!("no answer within {} s", limit.as_secs())),
                false,
            )),
        }
    }

    async fn recycle(&self, live: &mut Live, _: &Metrics) -> RecycleResult<Self::Error> {
        match live.is_well().await {
            Ok(true) => Ok(()),
            _ => Err(RecycleError::message("it is of no use any more")),
        }
    }
}

impl Manager {
    fn failed(&self, reason: String) -> StoreError {
        self.shared.distrust();
        StoreError::Connect {
            place: self.shared.options.place(),
            reason,
        }
    }
}

/// The few connections of a process. It can be asked like a connection; every question has a limit.
#[derive(Clone)]
pub(super) struct Pool {
    connections: managed::Pool<Manager>,
    /// The connection of the cycle, made when the first cycle needs it.
    cycle_connection: managed::Pool<Manager>,
    shared: Arc<Shared>,
}

impl Pool {
    fn new(options: ConnectOptions, connections: u32) -> Self {
        let shared = Arc::new(Shared {
            options,
            server: Mutex::default(),
            generation: watch::Sender::new(0),
        });
        let pool_of = |size: usize, purpose: Purpose| {
            let manager = Manager {
                shared: Arc::clone(&shared),
                purpose,
            };
            managed::Pool::builder(manager)
                .max_size(size)
                // The one that was used last knows the most statements.
                .queue_mode(QueueMode::Lifo)
                .build()
                .expect("it has no time limits of its own, so it needs no runtime")
        };
        Self {
            connections: pool_of(connections as usize, Purpose::Any),
            cycle_connection: pool_of(1, Purpose::Cycle),
            shared,
        }
    }

    /// A connection, when there is one that works.
    pub(super) async fn acquire(&self) -> Result<Session<'static>, sqlx::Error> {
        Self::acquire_from(&self.connections).await
    }

    /// The connection of the cycle, when it works.
    pub(super) async fn acquire_for_cycle(&self) -> Result<Session<'static>, sqlx::Error> {
        Self::acquire_from(&self.cycle_connection).await
    }

    async fn acquire_from(
        connections: &managed::Pool<Manager>,
    ) -> Result<Session<'static>, sqlx::Error> {
        let limit = Periods::current().connection_wait;
        let begin = Instant::now();
        let mut pause = PAUSES[0];
        loop {
            let left = limit.saturating_sub(begin.elapsed());
            let error = match tokio::time::timeout(left, connections.get()).await {
                Ok(Ok(object)) => return Ok(Session::ours(object)),
                Ok(Err(PoolError::Backend((error, is_starting)))) => {
                    if !is_starting || begin.elapsed() + pause >= limit {
                        return Err(carried(error));
                    }
                    error
                }
                Ok(Err(PoolError::Closed)) => return Err(sqlx::Error::PoolClosed),
                Ok(Err(_)) | Err(_) => return Err(sqlx::Error::PoolTimedOut),
            };
            tracing::debug!("{error}");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSES[1]);
        }
    }

    /// A transaction.
    pub(super) async fn begin(&self) -> Result<Transaction, sqlx::Error> {
        Transaction::begin(self.acquire().await?).await
    }

    /// A transaction that waits for no lock beyond the limit of commands: of whatever queues a task. In a
    /// monitor it would otherwise keep one of few connections for as long as somebody holds a key.
    pub(super) async fn begin_limited(&self) -> Result<Transaction, sqlx::Error> {
        let mut transaction = self.begin().await?;
        if self.shared.lock_limit().is_none() {
            transaction.limit_locks().await?;
        }
        Ok(transaction)
    }

    /// Says when connections made before now are not to be believed any more.
    pub(super) fn distrusted(&self) -> watch::Receiver<u64> {
        self.shared.generation.subscribe()
    }

    /// Connections made before now are not to be believed any more.
    pub(super) fn distrust(&self) {
        self.shared.distrust();
    }

    /// A pool of the driver with a single connection, for what only that can do.
    pub(super) async fn of_driver(&self) -> Result<sqlx::PgPool, sqlx::Error> {
        // Finds the server if it is not known.
        drop(self.acquire().await?);
        let server = self.shared.last_server().ok_or(sqlx::Error::PoolTimedOut)?;
        Ok(sqlx::postgres::PgPoolOptions::new()
            .max_connections(1)
            .max_lifetime(None)
            .idle_timeout(None)
            .test_before_acquire(false)
            .acquire_timeout(self.shared.options.servers.connect_timeout)
            .after_connect(|connection, _| {
                Box::pin(async {
                    session::settle(connection, None, Purpose::Any).await?;
                    Ok(())
                })
            })
            .connect_lazy_with(server))
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pool({:?})", self.shared.options)
    }
}

impl<'p> Executor<'p> for &'p Pool {
    type Database = Postgres;

    fn fetch_many<'e, 'q: 'e, E>(
        self,
        query: E,
    ) -> BoxStream<'e, Result<Either<PgQueryResult, PgRow>, sqlx::Error>>
    where
        'p: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        let asked = async move { self.acquire().await?.ask(query).await };
        asked
            .map_ok(|parts| stream::iter(parts).map(Ok))
            .try_flatten_stream()
            .boxed()
    }

    fn fetch_optional<'e, 'q: 'e, E>(
        self,
        query: E,
    ) -> BoxFuture<'e, Result<Option<PgRow>, sqlx::Error>>
    where
        'p: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        async move {
            let parts = self.acquire().await?.ask(query).await?;
            Ok(parts.into_iter().find_map(Either::right))
        }
        .boxed()
    }

    fn prepare_with<'e>(
        self,
        sql: sqlx::SqlStr,
        parameters: &'e [PgTypeInfo],
    ) -> BoxFuture<'e, Result<PgStatement, sqlx::Error>>
    where
        'p: 'e,
    {
        async move { self.acquire().await?.prepare_with(sql, parameters).await }.boxed()
    }

    fn describe<'e>(
        self,
        sql: sqlx::SqlStr,
    ) -> BoxFuture<'e, Result<sqlx::Describe<Postgres>, sqlx::Error>>
    where
        'p: 'e,
    {
        async move { self.acquire().await?.describe(sql).await }.boxed()
    }
}

/// Everything that a process may ask of the database. Cheap to clone; clones share connections.
#[derive(Clone, Debug)]
pub struct Store {
    pub(super) pool: Pool,
}

impl Store {
    /// Connects, and says at once and in one line why it cannot. Looks at no schema.
    pub async fn connect(options: ConnectOptions, connections: u32) -> Result<Self> {
        let pool = Pool::new(options, connections);
        match pool.connections.get().await {
            Ok(object) => drop(Session::ours(object)),
            Err(PoolError::Backend((error, _))) => return Err(error),
            Err(_) => return Err(StoreError::from(sqlx::Error::PoolTimedOut)),
        }
        Ok(Self { pool })
    }

    /// Looks for the server that accepts writes now, if there are several, for this store and for
    /// another one of the same servers.
    pub async fn find_server(&self, also: &Self) -> Result<()> {
        let shared = &self.pool.shared;
        if shared.options.servers.all.len() > 1 {
            let (_, server) = shared.options.connect().await.map_err(|(error, _)| error)?;
            for store in [self, also] {
                store.pool.shared.distrust();
                store.pool.shared.believe(server.clone());
            }
        }
        Ok(())
    }

    /// Where this is, without credentials.
    pub fn place(&self) -> String {
        self.pool.shared.options.place()
    }

    /// Makes a database beside the one that this is connected to; `name` is one of ours, a plain
    /// word.
    pub async fn database_create(&self, name: &str) -> Result<()> {
        self.run(format!("create database \"{name}\"")).await
    }

    /// Drops a database, whoever is connected to it.
    pub async fn database_drop(&self, name: &str) -> Result<()> {
        self.run(format!("drop database if exists \"{name}\" with (force)"))
            .await
    }

    /// Runs a statement whose names no parameter can stand for.
    async fn run(&self, statement: String) -> Result<()> {
        sqlx::raw_sql(sqlx::AssertSqlSafe(statement))
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// Ends every connection.
    pub async fn close(&self) {
        self.pool.connections.close();
        self.pool.cycle_connection.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_never_shown() {
        let options: ConnectOptions = "postgres://babar:secret@elephant:5433/jobs"
            .parse()
            .unwrap();
        assert_eq!(options.place(), "database `jobs` at elephant:5433");
        assert!(!format!("{options:?}").contains("secret"));
        let error = "postgres://babar:secret@elephant:port/jobs"
            .parse::<ConnectOptions>()
            .unwrap_err();
        assert!(!error.to_string().contains("secret"), "{error}");
    }
}
