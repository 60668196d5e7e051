//! Run an operation in a unit test, without a host: inputs in; output, logs and failure out.
//!
//! ```
//! use rework_plugin::{prelude::*, testing};
//!
//! /// Adds.
//! #[operation]
//! fn total(a: i64, b: Option<i64>) -> Result<i64> {
//!     Ok(a + b.unwrap_or(0))
//! }
//!
//! # fn main() {
//! let outcome = testing::task("total").input(json!({"a": 1, "b": 2})).run();
//! assert_eq!(outcome.output, Some(json!(3)));
//!
//! let outcome = testing::task("total").run();
//! assert_eq!(outcome.failure.unwrap().message, "missing required input `a` of `total`");
//! # }
//! ```
//!
//! The input is checked and completed as a host does it, with the same messages. Expressions for moments,
//! such as `(shifted (today) #:days 7)`, mean times of UTC here; a host resolves them in its own time zone.
//!
//! Every test has a task of its own, also when several run at once. What an operation prints is
//! shown by the test runner; what it logs is in [`Outcome::logs`]. A thread that an operation
//! starts logs to the test that began last, so do not count on its records where tests run at
//! once; a worker runs one task at a time and knows better.

use crate::{
    Level,
    abi::{
        Context, ENCODING_FIELDS, ENCODING_NONE, ENCODING_RAW, Host, HostRef, Payload, RUN_DONE,
    },
    export::{OPERATIONS, Registered},
    input::{self, Complete, Given, check_document},
    io::Value,
    moment,
    spec::Spec,
};
use abi_stable::{
    prefix_type::PrefixTypeTrait,
    std_types::{ROption, RResult, RSlice, RStr, RString},
};
use serde::Deserialize;
use serde_json::json;
use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

/// A task for a test; see the module.
#[derive(Debug, Clone)]
#[must_use = "nothing runs before run()"]
pub struct TestTask {
    operation: String,
    domain: Option<String>,
    input: Option<Value>,
    raw_input: Option<Vec<u8>>,
    files: BTreeMap<String, Vec<u8>>,
    metadata: Value,
    attempt: u32,
    cancelled: bool,
    level: Level,
}

/// What an operation did in a test.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// The output that the operation saved or returned, as JSON.
    pub output: Option<Value>,
    /// The output that the operation saved, as raw bytes.
    pub raw_output: Option<Vec<u8>>,
    /// The contents of the output's file fields.
    pub files: BTreeMap<String, Vec<u8>>,
    /// The log records of the operation.
    pub logs: Vec<LogRecord>,
    /// The progress reports of the operation, in order.
    pub progress: Vec<(f64, String)>,
    /// The tasks that the operation queued, as it described them; their ids count from 1.
    pub scheduled: Vec<Value>,
    /// The raw inputs of these tasks, by id.
    pub scheduled_raw: BTreeMap<i64, Vec<u8>>,
    /// Why the operation failed; `None`: it did not.
    pub failure: Option<Failure>,
}

/// A log record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogRecord {
    /// The level, from 1 (error) to 5 (trace).
    pub level: u8,
    /// The module path of the record.
    pub target: String,
    /// The message, followed by its fields.
    pub message: String,
}

/// Why an operation failed.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Failure {
    /// `error`, `panic`, `bad input` or `bad output`.
    pub kind: String,
    /// The message of the operation.
    pub message: String,
    /// `file:line:column`, if known.
    #[serde(default)]
    pub location: Option<String>,
    /// The backtrace of a panic.
    #[serde(default)]
    pub backtrace: Option<String>,
}

/// A task of the operation with this name in this crate.
pub fn task(operation: &str) -> TestTask {
    TestTask {
        operation: operation.to_owned(),
        domain: None,
        input: None,
        raw_input: None,
        files: BTreeMap::new(),
        metadata: json!({}),
        attempt: 1,
        cancelled: false,
        level: Level::Trace,
    }
}

impl TestTask {
    /// The domain of the operation, if operations in several domains have its name.
    pub fn domain(mut self, domain: &str) -> Self {
        self.domain = Some(domain.to_owned());
        self
    }

    /// The input of the task.
    pub fn input(mut self, input: impl Into<Value>) -> Self {
        self.input = Some(input.into());
        self
    }

    /// The input of the task as raw bytes.
    pub fn raw_input(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.raw_input = Some(bytes.into());
        self
    }

    /// The content of a file field of the input.
    pub fn file(mut self, field: &str, content: impl Into<Vec<u8>>) -> Self {
        self.files.insert(field.to_owned(), content.into());
        self
    }

    /// The metadata of the task.
    pub fn metadata(mut self, metadata: Value) -> Self {
        self.metadata = metadata;
        self
    }

    /// The number of the attempt; 1 by default.
    pub fn attempt(mut self, attempt: u32) -> Self {
        self.attempt = attempt;
        self
    }

    /// Makes the task one that somebody has asked to abort.
    pub fn cancelled(mut self) -> Self {
        self.cancelled = true;
        self
    }

    /// The lowest level of log records that is kept; by default all are.
    pub fn level(mut self, level: Level) -> Self {
        self.level = level;
        self
    }

    /// Checks the input as a host would, runs the operation on this thread, and returns what it did.
    ///
    /// # Panics
    ///
    /// If the crate offers no operation of this name, or several.
    pub fn run(self) -> Outcome {
        let operation = self.find();
        let complete = match self.complete(operation) {
            Ok(complete) => complete,
            Err(message) => {
                let kind = "bad input".to_owned();
                let failure = Failure {
                    kind,
                    message,
                    location: None,
                    backtrace: None,
                };
                return Outcome {
                    failure: Some(failure),
                    ..Outcome::default()
                };
            }
        };
        let about = json!({
            "id": 1,
            "operation": operation.name,
            "domain": operation.domain,
            "attempt": self.attempt,
            "metadata": self.metadata,
            "log_level": self.level as u8,
            "capture": "all",
        });
        let (encoding, input) = match (complete.raw, complete.fields) {
            (Some(raw), _) => (ENCODING_RAW, raw),
            (None, Some(fields)) => (ENCODING_FIELDS, fields.to_string().into_bytes()),
            (None, None) => (ENCODING_NONE, Vec::new()),
        };
        // Leaked, because a thread that the operation leaves behind may log for ever.
        let session: &'static Session = Box::leak(Box::new(Session {
            about: about.to_string(),
            encoding,
            input,
            files: complete.files.into_iter().collect(),
            cancelled: self.cancelled,
            outcome: Mutex::new(Outcome::default()),
        }));
        let ended = (operation.run)(host(), Context(std::ptr::from_ref(session).cast()));
        let mut outcome = session.outcome().clone();
        if ended == RUN_DONE {
            outcome.failure = None;
        }
        outcome
    }

    fn find(&self) -> &'static Registered {
        let fits = |one: &&Registered| {
            one.name == self.operation
                && self
                    .domain
                    .as_ref()
                    .is_none_or(|domain| one.domain == domain)
        };
        let found: Vec<&Registered> = OPERATIONS.iter().filter(fits).collect();
        match found.as_slice() {
            [one] => one,
            [] => {
                let known: Vec<&str> = OPERATIONS.iter().map(|one| one.name).collect();
                panic!(
                    "no operation `{}` in this crate, only: {}",
                    self.operation,
                    known.join(", ")
                )
            }
            _ => panic!(
                "several operations `{}`: name one with domain()",
                self.operation
            ),
        }
    }

    /// The input as a host would hand it over: the fields; contents of files are beside them.
    fn complete(&self, operation: &Registered) -> Result<Complete, String> {
        let specs: Option<Vec<Spec>> =
            serde_json::from_str(operation.inputs).expect("the macro writes specs");
        if let Some(input) = &self.input {
            check_document("input", input)?;
        }
        let given = Given {
            fields: self.input.clone(),
            raw: self.raw_input.clone(),
            files: self.files.clone().into_iter().collect(),
        };
        let now = SystemTime::now().into();
        input::complete(operation.name, specs.as_deref(), given, &|expression| {
            moment::resolve(expression, now, &chrono::Utc)
        })
    }
}

/// The object that a context of a test points to.
struct Session {
    about: String,
    encoding: u8,
    input: Vec<u8>,
    files: BTreeMap<String, Vec<u8>>,
    cancelled: bool,
    outcome: Mutex<Outcome>,
}

impl Session {
    fn outcome(&self) -> MutexGuard<'_, Outcome> {
        self.outcome.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn host() -> HostRef {
    Host {
        task: task_of,
        input,
        input_file,
        save_output,
        save_output_file,
        log,
        progress,
        cancelled,
        schedule,
        capture,
        panicking,
        fail,
        schedule_raw,
    }
    .leak_into_prefix()
}

fn session(context: Context) -> &'static Session {
    // SAFETY: every context of this module points to a `Session` that is never freed.
    unsafe { &*context.0.cast::<Session>() }
}

fn failure(text: RStr<'_>) -> Option<Failure> {
    serde_json::from_str(text.as_str()).ok()
}

extern "C" fn task_of(context: Context) -> RStr<'static> {
    session(context).about.as_str().into()
}

extern "C" fn input(context: Context) -> Payload {
    let session = session(context);
    Payload {
        encoding: session.encoding,
        bytes: RSlice::from_slice(&session.input),
    }
}

extern "C" fn input_file(context: Context, field: RStr<'_>) -> ROption<RSlice<'static, u8>> {
    let content = session(context).files.get(field.as_str());
    content.map(|content| RSlice::from_slice(content)).into()
}

extern "C" fn save_output(context: Context, encoding: u8, bytes: RSlice<'_, u8>) {
    let mut outcome = session(context).outcome();
    (outcome.output, outcome.raw_output) = match encoding {
        ENCODING_FIELDS => (serde_json::from_slice(bytes.as_slice()).ok(), None),
        _ => (None, Some(bytes.to_vec())),
    };
}

extern "C" fn save_output_file(context: Context, field: RStr<'_>, bytes: RSlice<'_, u8>) {
    session(context)
        .outcome()
        .files
        .insert(field.to_string(), bytes.to_vec());
}

extern "C" fn log(context: Context, level: u8, target: RStr<'_>, message: RStr<'_>) {
    let record = LogRecord {
        level,
        target: target.to_string(),
        message: message.to_string(),
    };
    session(context).outcome().logs.push(record);
}

extern "C" fn progress(context: Context, fraction: f64, message: RStr<'_>) {
    session(context)
        .outcome()
        .progress
        .push((fraction, message.to_string()));
}

extern "C" fn cancelled(context: Context) -> bool {
    session(context).cancelled
}

extern "C" fn schedule(context: Context, request: RStr<'_>) -> RResult<i64, RString> {
    let mut outcome = session(context).outcome();
    outcome
        .scheduled
        .push(serde_json::from_str(request.as_str()).unwrap_or_default());
    RResult::ROk(outcome.scheduled.len() as i64)
}

extern "C" fn schedule_raw(
    context: Context,
    request: RStr<'_>,
    input: RSlice<'_, u8>,
) -> RResult<i64, RString> {
    let scheduled = schedule(context, request);
    if let RResult::ROk(id) = scheduled {
        let mut outcome = session(context).outcome();
        outcome.scheduled_raw.insert(id, input.to_vec());
    }
    scheduled
}

extern "C" fn capture(_: Context, _: u32, _: u8, _: bool) -> u32 {
    // A test keeps everything.
    0
}

extern "C" fn panicking(context: Context, text: RStr<'_>) {
    session(context).outcome().failure = failure(text);
}

extern "C" fn fail(context: Context, text: RStr<'_>) {
    session(context).outcome().failure = failure(text);
}
