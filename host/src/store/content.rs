//! Published plugins: their bytes, compressed and in chunks, for monitors of other hosts.

use super::{
    Store,
    error::Result,
    plugin::{deploy, lock_deployments},
    session::Session,
};
use crate::model::{
    input::sha256,
    plugin::{short_hash, title},
};
use miniz_oxide::{deflate::compress_to_vec, inflate::decompress_to_vec_with_limit};

/// Size of a chunk, so that no value of the database is huge.
const CHUNK: usize = 1 << 20;
/// What zlib uses unless told otherwise; a plugin shrinks to two fifths.
const LEVEL: u8 = 6;

/// A plugin whose bytes the database has.
#[derive(Debug, Clone)]
pub struct PublishedPlugin {
    /// SHA-256 of the bytes.
    pub hash: String,
    /// The author's crate.
    pub name: String,
    /// The crate's version.
    pub version: String,
    /// In bytes, as it was.
    pub size: i64,
    /// The signature that was beside it.
    pub signature: Option<String>,
    compressed: Vec<u8>,
}

/// A published plugin that a host could run and does not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// SHA-256 of the bytes.
    pub hash: String,
    /// The author's crate.
    pub name: String,
    /// The crate's version.
    pub version: String,
    /// What it was built for.
    pub target: String,
}

impl Offer {
    /// What stands for a path in deployments that were fetched. It does not change from version to
    /// version, as the path of a file would not.
    pub fn path(&self) -> String {
        format!("published:{}", self.name)
    }

    /// How messages call it.
    pub fn title(&self) -> String {
        published(&self.name, &self.version, &self.hash)
    }
}

fn published(name: &str, version: &str, hash: &str) -> String {
    format!("the published plugin {}", title(name, version, hash))
}

impl PublishedPlugin {
    /// How messages call it.
    pub fn title(&self) -> String {
        published(&self.name, &self.version, &self.hash)
    }

    /// The bytes as they were published; otherwise what is wrong with them. Takes a while: not for
    /// an event loop.
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

/// The bytes of a plugin that is to be published, compressed, with the signature beside it.
#[derive(Debug)]
pub struct PackedPlugin {
    compressed: Vec<u8>,
    signature: Option<String>,
}

impl PackedPlugin {
    /// Compresses them, which takes a while.
    pub fn pack(bytes: &[u8], signature: Option<String>) -> Self {
        Self {
            compressed: compress_to_vec(bytes, LEVEL),
            signature,
        }
    }

    /// How many bytes of the database they take.
    pub fn size(&self) -> i64 {
        self.compressed.len() as i64
    }

    /// Stores them for other hosts; what was stored of the plugin before is replaced.
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
    /// The bytes of a published plugin, still compressed; `None` if it is not published.
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

    /// Published plugins that other hosts run operations of these domains from (none: all domains)
    /// and this one does not, though it could. What was registered here from a file is left alone,
    /// and so is what was rolled back or unregistered here since.
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

    /// Lets a host run what it was offered of a plugin whose bytes it has and has checked. Answers
    /// how many operations changed.
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
            // What the version before offered, and no version that is in use anywhere still does. Of
            // other domains we are told nothing.
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
