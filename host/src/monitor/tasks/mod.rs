//! The tasks that this monitor has claimed: what is held, what is said about it, what it has printed.
//!
//! [`Tasks`] is the one owner of all three, so that a task ends in one place only. Its methods stand in the
//! order of a task's life:
//!
//! ```text
//!   claim_in ──▶ wait ──▶ hand ──▶ begin ──▶ finish ──▶ settle
//!                 │ ▲       │                  ▲          ▲
//!           fetch ▼ │ bring └─── end, release ─┴──────────┘
//! ```
//!
//! Nobody is asked here: the supervisor asks the database, moves tasks between pools and workers, and passes
//! in what has happened and the time.

mod held;
mod lines;
mod outbox;
mod parked;
mod report;

pub(super) use held::{Fetched, Held, Stage};
pub(super) use report::{Saved, chain, saved, storable};

use super::fault::{Fault, Ran};
use crate::{
    model::{
        MonitorId, TaskId, Token, WorkerId,
        log::{LogLine, Printed},
        task::Cause,
    },
    store::{
        CatalogRow, Claim, Claimed, Cycle, CycleResult, Ended, Fate, FileContent, LogChunk, Mark,
        Scan,
    },
    wire::{Finished, Run},
};
use chrono::{DateTime, Utc};
use held::Shown;
use lines::Lines;
use outbox::Outbox;
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

/// Contents beside the output of a task.
pub(super) type Files = Arc<Vec<FileContent>>;

/// What the next cycle says.
#[derive(Debug, Default)]
pub(super) struct Words {
    ended: Vec<Ended>,
    marks: Vec<Mark>,
    logs: Vec<LogChunk>,
    /// Whether the cycle says one thing alone, to find out whether the database refuses it. Such a cycle
    /// claims nothing: a claim may be what is refused.
    pub(super) is_alone: bool,
}

impl Words {
    /// Whether there is nothing to say.
    pub(super) fn is_empty(&self) -> bool {
        self.ended.is_empty() && self.marks.is_empty() && self.logs.is_empty()
    }
}

/// What follows for others from what a cycle has written.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Settled {
    /// The shortest pause before a task whose next attempt is in the queue now.
    pub(super) retry_in: Option<Duration>,
    /// Whether somebody had locked a row that has to be written.
    pub(super) is_row_locked: bool,
}

/// What nobody has said to the database, for the host's next monitor.
#[derive(Debug)]
pub(super) struct Unreported {
    /// How tasks ended.
    pub(super) ended: Vec<Ended>,
    /// Contents beside the outputs of some of them.
    pub(super) files: Vec<(TaskId, Files)>,
    /// What tasks have printed.
    pub(super) logs: Vec<LogChunk>,
}

/// The tasks that this monitor has claimed.
#[derive(Debug, Default)]
pub(super) struct Tasks {
    held: HashMap<TaskId, Held>,
    outbox: Outbox,
    lines: Lines,
    /// Ends that are said when the contents beside their outputs have been written.
    storing: HashMap<TaskId, (Ended, Files)>,
    /// The cycle that the database is working on.
    in_flight: Option<Arc<Cycle>>,
    /// The number of the newest cycle.
    cycle_number: u64,
    /// How many of the next reports are sent one per cycle, to isolate the one that the database refuses.
    alone: usize,
    /// Claims that the database believed to be held, and that nobody here knew, at the last comparison.
    suspects: HashSet<Claim>,
}

/// The life of a task, in order.
impl Tasks {
    /// A task has been claimed, for this version of its operation. Answers the version whose queue it is to
    /// wait in. `operation` is `None` if the catalog has changed while the claim was under way, and nobody
    /// here can run the task any more: it is given back.
    pub(super) fn claim_in(
        &mut self,
        claimed: Claimed,
        token: Token,
        operation: Option<Arc<CatalogRow>>,
        now: DateTime<Utc>,
    ) -> Option<Arc<CatalogRow>> {
        self.outbox.open(token);
        let task = claimed.task;
        let Some(operation) = operation else {
            let released = (task, claimed.attempt);
            self.outbox
                .end(Ended::new(released, token, Fate::Release, now));
            return None;
        };
        self.lines.open(task, claimed.attempt, claimed.log_lines);
        let held = Held::new(claimed, token, Arc::clone(&operation));
        self.held.insert(task, held);
        Some(operation)
    }

    /// A task waits for a worker. Answers the version of its operation, in whose queue it is to wait; `None`:
    /// it is not held.
    pub(super) fn wait(&mut self, task: TaskId) -> Option<Arc<CatalogRow>> {
        let held = self.held.get_mut(&task)?;
        held.stage = Stage::Waiting;
        Some(Arc::clone(&held.operation))
    }

    /// What the claim of a task did not bring along is being fetched. Answers whether that includes its
    /// fields; `None`: it is not held.
    pub(super) fn fetch(&mut self, task: TaskId) -> Option<bool> {
        let held = self.held.get_mut(&task)?;
        held.stage = Stage::Fetching;
        let claimed = &held.claimed;
        Some(claimed.input_encoding.as_deref() == Some("fields") && claimed.input.is_none())
    }

    /// What was fetched for a task is here; it has still to be let [`Tasks::wait`].
    pub(super) fn bring(&mut self, task: TaskId, fetched: Fetched) {
        if let Some(held) = self.held.get_mut(&task) {
            held.fetched = Some(fetched);
        }
    }

    /// A worker is given a task, in this slot. Answers the message that tells the worker.
    pub(super) fn hand(&mut self, task: TaskId, worker: WorkerId, slot: u32) -> Option<Run> {
        let held = self.held.get_mut(&task)?;
        held.stage = Stage::Handed(worker);
        Some(held.run(slot))
    }

    /// A task has begun, some moments ago: it is shown as running.
    pub(super) fn begin(&mut self, task: TaskId, worker: WorkerId, started: DateTime<Utc>) {
        self.mark(task, worker, started, None);
    }

    /// A task that runs tells how far it is, from 0 to 1, and something about it. False: it has ended.
    pub(super) fn progress(
        &mut self,
        task: TaskId,
        worker: WorkerId,
        started: DateTime<Utc>,
        progress: (f32, String),
    ) -> bool {
        self.mark(task, worker, started, Some(progress))
    }

    fn mark(
        &mut self,
        task: TaskId,
        worker: WorkerId,
        started: DateTime<Utc>,
        progress: Option<(f32, String)>,
    ) -> bool {
        let held = self.held.get_mut(&task);
        let Some(held) = held.filter(|held| held.stage != Stage::Ending) else {
            return false;
        };
        let shown = held.shown.get_or_insert(Shown {
            worker,
            started,
            progress: None,
        });
        if progress.is_some() {
            shown.progress.clone_from(&progress);
        }
        let (progress, progress_message) = progress.unzip();
        self.outbox.mark(Mark {
            task,
            attempt: held.claimed.attempt,
            token: held.token,
            started,
            worker,
            plugin_operation: held.operation.plugin_operation,
            progress,
            progress_message,
        });
        true
    }

    /// A worker says that it has finished a task. Answers its end, which is reported when the output is at
    /// hand ([`Tasks::output`]). `stopped_for`: the task had been told to end for this reason. `goes_on`:
    /// children that it has left may still print.
    pub(super) fn finish(
        &mut self,
        finished: &Finished,
        worker: WorkerId,
        stopped_for: Option<Fault>,
        goes_on: bool,
    ) -> Option<Ended> {
        let task = TaskId(finished.task);
        let held = self.held.get_mut(&task)?;
        held.stage = Stage::Ending;
        if goes_on {
            self.lines.end(task);
        } else {
            self.lines.close(task);
        }
        Some(held.finished(finished, worker, stopped_for))
    }

    /// The output of a finished task is at hand, or cannot be stored: its end is reported, unless contents
    /// beside the output have to be written first. Answers the claim and those contents.
    pub(super) fn output(
        &mut self,
        mut ended: Ended,
        saved: Result<Saved, String>,
    ) -> Option<(Token, Files)> {
        let task = ended.task;
        let held = self.held.get(&task)?;
        match saved {
            // Another attempt will make its own.
            _ if matches!(ended.fate, Fate::Retry(_)) => self.outbox.end(ended),
            Ok(saved) => {
                ended.output = saved.fields;
                ended.output_raw = saved.raw;
                ended.output_encoding = saved.encoding.map(str::to_owned);
                if saved.files.is_empty() {
                    self.outbox.end(ended);
                    return None;
                }
                let (token, files) = (ended.token, Arc::new(saved.files));
                self.storing.insert(task, (ended, Arc::clone(&files)));
                return Some((token, files));
            }
            Err(fault) if ended.cause.is_none() => {
                let ended = held.bad_output(ended, fault);
                self.outbox.end(ended);
            }
            // It failed anyway, and says why.
            Err(_) => self.outbox.end(ended),
        }
        None
    }

    /// The contents beside an output have been written, or cannot be, for this reason: now the end is
    /// reported.
    pub(super) fn stored(&mut self, task: TaskId, stored: Result<(), String>) {
        let Some((ended, _)) = self.storing.remove(&task) else {
            return;
        };
        let ended = match (stored, self.held.get(&task)) {
            (Err(reason), Some(held)) => {
                held.bad_output(ended, format!("the output cannot be stored: {reason}"))
            }
            _ => ended,
        };
        self.outbox.end(ended);
    }

    /// A task has ended that could not report it itself.
    pub(super) fn end(&mut self, task: TaskId, fault: Fault, ran: Ran, now: DateTime<Utc>) {
        if let Some(held) = self.held.get(&task) {
            let ended = held.interrupted(fault, ran, now);
            self.report(ended);
        }
    }

    /// A task that has not begun is given back to the queue, as if nobody had claimed it. Whoever claims it
    /// next opens its lines anew.
    pub(super) fn release(&mut self, task: TaskId, now: DateTime<Utc>) {
        if let Some(held) = self.held.get(&task) {
            let ended = held.release(now);
            self.report(ended);
        }
    }

    /// The one place where a held task ends without a worker's report: nothing more is done with it, its end
    /// is said in the next cycle, and nothing more can be printed by it.
    fn report(&mut self, ended: Ended) {
        let task = ended.task;
        if let Some(held) = self.held.get_mut(&task) {
            held.stage = Stage::Ending;
        }
        self.outbox.end(ended);
        self.lines.close(task);
    }

    /// A cycle has been answered: what it has written is forgotten here, and what it had to leave out waits
    /// for the next one.
    pub(super) fn settle(
        &mut self,
        ended: Vec<Ended>,
        marks: Vec<Mark>,
        result: &CycleResult,
    ) -> Settled {
        let (written, waiting) = settle(ended, result);
        for one in &written {
            self.outbox.close(one.token);
            if self.is_claim(one.task, one.token) {
                self.held.remove(&one.task);
            }
        }
        let marked: HashSet<TaskId> = result.marked.iter().copied().collect();
        let unmarked: Vec<Mark> = marks
            .into_iter()
            .filter(|mark| !marked.contains(&mark.task) && self.is_claim(mark.task, mark.token))
            .collect();
        let settled = Settled {
            retry_in: written.iter().filter_map(pause_before_retry).min(),
            is_row_locked: !waiting.is_empty() || !unmarked.is_empty(),
        };
        self.outbox.put_back(waiting, unmarked, Vec::new());
        settled
    }

    /// Whether a task is held under this claim.
    fn is_claim(&self, task: TaskId, token: Token) -> bool {
        let held = self.held.get(&task);
        held.is_some_and(|held| held.token == token)
    }
}

/// Tells the ends that a cycle has written, or that nobody will ever write because the claim has moved on,
/// from those that it had to leave out.
fn settle(ended: Vec<Ended>, result: &CycleResult) -> (Vec<Ended>, Vec<Ended>) {
    let settled = result.reported.iter().chain(&result.moved);
    let settled: HashSet<TaskId> = settled.copied().collect();
    ended
        .into_iter()
        .partition(|one| settled.contains(&one.task))
}

fn pause_before_retry(ended: &Ended) -> Option<Duration> {
    match ended.fate {
        Fate::Retry(ms) => Some(Duration::from_millis(ms.max(0).cast_unsigned())),
        Fate::End(_) | Fate::Release => None,
    }
}

/// What is held.
impl Tasks {
    /// A task, if it is held.
    pub(super) fn get(&self, task: TaskId) -> Option<&Held> {
        self.held.get(&task)
    }

    /// The held tasks.
    pub(super) fn ids(&self) -> Vec<TaskId> {
        self.held.keys().copied().collect()
    }

    /// The held tasks that are like this, and how far they are.
    pub(super) fn select(&self, is_like: impl Fn(&Held) -> bool) -> Vec<(TaskId, Stage)> {
        self.held
            .iter()
            .filter(|(_, held)| is_like(held))
            .map(|(task, held)| (*task, held.stage))
            .collect()
    }

    /// How many tasks of a domain are being fetched, or wait with what was fetched.
    pub(super) fn fetching(&self, domain: &str) -> usize {
        self.held
            .values()
            .filter(|held| held.claimed.has_more && held.operation.domain == domain)
            .filter(|held| held.is_fetched())
            .count()
    }

    /// Somebody wants a task aborted. Answers how far it is; `None`: it is not held, or this is known.
    pub(super) fn want_abort(&mut self, task: TaskId, message: Option<String>) -> Option<Stage> {
        let held = self.held.get_mut(&task)?;
        if held.abort.is_some() {
            return None;
        }
        held.abort = Some(message);
        Some(held.stage)
    }

    /// An abort could not be carried out yet: should somebody still want it, the task is aborted then.
    pub(super) fn forget_abort(&mut self, task: TaskId) {
        if let Some(held) = self.held.get_mut(&task) {
            held.abort = None;
        }
    }

    /// A task that somebody wants aborted, and that has not begun, ends.
    pub(super) fn abort(&mut self, task: TaskId, now: DateTime<Utc>) {
        let held = self.held.get(&task);
        let message = held.and_then(|held| held.abort.clone()).flatten();
        let fault = Fault::of(Cause::Abort, message);
        self.end(task, fault, Ran::default(), now);
    }

    /// The database has said which claims it believes to be held. A claim that nobody here knows may have been
    /// committed without an answer: its task is given back. But it may also have ended between the moment that
    /// the database speaks of and now; so a claim counts only when it is still there the next time. True: it
    /// is worth asking again at once.
    pub(super) fn compare(&mut self, believed: Vec<Claim>, now: DateTime<Utc>) -> bool {
        let (unnoticed, suspects): (HashSet<_>, HashSet<_>) = believed
            .into_iter()
            .filter(|claim| !self.is_known(claim.task, claim.token))
            .partition(|claim| self.suspects.contains(claim));
        for Claim {
            task,
            attempt,
            token,
        } in unnoticed
        {
            tracing::warn!(task.id = %task, "task {task} was claimed unnoticed: back to the queue");
            self.outbox.open(token);
            self.outbox
                .end(Ended::new((task, attempt), token, Fate::Release, now));
        }
        self.suspects = suspects;
        !self.suspects.is_empty()
    }

    /// Whether this claim, or a later one of the same task, is held here or its end is still to be said.
    fn is_known(&self, task: TaskId, token: Token) -> bool {
        let is_not_before = |known: Token| known.cycle() >= token.cycle();
        let said = self.in_flight.iter().flat_map(|cycle| &cycle.ended);
        self.held
            .get(&task)
            .is_some_and(|held| is_not_before(held.token))
            || said
                .chain(self.outbox.ends())
                .any(|ended| ended.task == task && is_not_before(ended.token))
    }
}

/// What is said in cycles.
impl Tasks {
    /// Whether the database is working on a cycle.
    pub(super) fn is_in_flight(&self) -> bool {
        self.in_flight.is_some()
    }

    /// The number of the newest cycle.
    pub(super) fn cycle_number(&self) -> u64 {
        self.cycle_number
    }

    /// What the next cycle is to say: everything that waits, or one thing, to find out which one the database
    /// refuses, or whether it still refuses what was set aside.
    pub(super) fn next_words(&mut self, now: Instant) -> Words {
        if self.outbox.is_empty() && self.lines.is_empty() {
            self.alone = 0;
        }
        if self.alone > 0 {
            self.alone -= 1;
            return self.one_word();
        }
        if let Some((ended, marks, logs)) = self.outbox.parked.take_due(now) {
            return Words {
                ended,
                marks,
                logs,
                is_alone: true,
            };
        }
        let (ended, marks) = self.outbox.take();
        Words {
            ended,
            marks,
            logs: self.lines.take(),
            is_alone: false,
        }
    }

    fn one_word(&mut self) -> Words {
        let (ended, marks) = self.outbox.take_one();
        let logs = if ended.is_empty() && marks.is_empty() {
            self.lines.take_one()
        } else {
            Vec::new()
        };
        Words {
            ended,
            marks,
            logs,
            is_alone: true,
        }
    }

    /// A cycle begins, which says this and looks there for tasks.
    pub(super) fn begin_cycle(
        &mut self,
        monitor: MonitorId,
        words: Words,
        scans: Vec<Scan>,
    ) -> Arc<Cycle> {
        self.cycle_number += 1;
        let cycle = Arc::new(Cycle {
            monitor,
            number: self.cycle_number,
            ended: words.ended,
            marks: words.marks,
            logs: words.logs,
            finished_cycles: self.outbox.take_finished_cycles(),
            scans,
        });
        self.in_flight = Some(Arc::clone(&cycle));
        cycle
    }

    /// The cycle has been answered, or has failed. Answers the cycle, and whether it has tried something again
    /// that was set aside.
    pub(super) fn end_cycle(&mut self) -> (Cycle, bool) {
        let cycle = self.in_flight.take().expect("a cycle was in flight");
        let was_try = std::mem::take(&mut self.outbox.parked.is_trying);
        // Whoever has asked the database with it has let it go by now.
        (Arc::unwrap_or_clone(cycle), was_try)
    }

    /// A cycle did not happen: what it said is said again.
    pub(super) fn say_again(&mut self, cycle: Cycle) {
        self.outbox
            .put_back(cycle.ended, cycle.marks, cycle.finished_cycles);
        self.lines.put_back(cycle.logs);
    }

    /// A cycle that said so many things was refused, perhaps because of one of them: the next cycles say them
    /// one by one.
    pub(super) fn say_alone(&mut self, things: usize) {
        self.alone = things;
    }

    /// Whether things are said one by one.
    pub(super) fn is_saying_alone(&self) -> bool {
        self.alone > 0
    }

    /// The one thing that a cycle said cannot be stored, for this reason: something that can be is said
    /// instead. What nothing is left of to leave out is set aside; true: there was such a thing.
    pub(super) fn say_storable(&mut self, mut cycle: Cycle, reason: &str, now: Instant) -> bool {
        cycle.marks.clear();
        let (mut storable, mut refused) = (Vec::new(), Vec::new());
        for ended in std::mem::take(&mut cycle.ended) {
            match report::storable(ended.clone(), reason) {
                Some(ended) => storable.push(ended),
                // It is not what the task left that is refused.
                None => refused.push(ended),
            }
        }
        let is_any_refused = !refused.is_empty();
        if is_any_refused {
            let words = (refused, Vec::new(), Vec::new());
            self.outbox.parked.park(words, now);
        }
        cycle.ended = storable;
        cycle.logs = std::mem::take(&mut cycle.logs)
            .into_iter()
            .filter_map(|chunk| storable_lines(chunk, reason))
            .collect();
        self.alone += cycle.ended.len() + cycle.logs.len();
        self.say_again(cycle);
        is_any_refused
    }

    /// Sets aside what a cycle said, which the database refuses.
    pub(super) fn park(&mut self, cycle: Cycle, now: Instant) {
        let words = (cycle.ended, cycle.marks, cycle.logs);
        self.outbox.parked.park(words, now);
        let finished = cycle.finished_cycles;
        self.outbox.put_back(Vec::new(), Vec::new(), finished);
    }

    /// The database takes reports again: what was set aside is said with the rest.
    pub(super) fn say_parked(&mut self) {
        let (ended, marks, logs) = self.outbox.parked.take_all();
        self.outbox.put_back(ended, marks, Vec::new());
        self.lines.put_back(logs);
    }

    /// Whether nothing has been set aside, nor is being tried again.
    pub(super) fn is_nothing_parked(&self) -> bool {
        self.outbox.parked.is_over()
    }

    /// When there is something to say that waits for a time.
    pub(super) fn next_wake(&self, now: Instant) -> Option<Instant> {
        [self.outbox.parked.next_try(), self.lines.next_wake()]
            .into_iter()
            .flatten()
            .filter(|at| *at > now)
            .min()
    }

    /// Whether contents beside outputs are being written.
    pub(super) fn is_storing(&self) -> bool {
        !self.storing.is_empty()
    }

    /// Whether nothing is held, and everything has been said.
    pub(super) fn is_settled(&self) -> bool {
        self.in_flight.is_none()
            && self.held.is_empty()
            && self.outbox.is_empty()
            && self.outbox.parked.is_empty()
            && self.lines.is_empty()
            && !self.lines.is_deleting
    }

    /// The tasks whose ends have not been taken by the database.
    pub(super) fn unreported(&self) -> impl Iterator<Item = TaskId> {
        let said = self.in_flight.iter().flat_map(|cycle| &cycle.ended);
        let waiting = self.outbox.ends().chain(said).map(|ended| ended.task);
        waiting.chain(self.storing.keys().copied())
    }

    /// All that the database has not taken: also what a cycle says whose answer is still awaited. What is said
    /// twice is found out by its token.
    pub(super) fn all_unreported(&mut self) -> Unreported {
        let mut ended = Vec::new();
        let mut logs = self.outbox.parked.logs.clone();
        if let Some(cycle) = &self.in_flight {
            ended.extend(cycle.ended.iter().cloned());
            logs.extend(cycle.logs.iter().cloned());
        }
        ended.extend(self.outbox.parked.ended.values().cloned());
        ended.extend(self.outbox.waiting().cloned());
        ended.extend(self.storing.values().map(|(ended, _)| ended.clone()));
        let storing = self.storing.iter();
        let files = storing
            .map(|(task, (_, files))| (*task, Arc::clone(files)))
            .collect();
        // What is numbered already is said as it was, and still waits here.
        let waiting = self.lines.take();
        logs.extend(waiting.iter().cloned());
        self.lines.put_back(waiting);
        Unreported { ended, files, logs }
    }
}

/// What is printed.
impl Tasks {
    /// A task has printed this.
    pub(super) fn print(&mut self, task: TaskId, printed: Printed, now: Instant) {
        self.lines.keep(task, printed, now);
    }

    /// Nothing more can be printed by a task, nor by what it has left.
    pub(super) fn close_lines(&mut self, task: TaskId) {
        self.lines.close(task);
    }

    /// Lets lines that go on show what they show now, where they have not done so for a while.
    pub(super) fn show_unfinished(&mut self, now: Instant) {
        self.lines.show_unfinished(now);
    }

    /// Rows of the log whose place others have taken, to be deleted now.
    pub(super) fn superseded_lines(&mut self) -> Vec<(TaskId, i64)> {
        self.lines.written()
    }

    /// Rows of the log have been deleted; those that are left are deleted with the next ones.
    pub(super) fn lines_deleted(&mut self, left: Vec<(TaskId, i64)>) {
        self.lines.deleted(left);
    }
}

/// What stands in the place of lines that cannot be stored; `None`: not even that can be.
fn storable_lines(mut chunk: LogChunk, reason: &str) -> Option<LogChunk> {
    const TARGET: &str = "rework";
    let first = chunk.lines.first()?;
    if first.3.as_deref() == Some(TARGET) {
        return None;
    }
    let said = format!("{} lines cannot be stored: {reason}", chunk.lines.len());
    let target = Some(TARGET.to_owned());
    chunk.lines = vec![LogLine(first.0, "log".into(), "error".into(), target, said)];
    Some(chunk)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::task::Outcome;

    const SECOND: Duration = Duration::from_secs(1);

    fn token(cycle: u64) -> Token {
        Token::new(MonitorId(1), cycle)
    }

    /// What the database says of a task that was claimed in this cycle.
    fn believed_claim(task: i64, cycle: u64) -> Claim {
        Claim {
            task: TaskId(task),
            attempt: 1,
            token: token(cycle),
        }
    }

    fn operation() -> Arc<CatalogRow> {
        Arc::new(CatalogRow {
            backoff_ms: Some(1000),
            ..CatalogRow::example()
        })
    }

    fn claimed(task: i64) -> Claimed {
        Claimed {
            max_attempts: 2,
            ..Claimed::example(task, 1, 0)
        }
    }

    /// Tasks with these numbers, claimed in cycle 1.
    fn holding(numbers: &[i64]) -> Tasks {
        let mut tasks = Tasks::default();
        for &number in numbers {
            claim(&mut tasks, number, 1);
        }
        tasks
    }

    fn claim(tasks: &mut Tasks, number: i64, cycle: u64) {
        let waits = tasks.claim_in(claimed(number), token(cycle), Some(operation()), Utc::now());
        assert!(waits.is_some());
    }

    fn end(tasks: &mut Tasks, number: i64, cause: Option<Cause>) {
        let fault = Fault {
            cause,
            ..Fault::default()
        };
        tasks.end(TaskId(number), fault, Ran::default(), Utc::now());
    }

    /// A cycle with everything that waits; answers what it says.
    fn cycle(tasks: &mut Tasks) -> Arc<Cycle> {
        let words = tasks.next_words(Instant::now());
        tasks.begin_cycle(MonitorId(1), words, Vec::new())
    }

    /// The database has written these ends and marks of the cycle that is under way.
    fn answer(tasks: &mut Tasks, reported: &[i64], marked: &[i64], moved: &[i64]) -> Settled {
        let ids = |numbers: &[i64]| numbers.iter().copied().map(TaskId).collect();
        let result = CycleResult {
            reported: ids(reported),
            marked: ids(marked),
            moved: ids(moved),
            claimed: Vec::new(),
        };
        let (cycle, _) = tasks.end_cycle();
        tasks.settle(cycle.ended, cycle.marks, &result)
    }

    fn ends(cycle: &Cycle) -> Vec<(i64, Fate)> {
        let ended = cycle.ended.iter();
        ended.map(|ended| (ended.task.0, ended.fate)).collect()
    }

    #[test]
    fn a_task_is_held_until_its_end_is_written() {
        let mut tasks = holding(&[7]);
        let task = TaskId(7);
        assert!(tasks.hand(task, WorkerId(3), 0).is_some());
        assert_eq!(tasks.get(task).unwrap().stage(), Stage::Handed(WorkerId(3)));
        tasks.begin(task, WorkerId(3), Utc::now());
        assert_eq!(cycle(&mut tasks).marks.len(), 1);
        assert_eq!(answer(&mut tasks, &[], &[7], &[]), Settled::default());
        end(&mut tasks, 7, None);
        assert_eq!(tasks.get(task).unwrap().stage(), Stage::Ending);
        assert!(!tasks.progress(task, WorkerId(3), Utc::now(), (0.5, String::new())));
        assert_eq!(ends(&cycle(&mut tasks)), [(7, Fate::End(Outcome::Done))]);
        assert_eq!(
            tasks.unreported().count(),
            1,
            "nobody has said that it is written"
        );
        answer(&mut tasks, &[7], &[], &[]);
        assert!(tasks.is_settled());
        assert_eq!(cycle(&mut tasks).finished_cycles, [1]);
    }

    #[test]
    fn what_a_cycle_has_to_leave_out_waits_for_the_next_one() {
        let mut tasks = holding(&[1, 2, 3]);
        end(&mut tasks, 1, None);
        end(&mut tasks, 2, None);
        tasks.begin(TaskId(3), WorkerId(1), Utc::now());
        cycle(&mut tasks);
        let settled = answer(&mut tasks, &[2], &[], &[]);
        assert!(settled.is_row_locked);
        let next = cycle(&mut tasks);
        assert_eq!(ends(&next), [(1, Fate::End(Outcome::Done))]);
        assert_eq!(next.marks.len(), 1);
        assert_eq!(
            next.finished_cycles, [0_i64; 0],
            "two of its claims are open"
        );
        // Somebody else has taken the first one over: its end will never be written.
        assert!(!answer(&mut tasks, &[], &[3], &[1]).is_row_locked);
        assert_eq!(tasks.ids(), [TaskId(3)]);
    }

    #[test]
    fn an_end_that_is_written_late_leaves_a_newer_claim_alone() {
        let mut tasks = holding(&[7]);
        tasks.release(TaskId(7), Utc::now());
        cycle(&mut tasks);
        claim(&mut tasks, 7, 2);
        answer(&mut tasks, &[7], &[], &[]);
        assert_eq!(tasks.get(TaskId(7)).unwrap().token, token(2));
    }

    #[test]
    fn after_a_failure_that_is_retried_the_delayed_tasks_are_looked_at_in_time() {
        let mut tasks = holding(&[1, 2]);
        end(&mut tasks, 1, Some(Cause::Crash));
        let first = ends(&cycle(&mut tasks));
        let [(1, Fate::Retry(ms))] = first[..] else {
            panic!("{first:?}");
        };
        let settled = answer(&mut tasks, &[1], &[], &[]);
        let pause = settled.retry_in.expect("it is tried again");
        assert_eq!(pause.as_millis(), u128::try_from(ms).unwrap());
        assert!(pause >= SECOND * 7 / 8 && pause <= SECOND * 9 / 8);
        end(&mut tasks, 2, None);
        cycle(&mut tasks);
        assert_eq!(answer(&mut tasks, &[2], &[], &[]).retry_in, None);
    }

    #[test]
    fn a_task_that_nobody_here_can_run_any_more_is_given_back() {
        let mut tasks = Tasks::default();
        let waits = tasks.claim_in(claimed(7), token(1), None, Utc::now());
        assert!(waits.is_none() && tasks.get(TaskId(7)).is_none());
        assert_eq!(ends(&cycle(&mut tasks)), [(7, Fate::Release)]);
        answer(&mut tasks, &[7], &[], &[]);
        assert!(tasks.is_settled());
    }

    #[test]
    fn an_abort_request_is_carried_out_once_unless_it_came_too_late() {
        let mut tasks = holding(&[7]);
        assert_eq!(tasks.want_abort(TaskId(7), None), Some(Stage::Waiting));
        assert_eq!(tasks.want_abort(TaskId(7), None), None, "it is known");
        tasks.forget_abort(TaskId(7));
        assert!(tasks.want_abort(TaskId(7), None).is_some());
    }

    #[test]
    fn a_claim_without_an_answer_is_given_back() {
        let mut tasks = holding(&[1]);
        let believed = vec![believed_claim(1, 1), believed_claim(2, 1)];
        assert!(tasks.compare(believed.clone(), Utc::now()), "asked again");
        assert!(tasks.next_words(Instant::now()).is_empty());
        assert!(!tasks.compare(believed, Utc::now()));
        let next = cycle(&mut tasks);
        assert_eq!(ends(&next), [(2, Fate::Release)]);
        assert_eq!(next.ended[0].token, token(1));
    }

    #[test]
    fn a_claim_that_ends_while_the_database_is_asked_is_not_taken_for_an_unnoticed_one() {
        let mut tasks = holding(&[7]);
        // The database is asked, and speaks of now. Then the task ends and is claimed anew.
        let believed = vec![believed_claim(7, 1)];
        tasks.release(TaskId(7), Utc::now());
        cycle(&mut tasks);
        answer(&mut tasks, &[7], &[], &[]);
        claim(&mut tasks, 7, 3);
        tasks.begin(TaskId(7), WorkerId(1), Utc::now());
        assert!(
            !tasks.compare(believed.clone(), Utc::now()),
            "a newer claim is held"
        );
        let next = cycle(&mut tasks);
        assert_eq!(next.marks.len(), 1, "the newer claim is shown as running");
        assert_eq!(next.ended.len(), 0);
        answer(&mut tasks, &[], &[7], &[]);
        // Without a newer claim it is a suspect, and no more than that: the database speaks of it no longer.
        end(&mut tasks, 7, None);
        cycle(&mut tasks);
        answer(&mut tasks, &[7], &[], &[]);
        assert!(tasks.compare(vec![believed_claim(7, 3)], Utc::now()));
        assert!(!tasks.compare(Vec::new(), Utc::now()));
        assert!(tasks.is_settled());
    }

    #[test]
    fn an_end_that_is_still_to_be_said_is_known() {
        let mut tasks = Tasks::default();
        let believed = vec![believed_claim(7, 1)];
        tasks.claim_in(claimed(7), token(1), None, Utc::now());
        assert!(!tasks.compare(believed.clone(), Utc::now()), "it waits");
        cycle(&mut tasks);
        assert!(
            !tasks.compare(believed.clone(), Utc::now()),
            "it is being said"
        );
        let (refused, _) = tasks.end_cycle();
        tasks.park(refused, Instant::now());
        assert!(!tasks.compare(believed, Utc::now()), "it is set aside");
    }

    #[test]
    fn after_a_refusal_things_are_said_one_by_one() {
        let mut tasks = holding(&[1, 2]);
        end(&mut tasks, 1, None);
        end(&mut tasks, 2, None);
        cycle(&mut tasks);
        let (refused, _) = tasks.end_cycle();
        tasks.say_alone(2);
        tasks.say_again(refused);
        for number in [1, 2] {
            let words = tasks.next_words(Instant::now());
            assert!(words.is_alone);
            let said = tasks.begin_cycle(MonitorId(1), words, Vec::new());
            assert_eq!(ends(&said), [(number, Fate::End(Outcome::Done))]);
            answer(&mut tasks, &[number], &[], &[]);
        }
        assert!(!tasks.next_words(Instant::now()).is_alone);
    }

    #[test]
    fn what_cannot_be_stored_is_said_in_other_words_until_none_are_left() {
        let mut tasks = holding(&[7]);
        let fault = Fault::of(Cause::Error, Some("words".to_owned()));
        tasks.end(TaskId(7), fault, Ran::default(), Utc::now());
        let now = Instant::now();
        cycle(&mut tasks);
        let (refused, _) = tasks.end_cycle();
        assert!(
            !tasks.say_storable(refused, "a reason", now),
            "without its words"
        );
        let said = cycle(&mut tasks);
        assert_ne!(said.ended[0].error.as_deref(), Some("words"));
        let (refused, _) = tasks.end_cycle();
        assert!(
            tasks.say_storable(refused, "a reason", now),
            "nothing is left to leave out"
        );
        assert!(!tasks.is_nothing_parked());
        assert!(tasks.next_words(now).is_empty(), "it holds up nothing");
        assert_eq!(tasks.unreported().collect::<Vec<_>>(), [TaskId(7)]);
    }
}
