//! Everything that is asked of a plugin before anybody believes it, in this order: who could have
//! written it, what it is, what happens when it is loaded. A plugin that fails any of it leaves
//! nothing behind, neither a copy in the cache nor a process.

use super::{Cache, Inspection, PluginError, inspect::inspect_copy, probe};
use std::{path::Path, time::Duration};

/// Checks a plugin file and keeps a copy of it in the cache. The one path of all who admit plugins:
/// `check-plugin`, `register-operations`, and whatever else takes files in.
pub fn check(cache: &Cache, file: &Path, limit: Duration) -> Result<Inspection, PluginError> {
    let copy = cache.receive(file)?;
    let inspection = inspect_copy(copy.path(), copy.hash(), file)?;
    probe(copy.path(), file, limit)?;
    copy.keep()?;
    Ok(inspection)
}
