//! A line that is being printed: what of it is kept however long it becomes, and what it shows when
//! it is rewritten, as progress bars are (`\r`, the cursor goes back to where the line begins).

use super::marker::clean;

/// So much of the beginning of a long line is kept, in bytes.
const FRONT: usize = 48 * 1024;
/// So much of its end, in bytes: together what a line may have without being cut.
const END: usize = 16 * 1024;

/// The line that a pipe is in the midst of.
#[derive(Debug, Default)]
pub(super) struct OpenLine {
    /// What has been printed since the cursor last went back.
    state: Text,
    /// What the line showed before that, if that was anything.
    before: Option<Text>,
    /// A carriage return came last: the end of a line (`\r\n`), or the next state follows.
    returned: bool,
    /// Whether it has shown several states.
    is_rewritten: bool,
}

impl OpenLine {
    /// More of it was printed, without a newline.
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

    /// It ends here: its text. `None`: nothing was printed since the line before.
    pub(super) fn end(&mut self) -> Option<String> {
        let line = std::mem::take(self);
        let is_there = line.is_progress() || !line.state.is_empty();
        is_there.then(|| line.text())
    }

    /// Whether the cursor has gone back: it has been rewritten, or may be next.
    pub(super) fn is_progress(&self) -> bool {
        self.is_rewritten || self.returned
    }

    /// What it shows now; `None`: nothing yet.
    pub(super) fn state(&self) -> Option<String> {
        let shown = self.shown();
        (!shown.is_empty()).then(|| self.text())
    }

    /// The last state that shows something.
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

/// Bytes of which the beginning and the end are kept.
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
        // Cut back seldom: moving what stays costs time.
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

    /// Whether there is anything in it but space, and codes that erase.
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

/// A state without the codes around it that erase what the terminal showed before: they go with the
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
