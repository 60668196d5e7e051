//! Connecting: what a URL means, who is there, and the few connections that a process keeps.

use super::{
    error::{Result, StoreError, words},
    url::{check, each_server},
};
use sqlx::{
    ConnectOptions as _, Connection, PgConnection,
    postgres::{PgConnectOptions, PgPool, PgPoolOptions},
};
use std::{fmt, str::FromStr, time::Duration};
use tokio::task::JoinSet;

/// How long a server may take to answer at first.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Where the database is: one server, or several of which one accepts writes. Printing it never shows
/// a password.
#[derive(Clone)]
pub struct ConnectOptions {
    servers: Vec<PgConnectOptions>,
}

impl ConnectOptions {
    /// The servers without credentials, for messages.
    pub fn place(&self) -> String {
        let places: Vec<String> = self.servers.iter().map(place_of).collect();
        places.join(" or ")
    }
}

fn place_of(server: &PgConnectOptions) -> String {
    let database = server.get_database().unwrap_or("(default)");
    match server.get_socket() {
        Some(socket) => format!("database `{database}` in {}", socket.display()),
        None => format!(
            "database `{database}` at {}:{}",
            server.get_host(),
            server.get_port()
        ),
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
        if !(url.starts_with("postgres://") || url.starts_with("postgresql://")) {
            return Err(StoreError::Url(
                "it does not start with postgres:// or postgresql://".to_owned(),
            ));
        }
        let servers = each_server(url)?
            .iter()
            .map(|url| {
                check(url)?;
                Ok(PgConnectOptions::from_str(url)
                    .map_err(|error| StoreError::Url(words(&error)))?
                    .application_name("rework")
                    // Our transactions are never prepared: see `rework.tell` in the migrations.
                    .options([("rework.notifies", "on")])
                    .log_statements(tracing::log::LevelFilter::Off))
            })
            .collect::<Result<_>>()?;
        Ok(Self { servers })
    }
}

impl ConnectOptions {
    /// The server that answers and, where there are several, accepts writes. All are tried at once:
    /// one whose machine is gone does not answer for long.
    async fn find(&self) -> Result<PgConnectOptions> {
        let one_of_many = self.servers.len() > 1;
        let mut tries: JoinSet<_> = self
            .servers
            .iter()
            .cloned()
            .map(|server| async move {
                let tried = try_one(&server, one_of_many).await;
                (server, tried)
            })
            .collect();
        let mut reasons = Vec::new();
        while let Some(tried) = tries.join_next().await {
            match tried {
                Ok((server, Ok(()))) => return Ok(server),
                Ok((_, Err(reason))) => reasons.push(reason),
                Err(error) => reasons.push(error.to_string()),
            }
        }
        Err(StoreError::Connect {
            place: self.place(),
            reason: reasons.join("; "),
        })
    }
}

/// Why a server will not do, in a line.
async fn try_one(server: &PgConnectOptions, one_of_many: bool) -> Result<(), String> {
    let look = async {
        let mut connection = PgConnection::connect_with(server).await?;
        let will_do = !one_of_many || accepts_writes(&mut connection).await?;
        // The pool makes its own; this one has shown that the way is open.
        connection.close().await?;
        Ok(will_do)
    };
    match tokio::time::timeout(CONNECT_TIMEOUT, look).await {
        Err(_) => Err(format!("no answer within {} s", CONNECT_TIMEOUT.as_secs())),
        Ok(Err::<bool, sqlx::Error>(error)) => Err(words(&error)),
        Ok(Ok(true)) => Ok(()),
        Ok(Ok(false)) => Err("it does not accept writes".to_owned()),
    }
}

/// A standby does not.
async fn accepts_writes(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    let read_only = sqlx::query_scalar!(
        r#"select current_setting('transaction_read_only')::bool as "read_only!""#
    )
    .fetch_one(connection)
    .await?;
    Ok(!read_only)
}

/// Everything that a process may ask of the database. Cheap to clone; clones share connections.
#[derive(Clone, Debug)]
pub struct Store {
    pub(super) pool: PgPool,
    options: ConnectOptions,
}

impl Store {
    /// Connects, and says at once and in one line why it cannot. Looks at no schema.
    pub async fn connect(options: ConnectOptions, connections: u32) -> Result<Self> {
        let server = options.find().await?;
        let mut pool = PgPoolOptions::new()
            .max_connections(connections)
            .acquire_timeout(CONNECT_TIMEOUT);
        if options.servers.len() > 1 {
            // A server that does not accept writes any more keeps its connections.
            pool = pool.before_acquire(|connection, _| {
                Box::pin(async move { accepts_writes(connection).await })
            });
        }
        let pool = pool.connect_lazy_with(server);
        Ok(Self { pool, options })
    }

    /// Looks for the server that accepts writes now, if there are several, for this store and for
    /// another one of the same servers.
    pub async fn find_server(&self, also: &Self) -> Result<()> {
        if self.options.servers.len() > 1 {
            let server = self.options.find().await?;
            self.pool.set_connect_options(server.clone());
            also.pool.set_connect_options(server);
        }
        Ok(())
    }

    /// Where this is, without credentials.
    pub fn place(&self) -> String {
        self.options.place()
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
        self.pool.close().await;
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
