//! The directory of a monitor's shared pages. It is locked while the monitor lives, so that the
//! host's next monitor knows at once that it is gone, and reads there what had begun.

use crate::{
    here,
    wire::{Page, SlotState},
};
use nix::fcntl::{Flock, FlockArg};
use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

/// How the names of these directories begin.
const PREFIX: &str = "monitor-";

/// The name of an empty file in the directory of a monitor that is dead. The file is as old as the moment when
/// another monitor first found it so.
const LEFT: &str = "left";

/// The directory of a dead monitor is removed after this: the next monitor of the same database, which wants to
/// know what had begun, has read it by then, if there is one.
const FORGOTTEN: Duration = Duration::from_secs(24 * 3600);

/// Results that were never reported are kept for this many times as long.
const RESULTS_LONGER: u32 = 30;

/// The directory of this host in which each monitor has one of its own.
pub(in crate::monitor) fn pages_dir() -> PathBuf {
    here::state_dir().join("pages")
}

/// The directory of this monitor, locked.
#[derive(Debug)]
pub(in crate::monitor) struct Pages {
    directory: PathBuf,
    is_left: bool,
    _lock: Flock<File>,
}

impl Pages {
    /// Makes a directory below `parent` that nobody else has, and removes what was left there long ago.
    /// `holds_results` tells whether there are results in a directory that nobody has reported.
    pub(in crate::monitor) fn create(
        parent: &Path,
        holds_results: impl Fn(&Path) -> bool,
    ) -> io::Result<Self> {
        fs::create_dir_all(parent)?;
        // One at a time: another's new directory, not yet locked, looks abandoned.
        let file = File::create(parent.join("lock"))?;
        let _turn = Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, error)| error)?;
        sweep(parent, FORGOTTEN, holds_results);
        let directory = tempfile::Builder::new()
            .prefix(PREFIX)
            .tempdir_in(parent)?
            .keep();
        let lock =
            lock(&directory)?.ok_or_else(|| io::Error::other("the new directory is locked"))?;
        Ok(Self {
            directory,
            is_left: false,
            _lock: lock,
        })
    }

    /// Leaves the directory to the host's next monitor, as one that was killed does.
    pub(in crate::monitor) fn leave(&mut self) {
        self.is_left = true;
    }

    pub(in crate::monitor) fn directory(&self) -> &Path {
        &self.directory
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        if !self.is_left {
            let _ = fs::remove_dir_all(&self.directory);
        }
    }
}

/// The directory of a monitor that is certainly dead: it was on this machine, and its lock is free.
#[derive(Debug)]
pub(in crate::monitor) struct Abandoned {
    directory: PathBuf,
    _lock: Flock<File>,
}

impl Abandoned {
    /// `None` if the directory is not one of those below `parent`, or its monitor lives. The name
    /// comes from the database, and the directory will be removed: nothing that [`Pages::create`]
    /// has not made here is ever touched.
    pub(in crate::monitor) fn find(parent: &Path, directory: &Path) -> Option<Self> {
        let name = directory.file_name()?;
        if !name.to_str()?.starts_with(PREFIX) {
            return None;
        }
        let parent = fs::canonicalize(parent).ok()?;
        if fs::canonicalize(directory.parent()?).ok()? != parent {
            return None;
        }
        let directory = parent.join(name);
        // Of a link this tells what the link is.
        if !fs::symlink_metadata(&directory).ok()?.is_dir() {
            return None;
        }
        let lock = lock(&directory).ok()??;
        Some(Self {
            directory,
            _lock: lock,
        })
    }

    /// Tasks that had been handed to its workers and had not begun, nor ever will: their workers
    /// died with their monitor.
    pub(in crate::monitor) fn never_begun(&self) -> Vec<i64> {
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

    /// The directories of dead monitors with results that nobody has reported.
    pub(in crate::monitor) fn with_results(
        parent: &Path,
        holds_results: impl Fn(&Path) -> bool,
    ) -> Vec<Self> {
        let entries = fs::read_dir(parent).into_iter().flatten().flatten();
        entries
            .map(|entry| entry.path())
            .filter(|directory| holds_results(directory))
            .filter_map(|directory| Self::find(parent, &directory))
            .collect()
    }

    pub(in crate::monitor) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Removes it, once its tasks are accounted for.
    pub(in crate::monitor) fn remove(self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// Removes the directories that have been abandoned for longer than this: the next monitor of the same
/// database has asked long ago, if there is one.
fn sweep(parent: &Path, forgotten: Duration, holds_results: impl Fn(&Path) -> bool) {
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    for abandoned in entries.filter_map(|entry| Abandoned::find(parent, &entry.path())) {
        let mark = abandoned.directory.join(LEFT);
        let age = fs::metadata(&mark)
            .and_then(|mark| mark.modified())
            .map(|left| SystemTime::now().duration_since(left).unwrap_or_default());
        match age {
            Ok(age) if holds_results(&abandoned.directory) && age <= forgotten * RESULTS_LONGER => {
            }
            Ok(age) if age > forgotten => abandoned.remove(),
            Ok(_) => {}
            Err(_) => drop(File::create(mark)),
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_directories_of_monitors_are_ever_found() {
        let here = tempfile::tempdir().unwrap();
        let pages = here.path().join("pages");
        let alive = Pages::create(&pages, |_| false).unwrap();
        assert!(Abandoned::find(&pages, alive.directory()).is_none());
        let lost = pages.join("monitor-lost");
        let elsewhere = here.path().join("monitor-elsewhere");
        let unlike = pages.join("precious");
        for directory in [&lost, &elsewhere, &unlike] {
            fs::create_dir(directory).unwrap();
        }
        let link = pages.join("monitor-link");
        std::os::unix::fs::symlink(&elsewhere, &link).unwrap();
        for stranger in [
            &elsewhere,
            &unlike,
            &link,
            &pages.join("monitor-../../monitor-elsewhere"),
        ] {
            assert!(Abandoned::find(&pages, stranger).is_none(), "{stranger:?}");
            assert!(!elsewhere.join("lock").exists(), "{stranger:?} was touched");
        }
        Abandoned::find(&pages, &lost).expect("it is one").remove();
        assert!(!lost.exists());
    }

    #[test]
    fn what_has_long_been_left_is_swept_away() {
        let pages = tempfile::tempdir().unwrap();
        let alive = Pages::create(pages.path(), |_| false).unwrap();
        let lost = pages.path().join("monitor-lost");
        fs::create_dir(&lost).unwrap();
        sweep(pages.path(), FORGOTTEN, |_| false);
        sweep(pages.path(), FORGOTTEN, |_| false);
        assert!(lost.exists(), "its next monitor may still ask");
        sweep(pages.path(), Duration::ZERO, |_| false);
        assert!(!lost.exists() && alive.directory().exists());
    }
}
