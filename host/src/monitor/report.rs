//! How tasks end: what is written about one that its worker finished or that a death interrupted
//! (`fault` says why), and what waits to be written.

use super::{
    cycle::Fetched,
    fault::{Fault, of_failure},
    parked::Parked,
};
use crate::{
    model::{
        TaskId, Token, WorkerId,
        input::{has_nul, placeholder},
        task::{Cause, Outcome},
    },
    store::{CatalogRow, Claimed, Ended, Fate, FileContent, Mark, RAW_IN_ROW, to_jsonb_text},
    wire::{Bytes, Finished, Limits, Payload},
};
use chrono::{DateTime, Utc};
use std::{
    collections::{BTreeMap, HashMap},
    os::fd::OwnedFd,
    sync::Arc,
};

pub(super) use crate::causes::chain;

/// Where a claimed task is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// Its contents are being fetched.
    Fetching,
    /// In the queue of its domain's pool.
    Waiting,
    /// In the hands of a worker.
    Handed(WorkerId),
    /// Ended; what became of it is being written.
    Ending,
}

/// A task that this monitor has claimed.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) claimed: Claimed,
    /// What the claim did not bring along, from when it is fetched until it is handed over.
    pub(super) fetched: Option<Fetched>,
    pub(super) operation: Arc<CatalogRow>,
    pub(super) token: Token,
    pub(super) place: Place,
    /// Whether the database knows that it runs.
    pub(super) marked: bool,
    /// Somebody wants it to end, and why.
    pub(super) abort: Option<Option<String>>,
    /// It is being ended; whatever wants that first says why.
    pub(super) asked_to_end: Option<AskedToEnd>,
}

/// Why a task is being ended while it runs.
#[derive(Debug)]
pub(super) struct AskedToEnd {
    /// In words, if there are any.
    pub(super) because: Option<String>,
}

impl Held {
    /// Whether something has to be fetched before it can be handed over.
    pub(super) fn is_incomplete(&self) -> bool {
        self.claimed.has_more && self.fetched.is_none()
    }
}

impl Held {
    /// The last word about this attempt: another one follows if its operation allows it.
    pub(super) fn end(&self, fault: Fault, finished: DateTime<Utc>) -> Ended {
        let fate = match fault.cause {
            None => Fate::End(Outcome::Done),
            Some(cause)
                if cause.is_retried() && self.claimed.attempt < self.claimed.max_attempts =>
            {
                Fate::Retry(backoff_ms(self.operation.backoff_ms, self.claimed.attempt))
            }
            Some(cause) => Fate::End(cause.outcome()),
        };
        Ended {
            cause: fault.cause,
            error: fault.error.map(without_nul),
            location: fault.location.map(without_nul),
            backtrace: fault.backtrace.map(without_nul),
            exit_code: fault.exit_code,
            signal: fault.signal,
            plugin_operation: self.operation.plugin_operation,
            ..Ended::new(self.claimed.task, self.token, fate, finished)
        }
    }

    /// What it left cannot be stored.
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

    /// What its operation may use.
    pub(super) fn limits(&self) -> Limits {
        Limits {
            memory_bytes: self.operation.memory_bytes.map(i64::cast_unsigned),
            cpu_ms: self.operation.cpu_ms.map(i64::cast_unsigned),
            open_files: self.operation.open_files.map(i32::cast_unsigned),
        }
    }

    /// It never began: back to the queue, as if nobody had claimed it.
    pub(super) fn release(&self) -> Ended {
        Ended {
            fate: Fate::Release,
            ..self.end(Fault::default(), Utc::now())
        }
    }

    /// What a worker says of a task that it finished.
    pub(super) fn finished(&self, finished: &Finished, worker: WorkerId) -> Ended {
        let fault = finished
            .failure
            .as_ref()
            .map(|failure| of_failure(failure, self.limits()))
            .unwrap_or_default();
        let ended = self.end(fault, from_micros(finished.finished_us));
        Ended {
            started: Some(from_micros(finished.started_us)),
            peak_memory: Some(finished.peak_resident_bytes as i64),
            cpu_seconds: Some(finished.cpu_us as f64 / 1e6),
            worker: Some(worker),
            ..ended
        }
    }
}

/// Exponential from the operation's own pause (one second if it has none), with jitter of a
/// quarter, at most an hour.
fn backoff_ms(first: Option<i64>, attempt: i32) -> i64 {
    let first = first.unwrap_or(1000).max(0) as f64;
    let doubled = first * 2_f64.powi((attempt - 1).clamp(0, 30));
    // The clock's low digits are random enough to keep a herd apart.
    let jitter = f64::from(Utc::now().timestamp_subsec_nanos() % 1000) / 1000.0;
    (doubled.min(3_600_000.0) * (0.875 + jitter / 4.0)) as i64
}

/// Postgres stores no NUL in a text.
pub(super) fn without_nul(text: String) -> String {
    if text.contains('\0') {
        text.replace('\0', "\u{fffd}")
    } else {
        text
    }
}

/// What a task saved, as it is stored.
#[derive(Debug, Default)]
pub(super) struct Saved {
    /// JSON text that jsonb accepts.
    pub(super) fields: Option<String>,
    /// Bytes, unless they are among the files.
    pub(super) raw: Option<Vec<u8>>,
    /// `fields` or `raw`.
    pub(super) encoding: Option<&'static str>,
    /// What is stored beside the row.
    pub(super) files: Vec<FileContent>,
}

/// An end that the database could not store as it was, without what may be the reason: first its
/// output, then its words. `None`: there is nothing left to leave out.
pub(super) fn storable(ended: Ended, text: &str) -> Option<Ended> {
    if ended.output_encoding.is_some() {
        let mut without = Ended {
            output: None,
            output_raw: None,
            output_encoding: None,
            ..ended
        };
        if without.fate == Fate::End(Outcome::Done) {
            without.fate = Fate::End(Cause::BadOutput.outcome());
            without.cause = Some(Cause::BadOutput);
            without.error = Some(format!("the output cannot be stored: {text}"));
        }
        return Some(without);
    }
    let has_words = ended.location.is_some()
        || ended.backtrace.is_some()
        || ended.progress_message.is_some()
        || ended
            .error
            .as_deref()
            .is_some_and(|error| error != NO_WORDS);
    has_words.then(|| Ended {
        location: None,
        backtrace: None,
        progress_message: None,
        error: ended.cause.map(|_| NO_WORDS.to_owned()),
        ..ended
    })
}

/// Stands for words that the database could not store.
const NO_WORDS: &str = "(its words cannot be stored)";

/// Unpacks what a task saved, or says why it cannot be stored.
pub(super) fn saved(
    output: Payload,
    files: Vec<(String, Bytes)>,
    descriptors: &mut Vec<OwnedFd>,
) -> Result<Saved, String> {
    // The output's descriptor travels before those of the files.
    let (encoding, bytes) = match output {
        Payload::None => (None, Vec::new()),
        Payload::Fields(bytes) => (Some("fields"), unpacked(bytes, descriptors)?),
        Payload::Raw(bytes) => (Some("raw"), unpacked(bytes, descriptors)?),
    };
    let mut saved = Saved {
        encoding,
        ..Saved::default()
    };
    if let Some((name, _)) = files.iter().find(|(name, _)| name.contains('\0')) {
        let name = without_nul(name.clone());
        return Err(format!(
            "the name of the output file `{name}` holds a NUL character"
        ));
    }
    for (name, bytes) in files {
        let content = unpacked(bytes, descriptors)?;
        saved.files.push(FileContent { name, content });
    }
    match encoding {
        Some("fields") => saved.fields = Some(storable_fields(&bytes, &saved.files)?),
        Some(_) if bytes.len() > RAW_IN_ROW => {
            saved.files.push(FileContent {
                name: String::new(),
                content: bytes,
            });
        }
        Some(_) => saved.raw = Some(bytes),
        None => {}
    }
    Ok(saved)
}

fn unpacked(bytes: Bytes, descriptors: &mut Vec<OwnedFd>) -> Result<Vec<u8>, String> {
    bytes.into_vec(descriptors).map_err(|error| chain(&error))
}

/// Fields as JSON text that jsonb accepts, each file shown by its size and hash, or why there is
/// none.
fn storable_fields(bytes: &[u8], files: &[FileContent]) -> Result<String, String> {
    let mut value: serde_json::Value = serde_json::from_slice(bytes)
        .map_err(|error| format!("the output is not JSON: {error}"))?;
    if has_nul(&value) {
        return Err(
            "the output holds a NUL character, which Postgres cannot store; \
                    save it raw instead"
                .to_owned(),
        );
    }
    if let serde_json::Value::Object(fields) = &mut value {
        for file in files {
            fields.insert(file.name.clone(), placeholder(&file.content));
        }
    }
    Ok(to_jsonb_text(&value))
}

pub(super) fn from_micros(micros: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_micros(micros).unwrap_or_else(Utc::now)
}

/// What waits for the next cycle.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    pub(super) ended: BTreeMap<TaskId, Ended>,
    pub(super) marks: BTreeMap<TaskId, Mark>,
    /// What the database has refused.
    pub(super) parked: Parked,
    /// How many tasks are still held of each cycle's claim.
    open_cycles: HashMap<i64, usize>,
    finished_cycles: Vec<i64>,
}

impl Outbox {
    /// A claim was made.
    pub(super) fn open(&mut self, token: Token) {
        *self.open_cycles.entry(token.cycle()).or_insert(0) += 1;
    }

    /// Nothing more will be written about a task of this claim.
    pub(super) fn close(&mut self, token: Token) {
        if let Some(open) = self.open_cycles.get_mut(&token.cycle()) {
            *open -= 1;
            if *open == 0 {
                self.open_cycles.remove(&token.cycle());
                self.finished_cycles.push(token.cycle());
            }
        }
    }

    /// A task has ended; its marks have been overtaken, for one statement may write a row once.
    pub(super) fn end(&mut self, mut ended: Ended) {
        self.parked.marks.remove(&ended.task);
        if let Some(mark) = self.marks.remove(&ended.task) {
            overtake(&mut ended, mark);
        }
        self.ended.insert(ended.task, ended);
    }

    /// Whether there is anything worth a cycle of its own.
    pub(super) fn is_empty(&self) -> bool {
        self.ended.is_empty() && self.marks.is_empty()
    }

    /// Takes everything for a cycle.
    pub(super) fn take(&mut self) -> (Vec<Ended>, Vec<Mark>) {
        let ended = std::mem::take(&mut self.ended).into_values().collect();
        let marks = std::mem::take(&mut self.marks).into_values().collect();
        (ended, marks)
    }

    /// Takes one thing for a cycle.
    pub(super) fn take_one(&mut self) -> (Vec<Ended>, Vec<Mark>) {
        match self.ended.pop_first() {
            Some((_, ended)) => (vec![ended], Vec::new()),
            None => {
                let mark = self.marks.pop_first().map(|(_, mark)| mark);
                (Vec::new(), mark.into_iter().collect())
            }
        }
    }

    /// The cycles of whose claims nothing is held any more.
    pub(super) fn take_finished_cycles(&mut self) -> Vec<i64> {
        std::mem::take(&mut self.finished_cycles)
    }

    /// A cycle did not happen: everything waits again, but for marks overtaken by an end.
    pub(super) fn put_back(&mut self, ended: Vec<Ended>, marks: Vec<Mark>, cycles: Vec<i64>) {
        for one in ended {
            self.ended.entry(one.task).or_insert(one);
        }
        for mark in marks {
            match self.ended.get_mut(&mark.task) {
                Some(ended) => overtake(ended, mark),
                None => drop(self.marks.entry(mark.task).or_insert(mark)),
            }
        }
        self.finished_cycles.extend(cycles);
    }
}

/// An end says what a mark would have said.
fn overtake(ended: &mut Ended, mark: Mark) {
    if ended.progress.is_none() {
        ended.progress = mark.progress;
        ended.progress_message = mark.progress_message;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nul_is_found_wherever_it_hides() {
        assert!(
            storable_fields(br#"{"a": ["b\u0000"]}"#, &[])
                .unwrap_err()
                .contains("NUL")
        );
        assert!(storable_fields(br#"{"a\u0000": 1}"#, &[]).is_err());
        assert!(storable_fields(b"{", &[]).unwrap_err().contains("not JSON"));
        assert_eq!(
            storable_fields(br#" {"a" : 1} "#, &[]).unwrap(),
            r#"{"a":1}"#
        );
    }

    #[test]
    fn backoff_doubles_within_its_jitter() {
        for (attempt, expected) in [(1, 1000.0), (2, 2000.0), (4, 8000.0)] {
            let ms = backoff_ms(None, attempt) as f64;
            assert!((0.87..=1.13).contains(&(ms / expected)), "{attempt}: {ms}");
        }
        assert!(backoff_ms(Some(1000), 60) <= 3_600_000 * 9 / 8);
    }
}
