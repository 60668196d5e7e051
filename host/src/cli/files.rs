//! Reading and writing the files that the command line names.

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

/// Like [`read`], but returns an error if there are more bytes than `limit`.
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

/// Writes a file through a temporary file beside it, so that a full disk leaves the old file. Owner and
/// permissions are kept. If the path is not a regular file (a pipe, a terminal), or no file can be created
/// in its directory, the path is written to directly.
pub(super) fn save(path: &Path, text: String) -> io::Result<()> {
    let existing = fs::metadata(path).ok();
    if existing
        .as_ref()
        .is_some_and(|existing| !existing.is_file())
    {
        return fs::write(path, text);
    }
    // The file that a link points to.
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
        // The file may be writable nevertheless; if not, this reports why.
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn what_is_larger_than_allowed_is_not_read() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        fs::write(&file, "1234").unwrap();
        assert_eq!(read_at_most(&file, 4).unwrap(), b"1234");
        let refusal = read_at_most(&file, 3).unwrap_err();
        assert!(refusal.message().ends_with("has more than 3 bytes"));
        assert!(read_at_most(Path::new("/dev/zero"), 1000).is_err());
    }

    #[test]
    fn what_is_written_again_stays_the_file_that_it_was() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        fs::write(&file, "old").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
        let link = directory.path().join("link");
        symlink(&file, &link).unwrap();
        save(&link, "new".to_owned()).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "new");
        let mode = |path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&file), 0o640);
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2);
        save(Path::new("/dev/null"), "gone".to_owned()).unwrap();
        assert!(save(&directory.path().join("no/such"), String::new()).is_err());
    }
}
