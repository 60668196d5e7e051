//! Calls an operation, and provides the functions that the plugin may call while it runs.

use super::{Loaded, PluginError};
use abi_stable::{
    prefix_type::WithMetadata,
    std_types::{ROption, RResult, RSlice, RStr, RString},
};
use rework_plugin::abi::{Context, Host, HostRef, Payload, RUN_DONE};
use std::{collections::HashMap, path::Path, sync::Arc};

/// A scope in which an operation captures output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Captured {
    /// The lowest level of log records that is stored.
    pub level: u8,
    /// Whether printed lines are stored.
    pub stdio: bool,
}

/// The data that is lent to a running operation.
#[derive(Debug, Default)]
pub struct TaskData {
    /// The task as the JSON that `abi::Host::task` describes.
    pub task: String,
    /// The encoding of the input: a tag of `abi`.
    pub encoding: u8,
    pub input: Vec<u8>,
    /// The contents of the input's file fields.
    pub files: HashMap<String, Vec<u8>>,
}

/// The worker's side of a running task. Any thread of the operation may call it, including threads that go
/// on after the operation has ended.
pub trait TaskContext: Sync {
    /// The data that is lent to the task. The context keeps it until the operation has returned.
    fn data(&self) -> Arc<TaskData>;
    /// Replaces the output.
    fn save_output(&self, encoding: u8, bytes: &[u8]);
    /// Adds the content of a file field of the output.
    fn save_output_file(&self, field: &str, bytes: &[u8]);
    /// Writes a log record.
    fn log(&self, level: u8, target: &str, message: &str);
    /// Reports the progress of the task.
    fn progress(&self, fraction: f64, message: &str);
    /// Whether the task should end by itself.
    fn cancelled(&self) -> bool;
    /// Queues another task, with this raw input if given.
    fn schedule(&self, request: &str, raw_input: Option<&[u8]>) -> Result<i64, String>;
    /// Begins (0) or ends a scope of capture. Returns the number of the scope.
    fn capture(&self, scope: u32, captured: Captured) -> u32;
    /// Reports that a panic has begun.
    fn panicking(&self, failure: &str);
    /// Reports why the operation fails.
    fn fail(&self, failure: &str);
}

/// The object that a [`Context`] points to.
struct Erased(&'static dyn TaskContext);

/// Runs an operation of a loaded plugin on this thread. Returns `true` if it returned normally; otherwise
/// the context has been given the reason.
pub fn invoke(
    plugin: &Loaded,
    domain: &str,
    operation: &str,
    context: &'static dyn TaskContext,
) -> Result<bool, PluginError> {
    let entry = plugin.operation(domain, operation).ok_or_else(|| {
        PluginError::new(
            Path::new("the plugin"),
            format!("has no operation `{operation}`"),
        )
    })?;
    // Leaked on purpose, once for each worker and context: a thread that an operation has left behind may
    // use it until the process ends.
    let erased = leaked(context);
    let ended = entry.0.run()(HOST.0, Context(std::ptr::from_ref(erased).cast()));
    Ok(ended == RUN_DONE)
}

/// A leaked wrapper, one for each context however many tasks run.
fn leaked(context: &'static dyn TaskContext) -> &'static Erased {
    use std::sync::Mutex;
    static KNOWN: Mutex<Vec<(usize, &'static Erased)>> = Mutex::new(Vec::new());
    let address = std::ptr::from_ref(context).cast::<()>() as usize;
    let mut known = KNOWN
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some((_, erased)) = known.iter().find(|(other, _)| *other == address) {
        return erased;
    }
    let erased = &*Box::leak(Box::new(Erased(context)));
    known.push((address, erased));
    erased
}

fn context(context: Context) -> &'static dyn TaskContext {
    // SAFETY: every context that the host gives out points to an `Erased` that is never freed, and the
    // plugin returns the pointer unchanged.
    let erased = unsafe { &*context.0.cast::<Erased>() };
    erased.0
}

/// The table of host functions. It is `Sync` because it holds only function pointers.
struct HostTable(HostRef);
// SAFETY: see the type.
unsafe impl Sync for HostTable {}

static TABLE: &WithMetadata<Host> = &WithMetadata::new(Host {
    task,
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
});
static HOST: HostTable = HostTable(HostRef(TABLE.static_as_prefix()));

/// Lends bytes to the running task until it ends.
fn lend(bytes: &[u8]) -> &'static [u8] {
    // SAFETY: the bytes belong to the `TaskData` of the running task, which the context keeps, at
    // the same place, until the operation has returned; `abi.rs` promises the plugin no more.
    unsafe { std::slice::from_raw_parts(bytes.as_ptr(), bytes.len()) }
}

extern "C" fn task(of: Context) -> RStr<'static> {
    let data = context(of).data();
    let text = std::str::from_utf8(lend(data.task.as_bytes()));
    text.expect("it was a string").into()
}

extern "C" fn input(of: Context) -> Payload {
    let data = context(of).data();
    Payload {
        encoding: data.encoding,
        bytes: RSlice::from_slice(lend(&data.input)),
    }
}

extern "C" fn input_file(of: Context, field: RStr<'_>) -> ROption<RSlice<'static, u8>> {
    let data = context(of).data();
    data.files
        .get(field.as_str())
        .map(|bytes| RSlice::from_slice(lend(bytes)))
        .into()
}

extern "C" fn save_output(of: Context, encoding: u8, bytes: RSlice<'_, u8>) {
    context(of).save_output(encoding, bytes.as_slice());
}

extern "C" fn save_output_file(of: Context, field: RStr<'_>, bytes: RSlice<'_, u8>) {
    context(of).save_output_file(field.as_str(), bytes.as_slice());
}

extern "C" fn log(of: Context, level: u8, target: RStr<'_>, message: RStr<'_>) {
    context(of).log(level, target.as_str(), message.as_str());
}

extern "C" fn progress(of: Context, fraction: f64, message: RStr<'_>) {
    context(of).progress(fraction, message.as_str());
}

extern "C" fn cancelled(of: Context) -> bool {
    context(of).cancelled()
}

extern "C" fn schedule(of: Context, request: RStr<'_>) -> RResult<i64, RString> {
    context(of)
        .schedule(request.as_str(), None)
        .map_err(RString::from)
        .into()
}

extern "C" fn schedule_raw(
    of: Context,
    request: RStr<'_>,
    input: RSlice<'_, u8>,
) -> RResult<i64, RString> {
    context(of)
        .schedule(request.as_str(), Some(input.as_slice()))
        .map_err(RString::from)
        .into()
}

extern "C" fn capture(of: Context, scope: u32, level: u8, stdio: bool) -> u32 {
    context(of).capture(scope, Captured { level, stdio })
}

extern "C" fn panicking(of: Context, failure: RStr<'_>) {
    context(of).panicking(failure.as_str());
}

extern "C" fn fail(of: Context, failure: RStr<'_>) {
    context(of).fail(failure.as_str());
}
