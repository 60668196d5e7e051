//! Connecting: what a URL means, who is there, and the few connections that a process keeps.

use super::error::{Result, StoreError, words};
use sqlx::{
    ConnectOptions as _, Connection,
    postgres::{PgConnectOptions, PgPool, PgPoolOptions},
};
use std::{fmt, str::FromStr, time::Duration};

/// How long a server may take to answer at first.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// What the query of a URL may say; see the driver's `PgConnectOptions`.
const PARAMETERS: [&str; 18] = [
    "application_name",
    "dbname",
    "host",
    "hostaddr",
    "options",
    "password",
    "port",
    "ssl-ca",
    "ssl-cert",
    "ssl-key",
    "ssl-mode",
    "ssl-root-cert",
    "sslcert",
    "sslkey",
    "sslmode",
    "sslrootcert",
    "statement-cache-capacity",
    "user",
];

/// What libpq knows besides; it changes nothing here.
const HARMLESS: [&str; 9] = [
    "channel_binding",
    "connect_timeout",
    "gssencmode",
    "keepalives",
    "keepalives_count",
    "keepalives_idle",
    "keepalives_interval",
    "target_session_attrs",
    "tcp_user_timeout",
];

/// Where the database is. Printing it never shows a password.
#[derive(Clone)]
pub struct ConnectOptions {
    postgres: PgConnectOptions,
}

impl ConnectOptions {
    /// The server without its credentials, for messages.
    pub fn place(&self) -> String {
        let database = self.postgres.get_database().unwrap_or("(default)");
        match self.postgres.get_socket() {
            Some(socket) => format!("database `{database}` in {}", socket.display()),
            None => format!(
                "database `{database}` at {}:{}",
                self.postgres.get_host(),
                self.postgres.get_port()
            ),
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
        if !(url.starts_with("postgres://") || url.starts_with("postgresql://")) {
            return Err(StoreError::Url(
                "it does not start with postgres:// or postgresql://".to_owned(),
            ));
        }
        check_parameters(url)?;
        let postgres = PgConnectOptions::from_str(url)
            .map_err(|error| StoreError::Url(words(&error)))?
            .application_name("rework")
            .log_statements(tracing::log::LevelFilter::Off);
        Ok(Self { postgres })
    }
}

/// Refuses what the driver would ignore: who asks for something gets it, or hears that not.
fn check_parameters(url: &str) -> Result<()> {
    let query = url.split_once('?').map_or("", |(_, query)| query);
    for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
        let name = parameter.split('=').next().unwrap_or_default();
        if name == "pooler" {
            return Err(StoreError::Url(
                "this rework cannot work through a pooler; give the server's own address"
                    .to_owned(),
            ));
        }
        let is_known = PARAMETERS.contains(&name) || HARMLESS.contains(&name);
        if !is_known && !name.starts_with("options[") {
            // What stands before an `@` may be the end of a password with a `?` in it.
            return Err(StoreError::Url(match query.contains('@') {
                true => "it has an unknown parameter".to_owned(),
                false => format!("it has an unknown parameter `{name}`"),
            }));
        }
    }
    Ok(())
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
        let refused = |reason: String| StoreError::Connect {
            place: options.place(),
            reason,
        };
        let first = sqlx::PgConnection::connect_with(&options.postgres);
        match tokio::time::timeout(CONNECT_TIMEOUT, first).await {
            Err(_) => {
                let waited = CONNECT_TIMEOUT.as_secs();
                return Err(refused(format!("no answer within {waited} s")));
            }
            Ok(Err(error)) => {
                return Err(refused(words(&error)));
            }
            // The pool makes its own; this one has shown that the way is open.
            Ok(Ok(connection)) => connection.close().await?,
        }
        let pool = PgPoolOptions::new()
            .max_connections(connections)
            .acquire_timeout(CONNECT_TIMEOUT)
            .connect_lazy_with(options.postgres.clone());
        Ok(Self { pool, options })
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
