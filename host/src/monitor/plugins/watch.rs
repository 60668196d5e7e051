//! Inotify on the drop-in directories. It makes the monitor fast; where it does not work, the periodic scan
//! finds the same.

use super::event::Event;
use crate::{monitor::mailbox::Mailbox, wire};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
    rc::Rc,
};
use tokio::io::Interest;

/// The changes of a directory that can make a plugin appear, change or go away.
const CHANGES: AddWatchFlags = AddWatchFlags::IN_CREATE
    .union(AddWatchFlags::IN_CLOSE_WRITE)
    .union(AddWatchFlags::IN_MOVED_TO)
    .union(AddWatchFlags::IN_MOVED_FROM)
    .union(AddWatchFlags::IN_DELETE)
    .union(AddWatchFlags::IN_ATTRIB)
    .union(AddWatchFlags::IN_ONLYDIR);

/// Tells the loop of changes in drop-in directories.
#[derive(Debug)]
pub(super) struct Watch {
    inotify: Rc<Inotify>,
}

impl Watch {
    /// Begins to tell of changes, in no directory yet.
    pub(super) fn start(mailbox: Mailbox<Event>) -> io::Result<Self> {
        let inotify = Rc::new(Inotify::init(
            InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC,
        )?);
        let descriptor = inotify.as_fd().try_clone_to_owned()?;
        tokio::task::spawn_local(listen(Rc::clone(&inotify), descriptor, mailbox));
        Ok(Self { inotify })
    }

    /// Watches these directories. A directory that is watched already is named again after each scan, for
    /// it may have been removed and made anew.
    pub(super) fn add(&self, directories: &[PathBuf]) {
        for directory in directories {
            // A directory that has just vanished is missed by the next scan.
            let _ = self.inotify.add_watch(directory.as_path(), CHANGES);
        }
    }
}

async fn listen(inotify: Rc<Inotify>, descriptor: OwnedFd, mailbox: Mailbox<Event>) {
    let Ok(descriptor) = wire::watched(descriptor, Interest::READABLE) else {
        return;
    };
    while let Ok(mut ready) = descriptor.readable().await {
        while inotify.read_events().is_ok() {}
        ready.clear_ready();
        if !mailbox.send(Event::DirectoryChanged) {
            return;
        }
    }
}
