//! Published plugins: their bytes, compressed and in chunks, for monitors of other hosts.

use super::{
    Store,
    error::Result,
    file::CHUNK,
    plugin::{deploy, lock_deployments},
    session::Session,
};
use crate::model::{
    input::sha256,
    plugin::{short_hash, title},
};
use miniz_oxide::{deflate::compress_to_vec, inflate::decompress_to_vec_with_limit};

/// The zlib level: 6 is the default of zlib, and shrinks a plugin to two fifths.
const LEVEL: u8 = 6;

/// A plugin whose bytes are stored in the database.
#[derive(Debug, Clone)]
pub struct PublishedPlugin {
    pub hash: String,
    /// The name of the plugin's crate.
    pub name: String,
    pub version: String,
    /// The size of the file in bytes, uncompressed.
    pub size: i64,
    /// The minisign signature that lay beside the file when it was published.
    pub signature: Option<String>,
    compressed: Vec<u8>,
}

/// A published plugin with operations that a host could run and does not run yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    pub hash: String,
    /// The name of the plugin's crate.
    pub name: String,
    pub version: String,
    /// The target triple that the plugin was built for.
    pub target: String,
}

impl Offer {
    /// The path of deployments whose plugin was fetched from the database. Unlike the path of a file it is
    /// the same for every version.
    pub fn path(&self) -> String {
        format!("published:{}", self.name)
    }

    /// The plugin as messages name it: `hello 0.1.0 (0123456789ab)`.
    pub fn title(&self) -> String {
        published(&self.name, &self.version, &self.hash)
    }
}

fn published(name: &str, version: &str, hash: &str) -> String {
    format!("the published plugin {}", title(name, version, hash))
}

impl PublishedPlugin {
    /// The plugin as messages name it: `hello 0.1.0 (0123456789ab)`.
    pub fn title(&self) -> String {
        published(&self.name, &self.version, &self.hash)
    }

    /// The uncompressed bytes, or what is wrong with the stored ones (size or hash differ). It takes
    /// seconds for a large plugin: do not call it on an event loop.
    pub fn unpack(self) -> std::result::Result<Vec<u8>, String> {
        let title = self.title();
        let bytes = decompress_to_vec_with_limit(&self.compressed, self.size as usize)
            .map_err(|_| format!("{title} is damaged: its bytes in the database were changed"))?;
        let found = sha256(&bytes);
        if found != self.hash {
            return Err(format!(
                "{title} was changed in the database: the SHA-256 of its bytes is {}",
                short_hash(&found)
            ));
        }
        Ok(bytes)
    }
}

/// The compressed bytes of a plugin that is to be published, and the signature that lies beside it.
#[derive(Debug)]
pub struct PackedPlugin {
    compressed: Vec<u8>,
    signature: Option<String>,
}

impl PackedPlugin {
    /// Compresses a plugin. It takes seconds for a large one: do not call it on an event loop.
    pub fn pack(bytes: &[u8], signature: Option<String>) -> Self {
        Self {
            compressed: compress_to_vec(bytes, LEVEL),
            signature,
        }
    }

    /// The size of the compressed bytes.
    pub fn size(&self) -> i64 {
        self.compressed.len() as i64
    }

    /// Stores the bytes for other hosts, in place of those that were stored for this plugin before.
    pub(super) async fn save(&self, connection: &mut Session<'_>, plugin: i32) -> Result<()> {
        sqlx::query!(
            "delete from rework.plugin_content where plugin = $1",
            plugin
        )
        .execute(&mut *connection)
        .await?;
        sqlx::query!(
            "insert into rework.plugin_content (plugin, compressed, signature) values ($1, $2, $3)",
            plugin,
            self.size(),
            self.signature
        )
        .execute(&mut *connection)
        .await?;
        connection.sends(CHUNK);
        for (number, chunk) in self.compressed.chunks(CHUNK).enumerate() {
            sqlx::query!(
                "insert into rework.plugin_content_chunk (plugin, chunk, content)
                 values ($1, $2, $3)",
                plugin,
                number as i32,
                chunk
            )
            .execute(&mut *connection)
            .await?;
        }
        Ok(())
    }
}

impl Store {
    /// The compressed bytes of a published plugin; `None` if the plugin is not published.
    pub async fn plugin_published(&self, hash: &str) -> Result<Option<PublishedPlugin>> {
        let Some(row) = sqlx::query!(
            "select g.id, g.name, g.version, g.size, c.compressed, c.signature
               from rework.plugin g
               join rework.plugin_content c on c.plugin = g.id
              where g.hash = $1",
            hash
        )
        .fetch_optional(&self.pool)
        .await?
        else {
            return Ok(None);
        };
        let mut compressed = Vec::new();
        for chunk in 0.. {
            if compressed.len() as i64 > row.compressed {
                break; // Somebody has added to it: unpacking will tell.
            }
            let part = sqlx::query_scalar!(
                "select content from rework.plugin_content_chunk where plugin = $1 and chunk = $2",
                row.id,
                chunk
            )
            .fetch_optional(&self.pool)
            .await?;
            match part {
                Some(part) => compressed.extend_from_slice(&part),
                None => break,
            }
        }
        Ok(Some(PublishedPlugin {
            hash: hash.to_owned(),
            name: row.name,
            version: row.version,
            size: row.size,
            signature: row.signature,
            compressed,
        }))
    }

    /// Published plugins whose operations in these domains (empty: all domains) run on other hosts, and
    /// could run on this one but do not. Plugins that were registered on this host from a file are left
    /// out, and so are those that were rolled back or unregistered on it since they were published.
    pub async fn plugin_offers(&self, host: &str, domains: &[String]) -> Result<Vec<Offer>> {
        let rows = sqlx::query_as!(
            Offer,
            r#"select distinct g.hash, g.name, g.version, g.target
                 from rework.plugin_offered($1, $2) f
                 join rework.plugin g on g.id = f.plugin
                where f.is_missing
                order by g.name, g.hash"#,
            host,
            domains
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows)
    }

    /// Deploys the operations of a published plugin on a host that has fetched and checked its bytes.
    /// Returns how many operations changed.
    pub async fn plugin_adopt(
        &self,
        offer: &Offer,
        host: &str,
        domains: &[String],
    ) -> Result<usize> {
        let path = offer.path();
        let mut transaction = self.pool.begin().await?;
        lock_deployments(&mut transaction).await?;
        let offered = sqlx::query!(
            r#"select f.operation as "operation!", f.plugin_operation as "plugin_operation!"
                 from rework.plugin_offered($1, $2) f
                 join rework.plugin g on g.id = f.plugin
                where g.hash = $3 and f.is_missing
                order by f.operation"#,
            host,
            domains,
            offer.hash
        )
        .fetch_all(&mut *transaction)
        .await?;
        let mut adopted = 0;
        for row in offered {
            deploy(
                &mut transaction,
                row.operation,
                row.plugin_operation,
                host,
                &path,
            )
            .await?;
            adopted += 1;
        }
        if adopted > 0 {
            // Operations of the version before that no version still in use on any host offers. Operations
            // in other domains are not considered: the caller serves only these domains.
            sqlx::query!(
                "update rework.deployment d
                    set retired = clock_timestamp(), retired_by = 'upgrade'
                   from rework.operation o
                  where o.id = d.operation
                    and d.host = $1 and d.path = $2 and d.retired is null
                    and (cardinality($3::text[]) = 0 or o.domain = any ($3))
                    and d.operation not in (select f.operation from rework.plugin_offered($1, $3) f)",
                host,
                path,
                domains
            )
            .execute(&mut *transaction)
            .await?;
            sqlx::query!("select rework.tell('rework_catalog', '')")
                .execute(&mut *transaction)
                .await?;
        }
        transaction.commit().await?;
        Ok(adopted)
    }
}
