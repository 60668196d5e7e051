//! Texts that Postgres can store.

/// The text with each NUL, which Postgres stores in no text, replaced by the replacement character.
pub fn without_nul(text: String) -> String {
    if text.contains('\0') {
        text.replace('\0', "\u{fffd}")
    } else {
        text
    }
}
