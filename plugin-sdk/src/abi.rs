//! Every type that crosses between a host and a plugin, and the rule by which they may grow.
//!
//! The host (a worker or a probe) opens a plugin and asks its root module, [`PluginRef`], for the
//! operations; it runs one by calling [`Operation::run`] with a table of its own functions,
//! [`HostRef`]. Nothing else crosses: no Rust enum, no trait object, no panic, no tokio type.
//!
//! # The rule
//!
//! * The version is [`ABI_MAJOR`]`.`[`ABI_MINOR`]. A host runs every plugin of its own major.
//! * Every struct here is a *prefix type*: fields are only ever **appended**, after the field marked
//!   `last_prefix_field`, and each append raises the minor. Fields are never reordered, retyped or
//!   removed; doing so raises the major.
//! * What may grow in content, not in shape (who the task is, why it failed, what to schedule) is
//!   JSON text, in which unknown keys are ignored and missing ones have a default.
//! * The same minor on both sides: abi_stable checks the full layout. Different minors of one
//!   major: the version decides, the layout check is skipped, and a field that the older side lacks
//!   reads as `None`. So a host that grew never refuses a plugin that was built before, and a plugin
//!   that was built later runs on an older host: what that host lacks is an error of the operation
//!   that asks for it, or, with `#[operation(requires = "1.1")]`, a reason not to register it.
//!
//! To append a field: put it last, raise [`ABI_MINOR`] and [`ABI_VERSION`], say since when it is
//! there, and let the SDK answer an error where it reads as `None`. The places and types of all
//! fields are written down in `tests/layout.rs`: add yours. The tests build plugins of an earlier and
//! of a later minor from copies of this crate: adapt what they change (`tests/harness/sdk.rs`).
//!
//! # Lifetimes
//!
//! A [`Context`] stays valid until the process ends, because a thread that an operation left behind
//! may log at any time. What the host lends through it (input, description of the task) stays valid
//! until [`Operation::run`] returns. What the plugin lends to the host is copied during the call.

use abi_stable::{
    StableAbi,
    library::RootModule,
    sabi_types::VersionStrings,
    std_types::{ROption, RResult, RSlice, RStr, RString, RVec},
};

/// The target triple of this build, which the note of a plugin contains too.
pub const TARGET: &str = env!("REWORK_TARGET");

/// The major version of the ABI, to be raised when an existing field changes. A host runs only plugins of
/// its own major version.
pub const ABI_MAJOR: u32 = 1;

/// The minor version of the ABI, to be raised with each appended field; the history is in [`Host`].
pub const ABI_MINOR: u32 = 1;

/// Both versions as text, for the note.
pub const ABI_VERSION: &str = "1.1";
const _: () = assert!(
    matches!(ABI_VERSION.as_bytes(), [major, b'.', minor]
        if (*major - b'0') as u32 == ABI_MAJOR && (*minor - b'0') as u32 == ABI_MINOR),
    "the text says what the numbers say"
);

/// Encoding tag of a payload: there is none.
pub const ENCODING_NONE: u8 = 0;
/// Encoding tag of a payload: one JSON document, in UTF-8.
pub const ENCODING_FIELDS: u8 = 1;
/// Encoding tag of a payload: bytes as given.
pub const ENCODING_RAW: u8 = 2;

/// What [`Operation::run`] returns: the operation returned normally.
pub const RUN_DONE: i32 = 0;
/// What [`Operation::run`] returns: it failed, and [`Host::fail`] was told why.
pub const RUN_FAILED: i32 = 1;

/// The root module of a plugin: the only thing that it exports.
#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = PluginRef)))]
#[sabi(missing_field(option))]
pub struct Plugin {
    /// [`ABI_MAJOR`] of the SDK that the plugin was built with.
    pub abi_major: u32,
    /// [`ABI_MINOR`] of the SDK that the plugin was built with.
    pub abi_minor: u32,
    /// The registry: every operation that the plugin offers, in no particular order.
    #[sabi(last_prefix_field)]
    pub operations: extern "C" fn() -> RVec<OperationRef>,
}

impl RootModule for PluginRef {
    abi_stable::declare_root_module_statics! {PluginRef}
    const BASE_NAME: &'static str = "rework_plugin";
    const NAME: &'static str = "rework_plugin";
    // The ABI's own version, not the crate's: a host upgrade must not refuse older plugins.
    const VERSION_STRINGS: VersionStrings = VersionStrings::new("1.0.0");
}

/// One operation of a plugin, and how to run it.
#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = OperationRef)))]
#[sabi(missing_field(option))]
pub struct Operation {
    /// The name of the operation.
    pub name: RStr<'static>,
    /// The domain that the plugin declares.
    pub domain: RStr<'static>,
    /// Runs the operation once, on the calling thread. Returns [`RUN_DONE`] or [`RUN_FAILED`]; never
    /// unwinds.
    #[sabi(last_prefix_field)]
    pub run: extern "C" fn(host: HostRef, context: Context) -> i32,
}

/// Identifies the running task to the functions of [`Host`]; opaque to the plugin.
#[repr(transparent)]
#[derive(StableAbi, Clone, Copy, Debug)]
pub struct Context(pub *const ());

// SAFETY: a context is an opaque name for the plugin; the host promises that the functions of
// `Host` may be called with it from any thread until the process ends.
unsafe impl Send for Context {}
// SAFETY: as above.
unsafe impl Sync for Context {}

/// A payload lent by the host.
#[repr(C)]
#[derive(StableAbi, Clone, Copy)]
pub struct Payload {
    /// One of [`ENCODING_NONE`], [`ENCODING_FIELDS`], [`ENCODING_RAW`].
    pub encoding: u8,
    /// The bytes, valid until the operation returns.
    pub bytes: RSlice<'static, u8>,
}

/// What the host offers to a running operation. None of these functions unwinds or blocks for long.
///
/// Since 1.1: [`Host::schedule_raw`].
#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = HostRef)))]
#[sabi(missing_field(option))]
pub struct Host {
    /// The task as JSON: `{"id", "operation", "domain", "attempt", "metadata", "log_level", "capture"}`;
    /// `log_level` is 0 (off) to 5 (trace).
    pub task: extern "C" fn(Context) -> RStr<'static>,
    /// The input. In fields, a file is an object `{"bytes", "sha256"}`; its content comes from
    /// [`Host::input_file`].
    pub input: extern "C" fn(Context) -> Payload,
    /// The content of a file field of the input.
    pub input_file: extern "C" fn(Context, field: RStr<'_>) -> ROption<RSlice<'static, u8>>,
    /// Replaces the output: an encoding tag and the bytes.
    pub save_output: extern "C" fn(Context, encoding: u8, bytes: RSlice<'_, u8>),
    /// Adds the content of a file field to an output in fields.
    pub save_output_file: extern "C" fn(Context, field: RStr<'_>, bytes: RSlice<'_, u8>),
    /// Writes a log record: level from 1 (error) to 5 (trace), target, and the message with its fields as
    /// text.
    pub log: extern "C" fn(Context, level: u8, target: RStr<'_>, message: RStr<'_>),
    /// Reports the progress of the task: the part that is done, from 0 to 1, and a message.
    pub progress: extern "C" fn(Context, fraction: f64, message: RStr<'_>),
    /// Whether somebody asked for the task to end. A task that asks gets a grace period to end by itself.
    pub cancelled: extern "C" fn(Context) -> bool,
    /// Queues another task, described as JSON like the options of `rework schedule`. Returns its id, or why
    /// it was not queued.
    pub schedule: extern "C" fn(Context, request: RStr<'_>) -> RResult<i64, RString>,
    /// Begins (`scope` 0) or ends a scope of log capture, for operations that capture by hand: the lowest
    /// level, and whether printed lines are stored. Returns the number of the scope.
    pub capture: extern "C" fn(Context, scope: u32, level: u8, stdio: bool) -> u32,
    /// Reports that a panic has just begun, as JSON like for `fail`. The text survives even if the process
    /// does not.
    pub panicking: extern "C" fn(Context, failure: RStr<'_>),
    /// Reports why the operation fails, as JSON: `{"kind": "error" | "panic" | "bad input" | "bad output",
    /// "message", "location", "backtrace"}`.
    #[sabi(last_prefix_field)]
    pub fail: extern "C" fn(Context, failure: RStr<'_>),
    /// Like [`Host::schedule`], with a raw input.
    pub schedule_raw:
        extern "C" fn(Context, request: RStr<'_>, input: RSlice<'_, u8>) -> RResult<i64, RString>,
}

impl std::fmt::Debug for HostRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HostRef")
    }
}
