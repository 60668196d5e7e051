//! What the registration of a version of a plugin would change on a host: for the person who registers it,
//! and for tasks and schedules that wait.

use super::{Placement, Store, error::Result};
use crate::model::{
    difference::{Change, ChangeKind, Declared, between},
    input::{self, Given},
    moment::Now,
    plugin::{NewOperation, NewPlugin},
    rule::parse_zone,
};
use crate::zones::Zone;
use chrono::Utc;
use rework_plugin::spec::Spec;

/// How many waiting tasks of an operation are checked against its new inputs; together with `LONGEST_INPUT` it
/// bounds the memory that the check takes to 40 MB.
const MOST_TASKS: i64 = 10_000;
/// Inputs longer than this many bytes are not checked.
const LONGEST_INPUT: i32 = 4096;

/// An operation as a host runs it before the registration.
#[derive(Debug)]
struct Live {
    operation: i32,
    name: String,
    domain: String,
    /// The domain that the plugin declares; the operation may be registered under another one.
    declared_domain: String,
    path: String,
    plugin: String,
    declared: Declared,
}

impl Store {
    /// How `plugin`, registered on this host from `path`, would differ from its version that the host runs
    /// now. The list is empty if the host runs no version of it. With `whole`, operations that the file
    /// offered before and no longer offers would be retired.
    pub async fn plugin_difference(
        &self,
        plugin: &NewPlugin,
        placement: &Placement,
    ) -> Result<Vec<Change>> {
        let Placement {
            host, path, whole, ..
        } = placement;
        let whole = *whole;
        let live = self.live_operations(host).await?;
        let is_offered = |live: &Live| {
            plugin
                .operations
                .iter()
                .any(|new| new.name == live.name && new.domain == live.domain)
        };
        let offers_domain = |domain: &str| plugin.operations.iter().any(|new| new.domain == domain);
        let replaces = |live: &Live| {
            is_offered(live)
                || whole && live.path == *path
                || live.plugin == plugin.name && offers_domain(&live.domain)
        };
        if !live.iter().any(replaces) {
            return Ok(Vec::new());
        }
        let mut changes = Vec::new();
        for new in &plugin.operations {
            let change = |kind| Change {
                operation: new.name.clone(),
                domain: new.domain.clone(),
                kind,
            };
            let before = live
                .iter()
                .find(|live| live.name == new.name && live.domain == new.domain);
            let Some(before) = before else {
                changes.push(change(ChangeKind::Added));
                continue;
            };
            let after = declared(new);
            for what in between(&before.declared, &after) {
                changes.push(change(ChangeKind::Changed { what }));
            }
            if before.declared.inputs != after.inputs
                && let Some(refuses) = self.refused_by(before.operation, host, new).await?
            {
                changes.push(change(refuses));
            }
        }
        // The same plugin under another path is the next version of this one.
        let is_ours = |old: &Live| {
            let moved = |other: &Live| {
                other.path == old.path && other.plugin == plugin.name && is_offered(other)
            };
            old.path == *path || live.iter().any(moved)
        };
        // The operation counts as removed whatever domain it was registered under.
        let is_gone = |old: &Live| {
            let mut offered = plugin.operations.iter();
            !offered.any(|new| new.name == old.name && new.declared_domain == old.declared_domain)
        };
        for old in &live {
            if whole && is_ours(old) && !is_offered(old) && is_gone(old) {
                let (tasks, schedules) = self.waiting(old.operation, host).await?;
                changes.push(Change {
                    operation: old.name.clone(),
                    domain: old.domain.clone(),
                    kind: ChangeKind::Removed { tasks, schedules },
                });
            }
        }
        Ok(changes)
    }

    async fn live_operations(&self, host: &str) -> Result<Vec<Live>> {
        let rows = sqlx::query!(
            "select o.id, o.name, o.domain, p.domain as declared_domain, d.path, g.name as plugin, p.inputs, p.outputs,
                    p.timeout_ms, p.max_attempts, p.backoff_ms, p.memory_bytes, p.cpu_ms, p.open_files
               from rework.deployment d
               join rework.operation o on o.id = d.operation
               join rework.plugin_operation p on p.id = d.plugin_operation
               join rework.plugin g on g.id = p.plugin
              where d.host = $1 and d.retired is null
              order by o.id",
            host
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows
            .into_iter()
            .map(|row| Live {
                operation: row.id,
                name: row.name,
                domain: row.domain,
                declared_domain: row.declared_domain,
                path: row.path,
                plugin: row.plugin,
                declared: Declared {
                    inputs: row.inputs,
                    outputs: row.outputs,
                    timeout_ms: row.timeout_ms,
                    max_attempts: row.max_attempts,
                    backoff_ms: row.backoff_ms,
                    memory_bytes: row.memory_bytes,
                    cpu_ms: row.cpu_ms,
                    open_files: row.open_files,
                },
            })
            .collect())
    }

    /// How many tasks that this host could run, and how many schedules, wait for an operation.
    async fn waiting(&self, operation: i32, host: &str) -> Result<(i64, i64)> {
        let row = sqlx::query!(
            r#"with lanes as materialized (
                   select id from rework.lane
                    where operation = $1 and (host is null or host = $2)
               )
               select (select count(*) from rework.ready where lane in (select id from lanes))
                      + (select count(*) from rework.delayed where lane in (select id from lanes))
                          as "tasks!",
                      (select count(*) from rework.sched
                        where operation = $1 and (host is null or host = $2)) as "schedules!""#,
            operation,
            host
        )
        .fetch_one(&self.pool)
        .await?;
        Ok((row.tasks, row.schedules))
    }

    /// How many waiting tasks and schedules of an operation its new inputs would refuse; `None` if they
    /// refuse none.
    async fn refused_by(
        &self,
        operation: i32,
        host: &str,
        new: &NewOperation,
    ) -> Result<Option<ChangeKind>> {
        let specs: Option<Vec<Spec>> = new
            .inputs
            .as_ref()
            .map(|specs| serde_json::from_value(specs.clone()).unwrap_or_default());
        let tasks = sqlx::query!(
            r#"with lanes as materialized (
                   select id from rework.lane
                    where operation = $1 and (host is null or host = $2)
               ), waiting as (
                   select id from rework.ready where lane in (select id from lanes)
                   union all
                   select id from rework.delayed where lane in (select id from lanes)
                    limit $3
               )
               select t.input_encoding,
                      case when pg_column_size(t.input) <= $4 then t.input end as input,
                      coalesce(pg_column_size(t.input) > $4, false) as "is_long!"
                 from waiting
                 join rework.task t using (id)"#,
            operation,
            host,
            MOST_TASKS + 1,
            LONGEST_INPUT
        )
        .fetch_all(&self.pool)
        .await?;
        let looked_into = || {
            let first = tasks.iter().take(MOST_TASKS as usize);
            first.filter(|task| !task.is_long)
        };
        let looked_at = looked_into().count() as i64;
        let looked_at = (looked_at < tasks.len() as i64).then_some(looked_at);
        let refused = looked_into()
            .filter(|task| {
                let encoding = task.input_encoding.as_deref();
                specs.as_deref().is_some_and(|specs| {
                    !input::accepts_stored(specs, encoding, task.input.as_ref())
                })
            })
            .count() as i64;
        let schedules = sqlx::query!(
            "select input, input_raw, timezone from rework.sched
              where operation = $1 and (host is null or host = $2)",
            operation,
            host
        )
        .fetch_all(&self.pool)
        .await?;
        let schedules = schedules
            .into_iter()
            .filter(|row| {
                let given = Given {
                    fields: row.input.clone(),
                    raw: row.input_raw.clone(),
                    files: Vec::new(),
                };
                let now = Now {
                    time: Utc::now(),
                    zone: parse_zone(&row.timezone).unwrap_or_else(|_| Zone::utc()),
                };
                input::complete(&new.name, std::slice::from_ref(&new.inputs), &given, now).is_err()
            })
            .count() as i64;
        Ok(
            (refused > 0 || schedules > 0).then_some(ChangeKind::Refuses {
                tasks: refused,
                looked_at,
                schedules,
            }),
        )
    }
}

fn declared(operation: &NewOperation) -> Declared {
    Declared {
        inputs: operation.inputs.clone(),
        outputs: operation.outputs.clone(),
        timeout_ms: operation.timeout_ms,
        max_attempts: operation.max_attempts,
        backoff_ms: operation.backoff_ms,
        memory_bytes: operation.memory_bytes,
        cpu_ms: operation.cpu_ms,
        open_files: operation.open_files,
    }
}
