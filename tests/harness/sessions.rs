//! Statements of the tests themselves, on connections of this process: a test looks often, and a `psql`
//! for each look costs twenty milliseconds of processor time.

use futures_util::TryStreamExt;
use sqlx::{
    AssertSqlSafe, Column, Connection, Either, PgConnection, Row, postgres::PgRow, raw_sql,
};
use std::{
    sync::{Arc, Mutex, OnceLock, mpsc},
    thread,
};
use tokio::runtime::{self, Handle};

/// Connections to one database that nobody uses at the moment. Several threads of a test may ask at
/// once: whoever finds none makes one.
#[derive(Debug)]
pub(super) struct Sessions {
    url: String,
    idle: Arc<Mutex<Vec<PgConnection>>>,
}

impl Sessions {
    pub(super) fn to(url: String) -> Self {
        Self {
            url,
            idle: Arc::default(),
        }
    }

    /// Runs a statement, or several in one transaction, as a session of its own. Answers what `psql`
    /// prints of it with `--tuples-only --no-align`.
    pub(super) fn ask(&self, statement: &str) -> Result<String, String> {
        let (url, statement) = (self.url.clone(), statement.to_owned());
        let idle = Arc::clone(&self.idle);
        wait_for(async move { ask(&url, &idle, statement).await })
            .map_err(|error| error.to_string())
    }

    /// A session that goes on until it is dropped.
    pub(super) fn hold(&self) -> Held {
        let url = self.url.clone();
        let connection = wait_for(async move { PgConnection::connect(&url).await });
        Held(Some(
            connection.expect("the server has a connection to spare"),
        ))
    }
}

/// A session of a client that takes its time: what it has begun and locked stays so until it is dropped.
#[derive(Debug)]
pub(super) struct Held(Option<PgConnection>);

impl Held {
    /// Runs a statement, which must succeed; what `psql` prints of it.
    pub(super) fn psql(&mut self, statement: &str) -> String {
        let mut connection = self.0.take().expect("it came back");
        let told = statement.to_owned();
        let (connection, answer) = wait_for(async move {
            let answer = lines(&mut connection, told).await;
            (connection, answer)
        });
        self.0 = Some(connection);
        answer.unwrap_or_else(|error| panic!("{statement}: {error}"))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(connection) = self.0.take() {
            let _ = wait_for(connection.close());
        }
    }
}

/// Waits for what a connection does, on the thread that drives all of them.
fn wait_for<T: Send + 'static>(doing: impl Future<Output = T> + Send + 'static) -> T {
    let (sender, answer) = mpsc::channel();
    reactor().spawn(async move {
        // Nobody listens any more where a test has panicked.
        let _ = sender.send(doing.await);
    });
    answer.recv().expect("connections do not panic")
}

/// Drives all connections: one of them may be used by several threads, one after the other.
fn reactor() -> &'static Handle {
    static REACTOR: OnceLock<Handle> = OnceLock::new();
    REACTOR.get_or_init(|| {
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("the system has an event queue to spare");
        let handle = runtime.handle().clone();
        thread::spawn(move || runtime.block_on(std::future::pending::<()>()));
        handle
    })
}

async fn ask(
    url: &str,
    idle: &Mutex<Vec<PgConnection>>,
    statement: String,
) -> Result<String, sqlx::Error> {
    let free = idle.lock().expect("no holder of this lock panics").pop();
    let mut connection = match free {
        Some(connection) => connection,
        None => PgConnection::connect(url).await?,
    };
    let asked = lines(&mut connection, statement).await;
    // Nothing of this statement is left to the next one: no transaction, no setting, no lock. A
    // connection that was ended meanwhile, perhaps by the statement itself, is not used again.
    if execute(&mut connection, "rollback").await.is_ok()
        && execute(&mut connection, "discard all").await.is_ok()
    {
        idle.lock()
            .expect("no holder of this lock panics")
            .push(connection);
    }
    asked
}

async fn execute(
    connection: &mut PgConnection,
    statement: &'static str,
) -> Result<(), sqlx::Error> {
    raw_sql(statement).execute(connection).await.map(drop)
}

/// The rows that all statements answer, a line each.
async fn lines(connection: &mut PgConnection, statement: String) -> Result<String, sqlx::Error> {
    let mut lines = Vec::new();
    let mut parts = raw_sql(AssertSqlSafe(statement)).fetch_many(connection);
    while let Some(part) = parts.try_next().await? {
        if let Either::Right(row) = part {
            lines.push(line(&row)?);
        }
    }
    Ok(lines.join("\n").trim().to_owned())
}

/// The values of a row with bars between them. The server sends them as text; null is nothing.
fn line(row: &PgRow) -> Result<String, sqlx::Error> {
    let mut values = Vec::new();
    for column in row.columns() {
        let value = row.try_get_raw(column.ordinal())?;
        let text = value.as_str().unwrap_or_default();
        values.push(text.to_owned());
    }
    Ok(values.join("|"))
}
