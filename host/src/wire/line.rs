//! A line that is being printed: which part of a long line is kept, and what a line shows that is rewritten
//! like a progress bar (`\r` moves the cursor back to its beginning).

use super::marker::clean;

/// How many bytes of the beginning of a long line are kept.
const FRONT: usize = 48 * 1024;
/// How many bytes of the end of a long line are kept. A line of at most `FRONT + END` bytes is kept whole.
const END: usize = 16 * 1024;

/// The line of a pipe that has not ended yet.
#[derive(Debug, Default)]
pub(super) struct OpenLine {
    /// What was printed since the last carriage return.
    state: Text,
    /// What the line showed before the last carriage return, if that was anything.
    before: Option<Text>,
    /// The last byte was a carriage return: either `\r\n` ends the line, or it is about to be rewritten.
    returned: bool,
    /// Whether a carriage return has rewritten the line.
    is_rewritten: bool,
}

impl OpenLine {
    /// Adds bytes of the line, which contain no newline.
    pub(super) fn extend(&mut self, bytes: &[u8]) {
        for (place, part) in bytes.split(|byte| *byte == b'\r').enumerate() {
            if place > 0 {
                self.returned = true;
            }
            if part.is_empty() {
                continue;
            }
            if std::mem::take(&mut self.returned) {
                self.is_rewritten = true;
                let state = std::mem::take(&mut self.state);
                if state.shows_something() {
                    self.before = Some(state);
                }
            }
            self.state.extend(part);
        }
    }

    /// Ends the line and returns its text; `None` if nothing was printed since the line before.
    pub(super) fn end(&mut self) -> Option<String> {
        let line = std::mem::take(self);
        let is_there = line.is_progress() || !line.state.is_empty();
        is_there.then(|| line.text())
    }

    /// Whether the line has been rewritten, or may be next, as a progress bar is.
    pub(super) fn is_progress(&self) -> bool {
        self.is_rewritten || self.returned
    }

    /// What the line shows now; `None` if it shows nothing yet.
    pub(super) fn state(&self) -> Option<String> {
        let shown = self.shown();
        (!shown.is_empty()).then(|| self.text())
    }

    /// The last state of the line that shows anything.
    fn shown(&self) -> &Text {
        match &self.before {
            Some(before) if !self.state.shows_something() => before,
            _ => &self.state,
        }
    }

    fn text(&self) -> String {
        let text = self.shown().to_text();
        if self.is_progress() {
            without_erasing(&text).to_owned()
        } else {
            text
        }
    }
}

/// A text of which the beginning and the end are kept.
#[derive(Debug, Default)]
struct Text {
    front: Vec<u8>,
    end: Vec<u8>,
    missing: u64,
}

impl Text {
    fn extend(&mut self, bytes: &[u8]) {
        let room = FRONT.saturating_sub(self.front.len());
        let (front, end) = bytes.split_at(bytes.len().min(room));
        self.front.extend_from_slice(front);
        self.end.extend_from_slice(end);
        // Shortened only at four times the limit, because moving the bytes that stay takes time.
        if self.end.len() > 4 * END {
            self.cut();
        }
    }

    fn cut(&mut self) {
        let surplus = self.end.len().saturating_sub(END);
        self.end.drain(..surplus);
        self.missing += surplus as u64;
    }

    fn is_empty(&self) -> bool {
        self.front.is_empty()
    }

    /// Whether the text contains anything but whitespace and codes that erase.
    fn shows_something(&self) -> bool {
        !self.end.is_empty()
            || !without_erasing(&String::from_utf8_lossy(&self.front))
                .trim()
                .is_empty()
    }

    fn to_text(&self) -> String {
        if self.missing == 0 && self.end.len() <= END {
            let whole = [self.front.as_slice(), &self.end].concat();
            return clean(&String::from_utf8_lossy(&whole));
        }
        let surplus = self.end.len().saturating_sub(END);
        let missing = self.missing + surplus as u64;
        let [front, end] = [self.front.as_slice(), &self.end[surplus..]]
            .map(|part| clean(&String::from_utf8_lossy(part)));
        format!("{front} … [line truncated: {missing} bytes are missing] … {end}")
    }
}

/// The text without the codes at its ends that erase what the terminal showed before: they belong to the
/// carriage return.
fn without_erasing(text: &str) -> &str {
    const ERASE: [&str; 4] = ["\x1b[K", "\x1b[0K", "\x1b[1K", "\x1b[2K"];
    let mut text = text;
    while let Some(rest) = ERASE
        .iter()
        .find_map(|code| text.strip_prefix(code).or_else(|| text.strip_suffix(code)))
    {
        text = rest;
    }
    text
}
