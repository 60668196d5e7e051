//! Files that the command line names: read, and written.

use super::exit::{Failure, Result};
use std::{
    fs::{self, File},
    io::{self, Read, Write},
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
};

/// The content of a file, or of standard input for `-`.
pub(super) fn read(path: &Path) -> Result<Vec<u8>> {
    read_at_most(path, u64::MAX)
}

/// The same, refused if there are more bytes than this.
pub(super) fn read_at_most(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let unreadable = |error| Failure::new(format!("could not read {}: {error}", path.display()));
    let source: Box<dyn Read> = if path == Path::new("-") {
        Box::new(io::stdin())
    } else {
        Box::new(File::open(path).map_err(unreadable)?)
    };
    let mut content = Vec::new();
    source
        .take(limit.saturating_add(1))
        .read_to_end(&mut content)
        .map_err(unreadable)?;
    if content.len() as u64 > limit {
        return Err(Failure::new(format!(
            "{} has more than {limit} bytes",
            path.display()
        )));
    }
    Ok(content)
}

/// Writes a file beside its place first: a disk that is full leaves the one that was there, which
/// keeps its owner and who may read it. What is no regular file (a pipe, a terminal), or lies where
/// nothing can be made, is written to as it is.
pub(super) fn save(path: &Path, text: String) -> io::Result<()> {
    let existing = fs::metadata(path).ok();
    if existing
        .as_ref()
        .is_some_and(|existing| !existing.is_file())
    {
        return fs::write(path, text);
    }
    // Of what a link points to.
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let directory = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let made = tempfile::Builder::new()
        .permissions(fs::Permissions::from_mode(0o666))
        .tempfile_in(directory);
    let mut file = match made {
        Ok(file) => file,
        // Perhaps it can be written to; if not, that says why.
        Err(_) => return fs::write(path, text),
    };
    file.write_all(text.as_bytes())?;
    if let Some(existing) = existing {
        let (owner, group) = (Some(existing.uid()), Some(existing.gid()));
        if std::os::unix::fs::fchown(file.as_file(), owner, group).is_err() {
            return fs::write(path, text);
        }
        file.as_file().set_permissions(existing.permissions())?;
    }
    file.persist(&path)?;
    Ok(())
}
