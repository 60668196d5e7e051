//! What a worker prints, cut into the lines of its tasks. The monitor owns the pipes, so the last
//! words before a crash are kept.

use super::fault;
use crate::{
    model::{
        TaskId,
        log::{LogLine, level_name},
    },
    store::LogChunk,
    wire::{
        self, WireError,
        marker::{Parser, Piece, Stream},
    },
};
use chrono::Utc;
use std::{
    collections::{HashMap, hash_map::Entry},
    os::fd::{AsFd, OwnedFd},
    rc::Rc,
};
use tokio::{io::unix::AsyncFd, sync::Notify};

/// How much is read from one pipe before others get their turn.
const TURN: usize = 256 * 1024;
/// At most so many lines of one attempt are kept.
const MAX_LINES: u64 = 100_000;
/// At most so many bytes.
const MAX_BYTES: u64 = 64 << 20;

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
pub(super) type TaskLine = (Option<TaskId>, LogLine);

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
                    let line = LogLine(
                        Utc::now().timestamp_micros(),
                        stream.as_str().to_owned(),
                        "info".to_owned(),
                        None,
                        text,
                    );
                    lines.push((*task, line));
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
                    lines.push((*task, line));
                }
            }
        };
        match bytes {
            Some(bytes) => parser.push(bytes, &mut sink),
            None => parser.finish(&mut sink),
        }
    }
}

/// The lines of the tasks at hand, waiting for the next cycle.
#[derive(Debug, Default)]
pub(super) struct Lines {
    tasks: HashMap<TaskId, TaskLines>,
    /// Numbered already; the database was away.
    unwritten: Vec<LogChunk>,
    waiting: usize,
}

#[derive(Debug)]
struct TaskLines {
    attempt: i32,
    next: i64,
    kept: u64,
    bytes: u64,
    truncated: bool,
    closed: bool,
    lines: Vec<LogLine>,
    /// The time of the last line that was taken, in microseconds.
    written_until: i64,
}

impl Lines {
    /// Begins to keep the lines of an attempt, numbered after those of the earlier ones.
    pub(super) fn open(&mut self, task: TaskId, attempt: i32, earlier: i64) {
        let fresh = TaskLines {
            attempt,
            next: earlier + 1,
            kept: 0,
            bytes: 0,
            truncated: false,
            closed: false,
            lines: Vec::new(),
            written_until: 0,
        };
        self.tasks.insert(task, fresh);
    }

    /// Keeps a line, or, past the limits, says once that it and the following are left out.
    pub(super) fn keep(&mut self, task: TaskId, mut line: LogLine) {
        let Some(of_task) = self.tasks.get_mut(&task) else {
            return;
        };
        if of_task.truncated {
            return;
        }
        // A print is stamped when it is read, a record when it is made: what comes before a record is
        // no later.
        line.0 = line.0.max(of_task.written_until);
        let later = of_task
            .lines
            .iter_mut()
            .rev()
            .take_while(|before| before.0 > line.0);
        later.for_each(|before| before.0 = line.0);
        of_task.kept += 1;
        of_task.bytes += line.4.len() as u64;
        if of_task.kept > MAX_LINES || of_task.bytes > MAX_BYTES {
            of_task.truncated = true;
            let mark = format!(
                "output truncated: more than {MAX_LINES} lines or {} MB",
                MAX_BYTES >> 20
            );
            of_task
                .lines
                .push(LogLine(line.0, line.1, "warn".to_owned(), None, mark));
        } else {
            of_task.lines.push(line);
        }
        self.waiting += 1;
    }

    /// Whether anything waits.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting == 0
    }

    /// Takes what waits, in chunks.
    pub(super) fn take(&mut self) -> Vec<LogChunk> {
        const CHUNK: usize = 200;
        let mut chunks = std::mem::take(&mut self.unwritten);
        if self.waiting == 0 {
            return chunks;
        }
        for (task, of_task) in &mut self.tasks {
            let lines = std::mem::take(&mut of_task.lines);
            if let Some(last) = lines.last() {
                of_task.written_until = last.0;
            }
            let mut lines = lines.into_iter().peekable();
            while lines.peek().is_some() {
                let part: Vec<LogLine> = lines.by_ref().take(CHUNK).collect();
                let first = of_task.next;
                of_task.next += part.len() as i64;
                chunks.push(LogChunk {
                    task: *task,
                    attempt: of_task.attempt,
                    first,
                    lines: part,
                });
            }
        }
        self.waiting = 0;
        self.tasks.retain(|_, of_task| !of_task.closed);
        chunks
    }

    /// Takes one chunk.
    pub(super) fn take_one(&mut self) -> Vec<LogChunk> {
        let mut chunks = self.take();
        let rest = chunks.split_off(chunks.len().min(1));
        self.put_back(rest);
        chunks
    }

    /// Chunks that could not be written wait again, in front.
    pub(super) fn put_back(&mut self, chunks: Vec<LogChunk>) {
        for chunk in chunks {
            self.waiting += chunk.lines.len();
            self.unwritten.push(chunk);
        }
    }

    /// Nothing more can come from a task: it is forgotten once its lines are taken.
    pub(super) fn close(&mut self, task: TaskId) {
        let Entry::Occupied(mut of_task) = self.tasks.entry(task) else {
            return;
        };
        if of_task.get().lines.is_empty() {
            of_task.remove();
        } else {
            of_task.get_mut().closed = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> LogLine {
        LogLine(
            0,
            "stdout".to_owned(),
            "info".to_owned(),
            None,
            text.to_owned(),
        )
    }

    #[test]
    fn what_comes_before_a_line_is_not_later() {
        let task = TaskId(1);
        let mut lines = Lines::default();
        lines.open(task, 1, 0);
        let line = |time| {
            let [stream, level, text] = ["stdout", "info", "x"].map(str::to_owned);
            LogLine(time, stream, level, None, text)
        };
        for time in [10, 30, 40, 20, 50] {
            lines.keep(task, line(time));
        }
        let times: Vec<i64> = lines.take()[0].lines.iter().map(|line| line.0).collect();
        assert_eq!(times, [10, 20, 20, 20, 50]);
        lines.keep(task, line(40));
        assert_eq!(
            lines.take()[0].lines[0].0,
            50,
            "nor than what is written already"
        );
    }

    #[test]
    fn a_closed_task_is_forgotten_once_its_lines_are_taken() {
        let (silent, spoke, open) = (TaskId(1), TaskId(2), TaskId(3));
        let mut lines = Lines::default();
        for task in [silent, spoke, open] {
            lines.open(task, 1, 0);
        }
        lines.keep(spoke, line("before the end"));
        for task in [silent, spoke] {
            lines.close(task);
        }
        assert!(!lines.tasks.contains_key(&silent));
        assert_eq!(lines.take().len(), 1);
        assert_eq!(lines.tasks.keys().collect::<Vec<_>>(), [&open]);
        // Whoever has been forgotten has no lines any more, and closing it again is fine.
        lines.close(spoke);
        lines.keep(spoke, line("too late"));
        assert!(lines.is_empty());
    }
}
