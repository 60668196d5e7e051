//! An error with its causes in one line, for wherever an error is shown or logged: each message
//! leaves its cause to `source`.

use std::error::Error;

/// The messages of an error and of its causes, joined by `: `, without repetitions.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let words = cause.to_string();
        // Some errors of other crates repeat their cause in their own message.
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        source = cause.source();
    }
    text
}
