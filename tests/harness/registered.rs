//! Installations with plugins, to copy: registering a plugin takes a few processes, and most tests want
//! one of the same three.

use super::{Database, Rework};
use std::{
    collections::BTreeMap,
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::{Mutex, OnceLock, PoisonError},
};

/// An installation as it was when its plugins had just been registered.
struct Registered {
    database: Database,
    /// What its state directory held, parents first: path below it, mode, content of a file.
    state: Vec<(PathBuf, u32, Option<Vec<u8>>)>,
}

/// A new installation with these plugins registered, in this order.
pub(super) fn installation(plugins: &[PathBuf]) -> Rework {
    static ALL: Mutex<BTreeMap<Vec<PathBuf>, &'static OnceLock<Registered>>> =
        Mutex::new(BTreeMap::new());
    let registered: &OnceLock<Registered> = ALL
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .entry(plugins.to_vec())
        .or_insert_with(|| Box::leak(Box::default()));
    // Outside the lock: nobody waits for plugins that somebody else wants.
    registered.get_or_init(|| Registered::new(plugins)).copy()
}

impl Registered {
    fn new(plugins: &[PathBuf]) -> Self {
        let rework = Rework::over(Database::to_copy());
        for plugin in plugins {
            let plugin = plugin.to_str().expect("a path in UTF-8");
            rework.ok(&["register-operations", plugin]);
        }
        let mut state = Vec::new();
        read_below(rework.directory(), Path::new(""), &mut state);
        Self {
            database: rework.database,
            state,
        }
    }

    fn copy(&self) -> Rework {
        let rework = Rework::over(self.database.copy());
        for (path, mode, content) in &self.state {
            let path = rework.directory().join(path);
            match content {
                Some(content) => fs::write(&path, content).expect("a file"),
                None => fs::create_dir(&path).expect("a directory"),
            }
            fs::set_permissions(&path, Permissions::from_mode(*mode)).expect("it is ours");
        }
        rework
    }
}

fn read_below(root: &Path, below: &Path, found: &mut Vec<(PathBuf, u32, Option<Vec<u8>>)>) {
    for entry in fs::read_dir(root.join(below)).expect("a directory") {
        let entry = entry.expect("an entry");
        let path = below.join(entry.file_name());
        let metadata = entry.metadata().expect("it is there");
        let mode = metadata.permissions().mode() & 0o7777;
        if metadata.is_dir() {
            found.push((path.clone(), mode, None));
            read_below(root, &path, found);
        } else {
            assert!(metadata.is_file(), "{path:?} is neither file nor directory");
            let content = fs::read(entry.path()).expect("it is readable");
            found.push((path, mode, Some(content)));
        }
    }
}
