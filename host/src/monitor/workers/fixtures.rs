//! What the unit tests of this room need.

use super::slots::{Slots, Terms};
use crate::{
    store::CatalogRow,
    wire::{Finished, Limits, Page, Payload},
};
use std::sync::Arc;

/// The end of a task that used nothing.
pub(super) fn finished(slot: u32, task: i64) -> Finished {
    Finished {
        slot,
        task,
        output: Payload::None,
        files: Vec::new(),
        failure: None,
        started_us: 0,
        finished_us: 0,
        cpu_us: 0,
        peak_resident_bytes: 0,
        resident_bytes: 0,
        left_behind: None,
    }
}

/// The slots of a new page, which lives as long as its directory.
pub(super) fn slots() -> (Slots, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let page = Page::create(&directory.path().join("1.page")).unwrap();
    (Slots::new(page), directory)
}

/// Without limits.
pub(super) fn terms() -> Terms {
    Terms {
        operation: Arc::new(CatalogRow::example()),
        limits: Limits::default(),
        timeout: None,
        is_repeated_if_lost: false,
    }
}
