//! What a plugin is, found out without running a byte of it: a whole shared library for this host,
//! with notes that make sense, an ABI that this host speaks and a C library that it has.

use super::{PluginError, elf, note, tree::plugin_in};
use crate::model::input::sha256;
use crate::model::plugin::build_warnings;
use rework_plugin::abi::{ABI_MAJOR, ABI_MINOR};
use serde::{Deserialize, Serialize};
use std::{fs, path::Path};

pub use note::{OperationNote, PluginNote};

/// What is known of a plugin that has not been loaded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Inspection {
    /// SHA-256 of the content, hexadecimal.
    pub hash: String,
    /// In bytes.
    pub size: u64,
    /// How it was built.
    #[serde(flatten)]
    pub note: PluginNote,
    /// The oldest glibc that it runs with, if it needs one: `MAJOR.MINOR`.
    pub glibc: Option<String>,
    /// The libraries that it brings along, where they are relative to each other.
    #[serde(default)]
    pub libraries: Vec<String>,
    /// What it offers, by domain and name.
    pub operations: Vec<OperationNote>,
}

impl Inspection {
    /// What its users should know, to be put behind its name.
    pub fn warnings(&self) -> Vec<String> {
        build_warnings(&self.note.panic, &self.note.sdk)
    }
}

/// Reads a plugin (`file`) that the user knows as `named`.
pub fn inspect(file: &Path, named: &Path) -> Result<Inspection, PluginError> {
    inspect_content(&read(file, named)?, named)
}

/// Reads the content of a plugin that the user knows as `named`. Whatever the bytes are, this
/// answers soon, and never crashes.
pub fn inspect_content(data: &[u8], named: &Path) -> Result<Inspection, PluginError> {
    describe(data, || sha256(data), named)
}

/// Reads a copy whose hash is known, or does not matter.
pub(super) fn inspect_copy(
    file: &Path,
    hash: &str,
    named: &Path,
) -> Result<Inspection, PluginError> {
    let data = read(file, named)?;
    describe(&data, || hash.to_owned(), named)
}

/// Not mapped: whoever cuts a mapped file short kills its readers.
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

/// What is wrong is told in a fragment to be put behind the plugin's name.
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
        // It uses words that we do not know yet.
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

/// A plugin of a later minor is welcome, unless it says that it cannot do without it.
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

/// Whether this is a later minor of our plugin ABI.
fn is_later(abi: &str) -> bool {
    let minor = abi
        .split_once('.')
        .and_then(|(_, minor)| minor.parse::<u32>().ok());
    minor.is_some_and(|minor| minor > ABI_MINOR)
}

/// A library that needs a newer C library fails to load with words that nobody understands.
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
