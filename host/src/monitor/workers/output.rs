//! What a worker prints, cut into the lines of its tasks. The monitor owns the pipes, so what was printed
//! last before a crash is kept.

use crate::{
    model::{
        TaskId,
        log::{LogLine, Printed, level_name},
    },
    monitor::fault,
    wire::{
        self, WireError,
        marker::{Parser, Piece, Stream},
    },
};
use chrono::Utc;
use std::{
    collections::BTreeMap,
    os::fd::{AsFd, OwnedFd},
    rc::Rc,
};
use tokio::{io::unix::AsyncFd, sync::Notify};

/// How much is read from one pipe before others get their turn.
const TURN: usize = 256 * 1024;

/// One pipe of a worker.
#[derive(Debug)]
struct Pipe {
    fd: Rc<AsyncFd<OwnedFd>>,
    parser: Parser,
    stream: Stream,
    /// The task whose lines come now.
    task: Option<TaskId>,
    /// Whether what is printed is kept, besides log records.
    stdio: bool,
    /// Lets the watcher, which waits for readability, go on; true: everything was read.
    turn_over: Rc<(Notify, std::cell::Cell<bool>)>,
    /// Whether every write end is closed.
    is_closed: bool,
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

/// What was printed, and by which task; `None`: the worker printed it between two tasks.
pub(super) type TaskLine = (Option<TaskId>, Printed);

/// The output pipes of one worker: two of its own, and those that children of ended tasks still hold.
#[derive(Debug)]
pub(super) struct Outputs {
    pipes: BTreeMap<u64, Pipe>,
    /// The number of the next pipe.
    next: u64,
    /// The nonce of the markers in the pipes.
    nonce: String,
}

impl Outputs {
    /// No pipes yet. The worker begins its markers with this nonce.
    pub(super) fn new(nonce: String) -> Self {
        Self {
            pipes: BTreeMap::new(),
            next: 0,
            nonce,
        }
    }

    /// Adds a pipe. `readable` is called with its number whenever there is something to read.
    pub(super) fn add(
        &mut self,
        fd: OwnedFd,
        stream: Stream,
        readable: impl Fn(u64) + 'static,
    ) -> Result<(), WireError> {
        let number = self.next;
        self.next += 1;
        let (pipe, watch) = Pipe::new(fd, &self.nonce, stream, move || readable(number))?;
        tokio::task::spawn_local(watch);
        self.pipes.insert(number, pipe);
        Ok(())
    }

    /// The task that has just ended has left children behind: what they print comes through the pipes until
    /// now, and what the next tasks print through these.
    pub(super) fn replace(
        &mut self,
        descriptors: Vec<OwnedFd>,
        task: TaskId,
        readable: impl Fn(u64) + Clone + 'static,
    ) -> Result<(), WireError> {
        for pipe in self.pipes.values_mut() {
            pipe.leave_to(task);
        }
        for (stream, fd) in [Stream::Stdout, Stream::Stderr]
            .into_iter()
            .zip(descriptors)
        {
            let flags = nix::fcntl::OFlag::O_NONBLOCK;
            nix::fcntl::fcntl(&fd, nix::fcntl::FcntlArg::F_SETFL(flags))
                .map_err(WireError::system("set up a pipe"))?;
            self.add(fd, stream, readable.clone())?;
        }
        Ok(())
    }

    /// Takes the turn of a pipe that has something to read: reads what is there, up to a limit.
    pub(super) fn read_turn(&mut self, pipe: u64) -> Vec<TaskLine> {
        let mut lines = Vec::new();
        if let Some(open) = self.pipes.get_mut(&pipe) {
            open.read_turn(&mut lines);
        }
        lines
    }

    /// Reads every pipe until nothing is there.
    pub(super) fn read_all(&mut self) -> Vec<TaskLine> {
        let mut lines = Vec::new();
        for pipe in self.pipes.values_mut() {
            pipe.read(usize::MAX, &mut lines);
        }
        lines
    }

    /// Reads all that a worker that is dead has left, an unterminated last line too.
    pub(super) fn read_rest(&mut self) -> Vec<TaskLine> {
        let mut lines = self.read_all();
        for pipe in self.pipes.values_mut() {
            pipe.parse(None, &mut lines);
        }
        lines
    }

    /// Forgets the pipes of ended tasks that have been closed. Answers the tasks whose children held them. The
    /// worker's own pipes close when it dies; what came last through them is still wanted.
    pub(super) fn take_closed(&mut self) -> Vec<TaskId> {
        let closed = |pipe: &Pipe| pipe.left_to.filter(|_| pipe.is_closed);
        let tasks = self.pipes.values().filter_map(closed).collect();
        self.pipes.retain(|_, pipe| closed(pipe).is_none());
        tasks
    }

    /// The ended tasks whose children may still print.
    pub(super) fn left_to(&self) -> Vec<TaskId> {
        let pipes = self.pipes.values();
        pipes.filter_map(|pipe| pipe.left_to).collect()
    }

    /// Whether children of this task may still print.
    pub(super) fn is_left_to(&self, task: TaskId) -> bool {
        self.pipes.values().any(|pipe| pipe.left_to == Some(task))
    }

    /// Whether children of any ended task may still print.
    pub(super) fn has_orphans(&self) -> bool {
        self.pipes.values().any(|pipe| pipe.left_to.is_some())
    }

    /// The last line on stderr of the task at hand that tells something.
    pub(super) fn stderr_tail(&self) -> Option<&str> {
        let own = self.pipes.values().filter(|pipe| pipe.left_to.is_none());
        own.filter_map(|pipe| pipe.last_line.as_deref()).next()
    }
}

impl Pipe {
    /// A pipe and a future that calls `readable` whenever there is something to read.
    fn new(
        fd: OwnedFd,
        nonce: &str,
        stream: Stream,
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
            task: None,
            stdio: true,
            turn_over,
            is_closed: false,
            left_to: None,
            last_line: None,
        };
        Ok((pipe, watch))
    }

    /// Takes the turn that its watcher has asked for: reads what is there, up to a limit.
    fn read_turn(&mut self, lines: &mut Vec<TaskLine>) {
        let drained = self.read(TURN, lines);
        self.turn_over.1.set(drained);
        self.turn_over.0.notify_one();
    }

    /// Reads until nothing is there, or `limit` bytes have been read; false: something may be left.
    fn read(&mut self, limit: usize, lines: &mut Vec<TaskLine>) -> bool {
        let mut buffer = [0_u8; 32 * 1024];
        let mut total = 0;
        while !self.is_closed {
            match nix::unistd::read(self.fd.get_ref().as_fd(), &mut buffer) {
                Ok(0) => {
                    self.is_closed = true;
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
    fn leave_to(&mut self, task: TaskId) {
        if self.left_to.is_none() {
            self.left_to = Some(task);
            self.task = Some(task);
        }
    }

    /// Cuts bytes into lines; `None`: there will be no more.
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
                    lines.push((*task, Printed::Line(printed(*stream, text))));
                }
            }
            Piece::Unfinished(text) => {
                if *stdio {
                    lines.push((*task, Printed::Unfinished(printed(*stream, text))));
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
                    lines.push((*task, Printed::Line(line)));
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
