//! What separates the output of one task from the next inside a worker's two lasting pipes, and
//! carries log records between the printed lines, so that their order is kept.
//!
//! A marker is `\x1e`, a nonce that no operation can guess, a letter, a payload and a newline. It
//! is found after an unterminated line too. The worker writes markers, the monitor parses them.

use crate::model::input::hexadecimal;
use serde::{Deserialize, Serialize};

/// Separates records, in ASCII; programs do not print it.
const ESCAPE: u8 = 0x1e;
const NONCE: usize = 32;
/// Longer lines are cut, visibly.
const MAX_LINE: usize = 64 * 1024;
/// Writes up to this are atomic (`PIPE_BUF` of Linux), so that a child's output cannot come in
/// between.
const MAX_MARKER: usize = 4096;
const CUT: &str = " … [line truncated]";

/// Which of the two pipes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Descriptor 1.
    Stdout,
    /// Descriptor 2.
    Stderr,
}

impl Stream {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// 32 random hexadecimal digits.
pub fn nonce() -> std::io::Result<String> {
    use std::io::Read as _;
    let mut random = [0_u8; NONCE / 2];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut random)?;
    Ok(hexadecimal(&random))
}

#[derive(Serialize, Deserialize)]
struct Record<'a> {
    level: u8,
    time: i64,
    #[serde(borrow)]
    target: std::borrow::Cow<'a, str>,
    #[serde(borrow)]
    text: std::borrow::Cow<'a, str>,
}

/// Makes the markers of one worker.
#[derive(Debug, Clone)]
pub struct Marker {
    nonce: String,
}

impl Marker {
    /// For a worker with this nonce.
    pub fn new(nonce: String) -> Self {
        Self { nonce }
    }

    fn marker(&self, payload: &str) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(NONCE + payload.len() + 2);
        bytes.push(ESCAPE);
        bytes.extend_from_slice(self.nonce.as_bytes());
        bytes.extend_from_slice(payload.as_bytes());
        bytes.push(b'\n');
        bytes
    }

    /// The task's output begins.
    pub fn begin(&self, task: i64, attempt: u32) -> Vec<u8> {
        self.marker(&format!("B{task} {attempt}"))
    }

    /// The task's output has ended.
    pub fn end(&self, task: i64) -> Vec<u8> {
        self.marker(&format!("E{task}"))
    }

    /// From here on printed lines count, or do not.
    pub fn stdio(&self, on: bool) -> Vec<u8> {
        self.marker(if on { "S1" } else { "S0" })
    }

    /// A log record; a text that is too long to be written at once goes in several.
    pub fn record(&self, level: u8, time_us: i64, target: &str, text: &str) -> Vec<Vec<u8>> {
        // JSON may need six bytes for one; the target is short.
        const PART: usize = (MAX_MARKER - NONCE - 600) / 6;
        let target = truncated(target, 80);
        let mut rest = text;
        let mut markers = Vec::new();
        loop {
            let part = truncated(rest, PART);
            let record = Record {
                level,
                time: time_us,
                target: target.into(),
                text: part.into(),
            };
            let json = serde_json::to_string(&record).expect("strings and numbers are JSON");
            markers.push(self.marker(&format!("L{json}")));
            rest = &rest[part.len()..];
            if rest.is_empty() {
                return markers;
            }
        }
    }
}

/// The longest prefix of at most so many bytes.
fn truncated(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}

/// What comes out of a pipe.
#[derive(Debug, Clone, PartialEq)]
pub enum Piece {
    /// A printed line, without its newline.
    Line(String),
    /// A task's output begins.
    Begin {
        /// The task.
        task: i64,
        /// Its attempt.
        attempt: u32,
    },
    /// A task's output has ended.
    End {
        /// The task.
        task: i64,
    },
    /// Printed lines count from here on, or do not.
    Stdio(bool),
    /// A log record.
    Record {
        /// 1 (error) to 5 (trace).
        level: u8,
        /// Microseconds since the epoch.
        time_us: i64,
        /// Where in the code.
        target: String,
        /// The message with its fields.
        message: String,
    },
}

/// Cuts the bytes of one pipe into pieces, however they arrive.
#[derive(Debug)]
pub struct Parser {
    intro: Vec<u8>,
    buffer: Vec<u8>,
    /// The rest of a line that was cut is thrown away.
    skipping: bool,
}

impl Parser {
    /// For a pipe of a worker with this nonce.
    pub fn new(nonce: &str) -> Self {
        let mut intro = vec![ESCAPE];
        intro.extend_from_slice(nonce.as_bytes());
        Self {
            intro,
            buffer: Vec::new(),
            skipping: false,
        }
    }

    /// More bytes have arrived.
    pub fn push(&mut self, bytes: &[u8], sink: &mut impl FnMut(Piece)) {
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.extend_from_slice(bytes);
        let mut rest: &[u8] = &buffer;
        while let Some(taken) = self.step(rest, sink) {
            rest = &rest[taken..];
        }
        let left = buffer.len() - rest.len();
        buffer.drain(..left);
        self.buffer = buffer;
    }

    /// No more will come: what is left is a line too.
    pub fn finish(&mut self, sink: &mut impl FnMut(Piece)) {
        let rest = std::mem::take(&mut self.buffer);
        if !rest.is_empty() {
            self.line(&rest, sink);
        }
        self.skipping = false;
    }

    /// Takes one piece off the front, if one is complete; how many bytes it took.
    fn step(&mut self, rest: &[u8], sink: &mut impl FnMut(Piece)) -> Option<usize> {
        if rest.is_empty() {
            return None;
        }
        let newline = rest.iter().position(|byte| *byte == b'\n');
        let line = &rest[..newline.unwrap_or(rest.len())];
        let Some(escape) = self.find_intro(line, newline.is_some()) else {
            return match newline {
                Some(end) => {
                    self.line(line, sink);
                    Some(end + 1)
                }
                None if rest.len() > MAX_LINE => {
                    self.cut(rest, sink);
                    Some(rest.len())
                }
                None => None,
            };
        };
        if escape > 0 {
            if rest.len() - escape < self.intro.len() && newline.is_none() {
                // It may become a marker; until it does not, the line before it is not complete.
                return None;
            }
            self.line(&rest[..escape], sink);
            return Some(escape);
        }
        let end = newline?;
        if let Some(payload) = rest[..end].strip_prefix(self.intro.as_slice()) {
            self.marker(payload, sink);
        } else {
            self.line(line, sink);
        }
        self.skipping = false;
        Some(end + 1)
    }

    /// Where a marker begins in a line, or, at the end of an incomplete one, may begin.
    fn find_intro(&self, line: &[u8], complete: bool) -> Option<usize> {
        let mut from = 0;
        while let Some(found) = line[from..].iter().position(|byte| *byte == ESCAPE) {
            let at = from + found;
            let candidate = &line[at..];
            if candidate.starts_with(&self.intro)
                || (!complete && self.intro.starts_with(candidate))
            {
                return Some(at);
            }
            from = at + 1;
        }
        None
    }

    fn marker(&self, payload: &[u8], sink: &mut impl FnMut(Piece)) {
        let text = String::from_utf8_lossy(payload);
        let Some(letter) = text.chars().next() else {
            return;
        };
        let rest = &text[letter.len_utf8()..];
        match letter {
            'B' => {
                if let Some((task, attempt)) = rest.split_once(' ')
                    && let (Ok(task), Ok(attempt)) = (task.parse(), attempt.parse())
                {
                    sink(Piece::Begin { task, attempt });
                }
            }
            'E' => {
                if let Ok(task) = rest.parse() {
                    sink(Piece::End { task });
                }
            }
            'S' => sink(Piece::Stdio(rest == "1")),
            'L' => {
                if let Ok(record) = serde_json::from_str::<Record<'_>>(rest) {
                    sink(Piece::Record {
                        level: record.level,
                        time_us: record.time,
                        target: clean(&record.target),
                        message: clean(&record.text),
                    });
                }
            }
            _ => {}
        }
    }

    fn line(&mut self, bytes: &[u8], sink: &mut impl FnMut(Piece)) {
        if std::mem::take(&mut self.skipping) {
            return;
        }
        if bytes.len() > MAX_LINE {
            self.cut(bytes, sink);
            self.skipping = false;
            return;
        }
        sink(Piece::Line(clean(&String::from_utf8_lossy(bytes))));
    }

    /// The front of a line that is too long; the rest of it is skipped.
    fn cut(&mut self, bytes: &[u8], sink: &mut impl FnMut(Piece)) {
        if !self.skipping {
            let front = String::from_utf8_lossy(&bytes[..MAX_LINE.min(bytes.len())]);
            sink(Piece::Line(clean(&front) + CUT));
        }
        self.skipping = true;
    }
}

/// Postgres stores no NUL in a text.
fn clean(text: &str) -> String {
    if text.contains('\0') {
        text.replace('\0', "\u{fffd}")
    } else {
        text.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONCE: &str = "0123456789abcdef0123456789abcdef";

    fn parse(parts: &[&[u8]]) -> Vec<Piece> {
        let mut parser = Parser::new(NONCE);
        let mut pieces = Vec::new();
        for part in parts {
            parser.push(part, &mut |piece| pieces.push(piece));
        }
        parser.finish(&mut |piece| pieces.push(piece));
        pieces
    }

    fn line(text: &str) -> Piece {
        Piece::Line(text.to_owned())
    }

    fn stream() -> (Vec<u8>, Vec<Piece>) {
        let marker = Marker::new(NONCE.to_owned());
        let mut bytes = Vec::new();
        bytes.extend(marker.begin(7, 2));
        bytes.extend(b"hello\n\nno newline");
        bytes.extend(marker.record(3, 123, "a::b", "text \"x\"\nmore").concat());
        bytes.extend(b"\x1enot a marker\n");
        bytes.extend(marker.stdio(false));
        bytes.extend(b"unterminated");
        bytes.extend(marker.end(7));
        bytes.extend(b"rest");
        let record = Piece::Record {
            level: 3,
            time_us: 123,
            target: "a::b".into(),
            message: "text \"x\"\nmore".into(),
        };
        let pieces = vec![
            Piece::Begin {
                task: 7,
                attempt: 2,
            },
            line("hello"),
            line(""),
            line("no newline"),
            record,
            line("\u{1e}not a marker"),
            Piece::Stdio(false),
            line("unterminated"),
            Piece::End { task: 7 },
            line("rest"),
        ];
        (bytes, pieces)
    }

    #[test]
    fn pieces_survive_any_cut() {
        let (bytes, pieces) = stream();
        assert_eq!(parse(&[&bytes]), pieces);
        for cut in 0..bytes.len() {
            assert_eq!(
                parse(&[&bytes[..cut], &bytes[cut..]]),
                pieces,
                "cut at {cut}"
            );
        }
        let singles: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(parse(&singles), pieces);
    }

    #[test]
    fn another_nonce_is_no_marker() {
        let forged = Marker::new("f".repeat(32)).end(7);
        let pieces = parse(&[&forged]);
        assert!(matches!(pieces.as_slice(), [Piece::Line(_)]), "{pieces:?}");
    }

    #[test]
    fn nul_and_invalid_utf8_become_replacement_characters() {
        assert_eq!(parse(&[b"a\0b\xffc\n"]), [line("a\u{fffd}b\u{fffd}c")]);
    }

    #[test]
    fn a_long_line_is_cut_once_and_what_follows_is_kept() {
        let mut bytes = vec![b'x'; 3 * MAX_LINE];
        bytes.extend(b"\nnext\n");
        for size in [bytes.len(), 1000, 70_000] {
            let parts: Vec<&[u8]> = bytes.chunks(size).collect();
            let pieces = parse(&parts);
            assert_eq!(pieces.len(), 2, "in parts of {size}");
            let Piece::Line(cut) = &pieces[0] else {
                panic!("a line")
            };
            assert!(cut.ends_with(CUT) && cut.len() == MAX_LINE + CUT.len());
            assert_eq!(pieces[1], line("next"));
        }
    }

    #[test]
    fn every_record_is_written_at_once() {
        let marker = Marker::new(NONCE.to_owned());
        let text = "\u{1}".repeat(5000) + &"ü".repeat(3000);
        let parts = marker.record(5, i64::MAX, &"t".repeat(300), &text);
        assert!(parts.iter().all(|part| part.len() <= MAX_MARKER));
        let joined: String = parse(&parts.iter().map(Vec::as_slice).collect::<Vec<_>>())
            .into_iter()
            .map(|piece| match piece {
                Piece::Record { message, .. } => message,
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(joined, text);
    }
}
