//! Whether a file is still the one that was looked at.

use std::{fs::Metadata, os::unix::fs::MetadataExt};

/// What changes whenever a file is written to or replaced, or somebody else may do so; see
/// inode(7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileStamp {
    device: u64,
    inode: u64,
    size: u64,
    /// When the content changed last, in seconds and nanoseconds.
    pub modified: (i64, i64),
    /// When that, the owner or the permissions did; unlike the other nobody can set it.
    changed: (i64, i64),
}

impl From<&Metadata> for FileStamp {
    fn from(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}
