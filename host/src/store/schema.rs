//! The version of the schema: migrations run forward only, each safe while old monitors run.

use super::{
    Store,
    error::{Result, StoreError},
};
use sqlx::migrate::{MigrateError, Migrator};
use std::sync::LazyLock;

/// The files of `migrations/`, embedded. Their table lives in our schema, because an application
/// may have a `_sqlx_migrations` of its own in `public`.
static MIGRATIONS: LazyLock<Migrator> = LazyLock::new(|| {
    let mut migrator = sqlx::migrate!("../migrations");
    migrator.dangerous_set_table_name("rework.migration");
    migrator.create_schema("rework");
    migrator
});

fn newest_known() -> i64 {
    MIGRATIONS
        .iter()
        .map(|migration| migration.version)
        .max()
        .expect("migrations/ is not empty")
}

impl Store {
    /// Brings the schema to the version of this binary and returns that version. Idempotent, safe
    /// when run twice at once, never drops anything.
    pub async fn schema_migrate(&self) -> Result<i64> {
        // Not while it is being dropped: a lock that lasts as long as the connection.
        let mut connection = self.pool.acquire().await?;
        connection.close_on_drop();
        sqlx::query!("select pg_advisory_lock(hashtext('rework.schema'))")
            .execute(&mut *connection)
            .await?;
        match MIGRATIONS.run(&mut *connection).await {
            Ok(()) => Ok(newest_known()),
            Err(MigrateError::VersionMissing(found)) => Err(StoreError::SchemaNew {
                found,
                known: newest_known(),
            }),
            Err(error) => Err(StoreError::Migrate(Box::new(error))),
        }
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

    /// A word that tells this installation from any other: when its schema was made, to the microsecond.
    pub async fn schema_installation(&self) -> Result<String> {
        let made = sqlx::query_scalar!(
            r#"select extract(epoch from min(installed_on))::text as "made!" from rework.migration"#
        )
        .fetch_one(&self.pool)
        .await?;
        Ok(made)
    }

    /// Whether functions notify in everybody's transactions; not where some could be prepared, for those
    /// must not (see `rework.tell`).
    pub async fn may_notify(&self) -> Result<bool> {
        let may = sqlx::query_scalar!(
            r#"select current_setting('max_prepared_transactions') = '0' as "may!""#
        )
        .fetch_one(&self.pool)
        .await?;
        Ok(may)
    }

    /// Drops the schema and all that is in it; false if there was none.
    pub async fn schema_drop(&self) -> Result<bool> {
        let mut transaction = self.pool.begin().await?;
        // Not while it is being made.
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
