//! The directory of a monitor's shared pages. It is locked while the monitor lives, so that the
//! host's next monitor knows at once that it is gone, and reads there what had begun.

use crate::wire::{Page, SlotState};
use nix::fcntl::{Flock, FlockArg};
use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

/// A directory of our own, locked.
#[derive(Debug)]
pub(super) struct Pages {
    directory: PathBuf,
    _lock: Flock<File>,
}

impl Pages {
    /// Makes a directory below `parent` that nobody else has.
    pub(super) fn create(parent: &Path) -> io::Result<Self> {
        fs::create_dir_all(parent)?;
        let directory = tempfile::Builder::new()
            .prefix("monitor-")
            .tempdir_in(parent)?
            .keep();
        let lock =
            lock(&directory)?.ok_or_else(|| io::Error::other("the new directory is locked"))?;
        Ok(Self {
            directory,
            _lock: lock,
        })
    }

    /// Where it is.
    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// The directory of a monitor that is certainly dead: it was on this machine, and its lock is free.
#[derive(Debug)]
pub(super) struct Abandoned {
    directory: PathBuf,
    _lock: Flock<File>,
}

impl Abandoned {
    /// `None` if the directory is not here, or its monitor lives.
    pub(super) fn find(directory: &Path) -> Option<Self> {
        if !directory.is_dir() {
            return None;
        }
        let lock = lock(directory).ok()??;
        Some(Self {
            directory: directory.to_owned(),
            _lock: lock,
        })
    }

    /// Tasks that had been handed to its workers and had not begun, nor ever will: their workers
    /// died with their monitor.
    pub(super) fn never_begun(&self) -> Vec<i64> {
        let entries = fs::read_dir(&self.directory)
            .into_iter()
            .flatten()
            .flatten();
        entries
            .filter(|entry| entry.path().extension().is_some_and(|end| end == "page"))
            .filter_map(|entry| Page::open(&entry.path()).ok())
            .flat_map(|page| {
                (0..Page::SLOTS)
                    .filter(|slot| page.state(*slot) == SlotState::Handed && page.revoke(*slot))
                    .map(|slot| page.task(slot))
                    .collect::<Vec<_>>()
            })
            .collect()
    }

    /// Removes it, once its tasks are accounted for.
    pub(super) fn remove(self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn lock(directory: &Path) -> io::Result<Option<Flock<File>>> {
    let file = File::create(directory.join("lock"))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Some(lock)),
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => Ok(None),
        Err((_, error)) => Err(error.into()),
    }
}
