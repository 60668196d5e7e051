//! Operations: who offers them, what they ask for, and what a monitor may claim of them.

use super::{Store, StoreError, error::Result, plugin::lock_deployments};
use crate::model::OperationId;
use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;

/// An operation on a host, as `list-operations` shows it.
#[derive(Debug, Clone, Serialize)]
pub struct OperationRow {
    /// The operation.
    pub id: i32,
    /// Its name.
    pub name: String,
    /// Its domain.
    pub domain: String,
    /// Where its plugin came from.
    pub path: String,
    /// The host that offers it.
    pub host: String,
    /// SHA-256 of the plugin.
    pub hash: String,
    /// In seconds; null: none.
    pub timeout: Option<f64>,
    /// How often it may be tried.
    pub max_attempts: i32,
    /// Specs; null: none.
    pub inputs: Option<Value>,
    /// Specs; null: none.
    pub outputs: Option<Value>,
    /// Its doc comment.
    pub description: String,
    /// When this version was registered here.
    #[serde(serialize_with = "crate::model::time::serialize")]
    pub registered: DateTime<Utc>,
    /// Whether its tasks wait.
    pub paused: bool,
    /// The module it is defined in.
    pub module: String,
    /// `{memory_mb, cpu_seconds, open_files}`; null: no limit.
    pub limits: Value,
}

/// An operation that a name stands for, with what is needed to check an input.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// The operation.
    pub id: OperationId,
    /// Specs of each version now deployed, the latest first; `None`: that version has no spec.
    pub inputs: Vec<Option<Value>>,
    /// What a lane calls each of them.
    pub digests: Vec<String>,
    /// Of the latest version.
    pub max_attempts: i32,
}

/// A deployment that `unregister-operation` would or did retire.
#[derive(Debug, Clone, Serialize)]
pub struct Retired {
    /// The deployment.
    pub id: i32,
    /// The operation's name.
    pub name: String,
    /// Its domain.
    pub domain: String,
    /// Where its plugin came from.
    pub path: String,
    /// The host.
    pub host: String,
}

/// A domain that is paused, or an operation of it.
#[derive(Debug, Clone)]
pub struct PausedRow {
    /// The domain.
    pub domain: String,
    /// The operation and its name; none: the whole domain.
    pub operation: Option<(OperationId, String)>,
}

/// A lane that a monitor may claim from, and what it needs to run what it finds there.
#[derive(Debug, Clone)]
pub struct CatalogRow {
    /// The operation.
    pub operation: OperationId,
    /// Its lanes that this host may take.
    pub lanes: Vec<i32>,
    /// Its name.
    pub name: String,
    /// Its domain.
    pub domain: String,
    /// The domain in the plugin's own registry.
    pub declared_domain: String,
    /// The version to run.
    pub plugin_operation: i32,
    /// SHA-256 of the plugin.
    pub hash: String,
    /// Where the plugin was registered from.
    pub path: String,
    /// How long it may run.
    pub timeout_ms: Option<i64>,
    /// The pause before the second attempt.
    pub backoff_ms: Option<i64>,
    /// How much memory it may use.
    pub memory_bytes: Option<i64>,
    /// How much processor time it may use.
    pub cpu_ms: Option<i64>,
    /// How many files it may have open.
    pub open_files: Option<i32>,
    /// Specs of its outputs.
    pub outputs: Option<Value>,
    /// What of its output is kept.
    pub capture: String,
    /// Lowest level of log records to keep.
    pub log_level: Option<String>,
    /// Whether its tasks wait.
    pub paused: bool,
}

impl Store {
    /// Every operation on every host, by id and host.
    pub async fn operation_list(&self, domain: Option<&str>) -> Result<Vec<OperationRow>> {
        let rows = sqlx::query_as!(
            OperationRow,
            r#"select o.id, o.name, o.domain, d.path, d.host, g.hash,
                      p.timeout_ms::float8 / 1000 as timeout, p.max_attempts, p.inputs, p.outputs,
                      p.description, d.registered, p.module,
                      jsonb_build_object(
                          'memory_mb', p.memory_bytes::float8 / 1048576,
                          'cpu_seconds', p.cpu_ms::float8 / 1000,
                          'open_files', p.open_files) as "limits!",
                      o.paused or exists (select from rework.paused_domain s where s.domain = o.domain)
                          as "paused!"
                 from rework.deployment d
                 join rework.operation o on o.id = d.operation
                 join rework.plugin_operation p on p.id = d.plugin_operation
                 join rework.plugin g on g.id = p.plugin
                where d.retired is null
                  and ($1::text is null or o.domain = $1)
                order by o.id, d.host"#,
            domain
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows)
    }

    /// The operation of a name, or a refusal that says what there is.
    pub async fn operation_resolve(
        &self,
        name: &str,
        domain: Option<&str>,
        host: Option<&str>,
    ) -> Result<Resolved> {
        let rows = sqlx::query!(
            // On the left, or the function, which refuses, would not be called where nothing fits.
            r#"select r.id as "id!", p.inputs, rework.inputs_digest(p.inputs) as digest,
                      p.max_attempts as "max_attempts?"
                 from (select rework.operation_resolve($1, $2, $3) as id offset 0) r
                 left join (rework.deployment d
                            join rework.plugin_operation p on p.id = d.plugin_operation)
                   on d.operation = r.id and d.retired is null and ($3::text is null or d.host = $3)
                order by d.registered desc"#,
            name,
            domain,
            host
        )
        .fetch_all(&self.pool)
        .await?;
        let mut resolved: Option<Resolved> = None;
        for row in rows {
            let (Some(max_attempts), Some(digest)) = (row.max_attempts, row.digest) else {
                continue;
            };
            let resolved = resolved.get_or_insert(Resolved {
                id: OperationId(row.id),
                inputs: Vec::new(),
                digests: Vec::new(),
                max_attempts,
            });
            if !resolved.inputs.contains(&row.inputs) {
                resolved.inputs.push(row.inputs);
                resolved.digests.push(digest);
            }
        }
        // It was withdrawn between two looks of one statement.
        resolved.ok_or_else(|| StoreError::Refused {
            code: "RW001".to_owned(),
            message: format!("operation `{name}` has just been withdrawn"),
            hint: None,
        })
    }

    /// Live deployments of a name that fit; `module` is an SQL `LIKE` pattern.
    pub async fn operation_find(
        &self,
        name: &str,
        domain: Option<&str>,
        module: Option<&str>,
        host: Option<&str>,
    ) -> Result<Vec<Retired>> {
        let rows = sqlx::query_as!(
            Retired,
            "select d.id, o.name, o.domain, d.path, d.host
               from rework.deployment d
               join rework.operation o on o.id = d.operation
               join rework.plugin_operation p on p.id = d.plugin_operation
              where d.retired is null
                and o.name = $1
                and ($2::text is null or o.domain = $2)
                and ($3::text is null or p.module like $3)
                and ($4::text is null or d.host = $4)
              order by o.domain, d.host",
            name,
            domain,
            module,
            host
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows)
    }

    /// Every live deployment of a host.
    pub async fn host_deployments(&self, host: &str) -> Result<Vec<Retired>> {
        let rows = sqlx::query_as!(
            Retired,
            "select d.id, o.name, o.domain, d.path, d.host
               from rework.deployment d
               join rework.operation o on o.id = d.operation
              where d.retired is null and d.host = $1
              order by o.domain, o.name",
            host
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows)
    }

    /// Forgets what is known of a host beside its deployments: its drop-in files, so that they are
    /// registered anew should it come back, and when it last had a monitor.
    pub async fn host_forget(&self, host: &str) -> Result<()> {
        sqlx::query!(
            "with forgotten_file as (delete from rework.drop_in where host = $1)
             delete from rework.host where name = $1",
            host
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Retires deployments. Tasks, logs and schedules of the operation stay.
    pub async fn operation_retire(&self, deployments: &[i32]) -> Result<()> {
        let mut transaction = self.pool.begin().await?;
        lock_deployments(&mut transaction).await?;
        sqlx::query!(
            "with retired as (
                 update rework.deployment set retired = clock_timestamp(), retired_by = 'unregistered'
                  where id = any($1) and retired is null
             )
             select rework.tell('rework_catalog', '')",
            deployments
        )
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(())
    }

    /// Lets the tasks of an operation wait, or run again.
    pub async fn operation_pause(&self, operation: OperationId, paused: bool) -> Result<()> {
        sqlx::query!(
            "with paused_operation as (update rework.operation set paused = $2 where id = $1)
             select rework.tell('rework_catalog', '')",
            operation.0,
            paused
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Lets the tasks of a whole domain wait, or run again; false: there is no such domain.
    pub async fn domain_pause(&self, domain: &str, paused: bool) -> Result<bool> {
        if !self.operation_exists(Some(domain), None).await? {
            return Ok(false);
        }
        sqlx::query!(
            "with resumed as (delete from rework.paused_domain where domain = $1 and not $2),
                  paused as (insert into rework.paused_domain (domain) select $1 where $2
                             on conflict do nothing)
             select rework.tell('rework_catalog', '')",
            domain,
            paused
        )
        .execute(&self.pool)
        .await?;
        Ok(true)
    }

    /// Whether any host has ever offered an operation of this domain, of this name.
    pub async fn operation_exists(&self, domain: Option<&str>, name: Option<&str>) -> Result<bool> {
        let exists = sqlx::query_scalar!(
            r#"select exists (select from rework.operation
                               where ($1::text is null or domain = $1)
                                 and ($2::text is null or name = $2)) as "exists!""#,
            domain,
            name
        )
        .fetch_one(&self.pool)
        .await?;
        Ok(exists)
    }

    /// What is paused.
    pub async fn paused_list(&self) -> Result<Vec<PausedRow>> {
        let rows = sqlx::query!(
            r#"select domain as "domain!", null::int as id, null as name from rework.paused_domain
               union all
               select domain, id, name from rework.operation where paused
               order by 1, 3 nulls first"#
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows
            .into_iter()
            .map(|row| PausedRow {
                domain: row.domain,
                operation: row.id.map(OperationId).zip(row.name),
            })
            .collect())
    }

    /// What this host may run of these domains; no domains means all.
    pub async fn operation_catalog(
        &self,
        host: &str,
        domains: &[String],
    ) -> Result<Vec<CatalogRow>> {
        let rows = sqlx::query!(
            r#"select o.id, o.name, o.domain, p.domain as declared_domain, p.id as plugin_operation,
                      g.hash, d.path, p.timeout_ms, p.backoff_ms, p.memory_bytes, p.cpu_ms,
                      p.open_files, p.outputs, p.capture, p.log_level,
                      o.paused or exists (select from rework.paused_domain s where s.domain = o.domain)
                          as "paused!",
                      array(select l.id from rework.lane l
                             where l.operation = o.id
                               and (l.host is null or l.host = $1)
                               and (l.accepts is null
                                    or l.accepts = rework.inputs_digest(p.inputs)
                                    -- Nobody has that version any more; this one may know better.
                                    or not exists (
                                        select from rework.deployment other
                                          join rework.plugin_operation q on q.id = other.plugin_operation
                                         where other.operation = o.id and other.retired is null
                                           and rework.inputs_digest(q.inputs) = l.accepts))
                             order by l.id) as "lanes!"
                 from rework.deployment d
                 join rework.operation o on o.id = d.operation
                 join rework.plugin_operation p on p.id = d.plugin_operation
                 join rework.plugin g on g.id = p.plugin
                where d.host = $1 and d.retired is null
                  and (cardinality($2::text[]) = 0 or o.domain = any($2))
                order by o.id"#,
            host,
            domains
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows
            .into_iter()
            .map(|row| CatalogRow {
                operation: OperationId(row.id),
                lanes: row.lanes,
                name: row.name,
                domain: row.domain,
                declared_domain: row.declared_domain,
                plugin_operation: row.plugin_operation,
                hash: row.hash,
                path: row.path,
                timeout_ms: row.timeout_ms,
                backoff_ms: row.backoff_ms,
                memory_bytes: row.memory_bytes,
                cpu_ms: row.cpu_ms,
                open_files: row.open_files,
                outputs: row.outputs,
                capture: row.capture,
                log_level: row.log_level,
                paused: row.paused,
            })
            .collect())
    }
}
