//! What the unit tests of this room need.

use super::slots::{Slots, Terms};
use crate::{
    model::OperationId,
    monitor::fault::Exit,
    store::CatalogRow,
    wire::{Finished, Limits, Page, Payload},
};
use nix::unistd::Pid;
use std::{sync::Arc, time::Duration};

/// The end of a process.
pub(super) fn exit(code: Option<i32>, signal: Option<i32>) -> Exit {
    Exit {
        pid: Pid::from_raw(100),
        code,
        signal,
        peak_memory: 0,
        cpu: Duration::ZERO,
    }
}

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
        operation: Arc::new(operation()),
        limits: Limits::default(),
        timeout: None,
        is_repeated_if_lost: false,
    }
}

fn operation() -> CatalogRow {
    CatalogRow {
        operation: OperationId(1),
        lanes: vec![1],
        name: "op".to_owned(),
        domain: "domain".to_owned(),
        declared_domain: "domain".to_owned(),
        plugin_operation: 1,
        hash: "hash".to_owned(),
        path: "/plugins/one.so".to_owned(),
        timeout_ms: None,
        backoff_ms: None,
        memory_bytes: None,
        cpu_ms: None,
        open_files: None,
        outputs: None,
        capture: "all".to_owned(),
        log_level: None,
        paused: false,
    }
}
