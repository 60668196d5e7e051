//! The lines of the tasks at hand on their way into the database: numbered, within a limit, and, of
//! a line that goes on (a progress bar), now and then what it shows.
//!
//! Rows of the log are never updated. What an unfinished line shows is a row of its own, which is
//! deleted when what follows it has been written: its next state, or the whole line.

use crate::{
    model::{
        TaskId,
        log::{LogLine, Printed},
    },
    store::LogChunk,
};
use std::{
    collections::{HashMap, HashSet, VecDeque, hash_map::Entry},
    time::{Duration, Instant},
};

/// So many lines from the beginning of an attempt are kept.
const FIRST_LINES: u64 = 90_000;
/// So many bytes of them.
const FIRST_BYTES: u64 = 60 << 20;
/// Of what follows, so many lines are kept from the end. They are in memory until the task ends.
const LAST_LINES: usize = 10_000;
/// So many bytes of them.
const LAST_BYTES: u64 = 4 << 20;
/// An unfinished line is shown after this, and its next state not sooner either.
const SHOWN_EVERY: Duration = Duration::from_millis(500);
/// So many lines are in one row of the log.
const CHUNK: usize = 200;

/// The lines of the tasks at hand, waiting for the next cycle.
#[derive(Debug, Default)]
pub(super) struct Lines {
    tasks: HashMap<TaskId, TaskLines>,
    /// Numbered already; the database was away.
    unwritten: Vec<LogChunk>,
    waiting: usize,
    /// Rows (task, number) that something newer has taken the place of, which is not written yet.
    superseded: Vec<(TaskId, i64)>,
    /// Rows that something newer, written by now, has taken the place of.
    to_delete: Vec<(TaskId, i64)>,
    /// Such rows are being deleted.
    pub(super) is_deleting: bool,
    /// The tasks with lines that go on.
    unfinished: HashSet<TaskId>,
}

#[derive(Debug)]
struct TaskLines {
    attempt: i32,
    next: i64,
    kept: u64,
    bytes: u64,
    closed: bool,
    lines: Vec<LogLine>,
    /// The time of the last line that was taken, in microseconds.
    written_until: i64,
    /// What came beyond the limit.
    last: LastLines,
    /// What is shown of lines that go on.
    unfinished: Vec<Unfinished>,
}

/// An unfinished line.
#[derive(Debug)]
struct Unfinished {
    /// What it shows now.
    line: LogLine,
    /// Whether that is not in the database yet.
    is_news: bool,
    /// When its next state may be shown.
    due: Instant,
    /// It waits to be written.
    is_due: bool,
    /// The row of the state before.
    row: Option<i64>,
}

/// The last lines of all that came beyond the limit.
#[derive(Debug, Default)]
struct LastLines {
    lines: VecDeque<LogLine>,
    bytes: u64,
    /// Of those that are in no place any more.
    missing_lines: u64,
    missing_bytes: u64,
}

impl LastLines {
    fn push(&mut self, line: LogLine) {
        self.bytes += line.4.len() as u64;
        self.lines.push_back(line);
        while self.lines.len() > LAST_LINES || self.bytes > LAST_BYTES {
            let Some(first) = self.lines.pop_front() else {
                return;
            };
            let bytes = first.4.len() as u64;
            self.bytes -= bytes;
            self.missing_bytes += bytes;
            self.missing_lines += 1;
        }
    }

    /// Everything, with a line in front that says what is missing there, if anything is.
    fn take(&mut self) -> Vec<LogLine> {
        let Self {
            lines,
            missing_lines,
            missing_bytes,
            ..
        } = std::mem::take(self);
        let mut taken = Vec::with_capacity(lines.len() + 1);
        if let Some(next) = lines.front().filter(|_| missing_lines > 0) {
            let text = format!(
                "output truncated: {missing_lines} lines ({missing_bytes} bytes) are missing here; \
                 the {} lines after this one are the last",
                lines.len()
            );
            taken.push(LogLine(
                next.0,
                next.1.clone(),
                "warn".to_owned(),
                None,
                text,
            ));
        }
        taken.extend(lines);
        taken
    }
}

impl TaskLines {
    /// Takes a line into what waits to be written.
    fn push(&mut self, mut line: LogLine) {
        // A print is stamped when it is read, a record when it is made: what comes before a record
        // is no later.
        line.0 = line.0.max(self.written_until);
        let later = self
            .lines
            .iter_mut()
            .rev()
            .take_while(|before| before.0 > line.0);
        later.for_each(|before| before.0 = line.0);
        self.lines.push(line);
    }

    /// Whether the beginning is complete.
    fn is_beyond_limit(&self) -> bool {
        self.kept > FIRST_LINES || self.bytes > FIRST_BYTES
    }

    /// Shows a line that goes on, or that is only in memory, instead of what was shown of its
    /// stream.
    fn show(&mut self, line: LogLine, now: Instant) {
        match self
            .unfinished
            .iter_mut()
            .find(|shown| shown.line.1 == line.1)
        {
            Some(shown) => {
                shown.is_news |= shown.line.4 != line.4;
                shown.line = line;
            }
            None => self.unfinished.push(Unfinished {
                line,
                is_news: true,
                due: now + SHOWN_EVERY,
                is_due: false,
                row: None,
            }),
        }
    }

    /// A line of this stream has ended: the row that shows what was there of it.
    fn finish_shown(&mut self, stream: &str) -> Option<i64> {
        let at = self
            .unfinished
            .iter()
            .position(|shown| shown.line.1 == stream)?;
        self.unfinished.swap_remove(at).row
    }

    fn numbered(&mut self, task: TaskId, lines: Vec<LogLine>) -> LogChunk {
        let first = self.next;
        self.next += lines.len() as i64;
        LogChunk {
            task,
            attempt: self.attempt,
            first,
            lines,
        }
    }
}

impl Lines {
    /// Begins to keep the lines of an attempt, numbered after those of the earlier ones.
    pub(super) fn open(&mut self, task: TaskId, attempt: i32, earlier: i64) {
        let mut earlier = earlier;
        // Lines of an earlier attempt that still wait here are written as what they are, and the new ones
        // are numbered after them.
        if let Some(mut before) = self.tasks.remove(&task) {
            let lines = std::mem::take(&mut before.lines);
            for part in lines.chunks(CHUNK) {
                self.unwritten.push(before.numbered(task, part.to_vec()));
            }
            earlier = earlier.max(before.next - 1);
        }
        for chunk in self.unwritten.iter().filter(|chunk| chunk.task == task) {
            earlier = earlier.max(chunk.first + chunk.lines.len() as i64 - 1);
        }
        let fresh = TaskLines {
            attempt,
            next: earlier + 1,
            kept: 0,
            bytes: 0,
            closed: false,
            lines: Vec::new(),
            written_until: 0,
            last: LastLines::default(),
            unfinished: Vec::new(),
        };
        self.tasks.insert(task, fresh);
    }

    /// Keeps what a task has printed; past the limit, only the last of it.
    pub(super) fn keep(&mut self, task: TaskId, printed: Printed, now: Instant) {
        let Some(of_task) = self.tasks.get_mut(&task) else {
            return;
        };
        let line = match printed {
            Printed::Line(line) => line,
            Printed::Unfinished(line) => {
                of_task.show(line, now);
                self.unfinished.insert(task);
                return;
            }
        };
        of_task.kept += 1;
        of_task.bytes += line.4.len() as u64;
        if of_task.is_beyond_limit() {
            // Whoever watches sees that it goes on.
            of_task.show(line.clone(), now);
            self.unfinished.insert(task);
            return of_task.last.push(line);
        }
        let row = of_task.finish_shown(&line.1);
        self.superseded.extend(row.map(|row| (task, row)));
        of_task.push(line);
        self.waiting += 1;
    }

    /// Lets lines that go on show what they show now, where they have not done so for a while.
    pub(super) fn show_unfinished(&mut self, now: Instant) {
        let (tasks, waiting) = (&mut self.tasks, &mut self.waiting);
        self.unfinished.retain(|task| {
            let unfinished = tasks.get_mut(task).map(|of_task| &mut of_task.unfinished);
            let unfinished = unfinished.into_iter().flatten();
            let mut goes_on = false;
            for shown in unfinished {
                goes_on = true;
                if shown.is_news && !shown.is_due && shown.due <= now {
                    shown.is_due = true;
                    shown.due = now + SHOWN_EVERY;
                    *waiting += 1;
                }
            }
            goes_on
        });
    }

    /// When an unfinished line is to be shown.
    pub(super) fn next_wake(&self) -> Option<Instant> {
        let tasks = self
            .unfinished
            .iter()
            .filter_map(|task| self.tasks.get(task));
        let shown = tasks.flat_map(|of_task| &of_task.unfinished);
        shown.filter(|one| one.is_news).map(|one| one.due).min()
    }

    /// Whether anything waits.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting == 0
    }

    /// Takes what waits, in chunks.
    pub(super) fn take(&mut self) -> Vec<LogChunk> {
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
                chunks.push(of_task.numbered(*task, part));
            }
            let mut unfinished = std::mem::take(&mut of_task.unfinished);
            for shown in unfinished.iter_mut().filter(|shown| shown.is_due) {
                let mut line = shown.line.clone();
                line.0 = line.0.max(of_task.written_until);
                of_task.written_until = line.0;
                let chunk = of_task.numbered(*task, vec![line]);
                let before = shown.row.replace(chunk.first);
                self.superseded.extend(before.map(|row| (*task, row)));
                (shown.is_news, shown.is_due) = (false, false);
                chunks.push(chunk);
            }
            of_task.unfinished = unfinished;
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

    /// Everything that was taken has been written: the rows whose place it has taken are to be
    /// deleted, unless others are being deleted now.
    pub(super) fn written(&mut self) -> Vec<(TaskId, i64)> {
        // What is still to be written may be what takes their place.
        if self.unwritten.is_empty() {
            let tasks = &self.tasks;
            let has_unwritten = |(task, _): &(TaskId, i64)| {
                let of_task = tasks.get(task);
                of_task.is_some_and(|of_task| !of_task.lines.is_empty())
            };
            let (open, written): (Vec<_>, Vec<_>) = std::mem::take(&mut self.superseded)
                .into_iter()
                .partition(has_unwritten);
            self.superseded = open;
            self.to_delete.extend(written);
        }
        if self.is_deleting {
            return Vec::new();
        }
        let rows = std::mem::take(&mut self.to_delete);
        self.is_deleting = !rows.is_empty();
        rows
    }

    /// Rows were deleted, or could not be: those go with the next ones.
    pub(super) fn deleted(&mut self, left: Vec<(TaskId, i64)>) {
        self.is_deleting = false;
        self.to_delete.extend(left);
    }

    /// A task has ended: the last of what came beyond the limit follows what is written. Children
    /// that it has left may still print.
    pub(super) fn end(&mut self, task: TaskId) {
        let Some(of_task) = self.tasks.get_mut(&task) else {
            return;
        };
        let last = of_task.last.take();
        if last.is_empty() {
            return;
        }
        self.waiting += last.len();
        for line in last {
            of_task.push(line);
        }
        self.finish_all_shown(task);
    }

    /// Nothing more can come from a task: it is forgotten once its lines are taken.
    pub(super) fn close(&mut self, task: TaskId) {
        self.end(task);
        self.finish_all_shown(task);
        let Entry::Occupied(mut of_task) = self.tasks.entry(task) else {
            return;
        };
        if of_task.get().lines.is_empty() {
            of_task.remove();
        } else {
            of_task.get_mut().closed = true;
        }
    }

    fn finish_all_shown(&mut self, task: TaskId) {
        if let Some(of_task) = self.tasks.get_mut(&task) {
            let shown = of_task.unfinished.drain(..);
            self.superseded
                .extend(shown.filter_map(|shown| shown.row).map(|row| (task, row)));
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
    fn lines_of_a_first_attempt_that_still_wait_are_numbered_before_those_of_the_second() {
        let (mut lines, now) = opened();
        lines.keep(TASK, Printed::Line(line("first")), now);
        lines.close(TASK);
        lines.open(TASK, 2, 0);
        lines.keep(TASK, Printed::Line(line("second")), now);
        let chunks = lines.take();
        let told: Vec<(i32, i64)> = chunks.iter().map(|c| (c.attempt, c.first)).collect();
        assert_eq!(told, [(1, 1), (2, 2)]);
    }

    const TASK: TaskId = TaskId(1);

    fn opened() -> (Lines, Instant) {
        let mut lines = Lines::default();
        lines.open(TASK, 1, 0);
        (lines, Instant::now())
    }

    /// The texts of what waits, with their numbers.
    fn taken(lines: &mut Lines) -> Vec<(i64, String)> {
        let chunks = lines.take().into_iter();
        let texts = |chunk: LogChunk| {
            let numbers = chunk.first..;
            let texts = chunk.lines.into_iter().map(|line| line.4);
            numbers.zip(texts).collect::<Vec<_>>()
        };
        chunks.flat_map(texts).collect()
    }

    #[test]
    fn what_comes_before_a_line_is_not_later() {
        let (mut lines, now) = opened();
        let line = |time| {
            let mut line = line("x");
            line.0 = time;
            Printed::Line(line)
        };
        for time in [10, 30, 40, 20, 50] {
            lines.keep(TASK, line(time), now);
        }
        let times: Vec<i64> = lines.take()[0].lines.iter().map(|line| line.0).collect();
        assert_eq!(times, [10, 20, 20, 20, 50]);
        lines.keep(TASK, line(40), now);
        assert_eq!(
            lines.take()[0].lines[0].0,
            50,
            "nor than what is written already"
        );
    }

    #[test]
    fn a_closed_task_is_forgotten_once_its_lines_are_taken() {
        let now = Instant::now();
        let (silent, spoke, open) = (TaskId(1), TaskId(2), TaskId(3));
        let mut lines = Lines::default();
        for task in [silent, spoke, open] {
            lines.open(task, 1, 0);
        }
        lines.keep(spoke, Printed::Line(line("before the end")), now);
        for task in [silent, spoke] {
            lines.close(task);
        }
        assert!(!lines.tasks.contains_key(&silent));
        assert_eq!(lines.take().len(), 1);
        assert_eq!(lines.tasks.keys().collect::<Vec<_>>(), [&open]);
        // Whoever has been forgotten has no lines any more, and closing it again is fine.
        lines.close(spoke);
        lines.keep(spoke, Printed::Line(line("too late")), now);
        assert!(lines.is_empty());
    }

    #[test]
    fn an_unfinished_line_is_shown_now_and_then_and_then_replaced() {
        let (mut lines, start) = opened();
        let at = |ms| start + Duration::from_millis(ms);
        let shows = |text: &str| Printed::Unfinished(line(text));
        lines.keep(TASK, shows("10%"), at(0));
        lines.show_unfinished(at(499));
        assert!(lines.is_empty(), "it may be finished soon");
        assert_eq!(lines.next_wake(), Some(at(500)));
        lines.keep(TASK, shows("20%"), at(499));
        lines.show_unfinished(at(500));
        assert_eq!(taken(&mut lines), [(1, "20%".to_owned())]);
        assert!(lines.written().is_empty(), "nothing has taken its place");

        lines.keep(TASK, shows("30%"), at(501));
        lines.show_unfinished(at(999));
        assert!(lines.is_empty(), "two a second are enough");
        lines.show_unfinished(at(1000));
        assert_eq!(taken(&mut lines), [(2, "30%".to_owned())]);
        assert_eq!(lines.written(), [(TASK, 1)]);
        lines.deleted(vec![(TASK, 1)]);

        lines.keep(TASK, Printed::Line(line("100%")), at(1001));
        lines.close(TASK);
        // Not before the whole line is there; with what could not be deleted.
        assert_eq!(lines.written(), [(TASK, 1)]);
        lines.deleted(Vec::new());
        assert_eq!(taken(&mut lines), [(3, "100%".to_owned())]);
        assert_eq!(lines.written(), [(TASK, 2)]);
        assert!(lines.is_deleting && lines.tasks.is_empty());
    }

    #[test]
    fn a_line_that_ends_soon_is_never_shown_unfinished() {
        let (mut lines, now) = opened();
        lines.keep(TASK, Printed::Unfinished(line("half")), now);
        lines.keep(TASK, Printed::Line(line("half a line")), now);
        lines.show_unfinished(now + Duration::from_secs(10));
        assert_eq!(taken(&mut lines), [(1, "half a line".to_owned())]);
        assert!(lines.written().is_empty() && lines.next_wake().is_none());
    }

    #[test]
    fn of_a_flood_the_first_and_the_last_lines_are_kept() {
        let (mut lines, now) = opened();
        let flood = FIRST_LINES + 3 * LAST_LINES as u64;
        for number in 1..=flood {
            lines.keep(TASK, Printed::Line(line(&number.to_string())), now);
        }
        // While it runs, what it says now is shown.
        lines.show_unfinished(now + SHOWN_EVERY);
        let begun = taken(&mut lines);
        assert_eq!(begun.len() as u64, FIRST_LINES + 1);
        assert_eq!(begun[begun.len() - 1].1, flood.to_string());
        lines.close(TASK);
        let end = taken(&mut lines);
        assert_eq!(end.len(), 1 + LAST_LINES);
        assert_eq!(
            end[0].1,
            "output truncated: 20000 lines (110001 bytes) are missing here; the 10000 lines after \
             this one are the last"
        );
        assert_eq!(end[LAST_LINES].1, flood.to_string());
        assert!(end.windows(2).all(|pair| pair[0].0 < pair[1].0));
        assert_eq!(lines.written(), [(TASK, FIRST_LINES as i64 + 1)]);
    }

    #[test]
    fn a_log_just_beyond_the_limit_of_its_beginning_is_whole() {
        let (mut lines, now) = opened();
        let count = FIRST_LINES + LAST_LINES as u64;
        for number in 1..=count {
            lines.keep(TASK, Printed::Line(line(&number.to_string())), now);
        }
        lines.close(TASK);
        let all = taken(&mut lines);
        assert!(
            (1..=count)
                .map(|number| number.to_string())
                .eq(all.into_iter().map(|line| line.1))
        );
    }

    #[test]
    fn the_last_lines_take_bounded_memory_however_long_they_are() {
        let (mut lines, now) = opened();
        let long = "x".repeat(60_000);
        for _ in 0..2000 {
            lines.keep(TASK, Printed::Line(line(&long)), now);
        }
        assert!(lines.tasks[&TASK].last.bytes <= LAST_BYTES);
        lines.close(TASK);
        let end = taken(&mut lines);
        assert!(
            end.iter()
                .any(|(_, text)| text.contains("lines (") && text.contains("are missing here"))
        );
        assert_eq!(end[end.len() - 1].1, long);
    }
}
