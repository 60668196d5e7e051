//! Markers separate the output of one task from the next in a worker's two pipes, which last as long as the
//! worker. They also carry log records between the printed lines, so that the order is kept.
//!
//! A marker is `\x1e`, a nonce that no operation can guess, a letter, a payload and a newline. It
//! is found after an unterminated line too. The worker writes markers, the monitor parses them.

use super::line::OpenLine;
use crate::model::input::hexadecimal;
use serde::{Deserialize, Serialize};

/// The byte that begins a marker: the record separator of ASCII, which programs do not print.
const ESCAPE: u8 = 0x1e;
const NONCE: usize = 32;
/// The longest marker in bytes; what is longer is printed output.
const MAX_LINE: usize = 64 * 1024;
/// Writes of at most this many bytes are atomic (`PIPE_BUF` of Linux), so that a child's output cannot come
/// in between.
const MAX_MARKER: usize = 4096;

/// One of the two output pipes of a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Descriptor 1.
    Stdout,
    /// Descriptor 2.
    Stderr,
}

impl Stream {
    /// The name of the stream in the log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// A nonce of 32 random hexadecimal digits.
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

/// Writes the markers of one worker.
#[derive(Debug, Clone)]
pub struct Marker {
    nonce: String,
}

impl Marker {
    /// Markers with this nonce.
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

    /// The marker at the beginning of a task's output.
    pub fn begin(&self, task: i64, attempt: u32) -> Vec<u8> {
        self.marker(&format!("B{task} {attempt}"))
    }

    /// The marker at the end of a task's output.
    pub fn end(&self, task: i64) -> Vec<u8> {
        self.marker(&format!("E{task}"))
    }

    /// The marker from which on printed lines are stored, or are not.
    pub fn stdio(&self, on: bool) -> Vec<u8> {
        self.marker(if on { "S1" } else { "S0" })
    }

    /// The markers of a log record. A text that is too long for one atomic write is split into several.
    pub fn record(&self, level: u8, time_us: i64, target: &str, text: &str) -> Vec<Vec<u8>> {
        // JSON may need six bytes for one byte of text; the target is short.
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

/// The longest prefix of a text that has at most this many bytes.
fn truncated(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}

/// A piece of the output of a pipe.
#[derive(Debug, Clone, PartialEq)]
pub enum Piece {
    /// A printed line, without its newline. Of a line that was rewritten (`\r`), its last state.
    Line(String),
    /// What an unfinished line shows now. Its next state, or the finished line, follows.
    Unfinished(String),
    /// A task's output begins.
    Begin {
        task: i64,
        /// The number of the attempt.
        attempt: u32,
    },
    /// A task's output has ended.
    End { task: i64 },
    /// From here on printed lines are stored, or are not.
    Stdio(bool),
    /// A log record.
    Record {
        /// The level, from 1 (error) to 5 (trace).
        level: u8,
        /// When it was written, in microseconds since the epoch.
        time_us: i64,
        /// The module path of the record.
        target: String,
        /// The message, followed by its fields.
        message: String,
    },
}

/// Splits the bytes of one pipe into pieces, whatever parts they arrive in.
#[derive(Debug)]
pub struct Parser {
    intro: Vec<u8>,
    /// Bytes that may become a marker when more arrive.
    pending: Vec<u8>,
    /// The line that has not ended yet.
    line: OpenLine,
}

impl Parser {
    /// A parser for a pipe of the worker with this nonce.
    pub fn new(nonce: &str) -> Self {
        let mut intro = vec![ESCAPE];
        intro.extend_from_slice(nonce.as_bytes());
        Self {
            intro,
            pending: Vec::new(),
            line: OpenLine::default(),
        }
    }

    /// Parses more bytes and passes complete pieces to `sink`.
    pub fn push(&mut self, bytes: &[u8], sink: &mut impl FnMut(Piece)) {
        if self.pending.is_empty() {
            let rest = self.take_all(bytes, sink);
            self.pending = rest.to_vec();
        } else {
            let mut joined = std::mem::take(&mut self.pending);
            joined.extend_from_slice(bytes);
            let rest = self.take_all(&joined, sink).len();
            joined.drain(..joined.len() - rest);
            self.pending = joined;
        }
        if let Some(text) = self.line.state() {
            sink(Piece::Unfinished(text));
        }
    }

    /// Parses the rest after the pipe was closed: it counts as a line.
    pub fn finish(&mut self, sink: &mut impl FnMut(Piece)) {
        let rest = std::mem::take(&mut self.pending);
        self.line.extend(&rest);
        self.end_line(sink);
    }

    /// Passes every complete piece to `sink`, and returns the rest, which may become a marker.
    fn take_all<'a>(&mut self, mut rest: &'a [u8], sink: &mut impl FnMut(Piece)) -> &'a [u8] {
        while let Some(at) = next_special(rest) {
            self.line.extend(&rest[..at]);
            rest = &rest[at..];
            if rest[0] == b'\n' {
                sink(Piece::Line(self.line.end().unwrap_or_default()));
                rest = &rest[1..];
                continue;
            }
            let compared = rest.len().min(self.intro.len());
            if rest[..compared] != self.intro[..compared] {
                // It is no marker, so the byte is printed output.
                self.line.extend(&rest[..1]);
                rest = &rest[1..];
                continue;
            }
            match rest.iter().position(|byte| *byte == b'\n') {
                Some(end) => {
                    self.marker(&rest[self.intro.len()..end], sink);
                    rest = &rest[end + 1..];
                }
                None if rest.len() > MAX_LINE => {
                    // Longer than any marker, so it is printed output.
                    self.line.extend(&rest[..1]);
                    rest = &rest[1..];
                }
                // The marker is incomplete, and until it is complete the line before it may go on.
                None => return rest,
            }
        }
        self.line.extend(rest);
        &[]
    }

    /// Ends the line before a marker, although no newline ends it.
    fn end_line(&mut self, sink: &mut impl FnMut(Piece)) {
        if let Some(text) = self.line.end() {
            sink(Piece::Line(text));
        }
    }

    fn marker(&mut self, payload: &[u8], sink: &mut impl FnMut(Piece)) {
        let text = String::from_utf8_lossy(payload);
        let Some(letter) = text.chars().next() else {
            return;
        };
        // A log record interrupts a progress bar without ending its line.
        if letter != 'L' || !self.line.is_progress() {
            self.end_line(sink);
        }
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
                        message: lines_of_record(&record.text),
                    });
                }
            }
            _ => {}
        }
    }
}

/// The position of the next byte that ends a line or may begin a marker.
fn next_special(bytes: &[u8]) -> Option<usize> {
    bytes
        .iter()
        .position(|byte| *byte == b'\n' || *byte == ESCAPE)
}

/// The text without NUL, which Postgres does not store in a text.
pub(super) fn clean(text: &str) -> String {
    if text.contains('\0') {
        text.replace('\0', "\u{fffd}")
    } else {
        text.to_owned()
    }
}

/// The text of a record, with carriage returns as ends of lines.
fn lines_of_record(text: &str) -> String {
    let text = clean(text);
    if text.contains('\r') {
        text.replace("\r\n", "\n").replace('\r', "\n")
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONCE: &str = "0123456789abcdef0123456789abcdef";

    fn parse(parts: &[&[u8]]) -> Vec<Piece> {
        let mut pieces = Vec::new();
        let mut keep = |piece| match piece {
            // How often it is said depends on how the bytes arrive.
            Piece::Unfinished(_) => {}
            piece => pieces.push(piece),
        };
        let mut parser = Parser::new(NONCE);
        for part in parts {
            parser.push(part, &mut keep);
        }
        parser.finish(&mut keep);
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
    fn a_long_line_loses_its_middle_and_what_follows_is_kept() {
        let mut bytes = b"begin".to_vec();
        bytes.extend(vec![b'x'; 3 * MAX_LINE]);
        bytes.extend(b"end\nnext\n");
        for size in [bytes.len(), 1000, 70_000] {
            let parts: Vec<&[u8]> = bytes.chunks(size).collect();
            let pieces = parse(&parts);
            assert_eq!(pieces.len(), 2, "in parts of {size}");
            let Piece::Line(cut) = &pieces[0] else {
                panic!("a line")
            };
            assert!(cut.starts_with("beginx") && cut.ends_with("xend"));
            assert!(
                cut.contains("[line truncated: 131080 bytes are missing]"),
                "in parts of {size}"
            );
            assert_eq!(pieces[1], line("next"));
        }
    }

    #[test]
    fn of_a_line_that_is_rewritten_the_last_state_remains() {
        for (printed, kept) in [
            (&b"crlf\r\nnext\r\r\n"[..], &["crlf", "next"][..]),
            (b"\r  0%\r 50%\r100%\n", &["100%"]),
            (b"  0%\r 50%\r100%\r", &["100%"]),
            (b"\x1b[2K\r50%\r\x1b[2K100%\x1b[K\n", &["100%"]),
            // Cleared at its end, and something else printed there.
            (b"50%\r100%\r      \rfinished\n", &["finished"]),
            // Cleared at its end, and nothing after it.
            (b"50%\r100%\r      \r\nnext\n", &["100%", "next"]),
            (b"\r\n\n \n", &["", "", " "]),
            (b"\x1b[31mred\x1b[0m\x1b[K\n", &["\x1b[31mred\x1b[0m\x1b[K"]),
            (b"|\x08/\x08-\n", &["|\x08/\x08-"]),
        ] {
            let kept: Vec<Piece> = kept.iter().map(|text| line(text)).collect();
            let text = String::from_utf8_lossy(printed);
            assert_eq!(parse(&[printed]), kept, "{text:?}");
            let singles: Vec<&[u8]> = printed.chunks(1).collect();
            assert_eq!(parse(&singles), kept, "{text:?} byte by byte");
        }
    }

    #[test]
    fn a_line_shows_its_state_before_it_ends() {
        let mut parser = Parser::new(NONCE);
        let mut pieces = Vec::new();
        for part in [&b" 10%\r"[..], b" 20%\r 3", b"0%", b"\n", b"prompt: "] {
            parser.push(part, &mut |piece| pieces.push(piece));
        }
        let state = |text: &str| Piece::Unfinished(text.to_owned());
        assert_eq!(
            pieces,
            [
                state(" 10%"),
                state(" 3"),
                state(" 30%"),
                line(" 30%"),
                state("prompt: ")
            ]
        );
    }

    #[test]
    fn a_record_passes_by_a_progress_bar() {
        let marker = Marker::new(NONCE.to_owned());
        let mut bytes = b" 10%\r 20%".to_vec();
        bytes.extend(marker.record(3, 1, "t", "first\r\nsecond\rthird").concat());
        bytes.extend(b"\r100%\n");
        let pieces = parse(&[&bytes]);
        assert!(
            matches!(&pieces[0], Piece::Record { message, .. } if message == "first\nsecond\nthird"),
            "{pieces:?}"
        );
        assert_eq!(pieces[1..], [line("100%")]);
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
