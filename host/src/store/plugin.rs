//! Registering a plugin: its version, what it offers, and which host runs what from it.

use super::{Store, error::Result};
use serde_json::Value;
use sqlx::{Connection, PgConnection};

/// A version of a plugin, as its note describes it.
#[derive(Debug, Clone)]
pub struct NewPlugin {
    /// SHA-256 of the file.
    pub hash: String,
    /// The author's crate.
    pub name: String,
    /// The crate's version.
    pub version: String,
    /// Version of the SDK it was built with.
    pub sdk: String,
    /// ABI version, `MAJOR.MINOR`.
    pub abi: String,
    /// The compiler.
    pub rustc: String,
    /// The target triple.
    pub target: String,
    /// `unwind` or `abort`.
    pub panic: String,
    /// In bytes.
    pub size: i64,
    /// What it offers.
    pub operations: Vec<NewOperation>,
}

/// An operation that a version of a plugin offers.
#[derive(Debug, Clone)]
pub struct NewOperation {
    /// Its name.
    pub name: String,
    /// The domain its author declared.
    pub declared_domain: String,
    /// The domain to register it under.
    pub domain: String,
    /// Specs of its inputs, if it has any.
    pub inputs: Option<Value>,
    /// Specs of its outputs, if it has any.
    pub outputs: Option<Value>,
    /// How long it may run.
    pub timeout_ms: Option<i64>,
    /// How often it may be tried.
    pub max_attempts: i32,
    /// The pause before the second attempt.
    pub backoff_ms: Option<i64>,
    /// How much memory it may use.
    pub memory_bytes: Option<i64>,
    /// How much processor time it may use.
    pub cpu_ms: Option<i64>,
    /// How many files it may have open.
    pub open_files: Option<i32>,
    /// What of its output is kept.
    pub capture: String,
    /// Lowest level of log records to keep.
    pub log_level: Option<String>,
    /// Its doc comment.
    pub description: String,
    /// Where it is in the source.
    pub module: String,
    /// See `module`.
    pub file: String,
    /// See `module`.
    pub line: i32,
}

/// What a registration did.
#[derive(Debug, Clone, Default)]
pub struct Registered {
    /// Operations that this host could not run before.
    pub new: usize,
    /// Operations that it could.
    pub known: usize,
    /// Operations (domain, name) that the file at this path no longer offers here.
    pub retired: Vec<(String, String)>,
}

impl Store {
    /// Registers a plugin's operations for a host, all or nothing. With `retire_missing`, what the
    /// file at `path` offered before and offers no longer is retired; its tasks stay.
    pub async fn plugin_register(
        &self,
        plugin: &NewPlugin,
        host: &str,
        path: &str,
        retire_missing: bool,
    ) -> Result<Registered> {
        let mut connection = self.pool.acquire().await?;
        let mut transaction = connection.begin().await?;
        // Two registrations at once would deadlock over the same operations.
        sqlx::query!("select pg_advisory_xact_lock(hashtext('rework.register'))")
            .execute(&mut *transaction)
            .await?;
        let plugin_id = plugin_save(&mut transaction, plugin).await?;
        let mut registered = Registered::default();
        let mut kept = Vec::new();
        for operation in &plugin.operations {
            let version = operation_save(&mut transaction, plugin_id, operation).await?;
            let row = sqlx::query!(
                r#"with identity as (
                       insert into rework.operation as o (domain, name) values ($1, $2)
                       on conflict (domain, name) do update set name = excluded.name
                       returning o.id
                   )
                   insert into rework.deployment as d (operation, host, plugin_operation, path)
                   select id, $3, $4, $5 from identity
                   on conflict (operation, host) where retired is null
                   do update set plugin_operation = excluded.plugin_operation,
                                 path = excluded.path,
                                 registered = clock_timestamp()
                   returning d.operation, (xmax = 0) as "is_new!""#,
                operation.domain,
                operation.name,
                host,
                version,
                path
            )
            .fetch_one(&mut *transaction)
            .await?;
            kept.push(row.operation);
            if row.is_new {
                registered.new += 1;
            } else {
                registered.known += 1;
            }
        }
        if retire_missing {
            let retired = sqlx::query!(
                "update rework.deployment d
                    set retired = clock_timestamp()
                   from rework.operation o
                  where o.id = d.operation
                    and d.host = $1 and d.path = $2 and d.retired is null
                    and d.operation <> all ($3)
                 returning o.domain, o.name",
                host,
                path,
                &kept
            )
            .fetch_all(&mut *transaction)
            .await?;
            registered.retired = retired
                .into_iter()
                .map(|row| (row.domain, row.name))
                .collect();
        }
        sqlx::query!("select pg_notify('rework_catalog', '')")
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
        Ok(registered)
    }
}

async fn plugin_save(connection: &mut PgConnection, plugin: &NewPlugin) -> Result<i32> {
    let id = sqlx::query_scalar!(
        "insert into rework.plugin as p (hash, name, version, sdk, abi, rustc, target, panic, size)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9)
         on conflict (hash) do update set hash = excluded.hash
         returning p.id",
        plugin.hash,
        plugin.name,
        plugin.version,
        plugin.sdk,
        plugin.abi,
        plugin.rustc,
        plugin.target,
        plugin.panic,
        plugin.size
    )
    .fetch_one(connection)
    .await?;
    Ok(id)
}

/// The immutable record of what this version says about an operation.
async fn operation_save(
    connection: &mut PgConnection,
    plugin: i32,
    operation: &NewOperation,
) -> Result<i32> {
    let id = sqlx::query_scalar!(
        "insert into rework.plugin_operation as p
             (plugin, name, domain, inputs, outputs, timeout_ms, max_attempts, backoff_ms,
              memory_bytes, cpu_ms, open_files, capture, log_level, description, module, file,
              line)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)
         on conflict (plugin, domain, name) do update set name = excluded.name
         returning p.id",
        plugin,
        operation.name,
        operation.declared_domain,
        operation.inputs,
        operation.outputs,
        operation.timeout_ms,
        operation.max_attempts,
        operation.backoff_ms,
        operation.memory_bytes,
        operation.cpu_ms,
        operation.open_files,
        operation.capture,
        operation.log_level,
        operation.description,
        operation.module,
        operation.file,
        operation.line
    )
    .fetch_one(connection)
    .await?;
    Ok(id)
}
