//! What monitor and worker say to each other, in order: `Hello`, then `Ready` or `Refused`, then
//! `Run` and `Finished` for each task, and `Goodbye` last.

use serde::{Deserialize, Serialize};

/// Raised when a message changes; monitor and worker are one binary, but a binary can be replaced
/// while its monitor runs.
pub const WIRE_VERSION: u32 = 6;

/// From monitor to worker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum ToWorker {
    /// The first frame.
    Hello {
        /// [`WIRE_VERSION`] of the monitor.
        version: u32,
        /// The plugin to load, a file of the content-addressed cache. Its descriptor comes with the frame.
        plugin: PluginFile,
        /// Separates what tasks print in the output pipes; see [`crate::wire::marker`].
        nonce: String,
        /// Whether to deny TCP to the plugin.
        no_network: bool,
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
    /// It begins to load its plugin, which may end the process without a word.
    Loading,
    /// Its plugin is loaded.
    Loaded,
    /// It waits for tasks.
    Ready {
        /// [`WIRE_VERSION`] of the worker.
        version: u32,
        /// Resident memory after loading, in bytes.
        resident_bytes: u64,
        /// The most that it has had, and what its parent had when it was forked.
        peak_resident_bytes: u64,
    },
    /// Its plugin cannot be used; the worker exits.
    Refused(String),
    /// The task of a slot has ended, and both pipes hold its end marker.
    Finished(Box<Finished>),
    /// A panic has begun in the running task; it may take the process with it.
    Panicking {
        /// The task.
        task: i64,
        /// What the panic says.
        failure: Failure,
    },
    /// How far the running task is.
    Progress {
        /// The task.
        task: i64,
        /// 0 to 1.
        fraction: f64,
        /// A word about it.
        message: String,
    },
    /// The running task asks for another one; the worker waits for the answer.
    Schedule {
        /// The task.
        task: i64,
        /// What it wants, as JSON.
        request: String,
        /// Its raw input, if it has one.
        raw_input: Option<Bytes>,
    },
    /// The task that is about to be `Finished` has left children behind. With this frame come the read ends of
    /// new pipes for stdout and stderr; the old ones belong to that task from now on.
    Pipes {
        /// The task that ended.
        task: i64,
    },
    /// What an earlier task has left in this process, found out before the next one began: nothing more
    /// runs here.
    LeftBehind {
        /// The operation of the earlier task.
        operation: String,
        /// What it left, in words.
        left: String,
    },
    /// The last frame of an orderly exit.
    Goodbye,
}

/// A plugin to load.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PluginFile {
    /// SHA-256 of the content, in hexadecimal.
    pub hash: String,
    /// The name of the file that was registered, for people.
    pub name: String,
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
    /// What of its output counts.
    pub capture: Capture,
    /// What it may use.
    pub limits: Limits,
}

/// What an operation may use, beyond what its worker had before.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Memory, in bytes.
    pub memory_bytes: Option<u64>,
    /// Processor time.
    pub cpu_ms: Option<u64>,
    /// Open files.
    pub open_files: Option<u32>,
}

/// What of an operation's output is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Capture {
    /// Everything.
    All,
    /// Log records, not what it prints.
    Logs,
    /// What it captures itself, scope by scope.
    Manual,
    /// Nothing.
    None,
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
    /// When it began, in microseconds since the epoch, on this host's clock.
    pub started_us: i64,
    /// When it ended, likewise.
    pub finished_us: i64,
    /// Processor time of the worker process during the task, in microseconds.
    pub cpu_us: u64,
    /// The task's peak resident memory, in bytes; if an earlier task of this worker had a higher
    /// one, what there was at the end.
    pub peak_resident_bytes: u64,
    /// The worker's resident memory after the task, in bytes.
    pub resident_bytes: u64,
    /// What it has left in its process that cannot be put back, in words; then the worker runs
    /// nothing more.
    pub left_behind: Option<String>,
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

/// Bytes in the frame, or, when large, in a sealed memfd that travels with it. Senders always say
/// `Inline`; the socket shares what is large.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Bytes {
    /// In the frame.
    Inline(Vec<u8>),
    /// In the next descriptor that arrives with this frame; its length.
    Shared(u64),
}

impl ToWorker {
    /// Its payloads, in the order in which their descriptors travel.
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
    /// Its payloads, in the order in which their descriptors travel.
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
    /// In the operation's own words.
    pub message: String,
    /// `file:line:column`, where known.
    pub location: Option<String>,
    /// A backtrace, of a panic.
    pub backtrace: Option<String>,
}
