//! A file that is to be used as a plugin. It is opened once, so that the file that is checked is the file
//! that is read.

use super::{PluginError, permissions};
use std::{
    fs::{self, File, Metadata, OpenOptions},
    io,
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::Path,
};

/// A file that may be a plugin and that only its owner can change.
#[derive(Debug)]
pub(super) struct Source<'a> {
    named: &'a Path,
    file: File,
    opened: Metadata,
}

impl<'a> Source<'a> {
    /// Opens the file, unless it is not a regular file, or other users can have written it.
    pub(super) fn open(named: &'a Path) -> Result<Self, PluginError> {
        let unreadable = |error: io::Error| match error.kind() {
            // The file may be in the middle of being replaced.
            io::ErrorKind::NotFound => PluginError::unfinished(named, ": no such file"),
            _ => PluginError::new(named, format!("cannot be read: {error}")),
        };
        // Checked before opening, because opening some devices has effects.
        check_kind(named, &fs::metadata(named).map_err(unreadable)?)?;
        // Does not block if the path has become a FIFO meanwhile.
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(named)
            .map_err(unreadable)?;
        let opened = file.metadata().map_err(unreadable)?;
        check_kind(named, &opened)?;
        let source = Self {
            named,
            file,
            opened,
        };
        source.check_permissions()?;
        Ok(source)
    }

    /// The open file, at the position where the last reader stopped.
    pub(super) fn file(&mut self) -> &mut File {
        &mut self.file
    }

    /// Checks that the file has not changed since it was opened.
    pub(super) fn check_unchanged(&self) -> Result<(), PluginError> {
        let now = self.file.metadata();
        let written =
            |metadata: &Metadata| (metadata.size(), metadata.mtime(), metadata.mtime_nsec());
        if now.is_ok_and(|now| written(&now) == written(&self.opened)) {
            return Ok(());
        }
        Err(PluginError::new(
            self.named,
            "is being written: try again when that is done",
        ))
    }

    /// Checks permissions as sshd does for keys: file and directories belong to root or this user, and
    /// nobody else can write them.
    fn check_permissions(&self) -> Result<(), PluginError> {
        let real = fs::canonicalize(self.named)
            .map_err(|error| PluginError::new(self.named, format!("cannot be read: {error}")))?;
        permissions::check(&real)
            .map_err(|error| PluginError::new(self.named, error.to_string()))?;
        let found = fs::symlink_metadata(&real);
        let is_same =
            |found: Metadata| (found.dev(), found.ino()) == (self.opened.dev(), self.opened.ino());
        if found.is_ok_and(is_same) {
            return Ok(());
        }
        Err(PluginError::new(
            self.named,
            "was replaced while it was looked at: try again",
        ))
    }
}

/// The largest plugin: one gigabyte.
const LARGEST: u64 = 1 << 30;

fn check_kind(named: &Path, metadata: &Metadata) -> Result<(), PluginError> {
    let reason = if metadata.is_dir() {
        "is a directory, not a plugin"
    } else if !metadata.is_file() {
        "is not a regular file"
    } else if metadata.len() > LARGEST {
        return Err(PluginError::new(
            named,
            format!(
                "has {} bytes, more than a plugin may have ({LARGEST})",
                metadata.len()
            ),
        ));
    } else if metadata.len() == 0 {
        return Err(PluginError::unfinished(named, "is empty (0 bytes)"));
    } else {
        return Ok(());
    };
    Err(PluginError::new(named, reason))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn refusal(path: &Path) -> String {
        Source::open(path).unwrap_err().reason
    }

    #[test]
    fn what_is_no_file_is_named() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(refusal(directory.path()), "is a directory, not a plugin");
        assert_eq!(refusal(&directory.path().join("none")), ": no such file");
        assert_eq!(refusal(Path::new("/dev/null")), "is not a regular file");
        let empty = directory.path().join("empty.so");
        fs::write(&empty, b"").unwrap();
        assert_eq!(refusal(&empty), "is empty (0 bytes)");
    }

    #[test]
    fn what_others_can_write_is_refused_with_the_remedy() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("x.so");
        fs::write(&file, b"first").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).unwrap();
        let refusal = refusal(&file);
        assert!(
            refusal.contains("other users can write this file (mode 666); run: chmod go-w"),
            "{refusal}"
        );
    }

    #[test]
    fn a_file_that_is_written_while_it_is_read_is_not_believed() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("x.so");
        fs::write(&file, b"first").unwrap();
        let source = Source::open(&file).unwrap();
        source.check_unchanged().unwrap();
        fs::write(&file, b"first and more").unwrap();
        assert!(source.check_unchanged().is_err());
    }
}
