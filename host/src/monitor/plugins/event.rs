//! Everything that can happen around plugins.

use super::scan::Scan;
use crate::store::{DropInOutcome, Offer, StoreError};
use nix::unistd::Pid;
use std::path::PathBuf;

/// Something happened around plugins.
#[derive(Debug)]
pub(in crate::monitor) enum Event {
    /// Inotify reports a change in a drop-in directory.
    DirectoryChanged,
    /// The drop-in directories have been read.
    Scanned(Scan),
    /// The drop-in files that earlier monitors of this host knew, each with its hash then.
    Known(Result<Vec<(String, Option<String>)>, StoreError>),
    /// An examiner has closed its output; this is what it printed.
    Examined(Pid, Vec<u8>),
    /// The database has registered what a drop-in file offers, or has not.
    Registered(PathBuf, Result<DropInOutcome, StoreError>),
    /// The database has retired what a vanished drop-in file offered, or has not. With the number of
    /// retired operations, and the files that offered them before.
    Retired(PathBuf, Result<(i64, Vec<String>), StoreError>),
    /// A refusal has been written to the database, or has not; nothing depends on it.
    RefusalSaved(Result<(), StoreError>),
    /// The published plugins that this host could run and does not.
    Offers(Result<Vec<Offer>, StoreError>),
    /// The published bytes of the content with this hash are in a file of the cache's directory; or the
    /// reason why they cannot be used; or the database did not answer.
    Fetched(String, Result<Result<PathBuf, String>, StoreError>),
    /// The database has deployed the content with this hash on this host: how many operations.
    Adopted(String, Result<usize, StoreError>),
}
