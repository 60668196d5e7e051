//! Names of hosts, domains and operations: one word each.

/// A text that is no name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it must be one word")]
pub struct NotAWord;

/// A text that can name a host, a domain or an operation.
pub fn word(text: &str) -> Result<String, NotAWord> {
    if text.is_empty() || text.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err(NotAWord);
    }
    Ok(text.to_owned())
}
