//! Writing to stdout: whole documents for programs, lines for people, coloured on a terminal.

use super::exit::Result;
use crate::model::name::is_active;
use anstyle::{AnsiColor, Style};
use serde::Serialize;
use std::{borrow::Cow, io::Write};

/// Prints one JSON document.
pub(super) fn json(value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value).map_err(std::io::Error::other)?;
    json_text(&text)
}

/// Prints a JSON text. Characters that control a terminal can only be in its strings, where they are
/// printed as JSON escapes.
pub(super) fn json_text(document: &str) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    let mut rest = document;
    while let Some(at) = rest.find(is_bad) {
        let (before, bad) = rest.split_at(at);
        let mut characters = bad.chars();
        let code = characters.next().map_or(0, u32::from);
        write!(stdout, "{before}\\u{code:04x}")?;
        rest = characters.as_str();
    }
    writeln!(stdout, "{rest}")?;
    Ok(stdout.flush()?)
}

/// Whether a character controls a terminal; line breaks and tabulators do not count.
fn is_bad(c: char) -> bool {
    is_active(c) && c != '\n' && c != '\t'
}

/// Prints one or more lines.
pub(super) fn line(text: &str) -> Result<()> {
    let mut stdout = anstream::stdout().lock();
    writeln!(stdout, "{}", harmless(text))?;
    Ok(stdout.flush()?)
}

/// Prints what the command has changed. If printing fails, the error says it too.
pub(super) fn done(change: &str) -> Result<()> {
    line(change).map_err(|failure| failure.after(change))
}

/// Prints a remark on stderr. Errors are ignored.
pub(super) fn note(text: &str) {
    let _ = writeln!(anstream::stderr(), "{}", harmless(text));
}

/// A text without effects on a terminal but colours. Much of what is printed was written by tasks, plugins
/// and callers; other escape sequences are shown escaped.
pub(super) fn harmless(text: &str) -> Cow<'_, str> {
    if !text.contains(is_bad) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::new();
    let mut colour = "";
    let mut rest = text;
    while let Some(at) = rest.find(is_bad) {
        let (before, bad) = rest.split_at(at);
        shown += before;
        if let Some(sequence) = colour_sequence(bad) {
            shown += sequence;
            colour = sequence;
            rest = &bad[sequence.len()..];
            continue;
        }
        let mut characters = bad.chars();
        if let Some(character) = characters.next() {
            shown.extend(character.escape_default());
        }
        rest = characters.as_str();
    }
    shown += rest;
    if !["", "\x1b[m", "\x1b[0m"].contains(&colour) {
        // Resets the colours at the end of the text.
        shown += "\x1b[0m";
    }
    Cow::Owned(shown)
}

/// The escape sequence at the beginning of a text, if it only sets colours and weight.
fn colour_sequence(text: &str) -> Option<&str> {
    let parameters = text.strip_prefix("\x1b[")?;
    let end = parameters.find(|c: char| !c.is_ascii_digit() && c != ';')?;
    parameters[end..].starts_with('m').then(|| &text[..end + 3])
}

/// Prints bytes as they are.
pub(super) fn bytes(content: &[u8]) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(content)?;
    Ok(stdout.flush()?)
}

/// A word in a colour, which the output drops where it cannot be shown.
pub(super) fn coloured(word: &str, colour: AnsiColor) -> String {
    let style = Style::new().fg_color(Some(colour.into()));
    format!("{style}{word}{style:#}")
}

/// The name of a state in its colour, the same in every listing.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_wrote_does_nothing_to_a_terminal() {
        for (text, shown) in [
            ("plain\n\tü", "plain\n\tü"),
            ("\x1b[31mred\x1b[0m", "\x1b[31mred\x1b[0m"),
            ("\x1b[1;31mred", "\x1b[1;31mred\x1b[0m"),
            ("\x1b]0;title\x07", "\\u{1b}]0;title\\u{7}"),
            ("\x1b[2Jgone\r\x08", "\\u{1b}[2Jgone\\r\\u{8}"),
            ("\u{9b}31m \u{202e}", "\\u{9b}31m \\u{202e}"),
            ("\x1b[", "\\u{1b}["),
        ] {
            assert_eq!(harmless(text), shown);
        }
    }
}
