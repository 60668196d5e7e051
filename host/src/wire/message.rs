//! What monitor and worker say to each other, in order: `Hello`, then `Ready` or `Refused`, then
//! `Run` and `Finished` for each task, and `Goodbye` last.

use serde::{Deserialize, Serialize};

/// Raised when a message changes; monitor and worker are one binary, but a binary can be replaced
/// while its monitor runs.
pub const WIRE_VERSION: u32 = 1;

/// From monitor to worker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum ToWorker {
    /// The first frame.
    Hello {
        /// [`WIRE_VERSION`] of the monitor.
        version: u32,
        /// The plugins to load, each a file of the content-addressed cache.
        plugins: Vec<PluginFile>,
        /// Separates what tasks print in the output pipes; see [`crate::wire::marker`].
        nonce: String,
    },
    /// Run this task after those already sent.
    Run(Box<Run>),
    /// The answer to [`FromWorker::Schedule`]: the id of the new task, or why there is none.
    Scheduled(Result<i64, String>),
    /// Run nothing more that has not begun; exit.
    Goodbye,
}

/// From worker to monitor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum FromWorker {
    /// Every plugin is loaded.
    Ready {
        /// [`WIRE_VERSION`] of the worker.
        version: u32,
        /// Resident memory after loading, in bytes.
        resident_bytes: u64,
    },
    /// A plugin cannot be used; the worker exits.
    Refused(String),
    /// The task of a slot has ended, and both pipes hold its end marker.
    Finished(Box<Finished>),
    /// A panic has begun in the running task; it may take the process with it.
    Panicking { slot: u32, failure: Failure },
    /// How far the running task is.
    Progress {
        slot: u32,
        fraction: f64,
        message: String,
    },
    /// The running task asks for another one, as JSON; the worker waits for the answer.
    Schedule { slot: u32, request: String },
    /// The last frame of an orderly exit.
    Goodbye,
}

/// A plugin to load.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PluginFile {
    /// SHA-256 of the content, in hexadecimal.
    pub hash: String,
    /// Where the cache holds it.
    pub path: std::path::PathBuf,
}

/// One task to run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// The slot of the shared page that tells whether it has begun.
    pub slot: u32,
    /// The task.
    pub task: i64,
    /// From 1.
    pub attempt: u32,
    /// Hash of the plugin that offers the operation.
    pub plugin: String,
    /// The operation's name inside the plugin.
    pub operation: String,
    /// The domain the *plugin's author* declared: with `operation`, the key into its registry.
    pub declared_domain: String,
    /// The domain the task belongs to.
    pub domain: String,
    /// JSON text; `{}` if there is none.
    pub metadata: String,
    /// The input.
    pub input: Payload,
    /// The contents of the file fields of the input.
    pub files: Vec<(String, Bytes)>,
    /// Lowest level of log records to forward, 0 (off) to 5 (trace).
    pub log_level: u8,
}

/// How a task ended, as its worker saw it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Finished {
    /// The slot it ran in.
    pub slot: u32,
    /// The task.
    pub task: i64,
    /// What it saved before it ended, also when it failed.
    pub output: Payload,
    /// The contents of the file fields of the output.
    pub files: Vec<(String, Bytes)>,
    /// Why it failed, if it did.
    pub failure: Option<Failure>,
    /// When it began and ended, in microseconds since the epoch, on this host's clock.
    pub started_us: i64,
    /// See `started_us`.
    pub finished_us: i64,
    /// Processor time of the worker process during the task, in microseconds.
    pub cpu_us: u64,
    /// The worker's peak resident memory so far, in bytes.
    pub peak_resident_bytes: u64,
}

/// A payload on its way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Payload {
    /// There is none.
    None,
    /// One JSON document.
    Fields(Bytes),
    /// Bytes as given.
    Raw(Bytes),
}

/// Bytes in the frame, or, when large, in a sealed memfd that travels with it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Bytes {
    /// In the frame.
    Inline(Vec<u8>),
    /// In the next descriptor that arrives with this frame; its length.
    Shared(u64),
}

/// Why an operation failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// `error`, `panic`, `bad input` or `bad output`.
    pub kind: String,
    /// In the operation's own words.
    pub message: String,
    /// `file:line:column`, where known.
    pub location: Option<String>,
    /// A backtrace, of a panic.
    pub backtrace: Option<String>,
}
