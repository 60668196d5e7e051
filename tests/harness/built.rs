//! What is built at most once: a plugin is built again only after something that it is made of has changed,
//! and all plugins are built before the tests that use them.

use super::{
    linked,
    plugins::{misbehaving_aborts, root, standalone, target},
    sdk::{as_of_1_0, as_of_1_2},
};
use std::{
    fmt::Write,
    fs,
    path::{Path, PathBuf},
    thread,
    time::SystemTime,
};

/// What plugins of tests are made of: the SDK, the examples, and what the harness writes by itself.
const SOURCES: [&str; 5] = [
    "plugin-sdk",
    "example-plugins",
    "tests/harness",
    "Cargo.toml",
    "Cargo.lock",
];

/// Builds, unless the sources, the compiler and what was built are as they were after the last time.
pub(super) fn once(name: &str, outputs: &[PathBuf], build: impl FnOnce()) {
    let stamps = target().join("test-plugins");
    let stamp = stamps.join(name);
    if fs::read_to_string(&stamp).is_ok_and(|known| known == state(outputs)) {
        return;
    }
    build();
    fs::create_dir_all(&stamps).expect("a directory");
    fs::write(stamp, state(outputs)).expect("a file");
}

/// Builds whatever any test uses, what has a target directory of its own beside the rest.
pub(crate) fn all() {
    thread::scope(|scope| {
        scope.spawn(misbehaving_aborts);
        scope.spawn(standalone);
        super::hello();
        super::plugins::hello_archive();
        linked();
        as_of_1_0();
        as_of_1_2();
    });
}

/// Each file with its size and the time of its last change.
fn state(outputs: &[PathBuf]) -> String {
    let mut state = format!("{}\n", env!("CARGO"));
    let sources = SOURCES.map(|source| root().join(source));
    for path in sources.iter().chain(outputs) {
        describe(path, &mut state);
    }
    state
}

fn describe(path: &Path, state: &mut String) {
    let Ok(metadata) = fs::metadata(path) else {
        return;
    };
    if !metadata.is_dir() {
        let changed = metadata.modified().expect("this system keeps times");
        let changed = changed.duration_since(SystemTime::UNIX_EPOCH);
        let changed = changed.unwrap_or_default().as_nanos();
        let size = metadata.len();
        writeln!(state, "{} {size} {changed}", path.display()).expect("a string takes all");
        return;
    }
    let entries = fs::read_dir(path).expect("a directory").flatten();
    let mut entries: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    entries.retain(|entry| !entry.ends_with("target"));
    entries.sort();
    for entry in entries {
        describe(&entry, state);
    }
}
