//! One task: begins it, calls the operation, and collects its result.

use super::{
    capture::{Capture, left_children},
    context::Worker,
    forked,
    leftovers::Leftovers,
    limits::Limited,
    memory::{peak_resident_bytes, resident_bytes},
    memory_trim,
};
use crate::{
    causes::chain,
    plugin::{self, Loaded, TaskData},
    wire::{Bytes, Failure, Finished, FromWorker, Page, Payload, Run, WireError},
};
use chrono::Utc;
use nix::sys::{
    resource::{UsageWho, getrusage},
    time::TimeVal,
};
use rework_plugin::abi::{ENCODING_FIELDS, ENCODING_NONE, ENCODING_RAW};
use serde_json::json;
use std::{os::fd::OwnedFd, time::Instant};

/// Runs a task, unless the monitor has taken it back. Returns how it ended, and whether it left child
/// processes behind.
pub(super) fn run(
    task: Run,
    descriptors: &mut Vec<OwnedFd>,
    plugin: &Loaded,
    context: &'static Worker,
    page: &Page,
    capture: &mut Capture,
    leftovers: &mut Leftovers,
) -> Result<Option<(Finished, bool)>, WireError> {
    let Run {
        slot,
        attempt,
        log_level,
        ..
    } = task;
    let id = task.task;
    let operation = task.operation.clone();
    let domain = task.declared_domain.clone();
    let (mode, limits) = (task.capture, task.limits);
    let data = task_data(task, descriptors)?;
    let (used_before, peak_before) = (processor_us(), peak_resident_bytes());
    if let Some((operation, left)) = leftovers.check_before(&operation) {
        context.send(FromWorker::LeftBehind { operation, left }, Vec::new())?;
    }
    let started_us = Utc::now().timestamp_micros();
    if leftovers.is_final() || !page.begin(slot, id, started_us) {
        return Ok(None);
    }
    let stdio = context.begin((slot, id), data, log_level, mode);
    capture.begin(id, attempt, stdio)?;
    let limited = Limited::begin(limits);
    let began = Instant::now();
    let invoked = plugin::invoke(plugin, &domain, &operation, context);
    forked::end_if_forked(context);
    drop(limited);
    let mut left_behind = leftovers.restore(&operation, began.elapsed());
    let finished_us = Utc::now().timestamp_micros();
    let mut saved = context.end();
    match invoked {
        Ok(true) => saved.failure = None,
        Ok(false) => {
            saved
                .failure
                .get_or_insert_with(|| error("the operation failed without a word"));
        }
        Err(fault) => saved.failure = Some(error(&fault.to_string())),
    }
    // If the limit of open files cannot be raised again, descriptors 1 and 2 cannot be restored either. The
    // operation's result is valid all the same.
    if let Err(error) = capture.end(id) {
        left_behind.get_or_insert_with(|| chain(&error));
        leftovers.run_nothing_more();
    }
    context.forget();
    memory_trim::used();
    let resident = resident_bytes();
    let peak = peak_resident_bytes();
    let finished = Finished {
        slot,
        task: id,
        output: saved.output,
        files: saved.files,
        failure: saved.failure,
        started_us,
        finished_us,
        cpu_us: processor_us().saturating_sub(used_before),
        // The kernel keeps one peak for the whole life of a process.
        peak_resident_bytes: if peak > peak_before { peak } else { resident },
        resident_bytes: resident,
        left_behind,
    };
    Ok(Some((finished, left_children())))
}

fn task_data(task: Run, descriptors: &mut Vec<OwnedFd>) -> Result<TaskData, WireError> {
    let metadata: serde_json::Value =
        serde_json::from_str(&task.metadata).unwrap_or_else(|_| json!({}));
    let capture = match task.capture {
        crate::wire::Capture::All => "all",
        crate::wire::Capture::Logs => "logs",
        crate::wire::Capture::Manual => "manual",
        crate::wire::Capture::None => "none",
    };
    // A scope may capture lower levels than the operation's own.
    let log_level = match task.capture {
        crate::wire::Capture::None => 0,
        crate::wire::Capture::Manual => 5,
        crate::wire::Capture::All | crate::wire::Capture::Logs => task.log_level,
    };
    let text = json!({
        "id": task.task,
        "operation": task.operation,
        "domain": task.domain,
        "attempt": task.attempt,
        "metadata": metadata,
        "log_level": log_level,
        "capture": capture,
    });
    let (encoding, input) = match task.input {
        Payload::None => (ENCODING_NONE, Bytes::Inline(Vec::new())),
        Payload::Fields(bytes) => (ENCODING_FIELDS, bytes),
        Payload::Raw(bytes) => (ENCODING_RAW, bytes),
    };
    let input = input.into_vec(descriptors)?;
    let files = task
        .files
        .into_iter()
        .map(|(name, bytes)| Ok((name, bytes.into_vec(descriptors)?)))
        .collect::<Result<_, WireError>>()?;
    Ok(TaskData {
        task: text.to_string(),
        encoding,
        input,
        files,
    })
}

fn error(message: &str) -> Failure {
    Failure {
        kind: "error".to_owned(),
        message: message.to_owned(),
        location: None,
        backtrace: None,
    }
}

/// The processor time of this process and its reaped children so far, in microseconds.
fn processor_us() -> u64 {
    let of = |who| {
        getrusage(who).map_or(0, |usage| {
            micros(usage.user_time()) + micros(usage.system_time())
        })
    };
    of(UsageWho::RUSAGE_SELF) + of(UsageWho::RUSAGE_CHILDREN)
}

fn micros(time: TimeVal) -> u64 {
    time.tv_sec().cast_unsigned() * 1_000_000 + time.tv_usec().cast_unsigned()
}
