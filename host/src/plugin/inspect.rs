//! What a plugin says of itself in its ELF notes, read without running a byte of it.

use super::{PluginError, elf};
use crate::model::input::sha256;
use rework_plugin::{
    abi::{ABI_MAJOR, ABI_MINOR},
    spec::{Spec, check_specs},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::{fs, path::Path};

const OWNER: &[u8] = b"REWORK";
const PLUGIN: u32 = 1;
const OPERATION: u32 = 2;

/// What is known of a plugin that has not been loaded.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Inspection {
    /// SHA-256 of the content, hexadecimal.
    pub hash: String,
    /// In bytes.
    pub size: u64,
    /// The plugin.
    #[serde(flatten)]
    pub note: PluginNote,
    /// What it offers.
    pub operations: Vec<OperationNote>,
}

/// How a plugin was built.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PluginNote {
    /// Version of the SDK.
    pub sdk: String,
    /// `MAJOR.MINOR`.
    pub abi: String,
    /// The author's crate.
    #[serde(rename = "crate")]
    pub name: String,
    /// The crate's version.
    pub version: String,
    /// The compiler.
    pub rustc: String,
    /// The target triple.
    pub target: String,
    /// `debug` or `release`.
    #[serde(default)]
    pub profile: String,
    /// `unwind` or `abort`.
    pub panic: String,
}

/// What a plugin says of one operation.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct OperationNote {
    /// Its name.
    pub name: String,
    /// The domain its author declared.
    pub domain: String,
    /// How long it may run.
    #[serde(default)]
    pub timeout_ms: Option<u64>,
    /// How often it may be tried.
    #[serde(default = "once")]
    pub max_attempts: u32,
    /// The pause before the second attempt.
    #[serde(default)]
    pub backoff_ms: Option<u64>,
    /// How much memory it may use.
    #[serde(default)]
    pub memory_bytes: Option<u64>,
    /// `all`, `logs`, `manual` or `none`.
    #[serde(default = "all")]
    pub capture: String,
    /// Lowest level of log records to keep.
    #[serde(default)]
    pub level: Option<String>,
    /// Specs; null: none.
    #[serde(default)]
    pub inputs: Option<Value>,
    /// Specs; null: none.
    #[serde(default)]
    pub outputs: Option<Value>,
    /// Its doc comment.
    #[serde(default)]
    pub description: String,
    /// Whether it is an `async fn`.
    #[serde(default, rename = "async")]
    pub is_async: bool,
    /// Its module.
    #[serde(default)]
    pub module: String,
    /// Its source file.
    #[serde(default)]
    pub file: String,
    /// Its line there.
    #[serde(default)]
    pub line: u32,
    /// The ABI minor that a host needs for it.
    #[serde(default)]
    pub requires_minor: u32,
}

fn once() -> u32 {
    1
}

fn all() -> String {
    "all".to_owned()
}

/// Reads a plugin (`file`) that the user knows as `named`.
pub fn inspect(file: &Path, named: &Path) -> Result<Inspection, PluginError> {
    let refused = |reason: String| PluginError::new(named, reason);
    let data = fs::read(file).map_err(|error| refused(format!("cannot be read: {error}")))?;
    let library = elf::read(&data, OWNER).map_err(|error| match error {
        elf::ElfError::CutShort { .. } => PluginError::unfinished(named, error.to_string()),
        _ => refused(error.to_string()),
    })?;
    let (plugins, operations) = read_notes(&library).map_err(refused)?;
    let note = plugins.into_iter().next().ok_or_else(|| {
        refused(
            "is a shared library, but not a rework plugin: no .note.rework section \
             (does it call rework_plugin::export!() at its crate root?)"
                .to_owned(),
        )
    })?;
    check_abi(&note, &operations).map_err(refused)?;
    check_glibc(&library).map_err(refused)?;
    if operations.is_empty() {
        return Err(refused(
            "offers no operation: add #[operation] to a function".to_owned(),
        ));
    }
    check_operations(&operations).map_err(refused)?;
    Ok(Inspection {
        hash: sha256(&data),
        size: data.len() as u64,
        note,
        operations,
    })
}

/// The notes of the plugin and of its operations.
fn read_notes(library: &elf::Library<'_>) -> Result<(Vec<PluginNote>, Vec<OperationNote>), String> {
    let (mut plugins, mut operations) = (Vec::new(), Vec::new());
    for (kind, text) in &library.notes {
        let unreadable = |error| format!("has a damaged .note.rework section: {error}");
        match *kind {
            PLUGIN => plugins.push(serde_json::from_slice(text).map_err(unreadable)?),
            OPERATION => operations.push(serde_json::from_slice(text).map_err(unreadable)?),
            // A newer SDK's; what it means is not needed to run the rest.
            _ => {}
        }
    }
    // The linker's order means nothing.
    operations.sort_by(|a: &OperationNote, b| (&a.domain, &a.name).cmp(&(&b.domain, &b.name)));
    Ok((plugins, operations))
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

fn check_abi(note: &PluginNote, operations: &[OperationNote]) -> Result<(), String> {
    let major = note
        .abi
        .split('.')
        .next()
        .and_then(|major| major.parse::<u32>().ok());
    if major != Some(ABI_MAJOR) {
        return Err(format!(
            "was built for plugin ABI {} (rework-plugin {}); this rework speaks ABI {ABI_MAJOR}: \
             rebuild it with a rework-plugin of that ABI",
            note.abi, note.sdk
        ));
    }
    if let Some(operation) = operations
        .iter()
        .find(|operation| operation.requires_minor > ABI_MINOR)
    {
        return Err(format!(
            "needs a rework that speaks plugin ABI {ABI_MAJOR}.{} (operation `{}`); this one speaks \
             {ABI_MAJOR}.{ABI_MINOR}: needs rework ≥ {ABI_MAJOR}.{}",
            operation.requires_minor, operation.name, operation.requires_minor
        ));
    }
    Ok(())
}

/// Whether what the operations say of themselves makes sense.
fn check_operations(operations: &[OperationNote]) -> Result<(), String> {
    let mut names: Vec<_> = operations.iter().map(|o| (&o.domain, &o.name)).collect();
    names.sort_unstable();
    if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
        let (domain, name) = twice[0];
        return Err(format!(
            "offers operation `{name}` of domain `{domain}` twice"
        ));
    }
    for operation in operations {
        let damaged = |fault: String| format!("operation `{}`: {fault}", operation.name);
        for specs in [&operation.inputs, &operation.outputs]
            .into_iter()
            .flatten()
        {
            let specs: Vec<Spec> = serde_json::from_value(specs.clone())
                .map_err(|error| damaged(format!("its specs cannot be read: {error}")))?;
            check_specs(&specs).map_err(|fault| damaged(fault.to_string()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(content: &[u8]) -> String {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("x.so");
        fs::write(&file, content).unwrap();
        inspect(&file, Path::new("x.so")).unwrap_err().to_string()
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

    #[test]
    fn no_cut_of_a_library_crashes_the_reader() {
        let program = fs::read("/proc/self/exe").unwrap();
        for length in (4..program.len().min(8192)).step_by(61) {
            refusal(&program[..length]);
        }
    }
}
