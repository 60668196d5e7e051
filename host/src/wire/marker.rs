//! What separates the output of one task from the next inside a worker's two lasting pipes, and
//! carries log records between the printed lines, so that their order is kept.
//!
//! A marker is `\x1e`, a nonce that no operation can guess, a letter, a payload and a newline. It
//! is found after an unterminated line too. The worker writes markers, the monitor parses them.

use super::line::OpenLine;
use crate::model::input::hexadecimal;
use serde::{Deserialize, Serialize};

/// Separates records, in ASCII; programs do not print it.
const ESCAPE: u8 = 0x1e;
const NONCE: usize = 32;
/// Longer markers are none, in bytes.
const MAX_LINE: usize = 64 * 1024;
/// Writes up to this are atomic (`PIPE_BUF` of Linux), so that a child's output cannot come in
/// between.
const MAX_MARKER: usize = 4096;

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
    /// A printed line, without its newline; of a line that was rewritten (`\r`), its last state.
    Line(String),
    /// What a line shows that has not ended yet. The line follows, or what it shows next.
    Unfinished(String),
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
    /// The beginning of what may become a marker.
    pending: Vec<u8>,
    /// The line that has not ended yet.
    line: OpenLine,
}

impl Parser {
    /// For a pipe of a worker with this nonce.
    pub fn new(nonce: &str) -> Self {
        let mut intro = vec![ESCAPE];
        intro.extend_from_slice(nonce.as_bytes());
        Self {
            intro,
            pending: Vec::new(),
            line: OpenLine::default(),
        }
    }

    /// More bytes have arrived.
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

    /// No more will come: what is left is a line too.
    pub fn finish(&mut self, sink: &mut impl FnMut(Piece)) {
        let rest = std::mem::take(&mut self.pending);
        self.line.extend(&rest);
        self.end_line(sink);
    }

    /// Takes every piece that is complete off the front; what is left may become a marker.
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
                // No marker: a byte like any other.
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
                    // Nobody of ours writes markers that long.
                    self.line.extend(&rest[..1]);
                    rest = &rest[1..];
                }
                // It is not complete; until then neither is the line before it.
                None => return rest,
            }
        }
        self.line.extend(rest);
        &[]
    }

    /// The line before a marker ends there, although no newline says so.
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
        // A record passes by a progress bar, which goes on after it.
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

/// Where a line ends or a marker may begin.
fn next_special(bytes: &[u8]) -> Option<usize> {
    bytes
        .iter()
        .position(|byte| *byte == b'\n' || *byte == ESCAPE)
}

/// Postgres stores no NUL in a text.
pub(super) fn clean(text: &str) -> String {
    if text.contains('\0') {
        text.replace('\0', "\u{fffd}")
    } else {
        text.to_owned()
    }
}

/// The text of a record: a carriage return ends a line of it, with or without a newline.
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
