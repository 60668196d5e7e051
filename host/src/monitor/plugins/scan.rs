//! What the drop-in directories hold at one moment.

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

/// Changes whenever a file does, or the signature beside it, or who may write to either of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fingerprint {
    file: FileStamp,
    signature: Option<FileStamp>,
    /// A hash of the owners and permissions of the directories above the file.
    rights_above: u64,
}

impl Fingerprint {
    /// When the content of the file was changed last, in seconds and nanoseconds since 1970.
    pub(super) fn modified(&self) -> (i64, i64) {
        self.file.modified
    }
}

/// What was found in the drop-in directories.
#[derive(Debug, Default)]
pub(in crate::monitor) struct Scan {
    /// The plugin files, each with the domain that it is registered under, if its directory names one.
    pub(super) files: BTreeMap<PathBuf, (Option<String>, Fingerprint)>,
    /// The directories that could be read, which inotify can watch.
    pub(super) directories: Vec<PathBuf>,
    /// The directories that were not read, each with the reason. Nothing is known of the files in them.
    pub(super) unreadable: BTreeMap<PathBuf, String>,
}

/// Reads the drop-in directories. May take long, where a file system is slow: not to be called by the loop.
pub(super) fn scan(directories: &[PathBuf]) -> Scan {
    let mut scan = Scan::default();
    for directory in directories {
        scan_directory(directory, None, &mut scan);
    }
    scan
}

/// Whether a scan of these directories finds a plugin file at this path, if there is one.
pub(super) fn is_scanned(directories: &[PathBuf], path: &Path) -> bool {
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
    let rights_above = rights_above(directory);
    for entry in entries {
        let entry = match entry {
            Ok(entry) => entry,
            // A listing that is cut short does not say which files are gone.
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
        // A symbolic link stands for its target; a link whose target does not exist, for itself.
        let path = entry.path();
        let Ok(metadata) = fs::metadata(&path).or_else(|_| fs::symlink_metadata(&path)) else {
            continue;
        };
        if is_plugin {
            let fingerprint = Fingerprint {
                file: FileStamp::from(&metadata),
                signature: fs::metadata(signature_path(&path))
                    .ok()
                    .map(|metadata| FileStamp::from(&metadata)),
                rights_above,
            };
            // The database holds text only. A file whose name is not text is refused: see `is_text`.
            let path = PathBuf::from(path.to_string_lossy().into_owned());
            let domain = domain.map(str::to_owned);
            scan.files.insert(path, (domain, fingerprint));
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

/// A hash of the owners and permissions of a directory and of all directories above it.
fn rights_above(directory: &Path) -> u64 {
    let mut hasher = DefaultHasher::new();
    let directory = fs::canonicalize(directory).unwrap_or_else(|_| directory.to_owned());
    for above in directory.ancestors() {
        let rights = fs::metadata(above).map(|it| (it.uid(), it.gid(), it.mode()));
        rights.ok().hash(&mut hasher);
    }
    hasher.finish()
}

/// Why a file is refused for whose path [`is_text`] is false.
pub(super) const NOT_TEXT: &str =
    "its name is not plain text in UTF-8, or has control characters: rename it";

/// Whether a path of a [`Scan`] is the real path of its file, and can be printed in a line. A scan replaces
/// the bytes of a path that are not UTF-8.
pub(super) fn is_text(path: &Path) -> bool {
    let path = path.to_string_lossy();
    !path.contains(|c: char| c == char::REPLACEMENT_CHARACTER || is_active(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(scan: &Scan, directory: &Path) -> Vec<(String, Option<String>)> {
        let below = |path: &Path| path.strip_prefix(directory).unwrap().display().to_string();
        let files = scan.files.iter();
        files
            .map(|(path, (domain, _))| (below(path), domain.clone()))
            .collect()
    }

    #[test]
    fn plugins_are_found_in_the_directory_and_in_those_of_its_domains() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        fs::create_dir_all(root.join("maths/deeper")).unwrap();
        fs::create_dir(root.join("Not A Domain")).unwrap();
        fs::create_dir(root.join(".hidden")).unwrap();
        let found = ["one.so", "maths/two.so"];
        let left_alone = [
            "one.so.minisig",
            "readme.txt",
            ".one.so",
            ".hidden/three.so",
            "maths/deeper/four.so",
            "Not A Domain/five.so",
        ];
        for name in found.iter().chain(&left_alone) {
            fs::write(root.join(name), "").unwrap();
        }
        let directories = [root.to_owned(), root.join("missing")];
        let scan = scan(&directories);
        assert_eq!(
            names(&scan, root),
            [
                ("maths/two.so".to_owned(), Some("maths".to_owned())),
                ("one.so".to_owned(), None)
            ]
        );
        assert_eq!(scan.directories.len(), 2);
        let reason = |name: &str| scan.unreadable[&root.join(name)].clone();
        assert!(reason("missing").starts_with("cannot be read, what it offered stays: "));
        assert!(reason("Not A Domain").starts_with("is left alone: its name is a domain, so "));
        for name in found {
            assert!(is_scanned(&directories, &root.join(name)), "{name}");
        }
        for name in &left_alone[..5] {
            assert!(!is_scanned(&directories, &root.join(name)), "{name}");
        }
        assert!(!is_scanned(&directories, Path::new("/elsewhere/one.so")));
    }

    #[test]
    fn a_signature_beside_a_file_changes_its_fingerprint() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("one.so");
        fs::write(&file, "").unwrap();
        let fingerprint = || scan(&[directory.path().to_owned()]).files[&file].1;
        let before = fingerprint();
        assert_eq!(fingerprint(), before);
        fs::write(signature_path(&file), "").unwrap();
        let signed = fingerprint();
        assert_ne!(signed, before);
        fs::write(signature_path(&file), "longer").unwrap();
        assert_ne!(fingerprint(), signed);
    }

    #[test]
    fn names_that_are_not_text_are_known() {
        assert!(is_text(Path::new("/plugins/é.so")));
        assert!(!is_text(Path::new("/plugins/\u{fffd}.so")));
        assert!(!is_text(Path::new("/plugins/new\nline.so")));
    }
}
