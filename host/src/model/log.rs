//! One line of what a task printed or logged.

use serde::{Deserialize, Serialize};

/// A line on its way into the database; stored as `[microseconds, stream, level, target, text]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine(
    /// Microseconds since the epoch.
    pub i64,
    /// `stdout`, `stderr` or `log`.
    pub String,
    /// In lower case.
    pub String,
    /// Where in the code, for records.
    pub Option<String>,
    /// The text, without its newline.
    pub String,
);

/// Levels by their number on the wire, 1 (error) to 5 (trace).
pub const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// The number of the level that lets everything through.
pub const TRACE: u8 = 5;

/// The word for a level number.
pub fn level_name(level: u8) -> &'static str {
    LEVELS.get(usize::from(level)).copied().unwrap_or("trace")
}

/// The number of a level's word, in any case; `warning` and `critical` are understood.
pub fn level_number(word: &str) -> Option<u8> {
    let word = word.to_ascii_lowercase();
    let word = match word.as_str() {
        "warning" => "warn",
        "critical" => "error",
        other => other,
    };
    LEVELS
        .iter()
        .position(|level| *level == word)
        .map(|n| n as u8)
}
