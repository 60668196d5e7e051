//! Private copies of plugins, named by the hash of their content. They are what is inspected and loaded, so
//! overwriting, truncating or deleting the original does not affect workers.

use super::{
    PluginError, companions, permissions, signature::signature_path, source::Source,
    stamp::FileStamp, tree::Tree,
};
use crate::model::{input::hexadecimal, name::printable_path};
use nix::sys::statvfs::{FsFlags, statvfs};
use sha2::{Digest, Sha256};
use std::{
    collections::HashMap,
    fs::{self, DirBuilder, File},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};
use tempfile::{NamedTempFile, TempDir};

/// The prefix of a copy that is being made; its maker holds a lock on it.
const INCOMING: &str = ".incoming-";
/// The prefix of bytes that did not come from a file, and are being examined.
const STAGED: &str = ".staged-";
/// No process takes longer than this to lock a file that it has created, so an older unlocked copy is left
/// over.
const UNLOCKED: Duration = Duration::from_secs(10);
/// No examination takes this long, so an older staged file is left over from a killed process.
const FORGOTTEN: Duration = Duration::from_secs(24 * 3600);

/// A directory of plugins, each named by the SHA-256 of its content. Clones share what one of them has
/// verified.
#[derive(Debug, Clone)]
pub struct Cache {
    directory: PathBuf,
    /// The files whose content was verified against their name, with their stamps at that time.
    verified: Arc<Mutex<HashMap<String, Vec<FileStamp>>>>,
}

/// A plugin in the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cached {
    /// SHA-256 of the content, in hexadecimal.
    pub hash: String,
    pub path: PathBuf,
}

/// A copy in the cache's directory that is not in the cache yet. It is deleted when dropped, unless it is
/// kept.
#[derive(Debug)]
pub struct Incoming {
    cache: Cache,
    file: NamedTempFile,
    hash: String,
    named: PathBuf,
    /// The plugin together with the libraries that it brings along.
    tree: Option<(TempDir, Tree)>,
    /// A lock that keeps other processes from deleting the tree.
    _lock: Option<File>,
}

impl Cache {
    /// A cache in this directory, which is created when it is needed.
    pub fn at(directory: PathBuf) -> Self {
        Self {
            directory,
            verified: Arc::default(),
        }
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Writes bytes that did not come from a file, and their signature, into files, so that they can be
    /// examined like a plugin's file. [`Cache::unstage`] deletes them.
    pub fn stage(&self, bytes: &[u8], signature: Option<&str>) -> io::Result<PathBuf> {
        self.make()?;
        let mut file = self.new_file(STAGED)?;
        file.write_all(bytes)?;
        if let Some(signature) = signature {
            fs::write(signature_path(file.path()), signature)?;
        }
        Ok(file.keep()?.1)
    }

    /// Deletes a staged file and its signature.
    pub fn unstage(&self, staged: &Path) {
        let _ = fs::remove_file(signature_path(staged));
        let _ = fs::remove_file(staged);
    }

    /// Creates a temporary file that only this user can read.
    fn new_file(&self, prefix: &str) -> io::Result<NamedTempFile> {
        tempfile::Builder::new()
            .prefix(prefix)
            .suffix(".so")
            .permissions(fs::Permissions::from_mode(0o600))
            .tempfile_in(&self.directory)
    }

    fn make(&self) -> io::Result<()> {
        // The parent may be readable: an embedded cluster may lie in it, whose server runs as another user.
        if let Some(parent) = self.directory.parent() {
            fs::create_dir_all(parent)?;
        }
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.directory)
    }

    /// The copy with this hash, if the cache has it and its content is right; a damaged copy is deleted.
    /// The content is read once, and again only when the file has changed.
    pub fn find(&self, hash: &str) -> Option<PathBuf> {
        let path = self.place(hash);
        let mut file = File::open(&path).ok()?;
        let stamps = self.stamps(hash, &file).unwrap_or_default();
        if self.verified().get(hash) == Some(&stamps) {
            return Some(path);
        }
        // A directory that others can write to is not trusted; an error is shown when a plugin is added to
        // it.
        permissions::check_one(&self.directory).ok()?;
        let found = hash_while(&mut file, |_| Ok(())).ok()?;
        let is_whole = match self.tree(hash) {
            None => found == hash,
            Some(tree) => {
                let expected = (hash.to_owned(), found);
                tree.hashes().is_ok_and(|hashes| hashes == expected)
            }
        };
        if is_whole {
            let _ = let_others_read(&file);
            let stamps = self.stamps(hash, &file).ok()?;
            self.verified().insert(hash.to_owned(), stamps);
            return Some(path);
        }
        tracing::warn!(plugin.hash = %hash, "the cached copy {} was damaged", path.display());
        // Processes that have mapped the file keep their mapping.
        let _ = fs::remove_file(&path);
        let _ = fs::remove_dir_all(self.tree_place(hash));
        None
    }

    /// The tree of libraries that a cached plugin has brought along.
    fn tree(&self, hash: &str) -> Option<Tree> {
        Tree::open(&self.tree_place(hash))
    }

    fn tree_place(&self, hash: &str) -> PathBuf {
        self.directory.join(format!("{hash}.d"))
    }

    /// The stamps that show whether a copy, open as `file`, or one of its libraries has changed.
    fn stamps(&self, hash: &str, file: &File) -> io::Result<Vec<FileStamp>> {
        let mut stamps = vec![FileStamp::from(&file.metadata()?)];
        if let Some(tree) = self.tree(hash) {
            stamps.extend(tree.stamps()?);
        }
        Ok(stamps)
    }

    /// Opens a copy that was found before, if it is still the same file. A worker that loads the plugin
    /// through the descriptor loads this file, whatever replaces it. For a plugin with libraries, the
    /// descriptor is of the directory of the plugin's tree.
    pub fn open(&self, hash: &str) -> io::Result<File> {
        let file = File::open(self.place(hash))?;
        if self.verified().get(hash) != Some(&self.stamps(hash, &file)?) {
            return Err(io::Error::other("somebody has changed the cached copy"));
        }
        match self.tree(hash) {
            Some(tree) => File::open(tree.origin()),
            None => Ok(file),
        }
    }

    /// Whether a copy that was found before is still the same file.
    pub fn is_unchanged(&self, hash: &str) -> bool {
        self.open(hash).is_ok()
    }

    /// Opens a copy for a process of another user, who cannot enter the directory. That process opens the
    /// descriptor once more, so the copy itself must be readable for it.
    pub fn open_for_others(path: &Path) -> io::Result<File> {
        let file = File::open(path)?;
        let_others_read(&file)?;
        Ok(file)
    }

    /// Copies a file into the cache's directory, after checking that no other user can have written it.
    pub fn receive(&self, file: &Path) -> Result<Incoming, PluginError> {
        let mut source = Source::open(file)?;
        let failed = |error: io::Error| cannot_copy(file, &self.directory, &error);
        self.make().map_err(failed)?;
        self.check_exec(file)?;
        permissions::check_one(&self.directory).map_err(|error| {
            PluginError::new(file, format!("could not be copied to the cache{error}"))
        })?;
        self.sweep();
        let mut copy = self.new_file(INCOMING).map_err(failed)?;
        // On a file system without locks the copy is merely deleted later.
        let _ = copy.as_file().lock();
        let hash = hash_while(source.file(), |bytes| copy.write_all(bytes)).map_err(failed)?;
        source.check_unchanged()?;
        let mut incoming = Incoming {
            cache: self.clone(),
            file: copy,
            hash,
            named: file.to_owned(),
            tree: None,
            _lock: None,
        };
        incoming.bring_along(&self.original(file))?;
        Ok(incoming)
    }

    /// The path beside which a plugin's libraries are found: the file itself or, for a copy in the cache,
    /// the plugin in its tree.
    fn original(&self, file: &Path) -> PathBuf {
        let is_ours = file.parent() == Some(self.directory.as_path());
        let hash = file.file_stem().and_then(|stem| stem.to_str());
        let tree = hash.filter(|_| is_ours).and_then(|hash| self.tree(hash));
        tree.map_or_else(|| file.to_owned(), |tree| tree.plugin())
    }

    /// Refuses a file on a file system that is mounted `noexec`: the loader's message would blame the
    /// plugin.
    fn check_exec(&self, file: &Path) -> Result<(), PluginError> {
        let flags = statvfs(&self.directory).map(|of| of.flags());
        if !flags.is_ok_and(|flags| flags.contains(FsFlags::ST_NOEXEC)) {
            return Ok(());
        }
        let place = printable_path(&self.directory);
        Err(PluginError::of_state_dir(
            file,
            format!(
                "could not be copied to the cache: {place} is on a file system that is mounted \
                 noexec, from which nothing can be loaded"
            ),
        ))
    }

    fn place(&self, hash: &str) -> PathBuf {
        self.directory.join(format!("{hash}.so"))
    }

    fn verified(&self) -> MutexGuard<'_, HashMap<String, Vec<FileStamp>>> {
        self.verified.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Deletes left-over copies that no process is making any more.
    fn sweep(&self) {
        let entries = fs::read_dir(&self.directory)
            .into_iter()
            .flatten()
            .flatten();
        for entry in entries {
            let name = entry.file_name();
            let is = |prefix: &str| name.as_encoded_bytes().starts_with(prefix.as_bytes());
            let age = entry
                .metadata()
                .and_then(|metadata| metadata.modified())
                .ok()
                .and_then(|modified| SystemTime::now().duration_since(modified).ok());
            let older = |than| age.is_some_and(|age| age > than);
            let is_free = || File::open(entry.path()).is_ok_and(|file| file.try_lock().is_ok());
            let is_left = (is(STAGED) || is(INCOMING)) && older(FORGOTTEN)
                || is(INCOMING) && older(UNLOCKED) && is_free();
            if is_left {
                let _ = fs::remove_file(entry.path());
                let _ = fs::remove_dir_all(entry.path());
            }
        }
    }
}

impl Incoming {
    /// The path of the file, for reading it.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// The path to load: the file or, if it has libraries, the directory of its tree.
    pub fn loadable(&self) -> PathBuf {
        match &self.tree {
            Some((_, tree)) => tree.origin(),
            None => self.file.path().to_owned(),
        }
    }

    /// The libraries that the plugin brings along.
    pub fn libraries(&self) -> &[String] {
        self.tree.as_ref().map_or(&[], |(_, tree)| tree.libraries())
    }

    /// Copies the libraries of the original into a tree with the copy.
    fn bring_along(&mut self, original: &Path) -> Result<(), PluginError> {
        let directory = &self.cache.directory;
        let failed = |error: io::Error| cannot_copy(&self.named, directory, &error);
        let content = fs::read(self.file.path()).map_err(failed)?;
        let Some(found) = companions::find(original, &content) else {
            return Ok(());
        };
        let fresh = tempfile::Builder::new()
            .prefix(INCOMING)
            .suffix(".d")
            .tempdir_in(directory)
            .map_err(failed)?;
        let lock = File::open(fresh.path()).ok();
        if let Some(lock) = &lock {
            let _ = lock.lock();
        }
        let tree = Tree::make(fresh.path(), self.file.path(), &self.named, &found, failed)?;
        self.hash = tree.hashes().map_err(failed)?.0;
        self.tree = Some((fresh, tree));
        self._lock = lock;
        Ok(())
    }

    /// SHA-256 of the content, in hexadecimal.
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// Moves the copy into the cache under its hash.
    pub fn keep(self) -> Result<Cached, PluginError> {
        let Self {
            cache,
            file,
            hash,
            named,
            tree,
            _lock,
        } = self;
        let directory = cache.directory.clone();
        let failed = |error: io::Error| cannot_copy(&named, &directory, &error);
        if let Some(path) = cache.find(&hash) {
            return Ok(Cached { hash, path });
        }
        let path = cache.place(&hash);
        file.as_file()
            .set_permissions(fs::Permissions::from_mode(0o555))
            .and_then(|()| file.as_file().sync_all())
            .map_err(failed)?;
        if let Some((fresh, _)) = tree {
            // The plugin comes after its libraries: only a plugin that is found leads to its libraries.
            let place = cache.tree_place(&hash);
            let _ = fs::remove_dir_all(&place);
            fs::rename(fresh.keep(), &place).map_err(failed)?;
        }
        // A rename is atomic: another process sees the whole file or none, even if two do this at once.
        let kept = file.persist(&path).map_err(|error| failed(error.error))?;
        if let Ok(stamps) = cache.stamps(&hash, &kept) {
            cache.verified().insert(hash.clone(), stamps);
        }
        Ok(Cached { hash, path })
    }
}

/// Makes a copy readable for those who are handed its descriptor; the directory stays closed to others.
fn let_others_read(file: &File) -> io::Result<()> {
    if file.metadata()?.permissions().mode() & 0o055 == 0o055 {
        return Ok(());
    }
    file.set_permissions(fs::Permissions::from_mode(0o555))
}

fn cannot_copy(file: &Path, directory: &Path, error: &io::Error) -> PluginError {
    let why = without_path(error);
    let place = printable_path(directory);
    PluginError::of_state_dir(
        file,
        format!("could not be copied to the cache: {why}, in {place}"),
    )
}

/// An error about a temporary file without the file's name, which differs each time.
pub fn without_path(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" at path ")
        .next()
        .unwrap_or_default()
        .to_owned()
}

/// Reads a file to its end and returns its SHA-256; `each` gets every part that was read.
pub(super) fn hash_while(
    file: &mut File,
    mut each: impl FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<String> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 18];
    loop {
        let count = match file.read(&mut buffer) {
            Ok(0) => return Ok(hexadecimal(&hasher.finalize())),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        hasher.update(&buffer[..count]);
        each(&buffer[..count])?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache() -> (tempfile::TempDir, Cache) {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::at(directory.path().join("cache"));
        (directory, cache)
    }

    /// As a disk that forgets, or a user who is root.
    fn damage(path: &Path, content: &[u8]) {
        fs::set_permissions(path, fs::Permissions::from_mode(0o700)).unwrap();
        fs::write(path, content).unwrap();
    }

    #[test]
    fn the_copy_survives_what_happens_to_the_original() {
        let (directory, cache) = cache();
        let file = directory.path().join("x.so");
        fs::write(&file, b"first").unwrap();
        let first = cache.receive(&file).unwrap().keep().unwrap();
        assert_eq!(cache.receive(&file).unwrap().keep().unwrap(), first);
        fs::write(&file, b"other").unwrap();
        let second = cache.receive(&file).unwrap().keep().unwrap();
        assert_ne!(first.hash, second.hash);
        assert_eq!(
            fs::read(cache.find(&first.hash).unwrap()).unwrap(),
            b"first"
        );
        assert_eq!(cache.find("0"), None);
    }

    #[test]
    fn a_cache_that_others_can_write_is_not_used() {
        let (directory, cache) = cache();
        let file = directory.path().join("x.so");
        fs::write(&file, b"first").unwrap();
        let cached = cache.receive(&file).unwrap().keep().unwrap();
        fs::set_permissions(&cache.directory, fs::Permissions::from_mode(0o777)).unwrap();
        let fresh = Cache::at(cache.directory.clone());
        assert_eq!(fresh.find(&cached.hash), None);
        let refusal = fresh.receive(&file).unwrap_err().reason;
        assert!(
            refusal.starts_with("could not be copied to the cache: refused: other users can write"),
            "{refusal}"
        );
    }

    #[test]
    fn what_goes_wrong_is_said_alike_each_time() {
        let directory = tempfile::tempdir().unwrap();
        let missing = Cache::at(directory.path().join("none"));
        let told = [(); 2].map(|()| without_path(&missing.new_file(INCOMING).unwrap_err()));
        assert_eq!(told[0], told[1]);
        assert!(told[0].starts_with("No such file"), "{}", told[0]);
    }

    #[test]
    fn what_is_not_kept_leaves_nothing() {
        let (directory, cache) = cache();
        let file = directory.path().join("x.so");
        fs::write(&file, b"first").unwrap();
        let copy = cache.receive(&file).unwrap();
        assert_eq!(fs::read(copy.path()).unwrap(), b"first");
        drop(copy);
        assert_eq!(fs::read_dir(&cache.directory).unwrap().count(), 0);
    }

    #[test]
    fn what_the_killed_have_left_is_swept_away_and_nothing_else() {
        let (directory, cache) = cache();
        let file = directory.path().join("x.so");
        fs::write(&file, b"first").unwrap();
        let in_use = cache.receive(&file).unwrap();
        let left = cache
            .new_file(INCOMING)
            .unwrap()
            .into_temp_path()
            .keep()
            .unwrap();
        let old = SystemTime::now() - 2 * UNLOCKED;
        for path in [in_use.path(), &left] {
            let file = File::options().append(true).open(path).unwrap();
            file.set_modified(old).unwrap();
        }
        let staged = cache.stage(b"second", None).unwrap();
        cache.sweep();
        assert!(in_use.path().exists() && staged.exists());
        assert!(!left.exists());
    }

    #[test]
    fn a_damaged_copy_is_noticed_also_by_who_has_seen_it_whole() {
        let (directory, cache) = cache();
        let file = directory.path().join("x.so");
        fs::write(&file, b"first").unwrap();
        let Cached { hash, path } = cache.receive(&file).unwrap().keep().unwrap();
        assert!(cache.is_unchanged(&hash) && cache.open(&hash).is_ok());
        damage(&path, b"fiRst");
        assert!(!cache.is_unchanged(&hash) && cache.open(&hash).is_err());
        assert_eq!(cache.find(&hash), None);
        // Its file is still what it was.
        let again = cache.receive(&file).unwrap().keep().unwrap();
        assert_eq!(again.path, path);
        assert_eq!(fs::read(&path).unwrap(), b"first");
        damage(&path, b"");
        assert_eq!(Cache::at(cache.directory.clone()).find(&hash), None);
        assert_eq!(fs::read_dir(&cache.directory).unwrap().count(), 0);
    }
}
