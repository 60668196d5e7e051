//! The only `dlopen`: opens a cached copy for good and finds its operations. Nothing is ever
//! closed, for a library that has run cannot be unloaded safely.

use super::{PluginError, companions::not_found, tree::plugin_in};
use abi_stable::library::{
    AbiHeaderRef, LibraryError, ROOT_MODULE_LOADER_NAME, ROOT_MODULE_LOADER_NAME_WITH_NUL,
};
use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
use rework_plugin::abi::{ABI_MAJOR, ABI_MINOR, OperationRef, PluginRef};
use std::{collections::HashMap, path::Path};

/// The symbol of a plugin's root module.
pub(super) const ROOT_SYMBOL: &str = ROOT_MODULE_LOADER_NAME;
/// What is said of a plugin without one.
pub(super) const NO_ROOT: &str =
    "exports no root module: call rework_plugin::export!() at its crate root";

/// A plugin in this process.
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
    /// The operation of a name in a domain, as its author declared them.
    pub(super) fn operation(&self, domain: &str, name: &str) -> Option<OperationEntry> {
        self.operations
            .get(&(domain.to_owned(), name.to_owned()))
            .copied()
    }

    /// Every (domain, name) in the plugin's registry.
    pub fn names(&self) -> Vec<(String, String)> {
        let mut names: Vec<_> = self.operations.keys().cloned().collect();
        names.sort();
        names
    }
}

/// Loads a cached copy (`file`) of a plugin that the user knows as `named`. Runs its constructors,
/// so this happens only in workers and probes.
#[expect(
    clippy::disallowed_methods,
    reason = "the one place that loads foreign code"
)]
pub fn load(file: &Path, named: &Path) -> Result<Loaded, PluginError> {
    let refused = |reason: String| PluginError::new(named, reason);
    let file = &plugin_in(file);
    let process = std::process::id();
    // SAFETY: loading runs the library's constructors. The caller is a process that exists to run
    // this code, and the file is a private copy that nobody else can write.
    let library = unsafe { Library::open(Some(file), RTLD_NOW | RTLD_LOCAL) }
        .map_err(|error| refused(format!("cannot be loaded: {}", loader_words(&error, file))))?;
    end_if_forked(process, named);
    // SAFETY: a symbol of this mangled name is the header that `export!` emits; `upgrade` checks
    // its magic before anything else of it is believed.
    let symbol =
        unsafe { library.get::<AbiHeaderRef>(ROOT_MODULE_LOADER_NAME_WITH_NUL.as_bytes()) }
            .map_err(|_| refused(NO_ROOT.to_owned()))?;
    let header = *symbol;
    // Never closed: its code may be on the stack, and its statics in use, until the process ends.
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

/// Ends a process that a constructor has forked, and that has returned from it: it would go on as a
/// second worker, or a second probe, with the descriptors of the first.
fn end_if_forked(process: u32, named: &Path) {
    /// `EX_SOFTWARE` of sysexits(3): a fault of the program.
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

/// What the dynamic loader says, without the path of our copy; libloading keeps it in the source.
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

/// abi_stable explains a layout in tens of kilobytes; one line of it is enough.
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
