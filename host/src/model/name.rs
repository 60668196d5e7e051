//! Names of hosts, domains and operations: one word each.

use std::path::Path;

/// The error for a text that cannot be a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidName {
    /// The text is empty, or contains whitespace or invisible characters.
    #[error("it must be one word")]
    NotOneWord,
    /// The text has this many bytes, more than a name may have.
    #[error("it {}", too_long(*.0))]
    TooLong(usize),
}

/// The longest name in bytes: what an index row of Postgres holds, with room for the other columns.
const LONGEST: usize = 500;

/// The message about a name of this many bytes, to be put after its subject.
pub fn too_long(bytes: usize) -> String {
    format!("has {bytes} bytes, more than {LONGEST}")
}

/// Checks that a text can name a host, a domain or an operation.
pub fn parse_name(text: &str) -> Result<String, InvalidName> {
    if text.is_empty() || text.contains(|c: char| c.is_whitespace() || is_active(c)) {
        return Err(InvalidName::NotOneWord);
    }
    if text.len() > LONGEST {
        return Err(InvalidName::TooLong(text.len()));
    }
    Ok(text.to_owned())
}

/// The text on one line, with every character that controls a terminal replaced.
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

/// A path as [`printable`] shows it.
pub fn printable_path(path: &Path) -> String {
    printable(&path.to_string_lossy())
}

/// Whether a terminal would do more with a character than display it: control characters, and characters
/// that change the direction of text.
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
            assert_eq!(parse_name(name).as_deref(), Ok(name));
        }
        for text in ["", "a b", "a\n", "a\u{202e}b", "\u{a0}"] {
            assert_eq!(parse_name(text), Err(InvalidName::NotOneWord), "{text:?}");
        }
        assert_eq!(parse_name(&"x".repeat(501)), Err(InvalidName::TooLong(501)));
    }
}
