//! Detects whether a file has changed since it was read.

use std::{fs::Metadata, os::unix::fs::MetadataExt};

/// The attributes of a file that change whenever it is written, replaced, or given to somebody else; see
/// inode(7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileStamp {
    device: u64,
    inode: u64,
    size: u64,
    /// The time of the last change of the content, in seconds and nanoseconds.
    pub modified: (i64, i64),
    /// The time of the last change of content, owner or permissions. Unlike `modified` it cannot be set.
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
