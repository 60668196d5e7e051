//! The libraries that a plugin brings along: those that its run path finds relative to the plugin itself
//! (`$ORIGIN`). A copy of the plugin is loaded, and the dynamic loader searches relative to the copy, so
//! the libraries are copied too, to the same relative places.
//!
//! The search is that of ld.so(8): the run path of an object (`DT_RUNPATH`) applies to the libraries that
//! the object needs itself; the older kind (`DT_RPATH`) also to the libraries that those need. Libraries
//! that are found by an absolute path, by `LD_LIBRARY_PATH` or by ldconfig are found for the copy too, and
//! are not copied.

use super::elf::{self, Dynamic};
use std::{
    collections::{HashSet, VecDeque},
    fs,
    path::{Component, Path, PathBuf},
};

/// The most libraries that a plugin may bring.
const MOST: usize = 500;

/// The libraries that a plugin brings along.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Companions {
    /// The path of the plugin in the tree that is to be copied.
    pub(super) origin: PathBuf,
    /// The path of each library now, and its path in the tree.
    pub(super) libraries: Vec<(PathBuf, PathBuf)>,
}

/// Finds the libraries that a plugin with the content `data` brings along; `None` if there are none.
pub(super) fn find(plugin: &Path, data: &[u8]) -> Option<Companions> {
    let dynamic = elf::dynamic(data)?;
    let named = plugin
        .parent()
        .map(|parent| match parent.as_os_str().is_empty() {
            true => Path::new("."),
            false => parent,
        });
    // The loader uses the directory by which the plugin was named; a link may lead to the real directory,
    // where the libraries are.
    let named = fs::canonicalize(named?).ok();
    let real = fs::canonicalize(plugin).ok();
    let real = real.as_deref().and_then(Path::parent).map(Path::to_owned);
    let found = [named, real].into_iter().flatten().map(|origin| {
        let libraries = search(&origin, &dynamic);
        (origin, libraries)
    });
    // If both find equally many, the first is taken.
    let (origin, libraries) = found.reduce(|best, other| {
        if other.1.len() > best.1.len() {
            other
        } else {
            best
        }
    })?;
    if libraries.is_empty() {
        return None;
    }
    Some(in_a_tree(&origin, libraries))
}

/// A plugin or library that needs others.
struct Object {
    needed: Vec<String>,
    /// The directories in which the libraries that it needs are searched.
    run_path: Vec<Entry>,
    /// The directories that are also searched for the libraries of its libraries (DT_RPATH).
    inherited: Vec<Entry>,
}

/// One directory of a run path.
#[derive(Clone)]
struct Entry {
    text: String,
    owner: Place,
}

/// The directory of a plugin or library.
#[derive(Clone)]
struct Place {
    /// The directory as the loader would name it.
    directory: PathBuf,
    /// The directory in the tree; `None`: libraries in it are not copied.
    copied: Option<PathBuf>,
}

/// The libraries of a plugin in `origin`: the path of each, and the same path without links and `..`.
fn search(origin: &Path, plugin: &Dynamic) -> Vec<(PathBuf, PathBuf)> {
    let place = Place {
        directory: origin.to_owned(),
        copied: Some(origin.to_owned()),
    };
    let mut found: Vec<(PathBuf, PathBuf)> = Vec::new();
    // The loader uses the first library of a name for everything that needs the name.
    let mut names = HashSet::new();
    let mut open = VecDeque::from([object(plugin, place, &[])]);
    while let Some(object) = open.pop_front() {
        for name in &object.needed {
            if names.contains(name) || names.len() >= MOST {
                continue;
            }
            let Some((file, place)) = object
                .run_path
                .iter()
                .find_map(|entry| entry.look_for(name))
            else {
                continue;
            };
            names.insert(name.clone());
            if let (Some(copied), Some(name)) = (&place.copied, file.file_name()) {
                let target = (file.clone(), copied.join(name));
                if found.iter().all(|(_, known)| *known != target.1) {
                    found.push(target);
                }
            }
            let data = fs::read(&file).unwrap_or_default();
            if let Some(dynamic) = elf::dynamic(&data) {
                open.push_back(self::object(&dynamic, place, &object.inherited));
            }
        }
    }
    found
}

fn object(dynamic: &Dynamic, place: Place, inherited: &[Entry]) -> Object {
    let entries = |text: &str| -> Vec<Entry> {
        let entry = |text: &str| Entry {
            text: text.to_owned(),
            owner: place.clone(),
        };
        text.split(':').map(entry).collect()
    };
    // If DT_RUNPATH is present, DT_RPATH is ignored, both this object's and inherited ones.
    let (run_path, inherited) = match (&dynamic.run_path, &dynamic.old_run_path) {
        (Some(run_path), _) => (entries(run_path), inherited.to_vec()),
        (None, Some(old)) => {
            let all = [entries(old), inherited.to_vec()].concat();
            (all.clone(), all)
        }
        (None, None) => (inherited.to_vec(), inherited.to_vec()),
    };
    Object {
        // A needed library given as a path may contain `$ORIGIN`.
        run_path: [run_path, entries("")].concat(),
        needed: dynamic.needed.clone(),
        inherited,
    }
}

impl Entry {
    /// Finds a library in this directory: its file, and the directory that the file is in.
    fn look_for(&self, name: &str) -> Option<(PathBuf, Place)> {
        let path = match (self.text.is_empty(), name.contains('/')) {
            (true, true) => name.to_owned(),
            (false, false) => format!("{}/{name}", self.text),
            // A name with a slash is a path and is not searched for; a relative path depends on the working
            // directory, and is ignored.
            (false, true) | (true, false) => return None,
        };
        let file = with_origin(&path, &self.owner.directory)?;
        if !file.is_absolute() || !file.is_file() {
            return None;
        }
        let copied = match &self.owner.copied {
            Some(copied) if path.contains('$') => {
                let place = without_detours(&with_origin(&path, copied)?);
                place.parent().map(Path::to_owned)
            }
            _ => None,
        };
        let directory = file.parent()?.to_owned();
        Some((file, Place { directory, copied }))
    }
}

/// Replaces `$ORIGIN` in a path by the directory; `None` if the path contains another variable.
fn with_origin(path: &str, directory: &Path) -> Option<PathBuf> {
    let directory = directory.to_str()?;
    // Checked before the directory is inserted, since its name may contain a `$`.
    let parts: Vec<&str> = path
        .split("${ORIGIN}")
        .flat_map(|part| part.split("$ORIGIN"))
        .collect();
    if parts.iter().any(|part| part.contains('$')) {
        return None;
    }
    Some(PathBuf::from(parts.join(directory)))
}

/// Removes `.` and `..` from a path without reading links.
fn without_detours(path: &Path) -> PathBuf {
    let mut straight = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => {
                straight.pop();
            }
            other => straight.push(other),
        }
    }
    straight
}

/// The smallest tree in which the plugin and its libraries keep their relative positions.
fn in_a_tree(origin: &Path, libraries: Vec<(PathBuf, PathBuf)>) -> Companions {
    let mut root = origin;
    for (_, place) in &libraries {
        while !place.starts_with(root) {
            root = root
                .parent()
                .expect("every absolute path is below the root");
        }
    }
    let below = |path: &Path| path.strip_prefix(root).unwrap_or(path).to_owned();
    let mut libraries: Vec<_> = libraries
        .iter()
        .map(|(file, place)| (file.clone(), below(place)))
        .collect();
    libraries.sort();
    Companions {
        origin: below(origin),
        libraries,
    }
}

/// Why the loader did not find a library that a plugin needs, and what to do about it.
pub(super) fn not_found(library: &str, plugin: &Path) -> String {
    if library.contains('/') {
        return format!(
            "needs {library}, which is not there: it was linked by its path; give the library a soname \
             (-Wl,-soname) and link the plugin again"
        );
    }
    let data = fs::read(plugin).unwrap_or_default();
    let dynamic = elf::dynamic(&data).unwrap_or_default();
    let through = match dynamic.needed.iter().any(|needed| needed == library) {
        true => "",
        false => " (by another library that it needs)",
    };
    let mut looked = Vec::new();
    if let Some(run_path) = dynamic.run_path.or(dynamic.old_run_path) {
        looked.push(format!("in its run path {run_path}"));
    }
    if let Ok(path) = std::env::var("LD_LIBRARY_PATH") {
        looked.push(format!("in LD_LIBRARY_PATH {path}"));
    }
    looked.push("in the directories of ldconfig".to_owned());
    format!(
        "needs {library}{through}, which is neither {}; put it beside the plugin and link that with \
         -Wl,-rpath,'$ORIGIN', or pass on where it is with --env LD_LIBRARY_PATH, or run ldconfig",
        looked.join(" nor ")
    )
    .replacen("neither in the directories", "not in the directories", 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dynamic(needed: &[&str], run_path: Option<&str>, old: Option<&str>) -> Dynamic {
        Dynamic {
            needed: needed.iter().map(ToString::to_string).collect(),
            run_path: run_path.map(str::to_owned),
            old_run_path: old.map(str::to_owned),
        }
    }

    /// Files in a directory of their own.
    fn files(names: &[&str]) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().canonicalize().unwrap();
        for name in names {
            let file = root.join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, b"").unwrap();
        }
        (directory, root)
    }

    #[test]
    fn what_lies_beside_is_found_in_every_notation() {
        let (_directory, root) = files(&["lib/a.so", "deps/b.so", "lib/sub/c.so", "lib/d.so"]);
        let needed = ["a.so", "b.so", "c.so", "${ORIGIN}/d.so", "libc.so.6"];
        let plugin = dynamic(
            &needed,
            Some("/nowhere:$ORIGIN:${ORIGIN}/../deps:$ORIGIN/./sub"),
            None,
        );
        let origin = root.join("lib");
        let libraries = search(&origin, &plugin);
        let tree = in_a_tree(&origin, libraries);
        assert_eq!(tree.origin, Path::new("lib"));
        let places: Vec<&str> = tree
            .libraries
            .iter()
            .map(|(_, place)| place.to_str().unwrap())
            .collect();
        let mut sorted = places.clone();
        sorted.sort_unstable();
        assert_eq!(
            sorted,
            ["deps/b.so", "lib/a.so", "lib/d.so", "lib/sub/c.so"]
        );
    }

    #[test]
    fn what_is_found_from_anywhere_stays_where_it_is() {
        let (_directory, root) = files(&["lib/a.so", "other/a.so"]);
        let other = root.join("other").display().to_string();
        let origin = root.join("lib");
        for run_path in [
            format!("{other}:$ORIGIN"),
            "$LIB:/x".to_owned(),
            String::new(),
        ] {
            assert_eq!(
                search(&origin, &dynamic(&["a.so"], Some(&run_path), None)),
                []
            );
        }
        // The older kind does not count beside the newer one.
        let plugin = dynamic(&["a.so"], Some("/x"), Some("$ORIGIN"));
        assert_eq!(search(&origin, &plugin), []);
        let plugin = dynamic(&["a.so"], None, Some("$ORIGIN"));
        assert_eq!(search(&origin, &plugin).len(), 1);
    }

    #[test]
    fn a_missing_library_is_told_with_where_it_was_looked_for() {
        let told = not_found("libx.so", Path::new("/proc/self/exe"));
        assert!(
            told.starts_with("needs libx.so (by another library that it needs), which is n"),
            "{told}"
        );
        assert!(told.contains("--env LD_LIBRARY_PATH"), "{told}");
        assert!(not_found("./libx.so", Path::new("/x")).contains("soname"));
    }
}
