//! What a worker prints, cut into the lines of its tasks. The monitor owns the pipes, so the last
//! words before a crash are kept.

use super::fault;
use crate::{
    model::{
        TaskId,
        log::{LogLine, level_name},
    },
    wire::{
        self, WireError,
        marker::{Parser, Piece, Stream},
    },
};
use chrono::Utc;
use std::{
    os::fd::{AsFd, OwnedFd},
    rc::Rc,
};
use tokio::{io::unix::AsyncFd, sync::Notify};

/// How much is read from one pipe before others get their turn.
const TURN: usize = 256 * 1024;
/// One pipe of a worker.
#[derive(Debug)]
pub(super) struct Pipe {
    fd: Rc<AsyncFd<OwnedFd>>,
    parser: Parser,
    stream: Stream,
    /// The task whose lines come now.
    task: Option<TaskId>,
    stdio: bool,
    /// Lets the task that watches for readability go on; true: everything was read.
    turn_over: Rc<(Notify, std::cell::Cell<bool>)>,
    /// Nobody can write to it any more.
    pub(super) closed: bool,
    /// The ended task whose children may still write to it.
    left_to: Option<TaskId>,
    /// The last line on stderr that tells something.
    last_line: Option<String>,
}

impl Drop for Pipe {
    fn drop(&mut self) {
        // The watcher may wait for a turn that nobody will take any more.
        self.turn_over.0.notify_one();
    }
}

/// A line and whose it is; none: the worker printed it between two tasks.
pub(super) type TaskLine = (Option<TaskId>, Said);

/// What came out of a pipe.
#[derive(Debug)]
pub(super) enum Said {
    /// A whole line, or a log record.
    Line(LogLine),
    /// What a line shows that has not ended yet.
    Unfinished(LogLine),
}

impl Pipe {
    /// A pipe and a future that calls `readable` whenever there is something to read.
    pub(super) fn new(
        fd: OwnedFd,
        nonce: &str,
        stream: Stream,
        task: Option<TaskId>,
        readable: impl Fn() + 'static,
    ) -> Result<(Self, impl Future<Output = ()> + 'static), WireError> {
        let fd = Rc::new(wire::watched(fd, tokio::io::Interest::READABLE)?);
        let turn_over = Rc::new((Notify::new(), std::cell::Cell::new(true)));
        let watched = Rc::downgrade(&fd);
        let turns = Rc::clone(&turn_over);
        // The watcher never reads: the monitor does, when it likes, so that a report of an end
        // finds every line before it. Each call of `readable` is answered by one turn, and only
        // that says whether everything was read: a writer in the midst of one large write makes no
        // new event while there is something in the pipe.
        let watch = async move {
            while let Some(fd) = watched.upgrade() {
                let Ok(mut ready) = fd.readable().await else {
                    return;
                };
                readable();
                turns.0.notified().await;
                if turns.1.get() {
                    ready.clear_ready();
                }
                drop(ready);
            }
        };
        let pipe = Self {
            fd,
            parser: Parser::new(nonce),
            stream,
            task,
            stdio: true,
            turn_over,
            closed: false,
            left_to: None,
            last_line: None,
        };
        Ok((pipe, watch))
    }

    /// Takes the turn that its watcher has asked for: reads what is there, up to a limit.
    pub(super) fn read_turn(&mut self, lines: &mut Vec<TaskLine>) {
        let drained = self.read(TURN, lines);
        self.turn_over.1.set(drained);
        self.turn_over.0.notify_one();
    }

    /// Reads all that is there.
    pub(super) fn read_all(&mut self, lines: &mut Vec<TaskLine>) {
        self.read(usize::MAX, lines);
    }

    /// Reads until nothing is there, or so many bytes have been read; whether nothing was left.
    fn read(&mut self, limit: usize, lines: &mut Vec<TaskLine>) -> bool {
        let mut buffer = [0_u8; 32 * 1024];
        let mut total = 0;
        while !self.closed {
            match nix::unistd::read(self.fd.get_ref().as_fd(), &mut buffer) {
                Ok(0) => {
                    self.closed = true;
                    self.parse(None, lines);
                }
                Ok(n) => {
                    self.parse(Some(&buffer[..n]), lines);
                    total += n;
                    if total >= limit {
                        return false;
                    }
                }
                Err(nix::errno::Errno::EINTR) => {}
                Err(_) => break,
            }
        }
        true
    }

    /// From now on only children of this ended task can write to it.
    pub(super) fn leave_to(&mut self, task: TaskId) {
        if self.left_to.is_none() {
            self.left_to = Some(task);
            self.task = Some(task);
        }
    }

    /// See [`Pipe::leave_to`].
    pub(super) fn left_to(&self) -> Option<TaskId> {
        self.left_to
    }

    /// The last words of the task at hand on stderr.
    pub(super) fn last_words(&self) -> Option<&str> {
        self.last_line.as_deref().filter(|_| self.left_to.is_none())
    }

    /// The unterminated rest of a worker that has died.
    pub(super) fn finish(&mut self, lines: &mut Vec<TaskLine>) {
        self.parse(None, lines);
    }

    fn parse(&mut self, bytes: Option<&[u8]>, lines: &mut Vec<TaskLine>) {
        let Self {
            parser,
            stream,
            task,
            stdio,
            left_to,
            last_line,
            ..
        } = self;
        let mut sink = |piece: Piece| match piece {
            Piece::Begin { task: begun, .. } => {
                *task = Some(TaskId(begun));
                *stdio = true;
                *last_line = None;
            }
            Piece::End { .. } => *task = *left_to,
            Piece::Stdio(on) => *stdio = on,
            Piece::Line(text) => {
                // What is not kept is not quoted either.
                let counts = *stdio || fault::is_about_memory(&text);
                if *stream == Stream::Stderr && counts && fault::is_telling(&text) {
                    *last_line = Some(text.trim().to_owned());
                }
                if *stdio {
                    lines.push((*task, Said::Line(printed(*stream, text))));
                }
            }
            Piece::Unfinished(text) => {
                if *stdio {
                    lines.push((*task, Said::Unfinished(printed(*stream, text))));
                }
            }
            Piece::Record {
                level,
                time_us,
                target,
                message,
            } => {
                let level = level_name(level).to_owned();
                // One row per line of text, so that a listing stays a listing.
                for text in message.split('\n') {
                    let line = LogLine(
                        time_us,
                        "log".to_owned(),
                        level.clone(),
                        Some(target.clone()),
                        text.to_owned(),
                    );
                    lines.push((*task, Said::Line(line)));
                }
            }
        };
        match bytes {
            Some(bytes) => parser.push(bytes, &mut sink),
            None => parser.finish(&mut sink),
        }
    }
}

/// A printed line, stamped when it is read.
fn printed(stream: Stream, text: String) -> LogLine {
    let (stream, level) = (stream.as_str().to_owned(), "info".to_owned());
    LogLine(Utc::now().timestamp_micros(), stream, level, None, text)
}
