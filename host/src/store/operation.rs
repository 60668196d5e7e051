//! Operations: which hosts offer them, what they declare, and which a monitor may claim tasks of.

use super::{Store, StoreError, error::Result, plugin::lock_deployments};
use crate::model::OperationId;
use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;

/// An operation on a host, as `list-operations` shows it.
#[derive(Debug, Clone, Serialize)]
pub struct OperationRow {
    /// The id of the operation.
    pub id: i32,
    /// The name of the operation.
    pub name: String,
    /// The domain of the operation.
    pub domain: String,
    /// The path that its plugin was registered from.
    pub path: String,
    /// The host that offers the operation.
    pub host: String,
    /// SHA-256 of the plugin.
    pub hash: String,
    /// The timeout in seconds; `None`: none.
    pub timeout: Option<f64>,
    /// How many attempts its tasks may take.
    pub max_attempts: i32,
    /// The declared inputs; `None`: any JSON is accepted.
    pub inputs: Option<Value>,
    /// The declared outputs; `None`: none are declared.
    pub outputs: Option<Value>,
    /// The doc comment of the Rust function.
    pub description: String,
    /// When this version was registered on the host.
    #[serde(serialize_with = "crate::model::time::serialize")]
    pub registered: DateTime<Utc>,
    /// Whether the operation is paused: its tasks wait.
    pub paused: bool,
    /// The Rust module of the function.
    pub module: String,
    /// The limits `{memory_mb, cpu_seconds, open_files}`; `null`: no limit.
    pub limits: Value,
}

/// The operation that a name resolves to, with what is needed to check an input.
#[derive(Debug, Clone)]
pub struct Resolved {
    pub id: OperationId,
    /// The declared inputs of each deployed version, the latest first; `None`: that version declares none.
    pub inputs: Vec<Option<Value>>,
    /// The digest of each entry of `inputs`, which names a lane.
    pub digests: Vec<String>,
    /// How many attempts the latest version allows.
    pub max_attempts: i32,
}

/// A deployment (an operation on a host) that `unregister-operation` retires.
#[derive(Debug, Clone, Serialize)]
pub struct Retired {
    /// The id of the deployment.
    pub id: i32,
    /// The name of the operation.
    pub name: String,
    /// The domain of the operation.
    pub domain: String,
    /// The path that its plugin was registered from.
    pub path: String,
    /// The name of the host.
    pub host: String,
}

/// A paused domain, or a paused operation.
#[derive(Debug, Clone)]
pub struct PausedRow {
    pub domain: String,
    /// The id and name of the paused operation; `None`: the whole domain is paused.
    pub operation: Option<(OperationId, String)>,
}

/// An operation that a monitor may claim tasks of, and what its workers need to run them.
#[derive(Debug, Clone)]
pub struct CatalogRow {
    pub operation: OperationId,
    /// The lanes of the operation that this host may claim from.
    pub lanes: Vec<i32>,
    pub name: String,
    pub domain: String,
    /// The domain that the plugin declares; the operation may be registered under another one.
    pub declared_domain: String,
    /// The id of the deployed version of the operation (`rework.plugin_operation`).
    pub plugin_operation: i32,
    pub hash: String,
    /// The path that the plugin was registered from.
    pub path: String,
    /// The timeout of an attempt.
    pub timeout_ms: Option<i64>,
    /// The pause before the second attempt.
    pub backoff_ms: Option<i64>,
    /// The memory limit of an attempt.
    pub memory_bytes: Option<i64>,
    /// The limit on processor time of an attempt.
    pub cpu_ms: Option<i64>,
    /// The limit on open files of a worker that runs it.
    pub open_files: Option<i32>,
    /// The declared outputs.
    pub outputs: Option<Value>,
    /// Which output of a task is stored: `all`, `logs`, `manual` or `none`.
    pub capture: String,
    /// The lowest level of log records that is stored; `None`: all levels.
    pub log_level: Option<String>,
    /// Whether the operation or its domain is paused.
    pub paused: bool,
}

#[cfg(test)]
impl CatalogRow {
    /// An operation that declares nothing.
    pub(crate) fn example() -> Self {
        Self {
            operation: OperationId(1),
            lanes: vec![1],
            name: "op".to_owned(),
            domain: "domain".to_owned(),
            declared_domain: "domain".to_owned(),
            plugin_operation: 1,
            hash: "hash".to_owned(),
            path: "/plugins/one.so".to_owned(),
            timeout_ms: None,
            backoff_ms: None,
            memory_bytes: None,
            cpu_ms: None,
            open_files: None,
            outputs: None,
            capture: "all".to_owned(),
            log_level: None,
            paused: false,
        }
    }
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

    /// Resolves a name to an operation. The error of an unknown or ambiguous name lists what there is.
    pub async fn operation_resolve(
        &self,
        name: &str,
        domain: Option<&str>,
        host: Option<&str>,
    ) -> Result<Resolved> {
        let rows = sqlx::query!(
            // The function stands on the left of the join: otherwise it would not be called, and could not
            // refuse, where no row fits.
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
        // The operation was unregistered between two steps of one statement.
        resolved.ok_or_else(|| StoreError::Refused {
            code: "RW001".to_owned(),
            message: format!("operation `{name}` has just been withdrawn"),
            hint: None,
        })
    }

    /// Live deployments of a name; `module` is an SQL `LIKE` pattern.
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

    /// Deletes what is stored of a host beside its deployments: the records of its drop-in files (should
    /// the host come back, it registers them anew), and when it last had a monitor.
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

    /// Retires deployments. Tasks, logs and schedules of their operations stay.
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

    /// Pauses or resumes an operation.
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

    /// Pauses or resumes a whole domain; `false`: there is no such domain.
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

    /// Whether any host has ever offered an operation with this name in this domain (`None`: in any).
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

    /// Every paused domain and operation.
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

    /// The operations of these domains (empty: all) that this host may run.
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
