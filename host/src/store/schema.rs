//! The version of the schema: migrations run forward only, each safe while old monitors run.

use super::{
    Store,
    error::{Result, StoreError},
};
use sqlx::{
    Connection, PgConnection,
    migrate::{MigrateError, Migrator},
};
use std::{sync::LazyLock, time::Duration};

/// The files of `migrations/`, embedded. Their table lives in our schema, because an application
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

/// The oldest supported server, as `server_version_num`: 14.0 has all features that the schema uses.
const OLDEST_SERVER: i32 = 140_000;
/// How long all migrations together may take; they take seconds.
const MIGRATION_LIMIT: Duration = Duration::from_secs(600);

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
                    "role `{role}` does not own the tables in schema rework, so it cannot change them"
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

/// What there is to do, given the migrations that have been applied, with their checksums.
fn is_current(applied: &[(i64, Vec<u8>)]) -> Result<bool> {
    let known = newest_known();
    for (version, checksum) in applied {
        let ours = MIGRATIONS.iter().find(|ours| ours.version == *version);
        match ours {
            None => {
                return Err(StoreError::SchemaNew {
                    found: *version,
                    known,
                });
            }
            Some(ours) if *ours.checksum != **checksum => {
                return Err(StoreError::Migrate(Box::new(
                    MigrateError::VersionMismatch(*version),
                )));
            }
            Some(_) => {}
        }
    }
    Ok(MIGRATIONS
        .iter()
        .all(|ours| applied.iter().any(|(version, _)| *version == ours.version)))
}

impl Store {
    /// Brings the schema to the version of this binary and returns that version. Idempotent, safe
    /// when run twice at once, never drops anything. All or nothing: what stands in the way is told
    /// before anything is written.
    pub async fn schema_migrate(&self) -> Result<i64> {
        let situation = self.schema_situation().await?;
        if situation.has_schema && is_current(&self.schema_applied(&situation).await?)? {
            return Ok(newest_known());
        }
        if let Some(fault) = situation.fault() {
            return Err(fault);
        }
        let mut session = self.pool.acquire().await?;
        match tokio::time::timeout(MIGRATION_LIMIT, migrate(session.unlimited())).await {
            Ok(migrated) => migrated?,
            Err(_) => {
                return Err(StoreError::Connect {
                    place: self.place(),
                    reason: format!("no answer within {} s", MIGRATION_LIMIT.as_secs()),
                });
            }
        }
        Ok(newest_known())
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
                                     and not pg_has_role(c.relowner, 'usage')) as "owns_all!",
                      has_database_privilege(d.oid, 'create') as "may_create_schema!"
                 from pg_database d
                 left join pg_namespace n on n.nspname = 'rework'
                where d.datname = current_database()"#
        )
        .fetch_one(&self.pool)
        .await?;
        Ok(situation)
    }

    /// The migrations that have been applied, with their checksums.
    async fn schema_applied(&self, situation: &Situation) -> Result<Vec<(i64, Vec<u8>)>> {
        let has_table = sqlx::query_scalar!(
            r#"select exists (select from pg_class c join pg_namespace n on n.oid = c.relnamespace
                               where n.nspname = 'rework' and c.relname = 'migration') as "exists!""#
        )
        .fetch_one(&self.pool)
        .await?;
        if !has_table {
            return Ok(Vec::new());
        }
        if !situation.may_look {
            let Situation { role, database, .. } = situation;
            return Err(StoreError::Unfit {
                message: format!(
                    "role `{role}` may not use schema rework of database `{database}`"
                ),
                hint: format!(
                    "its owner may grant it: `grant usage on schema rework to \"{role}\"`, and rights on its \
                     tables"
                ),
            });
        }
        let applied = sqlx::query!(
            r#"select version, checksum from rework.migration where success order by version"#
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(applied
            .into_iter()
            .map(|row| (row.version, row.checksum))
            .collect())
    }

    /// Refuses a schema that is missing, or not of this binary's version.
    pub async fn schema_check(&self) -> Result<()> {
        let known = newest_known();
        let found = sqlx::query_scalar!(
            r#"select max(version) as "version?" from rework.migration where success"#
        )
        .fetch_one(&self.pool)
        .await?
        .ok_or(StoreError::SchemaMissing)?;
        match found.cmp(&known) {
            std::cmp::Ordering::Less => Err(StoreError::SchemaOld {
                found,
                needed: known,
            }),
            std::cmp::Ordering::Equal => Ok(()),
            std::cmp::Ordering::Greater => Err(StoreError::SchemaNew { found, known }),
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

/// Applies what is missing, in one transaction.
async fn migrate(connection: &mut PgConnection) -> Result<()> {
    let mut transaction = connection.begin().await?;
    // Wait for another migration, or for the schema to be dropped.
    sqlx::query!("select pg_advisory_xact_lock(hashtext('rework.schema'))")
        .execute(&mut *transaction)
        .await?;
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
    match MIGRATIONS.run(&mut *transaction).await {
        Ok(()) => {}
        Err(MigrateError::VersionMissing(found)) => {
            return Err(StoreError::SchemaNew {
                found,
                known: newest_known(),
            });
        }
        Err(error) => return Err(StoreError::Migrate(Box::new(error))),
    }
    transaction.commit().await?;
    Ok(())
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
                "does not own the tables",
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

    #[test]
    fn what_has_been_applied_is_compared() {
        let mut all: Vec<(i64, Vec<u8>)> = MIGRATIONS
            .iter()
            .map(|migration| (migration.version, migration.checksum.to_vec()))
            .collect();
        assert!(is_current(&all).unwrap());
        assert!(!is_current(&all[..1]).unwrap());
        assert!(!is_current(&[]).unwrap());
        all.push((9999, Vec::new()));
        assert!(matches!(
            is_current(&all),
            Err(StoreError::SchemaNew { found: 9999, .. })
        ));
        assert!(matches!(
            is_current(&[(1, vec![0])]),
            Err(StoreError::Migrate(_))
        ));
    }
}
