//! Versions of a plugin without a compiler: a text of a built one is replaced by another of the same
//! length, which makes another content, with another hash.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// The bytes of a plugin in which a text, wherever it stands, is another one.
pub(crate) fn with_texts(plugin: &Path, replacements: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = fs::read(plugin).expect("the plugin is built");
    for (from, to) in replacements {
        assert_eq!(from.len(), to.len(), "{from} and {to} differ in length");
        let found = replace_all(&mut bytes, from.as_bytes(), to.as_bytes());
        assert!(
            found > 0 || from == to,
            "{} does not contain {from}",
            plugin.display()
        );
    }
    bytes
}

/// Replaces bytes, wherever they stand, by as many others; how often.
pub(super) fn replace_all(bytes: &mut [u8], from: &[u8], to: &[u8]) -> usize {
    let places: Vec<usize> = memchr::memmem::find_iter(bytes, from).collect();
    for place in &places {
        bytes[*place..place + to.len()].copy_from_slice(to);
    }
    places.len()
}

/// A version of `hello`: its crate calls itself `1.2.0` if it is number 12, and its `my_first_task`
/// says `I am runn-12`.
pub(crate) fn hello_version(number: u32) -> Vec<u8> {
    assert!(number < 100);
    let version = format!(r#""version":"{}.{}.0""#, number / 10, number % 10);
    let says = format!("I am runn-{number:02}");
    with_texts(
        &super::hello(),
        &[(r#""version":"0.1.0""#, &version), ("I am running", &says)],
    )
}

/// Puts a plugin where a monitor may be looking: as a package manager would, in one step.
pub(crate) fn place(bytes: &[u8], path: &Path) -> PathBuf {
    let part = path.with_extension("part");
    fs::write(&part, bytes).expect("a file");
    fs::rename(&part, path).expect("a file");
    path.to_owned()
}
