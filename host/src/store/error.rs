//! Errors of the database, and what follows from each: a hint, or another try.

use super::{
    lock::{Deed, Holder, Wait},
    session::is_locked,
};
use crate::model::duration::human;
use std::time::Duration;

/// The result of every store method.
pub type Result<T, E = StoreError> = std::result::Result<T, E>;

/// Why the database did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The URL cannot be read. The message never repeats the URL, which may hold a password.
    #[error("the database URL cannot be used: {0}")]
    Url(String),
    /// No server answers at this address, or it refuses the login.
    #[error("could not connect to {place}: {reason}")]
    Connect {
        /// Host and port, or the socket's directory, without credentials.
        place: String,
        /// The reason in one line.
        reason: String,
    },
    /// The schema does not exist: `init-db` has not been run.
    #[error("the database has no schema `rework`")]
    SchemaMissing,
    /// The schema is older than this program.
    #[error("the schema is at version {found}, this rework needs {needed}")]
    SchemaOld {
        /// The version of the schema in the database.
        found: i64,
        /// The version that this program needs.
        needed: i64,
    },
    /// The schema is newer than this binary, and no longer serves it.
    #[error(
        "the schema is at version {found} and serves programs of version {serves_from} or newer; this rework \
         is of version {known}"
    )]
    SchemaNew {
        /// What is there.
        found: i64,
        /// The oldest version whose programs it serves.
        serves_from: i64,
        /// What this binary knows.
        known: i64,
    },
    /// A migration failed; its transaction was rolled back.
    #[error("could not migrate the schema")]
    Migrate(#[source] Box<sqlx::migrate::MigrateError>),
    /// The database or the role cannot be used for what was asked; nothing has been written.
    #[error("{message}")]
    Unfit {
        /// What is missing.
        message: String,
        /// What the reader can do about it.
        hint: String,
    },
    /// A rule of rework refuses the call.
    #[error("{message}")]
    Refused {
        /// The SQLSTATE, of class `RW`: 001 unknown, 002 ambiguous, 003 bad input, 004 wrong state.
        code: String,
        /// What is wrong, in one line.
        message: String,
        /// What the reader can do about it.
        hint: Option<String>,
    },
    /// Somebody else holds a lock that was needed, and has not let go of it in time.
    #[error("{doing}: {} {deed} and has not ended{}", named(.wait.as_ref()), for_long(*.waited))]
    Locked {
        /// What did not happen for lack of the lock.
        doing: String,
        /// What the holder of the lock has done, as the hint describes it.
        deed: &'static str,
        /// The lock and its holder, if the server could be asked.
        wait: Option<Wait>,
        /// How long it was waited for, if that is known.
        waited: Option<Duration>,
    },
    /// The server has committed, and a synchronous standby that it waits for has not confirmed it.
    #[error("the server has done it, and waits for a synchronous standby to have it")]
    Unconfirmed,
    /// Any other error of the server or of the connection.
    #[error("the database did not do it: {}", words(.0))]
    Query(Box<sqlx::Error>),
}

/// What the holder of a lock has done, where no more is known than that.
const HOLDS: &str = "holds a lock that is needed";

fn named(wait: Option<&Wait>) -> String {
    let holder = wait.and_then(|wait| wait.holder.as_ref());
    holder.map_or_else(|| "another transaction".to_owned(), Holder::to_string)
}

fn for_long(waited: Option<Duration>) -> String {
    let seconds = |waited: Duration| human(Duration::from_secs(waited.as_secs()));
    waited.map_or_else(String::new, |waited| {
        format!(" (waited for it for {})", seconds(waited))
    })
}

/// The message of the server, the system or the driver, without the driver's own prefix.
pub(super) fn words(error: &sqlx::Error) -> String {
    if let sqlx::Error::Database(database) = error {
        // SQLSTATE character_not_in_repertoire. The driver sends nothing but UTF-8, so the text holds a
        // NUL.
        if database.code().is_some_and(|code| code == "22021") {
            return "a text holds a NUL character, which Postgres cannot store".to_owned();
        }
        return database.message().to_owned();
    }
    if let sqlx::Error::PoolTimedOut = error {
        return "no connection was free in time".to_owned();
    }
    let mut innermost: &dyn std::error::Error = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    let text = innermost.to_string();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

impl StoreError {
    /// The refusal of one of several things that were asked for together, with its name (`which`) in the
    /// message.
    pub(super) fn of_one(self, which: &str) -> Self {
        match self {
            Self::Refused {
                code,
                message,
                hint,
            } => Self::Refused {
                code,
                message: format!("{which}: {message}"),
                hint,
            },
            other => other,
        }
    }

    /// A lock was not to be had.
    pub(super) fn locked(wait: Option<Wait>, waited: Option<Duration>) -> Self {
        Self::Locked {
            doing: "the database did not do it".to_owned(),
            deed: HOLDS,
            wait,
            waited,
        }
    }

    /// Of a lock that was not to be had, says what did not happen for it and, if it is a lock of this kind,
    /// what its holder has done. Other errors stay as they are.
    pub(super) fn of_lock(self, failure: impl FnOnce() -> String, deed: Option<Deed>) -> Self {
        let (wait, waited) = match self {
            Self::Locked { wait, waited, .. } => (wait, waited),
            // In a session of the caller, under its own limit.
            Self::Query(error) if is_locked(&error) => (None, None),
            other => return other,
        };
        let deed = deed.filter(|deed| wait.as_ref().is_some_and(|wait| wait.kind == deed.kind));
        Self::Locked {
            doing: failure(),
            deed: deed.map_or(HOLDS, |deed| deed.words),
            wait,
            waited,
        }
    }

    /// What the reader can do about the error, if anything.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::SchemaMissing => Some("run `rework init-db` first".to_owned()),
            Self::SchemaOld { .. } => Some("run `rework init-db` to migrate it".to_owned()),
            Self::SchemaNew { .. } => Some("use a newer rework on this host".to_owned()),
            Self::Refused { hint, .. } => hint.clone(),
            Self::Unfit { hint, .. } => Some(hint.clone()),
            Self::Locked { wait, .. } => Some(match wait.as_ref().and_then(|wait| wait.holder.as_ref()) {
                Some(holder) => format!("{}; then try again", holder.hint()),
                None => "try again; `rework doctor` names who is waited for meanwhile".to_owned(),
            }),
            Self::Connect { .. } => {
                Some("is the server running, and are host, user and database right?".to_owned())
            }
            Self::Url(_) => {
                Some("it looks like postgres://user:password@host:5432/database".to_owned())
            }
            Self::Query(error) => match error.as_database_error()?.code()?.as_ref() {
                "25006" => Some(
                    "the server is a standby, or has been made read-only: name the one that accepts writes"
                        .to_owned(),
                ),
                "42501" => Some(
                    "the owner of schema rework may grant it: `grant usage on schema rework to ROLE; grant \
                     all on all tables in schema rework to ROLE; grant all on all sequences in schema \
                     rework to ROLE`; where row-level security is on, the role also needs `bypassrls`"
                        .to_owned(),
                ),
                _ => None,
            },
            Self::Unconfirmed => Some(
                "do not repeat it; the server goes on when a standby of `synchronous_standby_names` is there"
                    .to_owned(),
            ),
            Self::Migrate(_) => None,
        }
    }

    /// The SQLSTATE, if the server returned one.
    pub fn code(&self) -> Option<std::borrow::Cow<'_, str>> {
        match self {
            Self::Query(source) => source.as_database_error()?.code(),
            Self::Locked { .. } => Some("55P03".into()),
            Self::Migrate(error) => match &**error {
                sqlx::migrate::MigrateError::Execute(error)
                | sqlx::migrate::MigrateError::ExecuteMigration(error, _) => {
                    error.as_database_error()?.code()
                }
                _ => None,
            },
            _ => None,
        }
    }

    /// Whether a lock was not to be had in time.
    pub(super) fn is_locked(&self) -> bool {
        self.code().is_some_and(|code| code == "55P03")
    }

    /// Whether it did not happen because of what somebody else writes at the same time: a lock that was not to be
    /// had (55P03), a deadlock or a serialization failure (class 40).
    pub fn is_contended(&self) -> bool {
        self.code()
            .is_some_and(|code| code == "55P03" || code.starts_with("40"))
    }

    /// Whether the data cannot be stored, so that sending it again would fail again: bad data, or a limit
    /// of the server (SQLSTATE classes 22 and 54). A constraint that an operator added (class 23) does not
    /// count: it may be dropped again.
    pub fn is_bad_data(&self) -> bool {
        if let Self::Query(source) = self
            && matches!(**source, sqlx::Error::Encode(_))
        {
            return true;
        }
        self.code()
            .is_some_and(|code| ["22", "54"].iter().any(|class| code.starts_with(class)))
    }

    /// Whether the same call is likely to succeed in a moment: a deadlock, a serialization failure (class
    /// 40), a lock that was not available, a cancelled statement.
    pub fn is_passing(&self) -> bool {
        self.code()
            .is_some_and(|code| code.starts_with("40") || code == "55P03" || code == "57014")
    }

    /// Whether the server answered, and refused.
    pub fn is_refusal(&self) -> bool {
        !self.is_disconnect() || self.code().is_some_and(|code| code == "25006")
    }

    /// Whether the connection was lost, so that the same call may succeed on another connection.
    pub fn is_disconnect(&self) -> bool {
        match self {
            Self::Connect { .. } => true,
            Self::Query(source) => match &**source {
                sqlx::Error::Io(_)
                | sqlx::Error::Tls(_)
                | sqlx::Error::Protocol(_)
                | sqlx::Error::PoolTimedOut
                | sqlx::Error::PoolClosed
                | sqlx::Error::WorkerCrashed => true,
                // Class 08: connection exception; 57P0x: the server shuts down; 25006: the server has
                // become a standby.
                sqlx::Error::Database(error) => error.code().is_some_and(|code| {
                    code.starts_with("08") || code.starts_with("57P") || code == "25006"
                }),
                _ => false,
            },
            _ => false,
        }
    }
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        let error = match error {
            // A StoreError that was carried through the driver's own error type.
            sqlx::Error::Configuration(inner) => match inner.downcast::<Self>() {
                Ok(ours) => return *ours,
                Err(inner) => sqlx::Error::Configuration(inner),
            },
            error => error,
        };
        if let sqlx::Error::Database(database) = &error {
            let code = database.code().unwrap_or_default();
            if code.starts_with("RW") {
                let hint = database
                    .try_downcast_ref::<sqlx::postgres::PgDatabaseError>()
                    .and_then(|error| error.hint())
                    .map(str::to_owned);
                return Self::Refused {
                    code: code.into_owned(),
                    message: database.message().to_owned(),
                    hint,
                };
            }
            // invalid_schema_name, undefined_table, undefined_function
            if matches!(&*code, "3F000" | "42P01" | "42883")
                && database.message().contains("rework")
            {
                return Self::SchemaMissing;
            }
        }
        Self::Query(Box::new(error))
    }
}
