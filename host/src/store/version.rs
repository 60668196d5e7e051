//! Versions of plugins: which version ran where and since when, and the return to an earlier one.

use super::{Store, error::Result, plugin::lock_deployments};
use chrono::{DateTime, Utc};
use serde::Serialize;

/// A version of a plugin in a domain of a host, or a file that the host refuses.
#[derive(Debug, Clone, Serialize)]
pub struct PluginRow {
    /// SHA-256 of the plugin; `None`: the file is refused.
    pub hash: Option<String>,
    /// The name of the plugin's crate.
    pub name: Option<String>,
    /// The version of the plugin's crate.
    pub version: Option<String>,
    /// The domain that its operations are registered under.
    pub domain: Option<String>,
    /// The name of the host.
    pub host: String,
    /// The path that it was registered from.
    pub path: String,
    /// Since when this version is the current one; for another version, when it last became current.
    #[serde(serialize_with = "crate::model::time::serialize")]
    pub since: DateTime<Utc>,
    /// When the version ceased to be current.
    #[serde(serialize_with = "crate::model::time::serialize_option")]
    pub until: Option<DateTime<Utc>>,
    /// Whether new tasks run on this version.
    pub current: bool,
    /// How many operations of the domain come, or came, from this version.
    pub operations: i64,
    /// How many tasks ran on this version on this host; deleted tasks do not count.
    pub tasks: i64,
    /// Whether the bytes of the plugin are stored in the database.
    pub published: bool,
    /// Why the host refuses the file.
    pub refused: Option<String>,
}

/// A version of a plugin that a host has had in a domain.
#[derive(Debug, Clone)]
pub struct VersionRow {
    pub host: String,
    /// The id of the version (`rework.plugin`).
    pub plugin: i32,
    /// The name of the plugin's crate.
    pub name: String,
    pub version: String,
    pub hash: String,
    /// Whether new tasks run on this version.
    pub current: bool,
    /// When the version was last registered; rollbacks do not count.
    pub registered: Option<DateTime<Utc>>,
}

/// What a rollback did on one host.
#[derive(Debug, Clone, Serialize)]
pub struct RollbackRow {
    /// The name of the host.
    pub host: String,
    /// The name of the plugin's crate.
    pub name: String,
    /// The version that was current before; `None`: there was none.
    pub from: Option<String>,
    /// SHA-256 of the version before.
    pub from_hash: Option<String>,
    /// The version that is current now.
    pub to: String,
    /// SHA-256 of the version that is current now.
    pub to_hash: String,
    /// How many operations run on that version now.
    pub operations: u64,
}

impl Store {
    /// Every version in every domain of every host, the current ones first.
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
                     from (select operation, plugin_operation, worker
                             from rework.outcome
                            where plugin_operation is not null and superseded is null
                           union all
                           select t.operation, r.plugin_operation, r.worker
                             from rework.running r join rework.task t on t.id = r.task) attempts
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

    /// The versions that a host (`None`: any host) has had in a domain, the oldest first.
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

    /// Returns a domain to an earlier version on each of these hosts, given as (host, plugin). All or
    /// nothing. Returns how many operations run on that version now, for each host.
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
