//! What a plugin says of itself in its ELF notes, read without running a byte of it.

use super::PluginError;
use object::{
    Architecture, Endianness, LittleEndian, Object, ObjectKind,
    elf::{FileHeader64, PT_LOAD},
    read::elf::{ElfFile64, FileHeader as _, ProgramHeader as _, SectionHeader as _},
};
use rework_plugin::abi::{ABI_MAJOR, ABI_MINOR};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::{fs, path::Path};

/// The section that the SDK writes.
const SECTION: &str = ".note.rework";
const OWNER: &[u8] = b"REWORK";
const PLUGIN: u32 = 1;
const OPERATION: u32 = 2;

/// What is known of a plugin that has not been loaded.
#[derive(Debug, Clone, Serialize)]
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
    check_kind(&data).map_err(refused)?;
    let (plugins, operations) = read_notes(&data).map_err(refused)?;
    let note = plugins.into_iter().next().ok_or_else(|| {
        refused(
            "is a shared library, but not a rework plugin: no .note.rework section \
             (does it call rework_plugin::export!() at its crate root?)"
                .to_owned(),
        )
    })?;
    check_abi(&note, &operations).map_err(refused)?;
    if operations.is_empty() {
        return Err(refused(
            "offers no operation: add #[operation] to a function".to_owned(),
        ));
    }
    Ok(Inspection {
        hash: hash(&data),
        size: data.len() as u64,
        note,
        operations,
    })
}

fn hash(data: &[u8]) -> String {
    use std::fmt::Write as _;
    Sha256::digest(data)
        .iter()
        .fold(String::new(), |mut text, byte| {
            write!(text, "{byte:02x}").expect("writing to a string cannot fail");
            text
        })
}

/// Whether these bytes are a whole shared library for this machine.
fn check_kind(data: &[u8]) -> Result<(), String> {
    if !data.starts_with(b"\x7fELF") {
        let text = !data.is_empty()
            && data
                .iter()
                .take(512)
                .all(|byte| !byte.is_ascii_control() || byte.is_ascii_whitespace());
        let what = if text {
            "is a text file, not a plugin"
        } else {
            "is not a plugin"
        };
        return Err(format!("{what} (expected an ELF shared library, .so)"));
    }
    let broken = |error: object::Error| format!("is not a readable ELF file: {error}");
    if let Ok(file) = object::File::parse(data)
        && file.architecture() != host_architecture()
    {
        return Err(format!(
            "was built for {:?}, but this host is {}",
            file.architecture(),
            std::env::consts::ARCH
        )
        .to_lowercase());
    }
    check_whole(data)?;
    let file = ElfFile64::<Endianness>::parse(data).map_err(broken)?;
    let is_program = file
        .elf_header()
        .program_headers(file.endian(), data)
        .map_err(broken)?
        .iter()
        .any(|segment| segment.p_type(file.endian()) == object::elf::PT_INTERP);
    match file.kind() {
        ObjectKind::Dynamic if !is_program => Ok(()),
        ObjectKind::Executable | ObjectKind::Dynamic => Err(
            "is a program, not a plugin: set crate-type = [\"cdylib\", \"rlib\"] under [lib]"
                .to_owned(),
        ),
        _ => Err(
            "is not a shared library: set crate-type = [\"cdylib\", \"rlib\"] under [lib]"
                .to_owned(),
        ),
    }
}

fn host_architecture() -> Architecture {
    if cfg!(target_arch = "aarch64") {
        Architecture::Aarch64
    } else {
        Architecture::X86_64
    }
}

/// A library that was cut short kills whoever maps it (SIGBUS).
fn check_whole(data: &[u8]) -> Result<(), String> {
    let short = |announced: u64| {
        format!(
            "is cut short: {} bytes, its headers announce {announced} (an interrupted copy?)",
            data.len()
        )
    };
    let header = FileHeader64::<LittleEndian>::parse(data)
        .map_err(|error| format!("is not a readable ELF file: {error}"))?;
    let endian = LittleEndian;
    let sections = header.e_shoff(endian)
        + u64::from(header.e_shentsize(endian)) * u64::from(header.e_shnum(endian));
    if sections > data.len() as u64 {
        return Err(short(sections));
    }
    let segments = header
        .program_headers(endian, data)
        .map_err(|_| short(u64::MAX))?;
    for segment in segments
        .iter()
        .filter(|segment| segment.p_type(endian) == PT_LOAD)
    {
        let end = segment
            .p_offset(endian)
            .saturating_add(segment.p_filesz(endian));
        if end > data.len() as u64 {
            return Err(short(end));
        }
    }
    Ok(())
}

fn read_notes(data: &[u8]) -> Result<(Vec<PluginNote>, Vec<OperationNote>), String> {
    let broken = |error: object::Error| format!("is not a readable ELF file: {error}");
    let header = FileHeader64::<Endianness>::parse(data).map_err(broken)?;
    let endian = header.endian().map_err(broken)?;
    let sections = header.sections(endian, data).map_err(broken)?;
    let (mut plugins, mut operations) = (Vec::new(), Vec::new());
    for section in sections.iter() {
        if sections.section_name(endian, section).unwrap_or_default() != SECTION.as_bytes() {
            continue;
        }
        let Some(mut notes) = section.notes(endian, data).map_err(broken)? else {
            continue;
        };
        while let Some(note) = notes.next().map_err(broken)? {
            if note.name() != OWNER {
                continue;
            }
            let unreadable = |error| format!("has a damaged .note.rework section: {error}");
            match note.n_type(endian).0 {
                PLUGIN => plugins.push(serde_json::from_slice(note.desc()).map_err(unreadable)?),
                OPERATION => {
                    operations.push(serde_json::from_slice(note.desc()).map_err(unreadable)?);
                }
                // A newer SDK's; what it means is not needed to run the rest.
                _ => {}
            }
        }
    }
    // The linker's order means nothing.
    operations.sort_by(|a: &OperationNote, b| (&a.domain, &a.name).cmp(&(&b.domain, &b.name)));
    Ok((plugins, operations))
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
    let mut names: Vec<_> = operations.iter().map(|o| (&o.domain, &o.name)).collect();
    names.sort_unstable();
    if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
        let (domain, name) = twice[0];
        return Err(format!(
            "offers operation `{name}` of domain `{domain}` twice"
        ));
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
            "x.so is not a plugin (expected an ELF shared library, .so)"
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
