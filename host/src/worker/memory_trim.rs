//! Releases memory of idle workers: a monitor has many, and each maps the whole program, of which it needs
//! little after its start and nothing while it is idle.

use crate::proc::{Mapping, mapped_files};
use nix::sys::mman::{MmapAdvise, madvise};
use std::{
    ptr::NonNull,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

/// Whether anything has run since the pages were last released.
static USED: AtomicBool = AtomicBool::new(true);

/// Notes that something has run.
pub(super) fn used() {
    USED.store(true, Relaxed);
}

/// The mapped parts of this program whose pages can be released at any time.
#[derive(Debug)]
pub(super) struct Program {
    ranges: Vec<(usize, usize)>,
}

impl Program {
    /// Finds these parts.
    pub(super) fn find() -> Self {
        let program = std::fs::read_link("/proc/self/exe").unwrap_or_default();
        let mut files = mapped_files();
        files.retain(|file| program == *file.path && is_clean(file));
        Self {
            ranges: files.iter().map(|file| (file.start, file.end)).collect(),
        }
    }

    /// Releases their pages, if anything has run since the last time. They are clean pages of a file: when
    /// one is used again, the kernel takes it from the page cache.
    pub(super) fn release_pages(&self) {
        if !USED.swap(false, Relaxed) {
            return;
        }
        for (start, end) in &self.ranges {
            let Some(address) = NonNull::new(std::ptr::with_exposed_provenance_mut(*start)) else {
                continue;
            };
            // SAFETY: the range is a private mapping of the program's file that nobody has written
            // to: code, or the constants at the beginning of the file, which are never relocated.
            // Reading it afterwards gives what is in the file, as before.
            let _ = unsafe { madvise(address, end - start, MmapAdvise::MADV_DONTNEED) };
        }
    }
}

/// Whether a part of the program is code or constants, which are never written. Data that has been relocated
/// lies further on in the file.
fn is_clean(part: &Mapping) -> bool {
    match part.permissions.as_str() {
        "r-xp" => true,
        "r--p" => part.offset == 0,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_never_written() {
        let part = |permissions: &str, offset| Mapping {
            start: 0x1000,
            end: 0x2000,
            permissions: permissions.to_owned(),
            offset,
            path: "/usr/bin/rework".to_owned(),
        };
        assert!(is_clean(&part("r--p", 0)));
        assert!(is_clean(&part("r-xp", 0x1000)));
        assert!(!is_clean(&part("r--p", 0x4000)));
        assert!(!is_clean(&part("rw-p", 0x5000)));
    }

    #[test]
    fn the_program_goes_on() {
        let program = Program::find();
        assert!(!program.ranges.is_empty());
        for _ in 0..2 {
            used();
            program.release_pages();
        }
        assert_eq!(
            format!("{:?}", (1..4).map(|n| n * n).collect::<Vec<_>>()),
            "[1, 4, 9]"
        );
    }
}
