//! Versions of plugins: what ran where since when, and the way back.

use super::{Store, error::Result, plugin::lock_deployments};
use chrono::{DateTime, Utc};
use serde::Serialize;

/// A version of a plugin in a domain of a host, or a file that is refused there.
#[derive(Debug, Clone, Serialize)]
pub struct PluginRow {
    /// SHA-256 of the plugin; null: a refused file.
    pub hash: Option<String>,
    /// The author's crate.
    pub name: Option<String>,
    /// The crate's version.
    pub version: Option<String>,
    /// The domain of its operations.
    pub domain: Option<String>,
    /// The host.
    pub host: String,
    /// Where it came from.
    pub path: String,
    /// Since when it is current; of another one, when it last became so.
    #[serde(serialize_with = "crate::model::time::serialize")]
    pub since: DateTime<Utc>,
    /// When it ceased to be.
    #[serde(serialize_with = "crate::model::time::serialize_option")]
    pub until: Option<DateTime<Utc>>,
    /// Whether new tasks run on it.
    pub current: bool,
    /// How many of its operations the domain has, or had.
    pub operations: i64,
    /// Tasks that ran on it here, as far as they are still known.
    pub tasks: i64,
    /// Whether its bytes are in the database.
    pub published: bool,
    /// Why the file is refused.
    pub refused: Option<String>,
}

/// A version that a domain of a host has had.
#[derive(Debug, Clone)]
pub struct VersionRow {
    /// The host.
    pub host: String,
    /// The version.
    pub plugin: i32,
    /// The author's crate.
    pub name: String,
    /// The crate's version.
    pub version: String,
    /// SHA-256 of the plugin.
    pub hash: String,
    /// Whether new tasks run on it.
    pub current: bool,
    /// When it was last registered, rollbacks aside.
    pub registered: Option<DateTime<Utc>>,
}

/// What a rollback did on a host.
#[derive(Debug, Clone, Serialize)]
pub struct RollbackRow {
    /// The host.
    pub host: String,
    /// The author's crate.
    pub name: String,
    /// The version that was current; null: none.
    pub from: Option<String>,
    /// Its hash.
    pub from_hash: Option<String>,
    /// The version that is current now.
    pub to: String,
    /// Its hash.
    pub to_hash: String,
    /// How many operations point there.
    pub operations: u64,
}

impl Store {
    /// Every version that any domain of any host has had, the current ones first.
    pub async fn plugin_list(&self) -> Result<Vec<PluginRow>> {
        let rows = sqlx::query_as!(
            PluginRow,
            r#"with version as (
                   select p.plugin, o.domain, d.host,
                          bool_or(d.retired is null) as current,
                          -- Of each operation the last row counts, so that the time stays as it was
                          -- when another version follows.
                          coalesce(min(d.registered) filter (where d.retired is null),
                                   min(d.registered) filter (where d.place = 1)) as since,
                          case when not bool_or(d.retired is null) then max(d.retired) end as until,
                          count(distinct d.operation) as operations,
                          (array_agg(d.path order by d.registered desc))[1] as path
                     from (select *, row_number() over (partition by operation, host, plugin_operation
                                                         order by registered desc, id desc) as place
                             from rework.deployment) d
                     join rework.operation o on o.id = d.operation
                     join rework.plugin_operation p on p.id = d.plugin_operation
                    group by p.plugin, o.domain, d.host
               ), ran as (
                   select operation, plugin_operation, worker, count(*) as tasks
                     from rework.task
                    where plugin_operation is not null
                    group by operation, plugin_operation, worker
               ), ran_on as (
                   -- A worker's row may have been vacuumed; then its host is not known any more.
                   select p.plugin, o.domain, w.host, sum(r.tasks)::bigint as tasks
                     from ran r
                     join rework.operation o on o.id = r.operation
                     join rework.plugin_operation p on p.id = r.plugin_operation
                     left join rework.worker w on w.id = r.worker
                    group by p.plugin, o.domain, w.host
               )
               select g.hash as "hash?", g.name as "name?", g.version as "version?",
                      v.domain as "domain?", v.host, v.path as "path!", v.since as "since!",
                      v.until as "until?", v.current as "current!", v.operations as "operations!",
                      coalesce((select sum(r.tasks)
                                  from ran_on r
                                 where r.plugin = v.plugin and r.domain = v.domain
                                   and (r.host = v.host
                                        or r.host is null
                                           and (select count(*) from version w
                                                 where w.plugin = v.plugin and w.domain = v.domain) = 1)),
                               0)::bigint as "tasks!",
                      exists (select from rework.plugin_content c where c.plugin = v.plugin) as "published!",
                      null::text as "refused?"
                 from version v
                 join rework.plugin g on g.id = v.plugin
                order by v.domain, v.host, g.name, v.current desc, v.since desc"#
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows)
    }

    /// The versions that a domain has had on a host (none: on any), the oldest first.
    pub async fn version_list(&self, domain: &str, host: Option<&str>) -> Result<Vec<VersionRow>> {
        let rows = sqlx::query_as!(
            VersionRow,
            r#"select d.host, g.id as plugin, g.name, g.version, g.hash,
                      bool_or(d.retired is null) as "current!",
                      max(d.registered) filter (where not d.by_rollback) as registered
                 from rework.deployment d
                 join rework.operation o on o.id = d.operation
                 join rework.plugin_operation p on p.id = d.plugin_operation
                 join rework.plugin g on g.id = p.plugin
                where o.domain = $1
                  and ($2::text is null or d.host = $2)
                group by d.host, g.id
                order by d.host, g.name, registered nulls first"#,
            domain,
            host
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows)
    }

    /// Points a domain of each of these hosts back to a version that it had there: (host, plugin).
    /// All or nothing; answers how many operations of each point there now.
    pub async fn version_return(
        &self,
        domain: &str,
        targets: &[(String, i32)],
    ) -> Result<Vec<u64>> {
        let mut transaction = self.pool.begin().await?;
        lock_deployments(&mut transaction).await?;
        let mut counts = Vec::new();
        for (host, plugin) in targets {
            sqlx::query!(
                "update rework.deployment d
                    set retired = clock_timestamp(), retired_by = 'rollback'
                   from rework.operation o, rework.plugin_operation p, rework.plugin g
                  where o.id = d.operation and p.id = d.plugin_operation and g.id = p.plugin
                    and o.domain = $1 and d.host = $2 and d.retired is null and p.plugin <> $3
                    -- The other versions of this plugin, and whoever else has its operations now.
                    and (g.name = (select name from rework.plugin where id = $3)
                         or d.operation in (
                             select old.operation
                               from rework.deployment old
                               join rework.plugin_operation q on q.id = old.plugin_operation
                              where old.host = $2 and q.plugin = $3))",
                domain,
                host,
                plugin
            )
            .execute(&mut *transaction)
            .await?;
            sqlx::query!(
                "insert into rework.deployment (operation, host, plugin_operation, path, by_rollback)
                 select distinct on (d.operation) d.operation, d.host, d.plugin_operation,
                        -- What becomes of the file that offers it now concerns it, too.
                        coalesce((select newest.path from rework.deployment newest
                                   where newest.operation = d.operation and newest.host = d.host
                                     and newest.retired_by = 'rollback'
                                   order by newest.retired desc limit 1), d.path),
                        true
                   from rework.deployment d
                   join rework.operation o on o.id = d.operation
                   join rework.plugin_operation p on p.id = d.plugin_operation
                  where o.domain = $1 and d.host = $2 and p.plugin = $3
                    and not exists (select from rework.deployment live
                                     where live.operation = d.operation and live.host = d.host
                                       and live.retired is null)
                  order by d.operation, d.registered desc",
                domain,
                host,
                plugin
            )
            .execute(&mut *transaction)
            .await?;
            let count = sqlx::query_scalar!(
                r#"select count(*) as "count!"
                     from rework.deployment d
                     join rework.operation o on o.id = d.operation
                     join rework.plugin_operation p on p.id = d.plugin_operation
                    where o.domain = $1 and d.host = $2 and p.plugin = $3 and d.retired is null"#,
                domain,
                host,
                plugin
            )
            .fetch_one(&mut *transaction)
            .await?;
            counts.push(count.unsigned_abs());
        }
        sqlx::query!("select rework.tell('rework_catalog', '')")
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
        Ok(counts)
    }
}
