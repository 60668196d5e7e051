//! What `doctor` asks of the database.

use super::{Store, error::Result};
use chrono::{DateTime, Utc};

/// The server and the schema.
#[derive(Debug, Clone)]
pub struct Health {
    /// As `server_version_num`: 180001 is 18.1.
    pub server: i32,
    /// The server's clock.
    pub now: DateTime<Utc>,
}

/// Tasks that wait in one lane, and who could take them.
#[derive(Debug, Clone)]
pub struct DomainHealth {
    /// The domain.
    pub domain: String,
    /// The operation.
    pub operation: String,
    /// The host they are pinned to.
    pub host: Option<String>,
    /// One of them.
    pub task: i64,
    /// How many, counted up to 1000.
    pub waiting: i64,
    /// Hosts that offer the operation.
    pub offered: Vec<String>,
    /// Hosts among them whose monitor lives and serves the domain.
    pub served: Vec<String>,
    /// Whether it is meant to wait.
    pub paused: bool,
}

/// A plugin of a domain whose workers die before they are ready.
#[derive(Debug, Clone)]
pub struct StartHealth {
    /// The domain.
    pub domain: String,
    /// The host.
    pub host: String,
    /// How the last of them ended.
    pub error: String,
}

impl Store {
    /// Plugins of which the last three workers of a domain on a host, within an hour, died before they were
    /// ready.
    pub async fn health_starts(&self) -> Result<Vec<StartHealth>> {
        let rows = sqlx::query_as!(
            StartHealth,
            r#"select domain, host,
                      (array_agg(coalesce(error, cause, '') order by place))[1] as "error!"
                 from (select w.*, row_number() over (partition by domain, host, plugin order by id desc) as place
                         from rework.worker w
                        where created > clock_timestamp() - interval '1 hour'
                          -- What has been replaced or withdrawn is nobody's concern any more.
                          and exists (select
                                        from rework.plugin g
                                        join rework.plugin_operation p on p.plugin = g.id
                                        join rework.deployment d on d.plugin_operation = p.id
                                       where g.hash = w.plugin and d.host = w.host
                                         and d.retired is null)
                          -- Not those that still try, or that we ended for a reason of our own.
                          and (started is not null
                               or state = 'dead'
                                  and cause not in ('monitor exit', 'monitor lost', 'killed', 'shutdown',
                                                    'upgrade', 'idle'))) latest
                where place <= 3
                group by domain, host, plugin
               having count(*) = 3 and bool_and(state = 'dead' and started is null)
                order by domain, host, plugin"#
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows)
    }

    /// Asks the server who it is and what time it has.
    pub async fn health(&self) -> Result<Health> {
        let row = sqlx::query!(
            r#"select current_setting('server_version_num')::int as "server!",
                      clock_timestamp() as "now!""#
        )
        .fetch_one(&self.pool)
        .await?;
        Ok(Health {
            server: row.server,
            now: row.now,
        })
    }

    /// Every lane in which tasks wait that may run now.
    pub async fn health_waiting(&self) -> Result<Vec<DomainHealth>> {
        let rows = sqlx::query_as!(
            DomainHealth,
            r#"select o.domain, o.name as operation, l.host, first.id as "task!",
                      (select count(*) from (select from rework.ready r
                                              where r.lane = l.id limit 1000) counted) as "waiting!",
                      array(select d.host from rework.deployment d
                             where d.operation = o.id and d.retired is null
                               and (l.host is null or d.host = l.host)
                             order by d.host) as "offered!",
                      array(select distinct d.host
                              from rework.deployment d
                              join rework.monitor m on m.host = d.host
                             where d.operation = o.id and d.retired is null
                               and (l.host is null or d.host = l.host)
                               and m.last_seen + m.lease >= clock_timestamp()
                               and (cardinality(m.domains) = 0 or o.domain = any(m.domains))
                             order by d.host) as "served!",
                      o.paused or exists (select from rework.paused_domain s where s.domain = o.domain)
                          as "paused!"
                 from rework.lane l
                 join rework.operation o on o.id = l.operation
                cross join lateral (select id from rework.ready r where r.lane = l.id
                                     order by rank, id limit 1) first
                order by o.domain, o.name, l.host nulls first"#
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows)
    }
}
