//! One claimed task: how far it is, and what is written about its end (`fault` says why it ended).

use crate::{
    model::{
        Token, WorkerId,
        log::level_number,
        task::{Cause, Outcome},
        text::without_nul,
        time::from_micros,
    },
    monitor::fault::{Fault, Ran, of_failure},
    store::{CatalogRow, Claimed, Ended, Fate, FileContent},
    wire::{Bytes, Capture, Finished, Limits, Payload, Run},
};
use chrono::{DateTime, Utc};
use std::{sync::Arc, time::Duration};

/// How far a claimed task is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::monitor) enum Stage {
    /// Its contents are being fetched.
    Fetching,
    /// It waits for a worker, in its pool.
    Waiting,
    /// A worker has it.
    Handed(WorkerId),
    /// It has ended, and what became of it is not in the database yet.
    Ending,
}

/// What a claim did not bring along.
#[derive(Debug, Default)]
pub(in crate::monitor) struct Fetched {
    /// Large fields, as JSON text.
    pub(in crate::monitor) fields: Option<String>,
    /// Large raw bytes.
    pub(in crate::monitor) raw: Option<Vec<u8>>,
    /// The contents of file fields.
    pub(in crate::monitor) files: Vec<FileContent>,
}

/// What is shown of a task that runs. Its end says the same, unless it knows better.
#[derive(Debug, Clone)]
pub(super) struct Shown {
    pub(super) worker: WorkerId,
    /// When it began.
    pub(super) started: DateTime<Utc>,
    /// How far it was when it last said so, from 0 to 1, and a word about it.
    pub(super) progress: Option<(f32, String)>,
}

/// A task that this monitor has claimed.
#[derive(Debug)]
pub(in crate::monitor) struct Held {
    /// What the claim brought along.
    pub(in crate::monitor) claimed: Claimed,
    /// The version of its operation that it was claimed for.
    pub(in crate::monitor) operation: Arc<CatalogRow>,
    /// Its claim.
    pub(super) token: Token,
    /// How far it is.
    pub(super) stage: Stage,
    /// What the claim did not bring along, from when it is fetched until it is handed over.
    pub(super) fetched: Option<Fetched>,
    /// What the database shows while it runs, or will with the next cycle; `None`: that it is queued.
    pub(super) shown: Option<Shown>,
    /// Whether somebody has asked the database to abort it, and with which message.
    pub(super) abort: Option<Option<String>>,
}

impl Held {
    /// A task that has just been claimed.
    pub(super) fn new(claimed: Claimed, token: Token, operation: Arc<CatalogRow>) -> Self {
        Self {
            claimed,
            operation,
            token,
            stage: Stage::Waiting,
            fetched: None,
            shown: None,
            abort: None,
        }
    }

    /// Whether something has to be fetched before it can be handed over.
    pub(in crate::monitor) fn is_incomplete(&self) -> bool {
        self.claimed.has_more && self.fetched.is_none()
    }

    /// Whether its contents are in this process's memory, or on their way there.
    pub(super) fn is_fetched(&self) -> bool {
        match self.stage {
            Stage::Fetching => true,
            Stage::Waiting => self.fetched.is_some(),
            Stage::Handed(_) | Stage::Ending => false,
        }
    }

    /// How far it is.
    pub(in crate::monitor) fn stage(&self) -> Stage {
        self.stage
    }

    /// What its operation may use.
    pub(in crate::monitor) fn limits(&self) -> Limits {
        Limits {
            memory_bytes: self.operation.memory_bytes.map(i64::cast_unsigned),
            cpu_ms: self.operation.cpu_ms.map(i64::cast_unsigned),
            open_files: self.operation.open_files.map(i32::cast_unsigned),
        }
    }

    /// The longest time that it may run.
    pub(in crate::monitor) fn timeout(&self) -> Option<Duration> {
        let ms = self.operation.timeout_ms?;
        Some(Duration::from_millis(ms.max(0).cast_unsigned()))
    }

    /// The message that hands it to a worker's slot. What was fetched goes with it; should the task come
    /// back, it is fetched again.
    pub(super) fn run(&mut self, slot: u32) -> Run {
        let fetched = self.fetched.take().unwrap_or_default();
        let (claimed, operation) = (&self.claimed, &self.operation);
        let input = match claimed.input_encoding.as_deref() {
            Some("raw") => {
                let raw = fetched.raw.or_else(|| claimed.input_raw.clone());
                Payload::Raw(Bytes::Inline(raw.unwrap_or_default()))
            }
            Some(_) => {
                let fields = fetched.fields.or_else(|| claimed.input.clone());
                Payload::Fields(Bytes::Inline(fields.unwrap_or_default().into_bytes()))
            }
            None => Payload::None,
        };
        let level = operation.log_level.as_deref().unwrap_or("info");
        Run {
            slot,
            task: claimed.task.0,
            attempt: claimed.attempt.cast_unsigned(),
            operation: operation.name.clone(),
            declared_domain: operation.declared_domain.clone(),
            domain: operation.domain.clone(),
            metadata: claimed
                .metadata
                .as_ref()
                .map_or_else(|| "{}".to_owned(), ToString::to_string),
            input,
            files: fetched
                .files
                .into_iter()
                .map(|file| (file.name, Bytes::Inline(file.content)))
                .collect(),
            log_level: level_number(level).unwrap_or(3),
            capture: match operation.capture.as_str() {
                "logs" => Capture::Logs,
                "manual" => Capture::Manual,
                "none" => Capture::None,
                _ => Capture::All,
            },
            limits: self.limits(),
        }
    }

    /// The end of this attempt: another one follows if its operation allows it.
    pub(super) fn end(&self, fault: Fault, finished: DateTime<Utc>) -> Ended {
        let fate = match fault.cause {
            None => Fate::End(Outcome::Done),
            Some(cause)
                if cause.is_retried() && self.claimed.attempt < self.claimed.max_attempts =>
            {
                let first = self.operation.backoff_ms;
                Fate::Retry(backoff_ms(first, self.claimed.attempt, finished))
            }
            Some(cause) => Fate::End(cause.outcome()),
        };
        let shown = self.shown.as_ref();
        let (progress, progress_message) = shown.and_then(|shown| shown.progress.clone()).unzip();
        Ended {
            operation: self.claimed.operation,
            is_shown: shown.is_some(),
            is_unwanted: self.abort.is_some(),
            worker: shown.map(|shown| shown.worker),
            // As it was first shown.
            started: shown.map(|shown| shown.started),
            progress,
            progress_message,
            cause: fault.cause,
            error: fault.error.map(without_nul),
            location: fault.location.map(without_nul),
            backtrace: fault.backtrace.map(without_nul),
            exit_code: fault.exit_code,
            signal: fault.signal,
            plugin_operation: self.operation.plugin_operation,
            ..Ended::new(
                (self.claimed.task, self.claimed.attempt),
                self.token,
                fate,
                finished,
            )
        }
    }

    /// The end of an attempt that did not report it itself.
    pub(super) fn interrupted(&self, fault: Fault, ran: Ran, now: DateTime<Utc>) -> Ended {
        let end = self.end(fault, now);
        Ended {
            started: end.started.or(ran.started),
            peak_memory: ran.peak_memory,
            cpu_seconds: ran.cpu_seconds,
            worker: ran.worker.or(end.worker),
            ..end
        }
    }

    /// The end of an attempt whose output cannot be stored.
    pub(super) fn bad_output(&self, ended: Ended, fault: String) -> Ended {
        let bad = self.end(Fault::of(Cause::BadOutput, Some(fault)), ended.finished);
        Ended {
            fate: bad.fate,
            cause: bad.cause,
            error: bad.error,
            output: None,
            output_raw: None,
            output_encoding: None,
            ..ended
        }
    }

    /// It never began: back to the queue, as if nobody had claimed it.
    pub(super) fn release(&self, now: DateTime<Utc>) -> Ended {
        Ended {
            fate: Fate::Release,
            ..self.end(Fault::default(), now)
        }
    }

    /// What a worker says of a task that it finished. `stopped_for`: the task had been told to end for this
    /// reason, and ended by itself, which counts as if it had been made to.
    pub(super) fn finished(
        &self,
        finished: &Finished,
        worker: WorkerId,
        stopped_for: Option<Fault>,
    ) -> Ended {
        let failure = finished.failure.as_ref();
        let fault = failure
            .map(|failure| of_failure(failure, self.limits()))
            .unwrap_or_default();
        let end = self.end(fault, from_micros(finished.finished_us));
        let ended = Ended {
            started: end.started.or(Some(from_micros(finished.started_us))),
            peak_memory: Some(finished.peak_resident_bytes as i64),
            cpu_seconds: Some(finished.cpu_us as f64 / 1e6),
            worker: Some(worker),
            ..end
        };
        let Some(fault) = stopped_for else {
            return ended;
        };
        let made_to = self.end(fault, ended.finished);
        Ended {
            fate: made_to.fate,
            cause: made_to.cause,
            error: made_to.error,
            ..ended
        }
    }
}

/// The pause before the next attempt, in milliseconds: exponential from the operation's own pause (one second
/// if it has none), at most an hour, with a jitter of a quarter.
fn backoff_ms(first: Option<i64>, attempt: i32, finished: DateTime<Utc>) -> i64 {
    let first = first.unwrap_or(1000).max(0) as f64;
    let doubled = first * 2_f64.powi((attempt - 1).clamp(0, 30));
    // The low digits of a time are random enough to keep a herd of tasks apart.
    let jitter = f64::from(finished.timestamp_subsec_micros() % 1000) / 1000.0;
    (doubled.min(3_600_000.0) * (0.875 + jitter / 4.0)) as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_doubles_within_its_jitter() {
        for micros in [0, 499, 999] {
            let finished = from_micros(micros);
            for (attempt, expected) in [(1, 1000.0), (2, 2000.0), (4, 8000.0)] {
                let ms = backoff_ms(None, attempt, finished) as f64;
                assert!((0.87..=1.13).contains(&(ms / expected)), "{attempt}: {ms}");
            }
            assert!(backoff_ms(Some(1000), 60, finished) <= 3_600_000 * 9 / 8);
        }
        let pauses = [0, 999].map(|micros| backoff_ms(None, 1, from_micros(micros)));
        assert_eq!(pauses, [875, 1124], "not all at once");
    }
}
