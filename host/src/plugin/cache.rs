//! The private copies that are inspected and loaded, named by their content. Overwriting, cutting
//! or deleting the original does no harm to who runs the copy.

use super::{PluginError, permissions};
use crate::model::input::hexadecimal;
use sha2::{Digest, Sha256};
use std::{
    fs::{self, DirBuilder, File},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
};

/// A directory of plugins, each named by the SHA-256 of its content.
#[derive(Debug, Clone)]
pub struct Cache {
    directory: PathBuf,
}

/// A plugin in the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cached {
    /// SHA-256 of the content, hexadecimal.
    pub hash: String,
    /// Where the copy is.
    pub path: PathBuf,
}

impl Cache {
    /// A cache in this directory, which is made when it is needed.
    pub fn at(directory: PathBuf) -> Self {
        Self { directory }
    }

    /// Where it is.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Writes bytes that did not come from a file, with their signature beside them, so that they
    /// can be examined like one; [`Cache::unstage`] removes them.
    pub fn stage(&self, hash: &str, bytes: &[u8], signature: Option<&str>) -> io::Result<PathBuf> {
        self.make()?;
        let path = self.staged(hash);
        fs::write(&path, bytes)?;
        if let Some(signature) = signature {
            fs::write(path.with_extension("so.minisig"), signature)?;
        }
        Ok(path)
    }

    /// Removes what was staged, if anything was.
    pub fn unstage(&self, hash: &str) {
        let path = self.staged(hash);
        let _ = fs::remove_file(path.with_extension("so.minisig"));
        let _ = fs::remove_file(path);
    }

    fn staged(&self, hash: &str) -> PathBuf {
        self.directory.join(format!(".fetched-{hash}.so"))
    }

    fn make(&self) -> io::Result<()> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.directory)
    }

    /// The copy of a content, if it is here and whole.
    pub fn find(&self, hash: &str) -> Option<PathBuf> {
        let path = self.directory.join(format!("{hash}.so"));
        path.is_file().then_some(path)
    }

    /// Copies a file into the cache, after checking that nobody else could have written it.
    pub fn admit(&self, file: &Path) -> Result<Cached, PluginError> {
        let refused = |reason: String| PluginError::new(file, reason);
        let mut source = open_regular(file)?;
        check_permissions(file)?;
        let failed =
            |error: io::Error| refused(format!("could not be copied to the cache: {error}"));
        self.make().map_err(failed)?;
        let mut copy = tempfile::Builder::new()
            .prefix(".incoming-")
            .tempfile_in(&self.directory)
            .map_err(failed)?;
        let mut hasher = Sha256::new();
        let mut buffer = vec![0; 1 << 20];
        loop {
            let count = source
                .read(&mut buffer)
                .map_err(|error| refused(format!("cannot be read: {error}")))?;
            if count == 0 {
                break;
            }
            hasher.update(&buffer[..count]);
            copy.write_all(&buffer[..count]).map_err(failed)?;
        }
        let hash = hexadecimal(&hasher.finalize());
        let path = self.directory.join(format!("{hash}.so"));
        if path.is_file() {
            return Ok(Cached { hash, path });
        }
        copy.as_file()
            .set_permissions(fs::Permissions::from_mode(0o500))
            .and_then(|()| copy.as_file().sync_all())
            .map_err(failed)?;
        // A rename: whoever looks sees all of it or nothing, also when two do this at once.
        copy.persist(&path).map_err(|error| failed(error.error))?;
        Ok(Cached { hash, path })
    }
}

/// Opens what can only be a plugin; a FIFO would block.
fn open_regular(file: &Path) -> Result<File, PluginError> {
    let refused = |reason: &str| PluginError::new(file, reason);
    let metadata = fs::metadata(file).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => refused("does not exist: no such file"),
        _ => refused(&format!("cannot be read: {error}")),
    })?;
    if metadata.is_dir() {
        return Err(refused("is a directory, not a plugin"));
    }
    if !metadata.is_file() {
        return Err(refused("is not a regular file"));
    }
    if metadata.len() == 0 {
        return Err(PluginError::unfinished(file, "is empty (0 bytes)"));
    }
    File::open(file).map_err(|error| refused(&format!("cannot be read: {error}")))
}

/// As sshd does with keys: file and directories belong to root or us, and nobody else may write
/// them.
fn check_permissions(file: &Path) -> Result<(), PluginError> {
    let real = fs::canonicalize(file)
        .map_err(|error| PluginError::new(file, format!("cannot be read: {error}")))?;
    permissions::check(&real).map_err(|error| PluginError::new(file, format!("is {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache() -> (tempfile::TempDir, Cache) {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::at(directory.path().join("cache"));
        (directory, cache)
    }

    #[test]
    fn the_copy_survives_what_happens_to_the_original() {
        let (directory, cache) = cache();
        let file = directory.path().join("x.so");
        fs::write(&file, b"first").unwrap();
        let first = cache.admit(&file).unwrap();
        assert_eq!(cache.admit(&file).unwrap(), first);
        fs::write(&file, b"other").unwrap();
        let second = cache.admit(&file).unwrap();
        assert_ne!(first.hash, second.hash);
        assert_eq!(
            fs::read(cache.find(&first.hash).unwrap()).unwrap(),
            b"first"
        );
        assert_eq!(cache.find("0"), None);
    }

    #[test]
    fn what_others_can_write_is_refused_with_the_remedy() {
        let (directory, cache) = cache();
        let file = directory.path().join("x.so");
        fs::write(&file, b"first").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).unwrap();
        let refusal = cache.admit(&file).unwrap_err().to_string();
        assert!(
            refusal.contains("other users can write this file (mode 666)"),
            "{refusal}"
        );
        assert!(refusal.contains("chmod go-w"), "{refusal}");
    }

    #[test]
    fn what_is_no_file_is_named() {
        let (directory, cache) = cache();
        let refusal = |path: &Path| cache.admit(path).unwrap_err().reason;
        assert_eq!(refusal(directory.path()), "is a directory, not a plugin");
        assert_eq!(
            refusal(&directory.path().join("none")),
            "does not exist: no such file"
        );
        let empty = directory.path().join("empty.so");
        fs::write(&empty, b"").unwrap();
        assert_eq!(refusal(&empty), "is empty (0 bytes)");
    }
}
