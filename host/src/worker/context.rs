//! The functions that a running operation can call in its worker. One context serves all tasks of a worker,
//! one after the other, and lives as long as the process.

use super::{capture::LogWriter, forked};
use crate::{
    plugin::{Captured, TaskContext, TaskData},
    wire::{
        BlockingSender, BlockingSocket, Bytes, Capture, Failure, FromWorker, Page, Payload,
        ToWorker, WireError,
    },
};
use chrono::Utc;
use rework_plugin::abi::{ENCODING_FIELDS, ENCODING_RAW};
use serde::Deserialize;
use std::{
    collections::{BTreeMap, VecDeque},
    os::fd::OwnedFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// The pause between two progress reports. The last one before the end is always sent.
const PROGRESS_PAUSE: Duration = Duration::from_millis(100);

/// The context of every task of this worker.
#[derive(Debug)]
pub(super) struct Worker {
    sender: BlockingSender,
    receiver: Mutex<BlockingSocket>,
    /// Messages that arrived while a task waited for an answer.
    early: Mutex<VecDeque<(ToWorker, Vec<OwnedFd>)>>,
    page: &'static Page,
    log: LogWriter,
    current: Mutex<Current>,
}

/// The running task.
#[derive(Debug)]
struct Current {
    slot: u32,
    task: i64,
    data: Arc<TaskData>,
    base: Captured,
    scopes: BTreeMap<u32, Captured>,
    next_scope: u32,
    may_scope: bool,
    saved: Saved,
    progress: Option<Instant>,
    held_progress: Option<(f64, String)>,
}

/// What a task has saved when it returns.
#[derive(Debug)]
pub(super) struct Saved {
    pub(super) output: Payload,
    pub(super) files: Vec<(String, Bytes)>,
    pub(super) failure: Option<Failure>,
}

impl Default for Saved {
    fn default() -> Self {
        Self {
            output: Payload::None,
            files: Vec::new(),
            failure: None,
        }
    }
}

/// Creates the only context of this process.
pub(super) fn install(
    socket: BlockingSocket,
    page: &'static Page,
    log: LogWriter,
) -> &'static Worker {
    let current = Current {
        slot: 0,
        task: 0,
        data: Arc::default(),
        base: Captured {
            level: 0,
            stdio: false,
        },
        scopes: BTreeMap::new(),
        next_scope: 1,
        may_scope: false,
        saved: Saved::default(),
        progress: None,
        held_progress: None,
    };
    Box::leak(Box::new(Worker {
        sender: socket.sender(),
        receiver: Mutex::new(socket),
        early: Mutex::new(VecDeque::new()),
        page,
        log,
        current: Mutex::new(current),
    }))
}

/// Locks a mutex, poisoned or not: if a thread of an operation has panicked, it did so outside of this
/// code, and the state is consistent.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Worker {
    /// The next message of the monitor.
    pub(super) fn recv(&self) -> Result<Option<(ToWorker, Vec<OwnedFd>)>, WireError> {
        if let Some(early) = locked(&self.early).pop_front() {
            return Ok(Some(early));
        }
        locked(&self.receiver).recv()
    }

    /// Sends a message to the monitor.
    pub(super) fn send(&self, message: FromWorker, with: Vec<OwnedFd>) -> Result<(), WireError> {
        self.sender.send(message, with)
    }

    /// Begins the next task. Returns whether printed lines are stored.
    pub(super) fn begin(
        &self,
        (slot, task): (u32, i64),
        data: TaskData,
        log_level: u8,
        capture: Capture,
    ) -> bool {
        let base = match capture {
            Capture::All => Captured {
                level: log_level,
                stdio: true,
            },
            Capture::Logs => Captured {
                level: log_level,
                stdio: false,
            },
            Capture::Manual | Capture::None => Captured {
                level: 0,
                stdio: false,
            },
        };
        let mut current = locked(&self.current);
        *current = Current {
            slot,
            task,
            data: Arc::new(data),
            base,
            scopes: BTreeMap::new(),
            next_scope: 1,
            may_scope: capture != Capture::None,
            saved: Saved::default(),
            progress: None,
            held_progress: None,
        };
        base.stdio
    }

    /// Ends the task: sends its last progress, and returns what it has saved.
    pub(super) fn end(&self) -> Saved {
        let mut current = locked(&self.current);
        current.scopes.clear();
        let task = current.task;
        let held = current.held_progress.take();
        let saved = std::mem::take(&mut current.saved);
        drop(current);
        if let Some((fraction, message)) = held {
            let _ = self.send(
                FromWorker::Progress {
                    task,
                    fraction,
                    message,
                },
                Vec::new(),
            );
        }
        saved
    }

    /// Writes a warning of the worker into the task's log.
    pub(super) fn warn(&self, message: &str) {
        const WARNING: u8 = 2;
        self.log
            .record(WARNING, Utc::now().timestamp_micros(), "rework", message);
    }

    /// Frees what was lent to the task.
    pub(super) fn forget(&self) {
        locked(&self.current).data = Arc::default();
    }
}

impl Current {
    /// What is captured now: the widest of what the task and its open scopes ask for.
    fn captured(&self) -> Captured {
        self.scopes
            .values()
            .fold(self.base, |widest, scope| Captured {
                level: widest.level.max(scope.level),
                stdio: widest.stdio || scope.stdio,
            })
    }
}

/// A failure as the SDK writes it, in JSON.
#[derive(Deserialize)]
struct FailureText {
    #[serde(default)]
    kind: String,
    #[serde(default)]
    message: String,
    #[serde(default)]
    location: Option<String>,
    #[serde(default)]
    backtrace: Option<String>,
}

fn failure_of(text: &str) -> Failure {
    match serde_json::from_str::<FailureText>(text) {
        Ok(FailureText {
            kind,
            message,
            location,
            backtrace,
        }) => Failure {
            kind,
            message,
            location,
            backtrace,
        },
        Err(_) => Failure {
            kind: "error".to_owned(),
            message: text.to_owned(),
            location: None,
            backtrace: None,
        },
    }
}

impl TaskContext for Worker {
    fn data(&self) -> Arc<TaskData> {
        Arc::clone(&locked(&self.current).data)
    }

    fn save_output(&self, encoding: u8, bytes: &[u8]) {
        if !forked::is_worker() {
            return forked::complain(self, "save_output");
        }
        let bytes = Bytes::Inline(bytes.to_vec());
        locked(&self.current).saved.output = match encoding {
            ENCODING_FIELDS => Payload::Fields(bytes),
            ENCODING_RAW => Payload::Raw(bytes),
            _ => Payload::None,
        };
    }

    fn save_output_file(&self, field: &str, bytes: &[u8]) {
        if !forked::is_worker() {
            return forked::complain(self, "save_output_file");
        }
        let mut current = locked(&self.current);
        let files = &mut current.saved.files;
        files.retain(|(name, _)| name != field);
        files.push((field.to_owned(), Bytes::Inline(bytes.to_vec())));
    }

    fn log(&self, level: u8, target: &str, message: &str) {
        if level <= locked(&self.current).captured().level {
            self.log
                .record(level, Utc::now().timestamp_micros(), target, message);
        }
    }

    fn progress(&self, fraction: f64, message: &str) {
        if !forked::is_worker() {
            return forked::complain(self, "progress");
        }
        let mut current = locked(&self.current);
        let task = current.task;
        let message = message.to_owned();
        if current
            .progress
            .is_some_and(|last| last.elapsed() < PROGRESS_PAUSE)
        {
            current.held_progress = Some((fraction, message));
            return;
        }
        current.progress = Some(Instant::now());
        current.held_progress = None;
        drop(current);
        let _ = self.send(
            FromWorker::Progress {
                task,
                fraction,
                message,
            },
            Vec::new(),
        );
    }

    fn cancelled(&self) -> bool {
        let current = locked(&self.current);
        let (slot, task) = (current.slot, current.task);
        drop(current);
        if forked::is_worker() {
            self.page.cancelled(slot)
        } else {
            self.page.is_over(slot, task)
        }
    }

    fn schedule(&self, request: &str, raw_input: Option<&[u8]>) -> Result<i64, String> {
        if !forked::is_worker() {
            return Err(forked::refusal("schedule"));
        }
        let gone = || "the monitor is gone".to_owned();
        let task = locked(&self.current).task;
        // Held from the request to the answer, so that of two threads each gets its own answer.
        let mut receiver = locked(&self.receiver);
        let question = FromWorker::Schedule {
            task,
            request: request.to_owned(),
            raw_input: raw_input.map(|bytes| Bytes::Inline(bytes.to_vec())),
        };
        self.send(question, Vec::new()).map_err(|_| gone())?;
        loop {
            match receiver.recv() {
                Ok(Some((ToWorker::Scheduled(answer), _))) => return answer,
                Ok(Some(other)) => locked(&self.early).push_back(other),
                Ok(None) | Err(_) => return Err(gone()),
            }
        }
    }

    fn capture(&self, scope: u32, captured: Captured) -> u32 {
        if !forked::is_worker() {
            // Output of a forked process is captured like the worker's.
            return 0;
        }
        let mut current = locked(&self.current);
        if !current.may_scope {
            return 0;
        }
        let before = current.captured().stdio;
        let scope = if scope == 0 {
            let number = current.next_scope;
            current.next_scope += 1;
            current.scopes.insert(number, captured);
            number
        } else {
            current.scopes.remove(&scope);
            scope
        };
        let after = current.captured().stdio;
        drop(current);
        if before != after {
            self.log.stdio(after);
        }
        scope
    }

    fn panicking(&self, failure: &str) {
        if !forked::is_worker() {
            // A forked process ends only itself; the runtime reports that on stderr.
            return;
        }
        let task = locked(&self.current).task;
        let failure = failure_of(failure);
        let _ = self.send(FromWorker::Panicking { task, failure }, Vec::new());
    }

    fn fail(&self, failure: &str) {
        locked(&self.current).saved.failure = Some(failure_of(failure));
    }
}
