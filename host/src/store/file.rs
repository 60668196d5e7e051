//! Contents beside a task: file fields, and raw payloads too large for its row.

use super::{Store, error::Result, session::Session};
use crate::model::{TaskId, Token, input::sha256};

/// Bytes of a content (a file, a payload or a plugin) in one row: rows of one mebibyte keep every value of the database small.
pub(super) const CHUNK: usize = 1 << 20;

/// A stored content, without its bytes.
#[derive(Debug, Clone, serde::Serialize)]
pub struct FileInfo {
    /// The name of the file field; empty for a raw payload.
    pub name: String,
    /// The size in bytes.
    pub size: i64,
    /// SHA-256 of the content, in hexadecimal.
    pub sha256: String,
}

/// A content to store.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct FileContent {
    /// The name of the file field; empty for a raw payload.
    pub name: String,
    #[serde(with = "crate::model::base64_bytes")]
    pub content: Vec<u8>,
}

impl Store {
    /// Stores contents of a task within the caller's transaction, in place of contents of the same names.
    pub async fn file_save(
        &self,
        connection: &mut Session<'_>,
        task: TaskId,
        direction: &str,
        files: &[FileContent],
    ) -> Result<()> {
        connection.sends(CHUNK);
        for file in files {
            let sha256 = sha256(&file.content);
            sqlx::query!(
                "delete from rework.task_file where task = $1 and direction = $2 and name = $3",
                task.0,
                direction,
                file.name
            )
            .execute(&mut *connection)
            .await?;
            let id = sqlx::query_scalar!(
                "insert into rework.task_file (task, direction, name, size, sha256)
                 values ($1, $2, $3, $4, $5) returning id",
                task.0,
                direction,
                file.name,
                file.content.len() as i64,
                sha256
            )
            .fetch_one(&mut *connection)
            .await?;
            for (number, chunk) in file.content.chunks(CHUNK).enumerate() {
                sqlx::query!(
                    "insert into rework.task_file_chunk (file, chunk, content) values ($1, $2, $3)",
                    id,
                    number as i32,
                    chunk
                )
                .execute(&mut *connection)
                .await?;
            }
        }
        Ok(())
    }

    /// Stores contents of a task's output before the cycle that reports the task's end. If another monitor
    /// owns the task by now, nothing is stored, and the report finds that out.
    pub async fn file_save_output(
        &self,
        task: TaskId,
        token: Token,
        files: &[FileContent],
    ) -> Result<()> {
        let mut transaction = self.pool.begin().await?;
        // These locks keep the claim, or what stands for it where its monitor was declared lost, and do not
        // block a report about it.
        let held = sqlx::query_scalar!(
            r#"select true as "held!" from rework.claim
                where monitor = $1 and cycle = $2 and $3 = any(tasks) for key share"#,
            token.monitor().0,
            token.cycle(),
            task.0
        )
        .fetch_optional(&mut *transaction)
        .await?;
        let lost = sqlx::query_scalar!(
            r#"select true as "lost!" from rework.outcome
                where task = $1 and token = $2 and cause = 'monitor lost' and superseded is null
                  for key share"#,
            task.0,
            token.0
        )
        .fetch_optional(&mut *transaction)
        .await?;
        if held.is_none() && lost.is_none() {
            return Ok(());
        }
        self.file_save(&mut transaction, task, "output", files)
            .await?;
        transaction.commit().await?;
        Ok(())
    }

    /// Names, sizes and hashes of a task's contents.
    pub async fn file_list(&self, task: TaskId, direction: &str) -> Result<Vec<FileInfo>> {
        let rows = sqlx::query_as!(
            FileInfo,
            "select name, size, sha256 from rework.task_file
              where task = $1 and direction = $2 order by name",
            task.0,
            direction
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows)
    }

    /// The bytes of one content of a task; `None` if the task has no content of this name.
    pub async fn file_read(
        &self,
        task: TaskId,
        direction: &str,
        name: &str,
    ) -> Result<Option<Vec<u8>>> {
        let Some(file) = sqlx::query!(
            "select id, size from rework.task_file
              where task = $1 and direction = $2 and name = $3",
            task.0,
            direction,
            name
        )
        .fetch_optional(&self.pool)
        .await?
        else {
            return Ok(None);
        };
        let mut content = Vec::with_capacity(file.size as usize);
        let mut chunk = 0;
        while content.len() < file.size as usize {
            let part = sqlx::query_scalar!(
                "select content from rework.task_file_chunk where file = $1 and chunk = $2",
                file.id,
                chunk
            )
            .fetch_one(&self.pool)
            .await?;
            content.extend_from_slice(&part);
            chunk += 1;
        }
        Ok(Some(content))
    }
}
