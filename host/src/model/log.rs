//! One line of what a task printed or logged.

use serde::{Deserialize, Serialize};

/// A log line to be stored, as `[microseconds, stream, level, target, text]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine(
    /// When the line was written, in microseconds since the epoch.
    pub i64,
    /// `stdout`, `stderr` or `log`.
    pub String,
    /// The log level in lower case.
    pub String,
    /// The module path of a log record; `None` for output lines.
    pub Option<String>,
    /// The text, without its newline.
    pub String,
);

/// What came out of an output pipe of a worker, or as a log record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Printed {
    /// A whole line, or a log record.
    Line(LogLine),
    /// The text so far of a line that has not ended, such as a progress bar.
    Unfinished(LogLine),
}

/// The names of levels by their number on the wire, 1 (error) to 5 (trace).
pub const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// The number of the level that includes all others.
pub const TRACE: u8 = 5;

/// The name of a level.
pub fn level_name(level: u8) -> &'static str {
    LEVELS.get(usize::from(level)).copied().unwrap_or("trace")
}

/// The number of a level by its name, in any case. `warning` and `critical` are accepted too.
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
