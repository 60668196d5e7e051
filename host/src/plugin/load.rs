//! The only `dlopen`: loads a cached copy and finds its operations. Libraries are never closed, because a
//! library that has run cannot be unloaded safely.

use super::{PluginError, companions::not_found, tree::plugin_in};
use abi_stable::library::{
    AbiHeaderRef, LibraryError, ROOT_MODULE_LOADER_NAME, ROOT_MODULE_LOADER_NAME_WITH_NUL,
};
use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
use rework_plugin::abi::{ABI_MAJOR, ABI_MINOR, OperationRef, PluginRef};
use std::{collections::HashMap, path::Path};

/// The symbol that a plugin exports its root module under.
pub(super) const ROOT_SYMBOL: &str = ROOT_MODULE_LOADER_NAME;
/// The error for a library that does not export it.
pub(super) const NO_ROOT: &str =
    "exports no root module: call rework_plugin::export!() at its crate root";

/// A plugin that is loaded into this process.
#[derive(Debug)]
pub struct Loaded {
    operations: HashMap<(String, String), OperationEntry>,
}

/// An operation of a loaded plugin.
#[derive(Clone, Copy)]
pub(super) struct OperationEntry(pub(super) OperationRef);

impl std::fmt::Debug for OperationEntry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.0.domain(), self.0.name())
    }
}

impl Loaded {
    /// The operation with this declared name in this declared domain.
    pub(super) fn operation(&self, domain: &str, name: &str) -> Option<OperationEntry> {
        self.operations
            .get(&(domain.to_owned(), name.to_owned()))
            .copied()
    }

    /// The (domain, name) of every operation in the plugin's registry.
    pub fn names(&self) -> Vec<(String, String)> {
        let mut names: Vec<_> = self.operations.keys().cloned().collect();
        names.sort();
        names
    }
}

/// Loads a cached copy (`file`) of a plugin, which messages call `named`. It runs the plugin's
/// constructors, so only workers and probes may call it.
#[expect(
    clippy::disallowed_methods,
    reason = "the one place that loads foreign code"
)]
pub fn load(file: &Path, named: &Path) -> Result<Loaded, PluginError> {
    let refused = |reason: String| PluginError::new(named, reason);
    let file = &plugin_in(file);
    let process = std::process::id();
    // SAFETY: loading runs the library's constructors. The calling process exists to run this code, and the
    // file is a private copy that no other user can write.
    let library = unsafe { Library::open(Some(file), RTLD_NOW | RTLD_LOCAL) }
        .map_err(|error| refused(format!("cannot be loaded: {}", loader_words(&error, file))))?;
    end_if_forked(process, named);
    // SAFETY: a symbol of this mangled name is the header that `export!` emits; `upgrade` checks
    // its magic before anything else of it is believed.
    let symbol =
        unsafe { library.get::<AbiHeaderRef>(ROOT_MODULE_LOADER_NAME_WITH_NUL.as_bytes()) }
            .map_err(|_| refused(NO_ROOT.to_owned()))?;
    let header = *symbol;
    // Never unloaded: its code may be on the stack, and its statics in use, until the process ends.
    std::mem::forget(library);
    let header = header.upgrade().map_err(|error| refused(short(&error)))?;
    let version = header.version_strings().version.to_string();
    // SAFETY: the major version is checked by this call; within one major, fields are only
    // appended, so the layout that we know is a prefix of the plugin's or the other way round, and
    // the accessors of prefix types answer `None` for fields that are not there.
    let root = unsafe { header.init_root_module_with_unchecked_layout::<PluginRef>() }
        .map_err(|error| refused(short(&error)))?;
    if root.abi_major() != ABI_MAJOR {
        return Err(refused(format!(
            "was built for plugin ABI {}; this rework speaks ABI {ABI_MAJOR}: rebuild it ({version})",
            root.abi_major()
        )));
    }
    if root.abi_minor() == ABI_MINOR {
        header
            .ensure_layout::<PluginRef>()
            .map_err(|error| refused(short(&error)))?;
    }
    let operations = root.operations()()
        .into_iter()
        .map(|operation| {
            let key = (operation.domain().to_string(), operation.name().to_string());
            (key, OperationEntry(operation))
        })
        .collect();
    Ok(Loaded { operations })
}

/// Ends a process that a constructor has forked and that has returned from the constructor: otherwise it
/// would go on as a second worker or probe with the descriptors of the first.
fn end_if_forked(process: u32, named: &Path) {
    /// The exit code of such a process: `EX_SOFTWARE` of sysexits(3).
    const RETURNED: libc::c_int = 70;
    let this = std::process::id();
    if this != process {
        eprintln!(
            "process {this}, which {} has forked while it was loaded, returned and was ended",
            named.display()
        );
        // SAFETY: ends the process at once and runs nothing else.
        unsafe { libc::_exit(RETURNED) };
    }
}

/// The dynamic loader's message without the path of the copy; libloading keeps the message in the error's
/// source.
fn loader_words(error: &libloading::Error, file: &Path) -> String {
    let mut words =
        std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string);
    let path = file.display().to_string();
    words = words.replace(&format!("{path}: "), "");
    match words.split_once(": cannot open shared object file") {
        Some((library, why)) if !library.contains(' ') && why.contains("No such file") => {
            not_found(library, file)
        }
        Some((library, why)) if !library.contains(' ') => {
            format!("needs {library}, which cannot be opened{why}")
        }
        _ => words.replace("undefined symbol: ", "undefined symbol "),
    }
}

/// The first line of abi_stable's message, which describes a layout in tens of kilobytes.
fn short(error: &LibraryError) -> String {
    let why = match error {
        LibraryError::AbiInstability(_) => "its layout of the root module differs".to_owned(),
        other => other
            .to_string()
            .lines()
            .map(str::trim)
            .find(|line| !line.is_empty())
            .unwrap_or_default()
            .to_owned(),
    };
    format!("does not fit this rework: {why}; rebuild it with the rework-plugin of this version")
}
