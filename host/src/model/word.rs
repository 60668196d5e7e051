//! Names of hosts, domains and operations: one word each.

use std::path::Path;

/// A text that is no name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotAWord {
    /// It is empty, or has blanks or what cannot be seen in it.
    #[error("it must be one word")]
    Words,
    /// It has so many bytes, more than a name may have.
    #[error("it {}", too_long(*.0))]
    Long(usize),
}

/// What an index of Postgres takes, in bytes, with room for what stands beside it.
const LONGEST: usize = 500;

/// The fault of a name of so many bytes, after its subject.
pub fn too_long(bytes: usize) -> String {
    format!("has {bytes} bytes, more than {LONGEST}")
}

/// A text that can name a host, a domain or an operation.
pub fn word(text: &str) -> Result<String, NotAWord> {
    if text.is_empty() || text.contains(|c: char| c.is_whitespace() || is_active(c)) {
        return Err(NotAWord::Words);
    }
    if text.len() > LONGEST {
        return Err(NotAWord::Long(text.len()));
    }
    Ok(text.to_owned())
}

/// A text that fits into one line and does nothing to a terminal but appear there.
pub fn printable(text: &str) -> String {
    let mut shown = String::new();
    for c in text.chars() {
        match is_active(c) {
            true => shown.extend(c.escape_default()),
            false => shown.push(c),
        }
    }
    shown
}

/// A path in the same way.
pub fn printable_path(path: &Path) -> String {
    printable(&path.to_string_lossy())
}

/// Whether a character does more to a terminal than appear there: controls, and what turns the
/// direction of writing.
pub fn is_active(c: char) -> bool {
    c.is_control()
        || ('\u{202a}'..='\u{202e}').contains(&c)
        || ('\u{2066}'..='\u{2069}').contains(&c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_word() {
        for name in ["default", "söllj", "a/b-c.d_e:1"] {
            assert_eq!(word(name).as_deref(), Ok(name));
        }
        for text in ["", "a b", "a\n", "a\u{202e}b", "\u{a0}"] {
            assert_eq!(word(text), Err(NotAWord::Words), "{text:?}");
        }
        assert_eq!(word(&"x".repeat(501)), Err(NotAWord::Long(501)));
    }
}
