//! The files of drop-in directories as the monitors of their hosts last saw them.

use super::{Placement, Registered, Store, error::Result, plugin::lock_deployments};
use crate::model::{MonitorId, difference::Change, plugin::NewPlugin};
use chrono::{DateTime, Utc};
use serde::Serialize;

/// A file of a drop-in directory that its host refuses.
#[derive(Debug, Clone, Serialize)]
pub struct DropInRow {
    /// The name of the host.
    pub host: String,
    /// The path of the file on that host.
    pub path: String,
    /// Why the host refuses the file.
    pub reason: String,
    /// When the host first refused it.
    #[serde(serialize_with = "crate::model::time::serialize")]
    pub since: DateTime<Utc>,
}

/// What the registration of a usable drop-in file did.
#[derive(Debug, Clone)]
pub struct DropInOutcome {
    /// SHA-256 of the file.
    pub hash: String,
    /// What was registered; `None`: this content was rolled back before, and the rollback stands.
    pub registered: Option<Registered>,
    /// How the plugin differs from the version before.
    pub changes: Vec<Change>,
    /// Warnings for the plugin's author.
    pub warnings: Vec<String>,
}

impl Store {
    /// Registers the operations of a drop-in file. If no monitor has seen the file before (`is_new`), its
    /// content may be a version that somebody rolled back; then only the file is recorded.
    pub async fn drop_in_register(
        &self,
        monitor: MonitorId,
        plugin: &NewPlugin,
        host: &str,
        path: &str,
        is_new: bool,
    ) -> Result<DropInOutcome> {
        let mut outcome = DropInOutcome {
            hash: plugin.hash.clone(),
            registered: None,
            changes: Vec::new(),
            warnings: plugin.warnings(path),
        };
        let stands = is_new
            && self
                .drop_in_is_rolled_back(host, path, &plugin.hash)
                .await?;
        if !stands {
            let placement = Placement {
                host: host.to_owned(),
                path: path.to_owned(),
                whole: true,
                // A file in the directory is meant to replace other plugins with the same operations.
                replace: true,
                dry_run: false,
            };
            outcome.changes = self.plugin_difference(plugin, &placement).await?;
            let registered = self.plugin_register(plugin, &placement, None).await?;
            outcome.registered = Some(registered);
        }
        self.drop_in_save(monitor, host, path, Some(&plugin.hash), None)
            .await?;
        Ok(outcome)
    }

    /// Files below these directories that this host may still run operations from, or that an earlier
    /// monitor recorded: the path of each, and its recorded hash.
    pub async fn drop_in_known(
        &self,
        host: &str,
        directories: &[String],
    ) -> Result<Vec<(String, Option<String>)>> {
        let rows = sqlx::query!(
            r#"select path as "path!", max(hash) as hash
                 from (select path, hash from rework.drop_in where host = $1
                       union all
                       select path, null from rework.deployment
                        where host = $1 and retired is null) known
                where exists (select from unnest($2::text[]) as directory
                               where starts_with(path, directory || '/'))
                group by path"#,
            host,
            directories
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows.into_iter().map(|row| (row.path, row.hash)).collect())
    }

    /// Whether this content of the file was rolled back on this host, the version before still runs in its
    /// place, and nobody has registered the content again since. While this holds, the monitor does not
    /// register the file.
    pub async fn drop_in_is_rolled_back(&self, host: &str, path: &str, hash: &str) -> Result<bool> {
        let rolled_back = sqlx::query_scalar!(
            r#"select coalesce((
                   select d.retired_by is not distinct from 'rollback'
                     from rework.deployment d
                     join rework.plugin_operation p on p.id = d.plugin_operation
                     join rework.plugin g on g.id = p.plugin
                    where d.host = $1 and d.path = $2 and g.hash = $3
                    order by d.retired is null desc, d.retired desc
                    limit 1), false)
                  and exists (select from rework.deployment
                               where host = $1 and path = $2 and retired is null)
                      as "rolled_back!""#,
            host,
            path,
            hash
        )
        .fetch_one(&self.pool)
        .await?;
        Ok(rolled_back)
    }

    /// Records the state of a drop-in file: registered with this hash, or refused for this reason.
    pub async fn drop_in_save(
        &self,
        monitor: MonitorId,
        host: &str,
        path: &str,
        hash: Option<&str>,
        refused: Option<&str>,
    ) -> Result<()> {
        sqlx::query!(
            "insert into rework.drop_in as d (host, path, hash, refused, monitor)
             values ($1, $2, $3, $4, $5)
             on conflict (host, path) do update
                set hash = excluded.hash,
                    refused = excluded.refused,
                    since = case when d.refused is not distinct from excluded.refused
                                 then d.since else clock_timestamp() end,
                    monitor = excluded.monitor",
            host,
            path,
            hash,
            refused,
            monitor.0
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Records that a file is gone: the operations that were registered from it on this host are retired;
    /// their tasks and schedules stay. Returns how many operations were retired, and which other files they
    /// had been taken over from.
    pub async fn drop_in_gone(&self, host: &str, path: &str) -> Result<(i64, Vec<String>)> {
        let mut transaction = self.pool.begin().await?;
        lock_deployments(&mut transaction).await?;
        let row = sqlx::query!(
            r#"with forgotten as (
                 delete from rework.drop_in where host = $1 and path = $2
             ), retired as (
                 update rework.deployment
                    set retired = clock_timestamp(), retired_by = 'gone'
                  where host = $1 and path = $2 and retired is null
                 returning operation
             ), told as (
                 select rework.tell('rework_catalog', '') from (select from retired limit 1) any_retired
             )
             select (select count(*) from retired) as "retired!",
                    (select count(*) from told) as told,
                    array(select distinct d.path
                            from rework.deployment d
                            join retired r on r.operation = d.operation
                           where d.host = $1 and d.path <> $2 and d.retired_by = 'upgrade')
                        as "before!""#,
            host,
            path
        )
        .fetch_one(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok((row.retired, row.before))
    }

    /// Deletes the record of a refused file.
    pub async fn drop_in_forget(&self, host: &str, path: &str) -> Result<()> {
        sqlx::query!(
            "delete from rework.drop_in where host = $1 and path = $2",
            host,
            path
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Files that are refused now, on hosts whose monitor is alive: the refusals of a dead monitor are left
    /// out.
    pub async fn drop_in_refused(&self) -> Result<Vec<DropInRow>> {
        let rows = sqlx::query_as!(
            DropInRow,
            r#"select d.host, d.path, d.refused as "reason!", d.since
                 from rework.drop_in d
                 join rework.monitor m on m.id = d.monitor
                where d.refused is not null
                  and rework.is_alive(m.last_seen, m.lease)
                order by d.host, d.path"#
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows)
    }
}
