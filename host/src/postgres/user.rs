//! The user that runs the server: the caller or, since Postgres refuses to run as root, an unprivileged
//! user.

use super::Error;
use nix::unistd::{Uid, User, geteuid};
use std::{os::unix::fs::MetadataExt, path::Path};

/// The user that runs the server.
#[derive(Debug, Clone)]
pub(super) struct ServerUser {
    pub(super) user: User,
    /// Whether the server's user is not the caller, as when the caller is root.
    pub(super) is_other: bool,
}

impl ServerUser {
    /// Determines the user: the caller or, if that is root, an unprivileged user.
    pub(super) fn find() -> Result<Self, Error> {
        let named = |name| User::from_name(name).ok().flatten();
        if geteuid().is_root() {
            let user = named("postgres")
                .or_else(|| named("nobody"))
                .ok_or(Error::NoUser)?;
            return Ok(Self {
                user,
                is_other: true,
            });
        }
        let user = User::from_uid(geteuid())
            .ok()
            .flatten()
            .ok_or_else(|| Error::Nameless(geteuid().as_raw()))?;
        Ok(Self {
            user,
            is_other: false,
        })
    }

    /// Returns an error if the server's user cannot enter the directory: initdb would only report
    /// "permission denied" about something inside.
    pub(super) fn check_reach(&self, directory: &Path) -> Result<(), Error> {
        if !self.is_other {
            return Ok(());
        }
        for parent in directory
            .ancestors()
            .skip(1)
            .filter(|parent| parent.is_dir())
        {
            let Ok(metadata) = parent.metadata() else {
                continue;
            };
            let bit = if Uid::from_raw(metadata.uid()) == self.user.uid {
                0o100
            } else if metadata.gid() == self.user.gid.as_raw() {
                0o010
            } else {
                0o001
            };
            if metadata.mode() & bit == 0 {
                return Err(Error::Unreachable {
                    user: self.user.name.clone(),
                    path: parent.to_owned(),
                });
            }
        }
        Ok(())
    }
}
