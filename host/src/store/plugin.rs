//! Registering a plugin: its version, its operations, and which host runs them.

use super::{
    PackedPlugin, Store, StoreError,
    error::Result,
    lock::{self, Deed},
    session::Session,
};
use crate::model::plugin::{NewOperation, NewPlugin, title};

/// Where and how to register a plugin.
#[derive(Debug, Clone)]
pub struct Placement {
    /// The host that is to run the plugin.
    pub host: String,
    /// The path of the plugin's file on that host.
    pub path: String,
    /// Whether the plugin stands for everything that the file offers. If so, operations that the file
    /// offered before and no longer offers are retired; their tasks stay.
    pub whole: bool,
    /// Whether to take over operations that the host has from another plugin.
    pub replace: bool,
    /// Whether to report what would happen without changing anything.
    pub dry_run: bool,
}

/// What a registration did.
#[derive(Debug, Clone, Default)]
pub struct Registered {
    /// How many operations the host could not run before.
    pub new: usize,
    /// How many operations the host could run already.
    pub known: usize,
    /// Operations that came from another plugin until now, one sentence each.
    pub taken_over: Vec<String>,
    /// Operations, as (domain, name), that were retired because the file no longer offers them.
    pub retired: Vec<(String, String)>,
    /// The versions that the operations came from until now, where they differ: `hello 0.1.0
    /// (0123456789ab)`.
    pub replaced: Vec<String>,
}

/// A plugin that has deployed operations, and the version of the SDK that it was built with.
#[derive(Debug, Clone)]
pub struct PluginSdk {
    /// The name of the plugin's crate.
    pub name: String,
    pub version: String,
    pub hash: String,
    /// The version of the SDK.
    pub sdk: String,
    /// A host that runs the plugin.
    pub host: String,
}

impl Store {
    /// The plugins that have deployed operations, by name.
    pub async fn plugin_sdks(&self) -> Result<Vec<PluginSdk>> {
        let rows = sqlx::query_as!(
            PluginSdk,
            r#"select g.name, g.version, g.hash, g.sdk, min(d.host) as "host!"
                 from rework.plugin g
                 join rework.plugin_operation p on p.plugin = g.id
                 join rework.deployment d on d.plugin_operation = p.id
                where d.retired is null
                group by g.id
                order by g.name, g.id"#
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows)
    }

    /// Registers a plugin's operations for a host, and stores the plugin's bytes if they are to be
    /// published. All or nothing.
    pub async fn plugin_register(
        &self,
        plugin: &NewPlugin,
        placement: &Placement,
        packed: Option<&PackedPlugin>,
    ) -> Result<Registered> {
        let Placement { host, path, .. } = placement;
        let mut transaction = self.pool.begin().await?;
        // What takes long comes before the lock: a session that waits for the lock keeps a connection.
        let plugin_id = plugin_save(&mut transaction, plugin).await?;
        if let Some(packed) = packed {
            packed.save(&mut transaction, plugin_id).await?;
        }
        lock_deployments(&mut transaction).await?;
        let live = live_deployments(&mut transaction, plugin, host).await?;
        let mut replaced: Vec<String> = live
            .iter()
            .filter(|one| one.hash != plugin.hash)
            .map(|one| title(&one.plugin, &one.version, &one.hash))
            .collect();
        replaced.sort();
        replaced.dedup();
        let elsewhere: Vec<Live> = live.into_iter().filter(|one| one.path != *path).collect();
        let foreign = elsewhere.iter().filter(|one| one.plugin != plugin.name);
        let foreign: Vec<&Live> = foreign.collect();
        if !foreign.is_empty() && !placement.replace {
            return Err(comes_from_another(&foreign, host));
        }
        let mut registered = Registered {
            taken_over: foreign.iter().map(|one| one.taken_over()).collect(),
            replaced,
            ..Registered::default()
        };
        let mut kept = Vec::new();
        for operation in &plugin.operations {
            let version = operation_save(&mut transaction, plugin_id, operation).await?;
            let id = identity_save(&mut transaction, operation).await?;
            let is_new = deploy(&mut transaction, id, version, host, path).await?;
            kept.push(id);
            if is_new {
                registered.new += 1;
            } else {
                registered.known += 1;
            }
        }
        if placement.whole {
            // The same plugin under another path (a new build directory, a version in the file's name) is
            // the next version of this plugin, not a second plugin.
            let mut paths: Vec<String> = elsewhere
                .into_iter()
                .filter(|one| one.plugin == plugin.name)
                .map(|one| one.path)
                .collect();
            paths.push(path.clone());
            let of = |word: fn(&NewOperation) -> &String| -> Vec<String> {
                plugin.operations.iter().map(word).cloned().collect()
            };
            // Operations registered from the file under another domain stay while the plugin still offers
            // them.
            let (declared, names) = (of(|one| &one.declared_domain), of(|one| &one.name));
            let retired = sqlx::query!(
                "update rework.deployment d
                    set retired = clock_timestamp(), retired_by = 'upgrade'
                   from rework.operation o, rework.plugin_operation p
                  where o.id = d.operation and p.id = d.plugin_operation
                    and d.host = $1 and d.path = any ($2) and d.retired is null
                    and d.operation <> all ($3)
                    and (p.domain, p.name) not in (select * from unnest($4::text[], $5::text[]))
                 returning o.domain, o.name",
                host,
                &paths,
                &kept,
                &declared,
                &names
            )
            .fetch_all(&mut *transaction)
            .await?;
            registered.retired = retired
                .into_iter()
                .map(|row| (row.domain, row.name))
                .collect();
        }
        if placement.dry_run {
            transaction.rollback().await?;
            return Ok(registered);
        }
        sqlx::query!("select rework.tell('rework_catalog', '')")
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
        Ok(registered)
    }
}

/// An operation that a host runs, and the plugin that it comes from.
struct Live {
    domain: String,
    name: String,
    path: String,
    plugin: String,
    version: String,
    hash: String,
}

impl Live {
    fn taken_over(&self) -> String {
        let Self {
            domain,
            name,
            path,
            plugin,
            ..
        } = self;
        format!("operation {domain}/{name} came from {path} (plugin `{plugin}`) until now")
    }
}

/// The operations of a plugin that a host runs now.
async fn live_deployments(
    connection: &mut Session<'_>,
    plugin: &NewPlugin,
    host: &str,
) -> Result<Vec<Live>> {
    let of = |word: fn(&NewOperation) -> &String| -> Vec<String> {
        plugin.operations.iter().map(word).cloned().collect()
    };
    let (domains, names) = (of(|one| &one.domain), of(|one| &one.name));
    let rows = sqlx::query_as!(
        Live,
        "select o.domain, o.name, d.path, p.name as plugin, p.version, p.hash
           from unnest($1::text[], $2::text[]) as wanted (domain, name)
           join rework.operation o on o.domain = wanted.domain and o.name = wanted.name
           join rework.deployment d on d.operation = o.id and d.retired is null
           join rework.plugin_operation v on v.id = d.plugin_operation
           join rework.plugin p on p.id = v.plugin
          where d.host = $3
          order by o.domain, o.name",
        &domains,
        &names,
        host
    )
    .fetch_all(connection)
    .await?;
    Ok(rows)
}

/// The error for operations that the host runs from another plugin, where `--replace` is not given.
fn comes_from_another(foreign: &[&Live], host: &str) -> StoreError {
    let Live {
        domain,
        name,
        path,
        plugin,
        ..
    } = foreign[0];
    let others = match foreign.len() - 1 {
        0 => String::new(),
        1 => " (and one more)".to_owned(),
        more => format!(" (and {more} more)"),
    };
    StoreError::Refused {
        code: "RW004".to_owned(),
        message: format!(
            "operation {domain}/{name} on host {host} already comes from {path} (plugin \
             `{plugin}`){others}; use --replace"
        ),
        hint: None,
    }
}

/// The id of the operation with this domain and name; it is inserted if it is new, and never deleted.
async fn identity_save(connection: &mut Session<'_>, operation: &NewOperation) -> Result<i32> {
    let id = sqlx::query_scalar!(
        "insert into rework.operation as o (domain, name) values ($1, $2)
         on conflict (domain, name) do update set name = excluded.name
         returning o.id",
        operation.domain,
        operation.name
    )
    .fetch_one(connection)
    .await?;
    Ok(id)
}

/// Makes a host run this version of an operation, and returns whether the host ran no version before. The
/// version that it ran is kept as history; deploying the same version from the same file changes nothing.
pub(super) async fn deploy(
    connection: &mut Session<'_>,
    operation: i32,
    version: i32,
    host: &str,
    path: &str,
) -> Result<bool> {
    let live = sqlx::query!(
        "select id, plugin_operation, path from rework.deployment
          where operation = $1 and host = $2 and retired is null
            for update",
        operation,
        host
    )
    .fetch_optional(&mut *connection)
    .await?;
    if let Some(live) = &live {
        if live.plugin_operation == version && live.path == path {
            return Ok(false);
        }
        sqlx::query!(
            "update rework.deployment set retired = clock_timestamp(), retired_by = 'upgrade'
              where id = $1",
            live.id
        )
        .execute(&mut *connection)
        .await?;
    }
    sqlx::query!(
        "insert into rework.deployment (operation, host, plugin_operation, path)
         values ($1, $2, $3, $4)",
        operation,
        host,
        version,
        path
    )
    .execute(&mut *connection)
    .await?;
    Ok(live.is_none())
}

/// Serializes registrations, rollbacks and adoptions: two at once would deadlock over the same operations.
pub(super) async fn lock_deployments(connection: &mut Session<'_>) -> Result<()> {
    sqlx::query!("select pg_advisory_xact_lock(hashtext('rework.register'))")
        .execute(connection)
        .await
        .map_err(|error| {
            let doing = || "could not change what is registered".to_owned();
            let deed = Deed {
                kind: lock::ADVISORY,
                words: "changes it as well",
            };
            StoreError::from(error).of_lock(doing, Some(deed))
        })?;
    Ok(())
}

async fn plugin_save(connection: &mut Session<'_>, plugin: &NewPlugin) -> Result<i32> {
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

/// Inserts the record of this version of an operation, which is never changed.
async fn operation_save(
    connection: &mut Session<'_>,
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
