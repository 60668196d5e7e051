//! Writing to stdout: whole documents for programs, lines for people, coloured on a terminal.

use super::exit::Result;
use anstyle::{AnsiColor, Style};
use serde::Serialize;
use std::io::Write;

/// Prints one JSON document.
pub(super) fn json(value: &impl Serialize) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    let text = serde_json::to_string_pretty(value).map_err(std::io::Error::other)?;
    writeln!(stdout, "{text}")?;
    Ok(stdout.flush()?)
}

/// Prints a line.
pub(super) fn line(text: &str) -> Result<()> {
    let mut stdout = anstream::stdout().lock();
    writeln!(stdout, "{text}")?;
    Ok(stdout.flush()?)
}

/// Prints bytes as they are.
pub(super) fn bytes(content: &[u8]) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(content)?;
    Ok(stdout.flush()?)
}

/// A word in a colour, which is left out where nobody can see it.
pub(super) fn coloured(word: &str, colour: AnsiColor) -> String {
    let style = Style::new().fg_color(Some(colour.into()));
    format!("{style}{word}{style:#}")
}

/// The colour of a state, the same in every listing.
pub(super) fn state(word: &str) -> String {
    let colour = match word {
        "done" => AnsiColor::Green,
        "failed" | "dead" => AnsiColor::Red,
        "aborted" | "aborting" => AnsiColor::Magenta,
        "running" => AnsiColor::Cyan,
        _ => AnsiColor::Yellow,
    };
    coloured(word, colour)
}
