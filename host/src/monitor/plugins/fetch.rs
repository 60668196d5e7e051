//! Copies published bytes from the database into a file of the cache's directory, where an examiner can
//! look at them.

use crate::{
    model::plugin::short_hash,
    plugin::{Cache, without_path},
    store::{Store, StoreError},
};
use std::path::PathBuf;

/// Makes a file of the published bytes with this hash. Answers the file, or why the bytes cannot be used.
pub(super) async fn fetch(
    store: &Store,
    cache: Cache,
    hash: &str,
) -> Result<Result<PathBuf, String>, StoreError> {
    let Some(published) = store.plugin_published(hash).await? else {
        return Ok(Err(format!(
            "plugin {} is not published either",
            short_hash(hash)
        )));
    };
    let staged = tokio::task::spawn_blocking(move || {
        let signature = published.signature.clone();
        let title = published.title();
        let bytes = published.unpack()?;
        cache.stage(&bytes, signature.as_deref()).map_err(|error| {
            format!(
                "{title} could not be copied to the cache: {}",
                without_path(&error)
            )
        })
    });
    Ok(staged
        .await
        .unwrap_or_else(|_| Err("a fetched plugin could not be unpacked".to_owned())))
}
