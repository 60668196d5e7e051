//! Which other users could change a plugin: its file, and the directories above it. They are checked before
//! a file is trusted, as sshd does for keys.

use std::{
    fs::{self, Metadata},
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use nix::unistd::{Gid, Group, Uid, User};
use thiserror::Error;

/// Why a file may have been written by another user.
#[derive(Debug, Error)]
pub(super) enum PermissionError {
    /// Every user can write the file or directory.
    #[error(
        ": refused: other users can write {} (mode {mode:o}); run: chmod go-w {}",
        what(*directory, path),
        path.display()
    )]
    World {
        /// The path that can be written.
        path: PathBuf,
        /// Whether it is a directory.
        directory: bool,
        /// The permissions.
        mode: u32,
    },
    /// A group with other members can write the file or directory.
    #[error(
        ": refused: the group {group} can write {} (mode {mode:o}); run: chmod g-w {}",
        what(*directory, path),
        path.display()
    )]
    Group {
        /// The path that can be written.
        path: PathBuf,
        /// Whether it is a directory.
        directory: bool,
        /// The permissions.
        mode: u32,
        /// The group, by name if it has one.
        group: String,
    },
    /// The file or directory belongs to another user.
    #[error(": refused: {} belongs to user {owner}", what(*directory, path))]
    Owner {
        /// The path.
        path: PathBuf,
        /// Whether it is a directory.
        directory: bool,
        /// The owner, by name if there is one.
        owner: String,
    },
}

fn what(directory: bool, path: &Path) -> String {
    if directory {
        format!("the directory {}", path.display())
    } else {
        "this file".to_owned()
    }
}

/// Checks a file and every directory above it. `path` must be absolute and without symbolic links. A path
/// that cannot be read is accepted here: opening the file reports the error.
pub(super) fn check(path: &Path) -> Result<(), PermissionError> {
    for path in path.ancestors() {
        if let Ok(metadata) = fs::symlink_metadata(path) {
            one(path, &metadata)?;
        }
    }
    Ok(())
}

/// Checks one directory, without those above it.
pub(super) fn check_one(directory: &Path) -> Result<(), PermissionError> {
    match fs::symlink_metadata(directory) {
        Ok(metadata) => one(directory, &metadata),
        Err(_) => Ok(()),
    }
}

fn one(path: &Path, metadata: &Metadata) -> Result<(), PermissionError> {
    let mode = metadata.permissions().mode() & 0o7777;
    let directory = metadata.is_dir();
    let path = || path.to_owned();
    let owner = Uid::from_raw(metadata.uid());
    // Root may use a file of any user: whoever runs the command as root has decided so.
    if !Uid::effective().is_root() && !owner.is_root() && owner != Uid::effective() {
        let owner = user_name(owner).unwrap_or_else(|| owner.to_string());
        return Err(PermissionError::Owner {
            path: path(),
            directory,
            owner,
        });
    }
    // In a sticky directory, such as /tmp, only the owner can replace a file.
    if directory && mode & 0o1000 != 0 {
        return Ok(());
    }
    if mode & 0o002 != 0 {
        return Err(PermissionError::World {
            path: path(),
            directory,
            mode,
        });
    }
    let group = Gid::from_raw(metadata.gid());
    if mode & 0o020 != 0 && !is_private(group, owner) {
        let group = group_name(group).unwrap_or_else(|| group.to_string());
        return Err(PermissionError::Group {
            path: path(),
            directory,
            mode,
            group,
        });
    }
    Ok(())
}

/// Whether the group has no members but the owner and root: it is root's own group, or the group of the
/// same name that many systems create for each user, together with a umask of 002.
fn is_private(group: Gid, owner: Uid) -> bool {
    if group.as_raw() == 0 {
        return true;
    }
    let Some(owner) = user_name(owner) else {
        // The user database has no entry to compare with, as in some containers.
        return group.as_raw() == owner.as_raw();
    };
    match Group::from_gid(group) {
        Ok(Some(found)) => found.name == owner && found.mem.iter().all(|member| *member == owner),
        _ => false,
    }
}

fn user_name(user: Uid) -> Option<String> {
    User::from_uid(user).ok().flatten().map(|user| user.name)
}

fn group_name(group: Gid) -> Option<String> {
    Group::from_gid(group)
        .ok()
        .flatten()
        .map(|group| group.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(mode: u32) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().canonicalize().unwrap().join("x.so");
        fs::write(&path, "").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        (directory, path)
    }

    #[test]
    fn a_sticky_directory_above_is_fine() {
        let (_directory, path) = file(0o644);
        check(&path).unwrap();
    }

    #[test]
    fn a_file_for_everybody_is_not() {
        let (_directory, path) = file(0o666);
        let error = check(&path).unwrap_err().to_string();
        let path = path.display();
        assert_eq!(
            error,
            format!(
                ": refused: other users can write this file (mode 666); run: chmod go-w {path}"
            )
        );
    }

    #[test]
    fn nor_is_a_directory_for_everybody() {
        let (directory, path) = file(0o600);
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let error = check(&path).unwrap_err().to_string();
        assert!(error.contains("the directory"), "{error}");
    }
}
