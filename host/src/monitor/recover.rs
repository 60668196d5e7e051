//! Lost monitors: their tasks follow the delivery rule, their workers are dead.

use super::pages::{Abandoned, pages_dir};
use crate::{
    model::MonitorId,
    store::{Result, Store},
};
use std::path::Path;

/// Buries monitors that are certainly gone: those of this host whose lock is free, at once, and any
/// whose lease has expired. Answers how many tasks they held.
///
/// What was claimed and certainly not begun goes back to the queue: of a dead monitor on this host
/// the shared pages tell; of another host nothing is known, so all that it held counts as begun.
pub(super) async fn recover(store: &Store, me: MonitorId, host: &str) -> Result<i64> {
    let mut tasks = 0;
    for mut lost in store.monitor_suspects(me, host).await? {
        let abandoned = (lost.host == host)
            .then(|| Abandoned::find(&pages_dir(), Path::new(&lost.pages)))
            .flatten();
        if abandoned.is_some() {
            lost.stale = false;
        } else if !lost.stale {
            continue;
        }
        // Only what a page proves: a task that is in none may have ended with its report unwritten.
        let never_begun = abandoned
            .as_ref()
            .map(Abandoned::never_begun)
            .unwrap_or_default();
        if let Some(held) = store.monitor_bury(&lost, &never_begun).await? {
            tasks += held;
            tracing::warn!(
                monitor.id = %lost.id,
                "monitor {} on host {} was lost; it held {held} task(s)",
                lost.id,
                lost.host
            );
        }
        if let Some(abandoned) = abandoned {
            abandoned.remove();
        }
    }
    Ok(tasks)
}
