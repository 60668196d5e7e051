//! What lies in the drop-in directories at one moment.

use crate::{
    model::name::{is_active, parse_name},
    plugin::{FileStamp, signature_path},
};
use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// What changes whenever a file, or the signature beside it, does, be it only in who may write it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) file: FileStamp,
    signature: Option<FileStamp>,
    /// Who may write the directories above it.
    above: u64,
}

/// What was found in the directories.
#[derive(Debug, Default)]
pub(super) struct Scan {
    /// Plugins, with the domain that their place gives them.
    pub(super) files: BTreeMap<PathBuf, (Option<String>, Stamp)>,
    /// Directories that could be read, to be watched.
    pub(super) directories: Vec<PathBuf>,
    /// Those that are not looked into, and why: what is in them is not taken to be gone.
    pub(super) unreadable: BTreeMap<PathBuf, String>,
}

/// Looks through the directories. Not for the loop: file systems can be slow.
pub(super) fn scan(directories: &[PathBuf]) -> Scan {
    let mut scan = Scan::default();
    for directory in directories {
        scan_directory(directory, None, &mut scan);
    }
    scan
}

/// Whether a scan would find this file if it were there.
pub(super) fn is_looked_at(directories: &[PathBuf], path: &Path) -> bool {
    directories
        .iter()
        .filter_map(|directory| path.strip_prefix(directory).ok())
        .any(|below| {
            let hidden = |part: &OsStr| part.as_encoded_bytes().starts_with(b".");
            below.components().count() <= 2
                && below.extension().is_some_and(|end| end == "so")
                && !below.iter().any(hidden)
        })
}

fn scan_directory(directory: &Path, domain: Option<&str>, scan: &mut Scan) {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) => {
            scan.unreadable
                .insert(directory.to_owned(), unreadable(&error));
            return;
        }
    };
    scan.directories.push(directory.to_owned());
    let above = rights_above(directory);
    for entry in entries {
        let entry = match entry {
            Ok(entry) => entry,
            // Half a listing says nothing about the other half.
            Err(error) => {
                scan.unreadable
                    .insert(directory.to_owned(), unreadable(&error));
                return;
            }
        };
        let name = entry.file_name();
        let is_plugin = name.as_encoded_bytes().ends_with(b".so");
        if name.as_encoded_bytes().starts_with(b".") {
            continue;
        }
        // Of what a link points to; of the link itself if that is nowhere.
        let path = entry.path();
        let Ok(metadata) = fs::metadata(&path).or_else(|_| fs::symlink_metadata(&path)) else {
            continue;
        };
        if is_plugin {
            let stamp = Stamp {
                file: FileStamp::from(&metadata),
                signature: fs::metadata(signature_path(&path))
                    .ok()
                    .map(|metadata| FileStamp::from(&metadata)),
                above,
            };
            // The database holds text only: see `is_text`.
            let path = PathBuf::from(path.to_string_lossy().into_owned());
            scan.files.insert(path, (domain.map(str::to_owned), stamp));
        } else if metadata.is_dir() && domain.is_none() {
            match name.to_str().map(parse_name) {
                Some(Ok(name)) => scan_directory(&path, Some(&name), scan),
                Some(Err(error)) => {
                    let reason = format!("is left alone: its name is a domain, so {error}");
                    scan.unreadable.insert(path, reason);
                }
                None => {
                    scan.unreadable
                        .insert(path, format!("is left alone: {NOT_TEXT}"));
                }
            }
        }
    }
}

fn unreadable(error: &io::Error) -> String {
    format!("cannot be read, what it offered stays: {error}")
}

/// What changes when the owner or the permissions of a directory do, or of one above it.
fn rights_above(directory: &Path) -> u64 {
    let mut hasher = DefaultHasher::new();
    let directory = fs::canonicalize(directory).unwrap_or_else(|_| directory.to_owned());
    for above in directory.ancestors() {
        let rights = fs::metadata(above).map(|it| (it.uid(), it.gid(), it.mode()));
        rights.ok().hash(&mut hasher);
    }
    hasher.finish()
}

/// Why a file is refused that [`is_text`] says no of.
pub(super) const NOT_TEXT: &str =
    "its name is not plain text in UTF-8, or has control characters: rename it";

/// Whether a path of a [`Scan`] is the file's own, where what is not UTF-8 has been replaced, and can
/// be printed in a line.
pub(super) fn is_text(path: &Path) -> bool {
    let path = path.to_string_lossy();
    !path.contains(|c: char| c == char::REPLACEMENT_CHARACTER || is_active(c))
}
