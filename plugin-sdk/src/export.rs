//! What the macros call. Not for authors: it changes without notice.

use crate::{
    Error, Result, Task,
    abi::{
        self, Context, HostRef, Operation, OperationRef, Plugin, PluginRef, RUN_DONE, RUN_FAILED,
    },
    io::Output,
    logging, panic,
    spec::{self, Spec},
};
use abi_stable::{
    library::{CheckTypeLayout, RootModule, RootModuleResult},
    prefix_type::{PrefixTypeTrait, WithMetadata},
    std_types::RVec,
};
use serde_json::{Map, Value, json};
use std::io::Write;

pub use crate::note::{Note, boolean, check_literal, concat, length, padded, text};
pub use abi_stable::library::LibHeader;
pub use linkme;
pub use serde_json;

/// The beginning of a plugin's note: the properties of this build that the SDK knows.
pub const BUILD: &str = {
    const PARTS: &[&str] = &[
        "{\"sdk\":\"",
        env!("CARGO_PKG_VERSION"),
        "\",\"abi\":\"",
        abi::ABI_VERSION,
        "\",\"rustc\":\"",
        env!("REWORK_RUSTC"),
        "\",\"target\":\"",
        env!("REWORK_TARGET"),
        "\",\"profile\":\"",
        env!("REWORK_PROFILE"),
        "\"",
    ];
    const BYTES: [u8; length(PARTS)] = concat(PARTS);
    text(&BYTES)
};

/// An operation of this plugin, as `#[operation]` registers it.
#[derive(Debug, Clone, Copy)]
pub struct Registered {
    pub name: &'static str,
    pub domain: &'static str,
    /// The declared inputs as JSON; `null`: none are declared.
    pub inputs: &'static str,
    /// Runs the operation.
    pub run: extern "C" fn(HostRef, Context) -> i32,
}

/// Every operation of this plugin, collected by the linker from all modules.
#[linkme::distributed_slice]
pub static OPERATIONS: [Registered];

/// The header that a host looks for; see `export!`.
pub const fn root_module() -> LibHeader {
    // SAFETY: `erased_root` answers what `root` returns, which is a `PluginRef`, as stated here.
    unsafe { LibHeader::from_constructor::<PluginRef>(erased_root, CheckTypeLayout::Yes) }
}

extern "C" fn erased_root() -> RootModuleResult {
    abi_stable::library::__call_root_module_loader(root)
}

fn root() -> PluginRef {
    static PLUGIN: &WithMetadata<Plugin> = &WithMetadata::new(Plugin {
        abi_major: abi::ABI_MAJOR,
        abi_minor: abi::ABI_MINOR,
        operations,
    });
    debug_assert_eq!(PluginRef::NAME, "rework_plugin");
    PluginRef(PLUGIN.static_as_prefix())
}

extern "C" fn operations() -> RVec<OperationRef> {
    OPERATIONS
        .iter()
        .map(|operation| {
            Operation {
                name: operation.name.into(),
                domain: operation.domain.into(),
                run: operation.run,
            }
            .leak_into_prefix()
        })
        .collect()
}

/// Runs an operation's body: the one place where its errors and panics end.
pub fn run(host: HostRef, context: Context, body: impl FnOnce(&mut Task) -> Result<()>) -> i32 {
    let mut task = Task::new(host, context);
    logging::begin(host, context, task.log_level());
    let ended = panic::caught(|| body(&mut task));
    flush_prints();
    logging::end();
    let failure = match ended {
        Ok(Ok(())) => return RUN_DONE,
        Ok(Err(error)) => json!({
            "kind": error.kind().as_str(),
            "message": error.to_string(),
            "location": error.location(),
        }),
        Err(panic) => panic,
    };
    host.fail()(context, failure.to_string().as_str().into());
    RUN_FAILED
}

/// Flushes stdout: text printed without a newline must not appear in the log of the next task.
pub(crate) fn flush_prints() {
    // A task may have closed its stdout; then there is nothing to flush.
    let _ = std::io::stdout().flush();
}

/// The fields of the input.
pub fn fields(task: &Task) -> Result<Map<String, Value>> {
    task.fields()
}

/// What an operation returns: an output, or a `Result` of one.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be an output of an operation",
    label = "not an output type",
    note = "outputs are numbers, bool, String, Value, Vec, Option, maps, File, (), a struct with #[derive(Outputs)], or a Result of these"
)]
pub trait Returned {
    /// [`Output::SPEC`] of the output, if the operation does not fail.
    const SPEC: &'static str;

    /// Saves the output, or fails.
    fn save(self, task: &mut Task) -> Result<()>;
}

impl<T: Output> Returned for T {
    const SPEC: &'static str = <T as Output>::SPEC;

    fn save(self, task: &mut Task) -> Result<()> {
        Output::save(self, task)
    }
}

impl<T: Output, E: Into<Error>> Returned for std::result::Result<T, E> {
    const SPEC: &'static str = <T as Output>::SPEC;

    fn save(self, task: &mut Task) -> Result<()> {
        Output::save(self.map_err(Into::into)?, task)
    }
}

/// Saves the fields of an output struct, completed by their defaults, if they are what it declares.
pub fn save_fields(specs: &str, fields: &Map<String, Value>, task: &mut Task) -> Result<()> {
    let specs: Vec<Spec> = serde_json::from_str(specs).expect("the macro writes specs");
    let complete = spec::check_fields("output", &specs, fields, &mut spec::as_it_is)
        .map_err(|fault| Error::bad_output(fault.to_string()))?;
    task.save_output(&complete)
}

/// Runs an `async fn` operation to its end, on a runtime of this plugin.
#[cfg(feature = "tokio")]
pub fn block_on<T>(future: impl Future<Output = T>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let process = std::process::id();
    let returned = runtime.block_on(future);
    if std::process::id() != process {
        // A child that the future has forked has none of the runtime's threads to wait for, and shares
        // the registrations of its descriptors with the worker: they are not its to undo.
        std::mem::forget(runtime);
    }
    Ok(returned)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_exported_symbol_is_the_one_that_hosts_look_for() {
        let symbol = abi_stable::library::ROOT_MODULE_LOADER_NAME;
        assert_eq!(
            symbol, "_1as_0lib_1header_0root_bmodule_bloader",
            "see `export!`"
        );
    }
}
