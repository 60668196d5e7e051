//! The version of the schema: migrations of tables run forward only, each safe while old monitors run;
//! functions and views are replaced as a whole whenever their file differs from what was applied last.

use super::{
    Store,
    error::{Result, StoreError},
    lock::{self, Deed},
};
use crate::model::input::sha256;
use sqlx::{
    Connection, PgConnection,
    migrate::{MigrateError, Migrator},
};
use std::sync::LazyLock;

/// The numbered files of `migrations/`, embedded. Their table lives in our schema, because an application
/// may have a `_sqlx_migrations` of its own in `public`.
static MIGRATIONS: LazyLock<Migrator> = LazyLock::new(|| {
    let mut migrator = sqlx::migrate!("../migrations");
    migrator.dangerous_set_table_name("rework.migration");
    migrator
});

fn newest_known() -> i64 {
    MIGRATIONS
        .iter()
        .map(|migration| migration.version)
        .max()
        .expect("migrations/ is not empty")
}

/// Every function and view of the schema.
const FUNCTIONS: &str = include_str!("../../../migrations/functions.sql");

/// The oldest server that knows all that the schema needs, as `server_version_num`.
const OLDEST_SERVER: i32 = 140_000;

/// The state of the database before a migration, and the rights of the role.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Situation {
    database: String,
    role: String,
    encoding: String,
    server: i32,
    read_only: bool,
    has_schema: bool,
    /// Whether the role may use the schema, if it exists.
    may_look: bool,
    may_create: bool,
    /// Whether the role has the rights of the owners of everything in the schema.
    owns_all: bool,
    may_create_schema: bool,
}

impl Situation {
    /// Why the role cannot write here; `None` if it can.
    fn fault(&self) -> Option<StoreError> {
        let Self {
            database,
            role,
            encoding,
            ..
        } = self;
        let unfit = |message: String, hint: String| Some(StoreError::Unfit { message, hint });
        if self.server < OLDEST_SERVER {
            unfit(
                format!(
                    "the server is PostgreSQL {}, too old for rework",
                    self.server / 10_000
                ),
                format!("it has to be {} or newer", OLDEST_SERVER / 10_000),
            )
        } else if encoding != "UTF8" {
            unfit(
                format!(
                    "database `{database}` has the encoding {encoding}, in which not every text can be stored"
                ),
                "`create database NAME encoding 'UTF8' template template0` makes one that is fit"
                    .to_owned(),
            )
        } else if self.read_only {
            unfit(
                format!("database `{database}` does not accept writes"),
                "its server is a standby, or has been made read-only: name the one that accepts writes"
                    .to_owned(),
            )
        } else if !self.has_schema && !self.may_create_schema {
            unfit(
                format!("role `{role}` may not create schema rework in database `{database}`"),
                format!(
                    "its owner may grant it: `grant create on database \"{database}\" to \"{role}\"`, or: \
                     `create schema rework authorization \"{role}\"`"
                ),
            )
        } else if self.has_schema && !self.may_create {
            unfit(
                format!(
                    "role `{role}` may not create tables in schema rework of database `{database}`"
                ),
                format!(
                    "its owner may grant it: `grant usage, create on schema rework to \"{role}\"`"
                ),
            )
        } else if self.has_schema && !self.owns_all {
            unfit(
                format!(
                    "role `{role}` does not own all that is in schema rework, so it cannot change it"
                ),
                format!(
                    "run `rework init-db` as the role that made them, or let that one grant it: `grant OWNER \
                     to \"{role}\"`"
                ),
            )
        } else {
            None
        }
    }
}

/// What a schema says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Installed {
    /// The migrations that have been applied, with their checksums.
    applied: Vec<(i64, Vec<u8>)>,
    /// SHA-256 of the functions that were applied last.
    functions: String,
    /// The oldest version whose programs can work with it.
    serves_from: i64,
}

impl Installed {
    fn version(&self) -> i64 {
        let versions = self.applied.iter().map(|(version, _)| *version);
        versions.max().unwrap_or_default()
    }

    /// Whether there is nothing to migrate: the schema is ours, or a newer one that serves this program.
    fn is_current(&self) -> Result<bool> {
        let known = newest_known();
        for (version, checksum) in &self.applied {
            let ours = MIGRATIONS.iter().find(|ours| ours.version == *version);
            if ours.is_some_and(|ours| *ours.checksum != **checksum) {
                return Err(StoreError::Migrate(Box::new(
                    MigrateError::VersionMismatch(*version),
                )));
            }
        }
        let found = self.version();
        check_version(found, self.serves_from)
            .map(|()| found > known || self.functions == sha256(FUNCTIONS.as_bytes()))
            .or_else(|error| match error {
                StoreError::SchemaOld { .. } => Ok(false),
                other => Err(other),
            })
    }
}

/// Whether this program can work with a schema of a version that serves programs from another version on.
fn check_version(found: i64, serves_from: i64) -> Result<()> {
    let known = newest_known();
    if found < known {
        Err(StoreError::SchemaOld {
            found,
            needed: known,
        })
    } else if known < serves_from {
        Err(StoreError::SchemaNew {
            found,
            serves_from,
            known,
        })
    } else {
        Ok(())
    }
}

impl Store {
    /// Brings the schema to the version of this binary and returns the version that it then has: that of
    /// this binary, or a newer one that serves it. Idempotent, never drops anything. All or nothing: what
    /// stands in the way is told before anything is written. Of two at once the second waits for the first,
    /// as long as any command waits for a lock.
    pub async fn schema_migrate(&self) -> Result<i64> {
        let situation = self.schema_situation().await?;
        let mut session = self.pool.acquire().await?;
        let found = match installed(session.unlimited(), &situation).await {
            // Another program drops it at this moment.
            Err(StoreError::SchemaMissing) => None,
            found => found?,
        };
        if let Some(found) = found
            && found.is_current()?
        {
            return Ok(found.version());
        }
        if let Some(fault) = situation.fault() {
            return Err(fault);
        }
        let migrated = session
            .run(async |connection| migrate(connection, &situation).await)
            .await;
        migrated.map_err(|error| {
            let doing = || "could not migrate the schema".to_owned();
            let deed = Deed {
                kind: lock::ADVISORY,
                words: "migrates it as well",
            };
            error.of_lock(doing, Some(deed))
        })
    }

    async fn schema_situation(&self) -> Result<Situation> {
        let situation = sqlx::query_as!(
            Situation,
            r#"select d.datname as "database!", current_user::text as "role!",
                      pg_encoding_to_char(d.encoding)::text as "encoding!",
                      current_setting('server_version_num')::int as "server!",
                      current_setting('transaction_read_only')::bool as "read_only!",
                      n.oid is not null as "has_schema!",
                      coalesce(has_schema_privilege(n.oid, 'usage'), false) as "may_look!",
                      coalesce(has_schema_privilege(n.oid, 'usage')
                               and has_schema_privilege(n.oid, 'create'), false) as "may_create!",
                      not exists (select from pg_class c
                                   where c.relnamespace = n.oid
                                     and not pg_has_role(c.relowner, 'usage'))
                      and not exists (select from pg_proc p
                                       where p.pronamespace = n.oid
                                         and not pg_has_role(p.proowner, 'usage')) as "owns_all!",
                      has_database_privilege(d.oid, 'create') as "may_create_schema!"
                 from pg_database d
                 left join pg_namespace n on n.nspname = 'rework'
                where d.datname = current_database()"#
        )
        .fetch_one(&self.pool)
        .await?;
        Ok(situation)
    }

    /// Refuses a schema that is missing or too old, or so new that it no longer serves this binary.
    pub async fn schema_check(&self) -> Result<()> {
        let row = sqlx::query!(
            r#"select max(m.version) as version, max(i.serves_from) as serves_from
                 from rework.migration m, rework.installed i
                where m.success"#
        )
        .fetch_one(&self.pool)
        .await?;
        match (row.version, row.serves_from) {
            (Some(found), Some(serves_from)) => check_version(found, serves_from),
            _ => Err(StoreError::SchemaMissing),
        }
    }

    /// A text that identifies this installation: when its schema was created, to the microsecond.
    pub async fn schema_installation(&self) -> Result<String> {
        let made = sqlx::query_scalar!(
            r#"select extract(epoch from min(installed_on))::text as "made!" from rework.migration"#
        )
        .fetch_one(&self.pool)
        .await?;
        Ok(made)
    }

    /// Whether functions notify in every transaction. They do not on a server with prepared transactions
    /// enabled, because PREPARE TRANSACTION fails after NOTIFY (see `rework.tell`).
    pub async fn may_notify(&self) -> Result<bool> {
        let may = sqlx::query_scalar!(
            r#"select current_setting('max_prepared_transactions') = '0' as "may!""#
        )
        .fetch_one(&self.pool)
        .await?;
        Ok(may)
    }

    /// Drops the schema and everything in it; `false` if there was none.
    pub async fn schema_drop(&self) -> Result<bool> {
        let mut transaction = self.pool.begin().await?;
        // Wait for a migration that runs.
        sqlx::query!("select pg_advisory_xact_lock(hashtext('rework.schema'))")
            .execute(&mut *transaction)
            .await?;
        let exists = sqlx::query_scalar!(
            r#"select exists (select from pg_namespace where nspname = 'rework') as "exists!""#
        )
        .fetch_one(&mut *transaction)
        .await?;
        if exists {
            sqlx::query!("drop schema rework cascade")
                .execute(&mut *transaction)
                .await?;
        }
        transaction.commit().await?;
        Ok(exists)
    }
}

/// What the schema says of itself; nothing if it has no migrations yet.
async fn installed(
    connection: &mut PgConnection,
    situation: &Situation,
) -> Result<Option<Installed>> {
    let has_table = sqlx::query_scalar!(
        r#"select exists (select from pg_class c join pg_namespace n on n.oid = c.relnamespace
                           where n.nspname = 'rework' and c.relname = 'migration') as "exists!""#
    )
    .fetch_one(&mut *connection)
    .await?;
    if !has_table {
        return Ok(None);
    }
    // (Another program may have made the schema since.)
    if situation.has_schema && !situation.may_look {
        let Situation { role, database, .. } = situation;
        return Err(StoreError::Unfit {
            message: format!("role `{role}` may not use schema rework of database `{database}`"),
            hint: format!(
                "its owner may grant it: `grant usage on schema rework to \"{role}\"`, and rights on its \
                 tables"
            ),
        });
    }
    let applied = sqlx::query!(
        r#"select version, checksum from rework.migration where success order by version"#
    )
    .fetch_all(&mut *connection)
    .await?;
    if applied.is_empty() {
        return Ok(None);
    }
    let row = sqlx::query!(r#"select functions, serves_from from rework.installed"#)
        .fetch_one(&mut *connection)
        .await?;
    Ok(Some(Installed {
        applied: applied
            .into_iter()
            .map(|row| (row.version, row.checksum))
            .collect(),
        functions: row.functions,
        serves_from: row.serves_from,
    }))
}

/// Applies what is missing, in one transaction; the version of the schema after it.
async fn migrate(connection: &mut PgConnection, situation: &Situation) -> Result<i64> {
    let mut transaction = connection.begin().await?;
    // Wait for another migration, or for the schema to be dropped.
    sqlx::query!("select pg_advisory_xact_lock(hashtext('rework.schema'))")
        .execute(&mut *transaction)
        .await?;
    // Another program may have migrated it while this one waited for the lock.
    if let Some(installed) = installed(&mut transaction, situation).await?
        && installed.is_current()?
    {
        return Ok(installed.version());
    }
    let exists = sqlx::query_scalar!(
        r#"select exists (select from pg_namespace where nspname = 'rework') as "exists!""#
    )
    .fetch_one(&mut *transaction)
    .await?;
    // `create schema if not exists` requires the right to create schemas even where the schema exists.
    if !exists {
        sqlx::query!("create schema rework")
            .execute(&mut *transaction)
            .await?;
    }
    MIGRATIONS
        .run(&mut *transaction)
        .await
        .map_err(|error| StoreError::Migrate(Box::new(error)))?;
    sqlx::raw_sql(FUNCTIONS).execute(&mut *transaction).await?;
    sqlx::query!(
        "update rework.installed set functions = $1",
        sha256(FUNCTIONS.as_bytes())
    )
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await?;
    Ok(newest_known())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fit() -> Situation {
        Situation {
            database: "d".to_owned(),
            role: "r".to_owned(),
            encoding: "UTF8".to_owned(),
            server: 150_000,
            read_only: false,
            has_schema: false,
            may_look: false,
            may_create: false,
            owns_all: true,
            may_create_schema: true,
        }
    }

    #[test]
    fn what_stands_in_the_way_is_named_with_what_to_do() {
        let told = |situation: Situation| {
            let fault = situation.fault()?;
            Some(format!("{fault} — {}", fault.hint().unwrap_or_default()))
        };
        assert_eq!(told(fit()), None);
        for (situation, wanted) in [
            (
                Situation {
                    server: 120_004,
                    ..fit()
                },
                "PostgreSQL 12",
            ),
            (
                Situation {
                    encoding: "LATIN1".to_owned(),
                    ..fit()
                },
                "encoding LATIN1",
            ),
            (
                Situation {
                    read_only: true,
                    ..fit()
                },
                "does not accept writes",
            ),
            (
                Situation {
                    may_create_schema: false,
                    ..fit()
                },
                "grant create on database \"d\" to \"r\"",
            ),
            (
                Situation {
                    has_schema: true,
                    ..fit()
                },
                "grant usage, create on schema rework",
            ),
            (
                Situation {
                    has_schema: true,
                    may_create: true,
                    owns_all: false,
                    ..fit()
                },
                "does not own all that is",
            ),
        ] {
            let told = told(situation).expect("there is a fault");
            assert!(told.contains(wanted), "{told}");
        }
        // Who owns an empty schema needs no rights in the database.
        let own = Situation {
            has_schema: true,
            may_create: true,
            may_create_schema: false,
            ..fit()
        };
        assert_eq!(told(own), None);
    }

    fn ours() -> Installed {
        Installed {
            applied: MIGRATIONS
                .iter()
                .map(|migration| (migration.version, migration.checksum.to_vec()))
                .collect(),
            functions: sha256(FUNCTIONS.as_bytes()),
            serves_from: 1,
        }
    }

    #[test]
    fn what_has_been_applied_is_compared() {
        assert!(ours().is_current().unwrap());
        let other_functions = Installed {
            functions: sha256(b"create or replace"),
            ..ours()
        };
        assert!(!other_functions.is_current().unwrap());
        let empty = Installed {
            applied: Vec::new(),
            ..ours()
        };
        assert!(!empty.is_current().unwrap());
        let edited = Installed {
            applied: vec![(1, vec![0])],
            ..ours()
        };
        assert!(matches!(edited.is_current(), Err(StoreError::Migrate(_))));
    }

    #[test]
    fn a_newer_schema_is_left_alone_as_long_as_it_serves_this_program() {
        let known = newest_known();
        let mut newer = ours();
        newer.applied.push((9999, Vec::new()));
        newer.functions = sha256(b"newer functions");
        newer.serves_from = known;
        assert!(newer.is_current().unwrap());
        assert_eq!(newer.version(), 9999);
        newer.serves_from = known + 1;
        assert!(matches!(
            newer.is_current(),
            Err(StoreError::SchemaNew { found: 9999, .. })
        ));
        assert!(check_version(known, 1).is_ok());
        assert!(matches!(
            check_version(known - 1, 1),
            Err(StoreError::SchemaOld { .. })
        ));
    }
}
