//! The messages between monitor and worker. Their order: `Hello`, then `Ready` or `Refused`, then `Run` and
//! `Finished` for each task, and `Goodbye` at the end.

use serde::{Deserialize, Serialize};

/// The version of these messages, to be raised when a message changes. Monitor and worker run the same
/// binary, but the binary can be replaced while its monitor runs.
pub const WIRE_VERSION: u32 = 6;

/// A message from the monitor to a worker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum ToWorker {
    /// The first message.
    Hello {
        /// `WIRE_VERSION` of the monitor.
        version: u32,
        /// The plugin to load, a file of the cache. Its descriptor comes with the frame.
        plugin: PluginFile,
        /// The nonce of the markers in the output pipes; see [`crate::wire::marker`].
        nonce: String,
        /// Whether to deny TCP to the plugin.
        no_network: bool,
    },
    /// Run this task, after those that were sent before.
    Run(Box<Run>),
    /// The answer to [`FromWorker::Schedule`]: the id of the new task, or why it was not queued.
    Scheduled(Result<i64, String>),
    /// Begin no other task, and exit.
    Goodbye,
}

/// A message from a worker to its monitor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum FromWorker {
    /// The worker begins to load its plugin, which may end the process at any moment.
    Loading,
    /// The plugin is loaded.
    Loaded,
    /// The worker is ready for tasks.
    Ready {
        /// `WIRE_VERSION` of the worker.
        version: u32,
        /// Resident memory after loading, in bytes.
        resident_bytes: u64,
        /// The peak of resident memory, which includes that of its parent at the fork, in bytes.
        peak_resident_bytes: u64,
    },
    /// The plugin cannot be used, for this reason; the worker exits.
    Refused(String),
    /// The task in a slot has ended, and both pipes hold the marker of its end.
    Finished(Box<Finished>),
    /// The running task panics, which may end the process.
    Panicking {
        /// The id of the task.
        task: i64,
        /// The panic as a failure.
        failure: Failure,
    },
    /// The progress of the running task.
    Progress {
        /// The id of the task.
        task: i64,
        /// The part that is done, from 0 to 1.
        fraction: f64,
        /// A message of the operation about its progress.
        message: String,
    },
    /// The running task queues another one; the worker waits for the answer.
    Schedule {
        /// The running task.
        task: i64,
        /// The request for the new task, as JSON.
        request: String,
        /// The raw input of the new task.
        raw_input: Option<Bytes>,
    },
    /// The task whose `Finished` follows has left child processes behind. With this frame come the read
    /// ends of new pipes for stdout and stderr; output in the old pipes belongs to that task from now on.
    Pipes {
        /// The id of the task.
        task: i64,
    },
    /// An earlier task has changed the process in a way that was found only before the next task. The
    /// worker runs no other task.
    LeftBehind {
        /// The operation of the earlier task.
        operation: String,
        /// What it has changed, in words.
        left: String,
    },
    /// The last message of a worker that exits in order.
    Goodbye,
}

/// A plugin that a worker loads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PluginFile {
    /// SHA-256 of the file, in hexadecimal.
    pub hash: String,
    /// The name of the file that was registered, for messages.
    pub name: String,
}

/// A task to run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// The slot of the shared page in which its state is kept.
    pub slot: u32,
    pub task: i64,
    /// The number of the attempt, from 1.
    pub attempt: u32,
    /// The name of the operation in the plugin's registry.
    pub operation: String,
    /// The domain that the plugin declares: with `operation`, the key into its registry.
    pub declared_domain: String,
    /// The domain that the task belongs to.
    pub domain: String,
    /// The metadata of the task as JSON text; `{}` if there is none.
    pub metadata: String,
    pub input: Payload,
    /// The contents of the file fields of the input.
    pub files: Vec<(String, Bytes)>,
    /// The lowest level of log records to send, from 0 (none) to 5 (trace).
    pub log_level: u8,
    /// Which output of the task is stored.
    pub capture: Capture,
    pub limits: Limits,
}

/// The resources that a task may use, beyond those that its worker used before.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    pub memory_bytes: Option<u64>,
    /// Processor time.
    pub cpu_ms: Option<u64>,
    /// The number of open files.
    pub open_files: Option<u32>,
}

/// Which output of an operation is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Capture {
    /// All of it.
    All,
    /// Log records, but not what the operation prints.
    Logs,
    /// What the operation captures itself, scope by scope.
    Manual,
    /// Nothing.
    None,
}

/// The end of a task, as its worker saw it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Finished {
    /// The slot of the shared page that the task ran in.
    pub slot: u32,
    /// The id of the task.
    pub task: i64,
    /// What the operation saved before it ended, even if it failed.
    pub output: Payload,
    /// The contents of the file fields of the output.
    pub files: Vec<(String, Bytes)>,
    /// Why the task failed; `None`: it did not fail.
    pub failure: Option<Failure>,
    /// When the task began, in microseconds since the epoch, by the host's clock.
    pub started_us: i64,
    /// When the task ended, in microseconds since the epoch, by the host's clock.
    pub finished_us: i64,
    /// Processor time of the worker process during the task, in microseconds.
    pub cpu_us: u64,
    /// The peak of resident memory during the task, in bytes; if an earlier task of this worker had a
    /// higher peak, the resident memory at the end.
    pub peak_resident_bytes: u64,
    /// The worker's resident memory after the task, in bytes.
    pub resident_bytes: u64,
    /// What the task has changed in the process that cannot be undone, in words. The worker then runs no
    /// other task.
    pub left_behind: Option<String>,
}

/// An input or output on its way between monitor and worker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Payload {
    /// There is none.
    None,
    /// One JSON document.
    Fields(Bytes),
    /// Raw bytes.
    Raw(Bytes),
}

/// Bytes in the frame or, if they are many, in a sealed memfd that comes with it. Senders create `Inline`;
/// the socket converts large ones.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Bytes {
    /// The bytes are in the frame.
    Inline(Vec<u8>),
    /// The bytes are in the next descriptor that comes with the frame; their number.
    Shared(u64),
}

impl ToWorker {
    /// The payloads of the message, in the order of their descriptors.
    pub(super) fn payloads(&mut self) -> Vec<&mut Bytes> {
        match self {
            Self::Run(run) => {
                let input = run.input.bytes_mut();
                input
                    .into_iter()
                    .chain(run.files.iter_mut().map(|(_, bytes)| bytes))
                    .collect()
            }
            Self::Hello { .. } | Self::Scheduled(_) | Self::Goodbye => Vec::new(),
        }
    }
}

impl FromWorker {
    /// The payloads of the message, in the order of their descriptors.
    pub(super) fn payloads(&mut self) -> Vec<&mut Bytes> {
        match self {
            Self::Finished(finished) => {
                let output = finished.output.bytes_mut();
                output
                    .into_iter()
                    .chain(finished.files.iter_mut().map(|(_, bytes)| bytes))
                    .collect()
            }
            Self::Schedule { raw_input, .. } => raw_input.iter_mut().collect(),
            Self::Loading
            | Self::Loaded
            | Self::Ready { .. }
            | Self::Refused(_)
            | Self::Panicking { .. }
            | Self::Progress { .. }
            | Self::Pipes { .. }
            | Self::LeftBehind { .. }
            | Self::Goodbye => Vec::new(),
        }
    }
}

impl Payload {
    fn bytes_mut(&mut self) -> Option<&mut Bytes> {
        match self {
            Self::None => None,
            Self::Fields(bytes) | Self::Raw(bytes) => Some(bytes),
        }
    }
}

/// Why an operation failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// `error`, `panic`, `bad input` or `bad output`.
    pub kind: String,
    /// The message of the operation.
    pub message: String,
    /// `file:line:column`, if known.
    pub location: Option<String>,
    /// The backtrace of a panic.
    pub backtrace: Option<String>,
}
