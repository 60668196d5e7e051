//! The task at hand: its input, its output, and what its operation can ask of the host.

use crate::{
    Error, Result,
    abi::{Context, ENCODING_FIELDS, ENCODING_NONE, ENCODING_RAW, HostRef},
    io::{DateTime, Value, json_of},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, json};
use std::time::Duration;

/// A level of log records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// The task cannot do what it should.
    Error = 1,
    /// Something is wrong.
    Warn = 2,
    /// What one wants to know.
    Info = 3,
    /// What a developer wants to know.
    Debug = 4,
    /// Every detail.
    Trace = 5,
}

/// The running task, as its operation sees it.
///
/// It belongs to the process in which the operation was called. In a process that the operation forks, a
/// method that would send something to the host does nothing, or fails; and if such a process returns from
/// the operation it is ended there, with exit code 70 and a line in the task's log.
#[derive(Debug)]
pub struct Task {
    host: HostRef,
    context: Context,
    about: About,
}

/// The description of the task that the host gives.
#[derive(Debug, Deserialize)]
#[serde(default)]
struct About {
    id: i64,
    operation: String,
    domain: String,
    attempt: u32,
    metadata: Value,
    log_level: u8,
}

impl Default for About {
    fn default() -> Self {
        Self {
            id: 0,
            operation: String::new(),
            domain: String::new(),
            attempt: 1,
            metadata: json!({}),
            log_level: 3,
        }
    }
}

impl Task {
    pub(crate) fn new(host: HostRef, context: Context) -> Self {
        let text = host.task()(context);
        // An older or newer host may give fewer or more fields; missing ones have defaults.
        let mut about: About = serde_json::from_str(text.as_str()).unwrap_or_default();
        if about.metadata.is_null() {
            about.metadata = json!({});
        }
        Self {
            host,
            context,
            about,
        }
    }

    pub(crate) fn log_level(&self) -> u8 {
        self.about.log_level
    }

    /// The id of the task.
    pub fn id(&self) -> i64 {
        self.about.id
    }

    /// The name of the operation.
    pub fn operation(&self) -> &str {
        &self.about.operation
    }

    /// The domain of the task.
    pub fn domain(&self) -> &str {
        &self.about.domain
    }

    /// The number of this attempt: 1 the first time.
    pub fn attempt(&self) -> u32 {
        self.about.attempt
    }

    /// The metadata that the task was queued with; `{}` if there is none.
    pub fn metadata(&self) -> &Value {
        &self.about.metadata
    }

    /// The input of the task, deserialized; no input is read as `null`.
    ///
    /// Numbers are whole numbers of 64 bits, or else doubles, which keep their bits. A whole number that is
    /// read into an `f64` becomes the nearest double; as an argument of an operation, `f64` refuses a whole
    /// number that no double is equal to.
    ///
    /// # Errors
    ///
    /// If the input is raw, or not of this type.
    pub fn input<T: DeserializeOwned>(&self) -> Result<T> {
        let payload = self.host.input()(self.context);
        let wrong = |error: serde_json::Error| {
            Error::bad_input(format!(
                "the input is not what the operation takes: {error}"
            ))
        };
        match payload.encoding {
            ENCODING_NONE => serde_json::from_value(Value::Null).map_err(wrong),
            ENCODING_FIELDS => serde_json::from_slice(payload.bytes.as_slice()).map_err(wrong),
            _ => Err(Error::bad_input(
                "the input is raw bytes: read it with raw_input()",
            )),
        }
    }

    /// A raw input as it was given; for another input, its JSON text.
    pub fn raw_input(&self) -> &[u8] {
        self.host.input()(self.context).bytes.as_slice()
    }

    /// The content of a file field of the input, if it was given.
    pub fn input_file(&self, field: &str) -> Option<&[u8]> {
        self.host.input_file()(self.context, field.into())
            .into_option()
            .map(|bytes| bytes.as_slice())
    }

    pub(crate) fn fields(&self) -> Result<Map<String, Value>> {
        match self.input::<Option<Value>>()? {
            None => Ok(Map::new()),
            Some(Value::Object(fields)) => Ok(fields),
            Some(other) => Err(Error::bad_input(format!(
                "the input must be an object of fields, not {other}"
            ))),
        }
    }

    /// Saves the output of the task, in place of an output saved before.
    ///
    /// # Errors
    ///
    /// If the output cannot be written as JSON.
    pub fn save_output<T: Serialize + ?Sized>(&mut self, output: &T) -> Result<()> {
        let text = json_of("the output", output)?.to_string();
        self.host.save_output()(self.context, ENCODING_FIELDS, text.as_bytes().into());
        Ok(())
    }

    /// Saves the output of the task as raw bytes, in place of an output saved before.
    ///
    /// # Errors
    ///
    /// None yet.
    pub fn save_raw_output(&mut self, output: &[u8]) -> Result<()> {
        self.host.save_output()(self.context, ENCODING_RAW, output.into());
        Ok(())
    }

    /// Saves the content of a file field of the output.
    pub fn save_output_file(&mut self, field: &str, content: &[u8]) {
        self.host.save_output_file()(self.context, field.into(), content.into());
    }

    /// Reports the progress of the task: a fraction from 0 to 1, and a message.
    pub fn progress(&mut self, fraction: f64, message: impl AsRef<str>) {
        self.host.progress()(self.context, fraction, message.as_ref().into());
    }

    /// Whether somebody has asked to abort the task. A task that calls this now and then is given some time
    /// to end by itself; others are killed at once.
    pub fn cancelled(&self) -> bool {
        self.host.cancelled()(self.context)
    }

    /// Stores, until the guard is dropped, log records of at least this level and, with `stdio`, printed
    /// lines. For operations with `capture = "manual"`, or to store more for a while.
    pub fn capture_logs(&self, level: Level, stdio: bool) -> CaptureGuard {
        let scope = self.host.capture()(self.context, 0, level as u8, stdio);
        CaptureGuard {
            host: self.host,
            context: self.context,
            scope,
            level,
            stdio,
        }
    }

    /// Begins another task, which the host queues.
    pub fn schedule(&self, operation: impl Into<String>) -> Schedule {
        let operation = operation.into();
        Schedule {
            host: self.host,
            context: self.context,
            request: json!({ "operation": operation }),
            raw: None,
        }
    }
}

/// The error of a function that needs a newer host.
fn lacking(what: &str, since: &str) -> Error {
    Error::from(format!(
        "{what} needs rework ≥ {since}: this worker speaks an older plugin ABI"
    ))
}

/// A scope of captured logs, which ends when it is dropped.
#[derive(Debug)]
#[must_use = "the scope ends when this is dropped"]
pub struct CaptureGuard {
    host: HostRef,
    context: Context,
    scope: u32,
    level: Level,
    stdio: bool,
}

impl Drop for CaptureGuard {
    fn drop(&mut self) {
        if self.scope != 0 {
            crate::export::flush_prints();
            self.host.capture()(self.context, self.scope, self.level as u8, self.stdio);
        }
    }
}

/// Another task that is about to be queued; nothing happens before [`Schedule::send`].
#[derive(Debug)]
#[must_use = "nothing is queued before send()"]
pub struct Schedule {
    host: HostRef,
    context: Context,
    request: Value,
    raw: Option<Vec<u8>>,
}

impl Schedule {
    fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.request[name] = value.into();
        self
    }

    /// The input of the new task.
    pub fn input(self, input: impl Into<Value>) -> Self {
        self.with("input", input)
    }

    /// The input of the new task as raw bytes; needs a host of plugin ABI 1.1.
    pub fn raw_input(mut self, input: impl Into<Vec<u8>>) -> Self {
        self.raw = Some(input.into());
        self
    }

    /// The domain of the operation, if operations in several domains have its name.
    pub fn domain(self, domain: &str) -> Self {
        self.with("domain", domain)
    }

    /// Pins the new task to a host.
    pub fn host(self, host: &str) -> Self {
        self.with("host", host)
    }

    /// Metadata of the new task: a JSON object.
    pub fn metadata(self, metadata: Value) -> Self {
        self.with("metadata", metadata)
    }

    /// The priority: tasks of higher priority run first; 0 by default.
    pub fn priority(self, priority: i32) -> Self {
        self.with("priority", priority)
    }

    /// The time before which the new task does not run.
    pub fn at(self, time: DateTime) -> Self {
        self.with("at", time.to_rfc3339())
    }

    /// How long from now the new task does not run.
    pub fn delay(self, delay: Duration) -> Self {
        let ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        self.with("delay_ms", ms)
    }

    /// An idempotency key: while a task of the operation with this key exists, its id is returned instead.
    pub fn key(self, key: &str) -> Self {
        self.with("key", key)
    }

    /// How many attempts the new task may take.
    pub fn max_attempts(self, attempts: u32) -> Self {
        self.with("max_attempts", attempts)
    }

    /// Queues the new task and returns its id.
    ///
    /// # Errors
    ///
    /// The reason why the host does not queue the task: no such operation, an input that does not fit. Or
    /// that the host is too old for [`Schedule::raw_input`].
    pub fn send(self) -> Result<i64> {
        let text = self.request.to_string();
        let request = text.as_str().into();
        let answer = match &self.raw {
            None => self.host.schedule()(self.context, request),
            Some(input) => {
                let schedule = self.host.schedule_raw();
                let schedule = schedule.ok_or_else(|| lacking("raw_input", "1.1"))?;
                schedule(self.context, request, input.as_slice().into())
            }
        };
        answer
            .into_result()
            .map_err(|refusal| Error::from(refusal.into_string()))
    }
}
