//! A plugin with the libraries that it brings along, as the cache stores them: each at its place relative
//! to the plugin, so that the run paths lead to the copies.
//!
//! ```text
//! <hash>.so             the plugin, as any other
//! <hash>.d/
//!   files               what is in the tree: the plugin first
//!   tree/…              the plugin (PLUGIN) and its libraries
//! ```
//!
//! The hash is that of the list of files with the hashes of their contents, so another version of a library
//! is another version of the plugin.

use super::{
    PluginError, cache::hash_while, companions::Companions, source::Source, stamp::FileStamp,
};
use crate::model::{input::sha256, name::printable_path};
use std::{
    fs::{self, DirBuilder, File},
    io,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
};

/// The file name of the plugin in its tree. Its libraries do not refer to it by name.
const PLUGIN: &str = ".rework-plugin.so";
/// The file that lists the files of the tree.
const FILES: &str = "files";
/// The directory that holds them.
const TREE: &str = "tree";

/// The file to load: `copy` itself or, if it is the directory of a tree, the plugin in it.
pub(super) fn plugin_in(copy: &Path) -> PathBuf {
    if copy.is_dir() {
        copy.join(PLUGIN)
    } else {
        copy.to_owned()
    }
}

/// Whether a file that is mapped into a worker is a library that came with a plugin.
pub fn is_companion(path: &str) -> bool {
    path.contains(&format!(".d/{TREE}/")) && !path.ends_with(PLUGIN)
}

/// A plugin with its libraries, on disk.
#[derive(Debug)]
pub(super) struct Tree {
    directory: PathBuf,
    /// Paths relative to the tree; the plugin is the first.
    files: Vec<String>,
}

impl Tree {
    /// Creates a tree in an empty directory, from the copy of a plugin, which messages call `named`.
    pub(super) fn make(
        directory: &Path,
        copy: &Path,
        named: &Path,
        companions: &Companions,
        failed: impl Fn(io::Error) -> PluginError,
    ) -> Result<Self, PluginError> {
        let mut tree = Self {
            directory: directory.to_owned(),
            files: Vec::new(),
        };
        let mut plugin = File::open(copy).map_err(&failed)?;
        tree.add(&mut plugin, &companions.origin.join(PLUGIN), named, &failed)?;
        for (file, place) in &companions.libraries {
            let refused = |error: PluginError| {
                let space = if error.reason.starts_with(':') {
                    ""
                } else {
                    " "
                };
                let library = printable_path(file);
                let reason = format!("brings {library} along, which{space}{}", error.reason);
                PluginError {
                    path: named.to_owned(),
                    reason,
                    ..error
                }
            };
            let mut source = Source::open(file).map_err(refused)?;
            tree.add(source.file(), place, named, &failed)?;
            source.check_unchanged().map_err(refused)?;
        }
        tree.files[1..].sort_unstable();
        fs::write(directory.join(FILES), tree.files.join("\n")).map_err(failed)?;
        Ok(tree)
    }

    fn add(
        &mut self,
        content: &mut File,
        place: &Path,
        named: &Path,
        failed: &impl Fn(io::Error) -> PluginError,
    ) -> Result<(), PluginError> {
        let text = place
            .to_str()
            .filter(|text| !text.contains('\n'))
            .ok_or_else(|| {
                let place = printable_path(place);
                PluginError::new(
                    named,
                    format!("brings {place} along, whose name is not plain text"),
                )
            })?;
        let path = self.directory.join(TREE).join(place);
        let parent = path.parent().expect("it is below the tree");
        // Workers may run as another user, and get a descriptor of the plugin's directory.
        DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(parent)
            .map_err(failed)?;
        let mut copy = File::create_new(&path).map_err(failed)?;
        io::copy(content, &mut copy).map_err(failed)?;
        copy.set_permissions(fs::Permissions::from_mode(0o555))
            .map_err(failed)?;
        copy.sync_all().map_err(failed)?;
        self.files.push(text.to_owned());
        Ok(())
    }

    /// The tree in this directory, if there is one.
    pub(super) fn open(directory: &Path) -> Option<Self> {
        let files = fs::read_to_string(directory.join(FILES)).ok()?;
        let files: Vec<String> = files.lines().map(str::to_owned).collect();
        (!files.is_empty()).then(|| Self {
            directory: directory.to_owned(),
            files,
        })
    }

    /// The paths of the libraries in the tree.
    pub(super) fn libraries(&self) -> &[String] {
        &self.files[1..]
    }

    /// The directory of the plugin.
    pub(super) fn origin(&self) -> PathBuf {
        let plugin = self.paths().next().expect("the plugin is the first");
        plugin.parent().expect("it is in a directory").to_owned()
    }

    /// The path of the plugin.
    pub(super) fn plugin(&self) -> PathBuf {
        self.origin().join(PLUGIN)
    }

    fn paths(&self) -> impl Iterator<Item = PathBuf> {
        self.files
            .iter()
            .map(|file| self.directory.join(TREE).join(file))
    }

    /// The stamps of all files, which show whether one has changed.
    pub(super) fn stamps(&self) -> io::Result<Vec<FileStamp>> {
        let stamp = |path: PathBuf| Ok(FileStamp::from(&fs::symlink_metadata(path)?));
        self.paths().map(stamp).collect()
    }

    /// The hash of everything in the tree, and the hash of the plugin alone.
    pub(super) fn hashes(&self) -> io::Result<(String, String)> {
        let mut list = String::new();
        let mut plugin = String::new();
        for (file, path) in self.files.iter().zip(self.paths()) {
            let hash = hash_while(&mut File::open(path)?, |_| Ok(()))?;
            list += &format!("{hash} {file}\n");
            if plugin.is_empty() {
                plugin = hash;
            }
        }
        Ok((sha256(list.as_bytes()), plugin))
    }
}
