//! Reads a plugin without running any of it: whether it is a complete shared library for this host, with
//! consistent notes, an ABI that this host supports, and a C library that the host has.

use super::{PluginError, elf, note, tree::plugin_in};
use crate::model::input::sha256;
use crate::model::plugin::build_warnings;
use rework_plugin::abi::{ABI_MAJOR, ABI_MINOR};
use serde::{Deserialize, Serialize};
use std::{fs, path::Path};

pub use note::{OperationNote, PluginNote};

/// What is known of a plugin without loading it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Inspection {
    /// SHA-256 of the content, in hexadecimal.
    pub hash: String,
    /// The size of the file in bytes.
    pub size: u64,
    /// The plugin's own note: how it was built.
    #[serde(flatten)]
    pub note: PluginNote,
    /// The oldest version of glibc that the plugin runs with, as `MAJOR.MINOR`; `None` if it needs none.
    pub glibc: Option<String>,
    /// The libraries that the plugin brings along, as paths relative to each other.
    #[serde(default)]
    pub libraries: Vec<String>,
    /// The operations of the plugin, by domain and name.
    pub operations: Vec<OperationNote>,
}

impl Inspection {
    /// Warnings for the plugin's users, to be put after its name.
    pub fn warnings(&self) -> Vec<String> {
        build_warnings(&self.note.panic, &self.note.sdk)
    }
}

/// Reads the content of a plugin, which messages call `named`. It returns quickly and does not crash,
/// whatever the bytes are.
pub fn inspect_content(data: &[u8], named: &Path) -> Result<Inspection, PluginError> {
    describe(data, || sha256(data), named)
}

/// Reads a copy whose hash is already known, or not needed.
pub(super) fn inspect_copy(
    file: &Path,
    hash: &str,
    named: &Path,
) -> Result<Inspection, PluginError> {
    let data = read(file, named)?;
    describe(&data, || hash.to_owned(), named)
}

/// Read, not mapped: if a mapped file is truncated, its readers are killed by SIGBUS.
fn read(file: &Path, named: &Path) -> Result<Vec<u8>, PluginError> {
    fs::read(plugin_in(file))
        .map_err(|error| PluginError::new(named, format!("cannot be read: {error}")))
}

fn describe(
    data: &[u8],
    hash: impl FnOnce() -> String,
    named: &Path,
) -> Result<Inspection, PluginError> {
    let library = elf::read(data, note::OWNER).map_err(|error| match error {
        elf::ElfError::CutShort { .. } => PluginError::unfinished(named, error.to_string()),
        _ => PluginError::new(named, error.to_string()),
    })?;
    described(&library, data.len() as u64, hash).map_err(|reason| PluginError::new(named, reason))
}

/// Reads the notes. Errors are to be put after the plugin's name.
fn described(
    library: &elf::Library<'_>,
    size: u64,
    hash: impl FnOnce() -> String,
) -> Result<Inspection, String> {
    let (note, operations) = note::read(&library.notes)?.ok_or(
        "is a shared library, but not a rework plugin: no .note.rework section \
         (does it call rework_plugin::export!() at its crate root?)",
    )?;
    check_minor(&operations)?;
    check_glibc(library)?;
    if operations.is_empty() {
        return Err(
            "is a rework plugin with no operation: add #[operation] to a function".to_owned(),
        );
    }
    note::check(&operations).map_err(|fault| match is_later(&note.abi) {
        // A newer SDK may use values that this program does not know yet.
        true => format!("needs rework ≥ {}: {fault}", note.abi),
        false => fault,
    })?;
    if library.exports_root == Some(false) {
        return Err(super::load::NO_ROOT.to_owned());
    }
    Ok(Inspection {
        hash: hash(),
        size,
        note,
        glibc: library
            .glibc
            .map(|(major, minor)| format!("{major}.{minor}")),
        libraries: Vec::new(),
        operations,
    })
}

/// Accepts a plugin built for a later minor version, unless an operation says that it needs that version.
fn check_minor(operations: &[OperationNote]) -> Result<(), String> {
    let demanding = operations
        .iter()
        .filter(|operation| operation.requires_minor > ABI_MINOR)
        .max_by_key(|operation| operation.requires_minor);
    match demanding {
        None => Ok(()),
        Some(operation) => Err(format!(
            "needs rework ≥ {ABI_MAJOR}.{} for its operation `{}`; this one speaks plugin ABI \
             {ABI_MAJOR}.{ABI_MINOR}",
            operation.requires_minor, operation.name
        )),
    }
}

/// Whether this is a later minor version of the plugin ABI.
fn is_later(abi: &str) -> bool {
    let minor = abi
        .split_once('.')
        .and_then(|(_, minor)| minor.parse::<u32>().ok());
    minor.is_some_and(|minor| minor > ABI_MINOR)
}

/// Refuses a library that needs a newer glibc: the loader's message about that is hard to understand.
fn check_glibc(library: &elf::Library<'_>) -> Result<(), String> {
    match (library.glibc, elf::host_glibc()) {
        (Some(needs), Some(has)) if needs > has => Err(format!(
            "needs glibc {}.{}, this host has {}.{}: build it on the oldest system you run workers on",
            needs.0, needs.1, has.0, has.1
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(content: &[u8]) -> String {
        inspect_content(content, Path::new("x.so"))
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn what_is_no_library_is_named() {
        assert_eq!(
            refusal(b"#!/bin/sh\necho hello\n"),
            "x.so is a text file, not a plugin (expected an ELF shared library, .so)"
        );
        assert_eq!(
            refusal(b"\0asm\x01\0\0\0"),
            "x.so is a WebAssembly module, not a plugin (expected an ELF shared library, .so)"
        );
        let program = fs::read("/proc/self/exe").unwrap();
        assert!(refusal(&program).starts_with("x.so is a program, not a plugin"));
    }

    #[test]
    fn a_library_that_was_cut_short_is_not_loaded() {
        let program = fs::read("/proc/self/exe").unwrap();
        let refusal = refusal(&program[..program.len() / 2]);
        assert!(
            refusal.contains("is cut short") && refusal.contains("an interrupted copy?"),
            "{refusal}"
        );
    }
}
