//! The cycle: one statement at a time carries to the database what ended and what began, and brings
//! back what is to be run next.

use super::{
    claim::Appetite,
    event::Event,
    report::{self, Held, Place},
    supervisor::{Phase, Supervisor},
};
use crate::{
    model::{TaskId, Token, log::LogLine},
    store::{
        CatalogRow, Claimed, Cycle, CycleResult, Ended, Fate, FileContent, LogChunk, Mark, Store,
        StoreError,
    },
};
use chrono::Utc;
use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

/// A task that has begun is shown as running when it has not ended after this.
const MARK_AFTER: Duration = Duration::from_millis(2);

impl Supervisor {
    /// Starts a cycle, if there is something to say or to claim and none is under way.
    pub(super) fn cycle(&mut self, now: Instant) {
        if self.in_flight.is_some() || !self.outage.may_ask(now) {
            return;
        }
        self.mark_running(now);
        self.lines.show_unfinished(now);
        self.save_workers();
        if self.saving {
            // The workers first: whoever sees a task running finds the worker that runs it.
            return;
        }
        if std::mem::take(&mut self.look) {
            // Those that have no room now look when they have.
            for pool in self.pools.values_mut() {
                pool.look = true;
            }
        }
        if self.outbox.is_empty() && self.lines.is_empty() {
            self.said_alone = 0;
        }
        let again = match self.said_alone {
            0 => self.outbox.parked.take_due(now),
            _ => None,
        };
        // What was refused is tried again alone, and claims nothing: a claim may be what is refused.
        let appetites = match (self.said_alone, &again) {
            (0, None) => self.appetites(now),
            _ => Vec::new(),
        };
        if self.outbox.is_empty()
            && self.lines.is_empty()
            && appetites.is_empty()
            && again.is_none()
        {
            return;
        }
        self.cycle_number += 1;
        let (ended, marks, logs) = again.unwrap_or_else(|| self.what_to_say());
        for appetite in &appetites {
            self.pool(&appetite.domain).look = false;
        }
        let scans = self.claims.look_for(appetites, now);
        let cycle = Cycle {
            monitor: self.monitor,
            number: self.cycle_number,
            ended,
            marks,
            logs,
            finished_cycles: self.outbox.take_finished_cycles(),
            scans,
        };
        self.in_flight = Some(cycle.clone());
        let store = self.store.clone();
        // No limit here: the store ends a question that the server is not at work on (`store/silence.rs`),
        // and a server that waits for a lock is at work, however long somebody holds that lock. Whether a
        // cycle without an answer was committed is found out as after any lost connection.
        let said = async move { store.cycle(&cycle).await };
        self.ask(said, Event::Cycled);
    }

    /// Deletes what was shown of lines that went on, where something newer is written. In a
    /// statement of its own: this is rare, and the cycle is the same for everybody.
    fn delete_superseded_lines(&mut self) {
        let rows = self.lines.written();
        if rows.is_empty() {
            return;
        }
        let store = self.store.clone();
        self.ask(
            async move {
                let deleted = store.log_delete(&rows).await;
                (deleted, rows)
            },
            |(deleted, rows)| Event::LinesDeleted(deleted, rows),
        );
    }

    /// Everything that waits, or, after a refusal, one thing, so that it is found out which one the
    /// database cannot store.
    fn what_to_say(&mut self) -> (Vec<Ended>, Vec<Mark>, Vec<LogChunk>) {
        if self.said_alone == 0 {
            let (ended, marks) = self.outbox.take();
            return (ended, marks, self.lines.take());
        }
        self.said_alone -= 1;
        let (ended, marks) = self.outbox.take_one();
        let logs = if ended.is_empty() && marks.is_empty() {
            self.lines.take_one()
        } else {
            Vec::new()
        };
        (ended, marks, logs)
    }

    /// What can be taken by the pools that there may be something for. A pool that has no reason to
    /// look is left alone: an idle domain costs a busy one nothing.
    fn appetites(&self, now: Instant) -> Vec<Appetite> {
        if self.phase != Phase::Working || self.refusals.is_general() {
            return Vec::new();
        }
        let domains = (0..).zip(self.claims.catalog().domains());
        domains
            .filter_map(|(number, (name, domain))| {
                let pool = self.pools.get(name).filter(|pool| pool.look)?;
                let members = self.members(name, now);
                pool.appetite(number, name, domain, &members, &self.options.pool, now)
            })
            .collect()
    }

    /// Tasks that have run for a moment are shown as running.
    fn mark_running(&mut self, now: Instant) {
        for worker in self.workers.values_mut() {
            let Some((_, handed)) = worker.running() else {
                continue;
            };
            let Some((begun, started)) = handed.begun else {
                continue;
            };
            let Some(held) = self.tasks.get_mut(&handed.task) else {
                continue;
            };
            if held.marked || now.duration_since(begun) < MARK_AFTER {
                continue;
            }
            held.marked = true;
            worker.shown_task = Some(handed.task);
            worker.dirty = true;
            let mark = Mark {
                task: handed.task,
                token: held.token,
                started,
                worker: worker.id,
                plugin_operation: held.operation.plugin_operation,
                progress: None,
                progress_message: None,
            };
            self.outbox.marks.insert(handed.task, mark);
        }
    }

    /// When a task that has begun is to be shown as running.
    pub(super) fn next_mark(&self) -> Option<Instant> {
        self.workers
            .values()
            .filter(|worker| worker.started.is_some())
            .flat_map(|worker| worker.handed.values())
            .filter(|(_, handed)| {
                self.tasks
                    .get(&handed.task)
                    .is_some_and(|held| !held.marked)
            })
            .map(|(_, handed)| match handed.begun {
                Some((begun, _)) => begun + MARK_AFTER,
                // The page has to be looked at.
                None => Instant::now() + MARK_AFTER,
            })
            .min()
    }

    /// A cycle came back.
    pub(super) fn cycled(&mut self, result: Result<CycleResult, StoreError>) {
        let cycle = self.in_flight.take().expect("a cycle was in flight");
        let now = Instant::now();
        match result {
            Ok(result) => {
                self.database_answered(now);
                self.delete_superseded_lines();
                let said_something =
                    !(cycle.ended.is_empty() && cycle.marks.is_empty() && cycle.logs.is_empty());
                self.cycle_taken(said_something);
                let token = Token::new(cycle.monitor, cycle.number);
                let waiting = self.settle(cycle.ended, &result);
                let unmarked = self.unmarked(cycle.marks, &result);
                if !waiting.is_empty() || !unmarked.is_empty() {
                    self.outage.row_is_locked(now);
                }
                self.outbox.put_back(waiting, unmarked, Vec::new());
                self.looked(&result.claimed, now);
                for claimed in result.claimed {
                    self.claimed(claimed, token);
                }
            }
            Err(error) => self.cycle_failed(cycle, &error),
        }
    }

    /// A look came back. What it means is said to each pool on its own: one that is idle must not make
    /// the monitor forget that another one has a backlog.
    fn looked(&mut self, claimed: &[Claimed], now: Instant) {
        let mut found_the_rest = false;
        let mut is_any_empty = false;
        for found in self.claims.looked(claimed, now) {
            let pool = self.pool(&found.appetite.domain);
            let is_full = pool.looked(&found.appetite, &found.tasks);
            is_any_empty |= !is_full;
            found_the_rest |= !is_full && found.tasks.iter().sum::<usize>() > 0;
        }
        if is_any_empty {
            self.wakeup.looked(found_the_rest, now);
            // What stands before the remembered positions is found from the front.
            if let Some(at) = self.claims.next_front() {
                self.wakeup.look_at(at.max(now));
            }
        }
    }

    pub(super) fn say_again(&mut self, cycle: Cycle) {
        self.outbox
            .put_back(cycle.ended, cycle.marks, cycle.finished_cycles);
        self.lines.put_back(cycle.logs);
    }

    /// The one thing that a cycle said cannot be stored: something that can be is said instead. False:
    /// nothing is left to leave out, so that it was set aside.
    pub(super) fn unstorable(&mut self, mut cycle: Cycle, text: &str) -> bool {
        tracing::error!("the database cannot store what a task left: {text}");
        cycle.marks.clear();
        let (mut storable, mut refused) = (Vec::new(), Vec::new());
        for ended in std::mem::take(&mut cycle.ended) {
            match report::storable(ended.clone(), text) {
                Some(ended) => storable.push(ended),
                // It is not what the task left that is refused.
                None => refused.push(ended),
            }
        }
        let is_storable = refused.is_empty();
        if !is_storable {
            let bare = Cycle {
                ended: refused,
                logs: Vec::new(),
                finished_cycles: Vec::new(),
                ..cycle.clone()
            };
            self.refusals.strike();
            self.park(bare, Instant::now());
        }
        cycle.ended = storable;
        cycle.logs = std::mem::take(&mut cycle.logs)
            .into_iter()
            .filter_map(|chunk| storable_lines(chunk, text))
            .collect();
        self.said_alone += cycle.ended.len() + cycle.logs.len();
        self.say_again(cycle);
        is_storable
    }

    /// Marks that a cycle had to leave out, of tasks that are still ours.
    fn unmarked(&self, marks: Vec<Mark>, result: &CycleResult) -> Vec<Mark> {
        let written: HashSet<TaskId> = result.marked.iter().copied().collect();
        marks
            .into_iter()
            .filter(|mark| !written.contains(&mark.task) && self.tasks.contains_key(&mark.task))
            .collect()
    }

    /// What a cycle wrote is forgotten here; what it had to leave out is returned.
    fn settle(&mut self, ended: Vec<Ended>, result: &CycleResult) -> Vec<Ended> {
        let written: HashSet<TaskId> = result
            .reported
            .iter()
            .chain(&result.moved)
            .copied()
            .collect();
        let mut waiting = Vec::new();
        for one in ended {
            if written.contains(&one.task) {
                if let Fate::Retry(delay_ms) = one.fate {
                    let delay = Duration::from_millis(delay_ms.max(0).cast_unsigned());
                    self.housekeeping.promote_at(Instant::now() + delay);
                }
                self.outbox.close(one.token);
                if let Some(held) = self.tasks.get(&one.task)
                    && held.token == one.token
                {
                    self.tasks.remove(&one.task);
                }
            } else {
                waiting.push(one);
            }
        }
        waiting
    }

    /// A task is ours.
    fn claimed(&mut self, claimed: Claimed, token: Token) {
        self.outbox.open(token);
        let task = claimed.task;
        let operation = self.claims.catalog().operation(claimed.operation);
        // The version that is current now has to accept what was found in that lane.
        let operation = operation.filter(|operation| operation.lanes.contains(&claimed.lane));
        let Some(operation) = operation.cloned() else {
            // The catalog changed while the claim was under way.
            self.outbox
                .end(Ended::new(task, token, Fate::Release, Utc::now()));
            return;
        };
        self.lines.open(task, claimed.attempt, claimed.log_lines);
        let rank = claimed.rank;
        let share = self.pool(&operation.domain).share(&operation.hash);
        share.push(rank, task, Instant::now());
        self.tasks.insert(task, held(claimed, token, operation));
    }

    /// Fetches what a claim did not bring along. This happens when a worker has room for the task,
    /// so that the monitor never holds more than its workers can take.
    pub(super) fn fetch(&mut self, task: TaskId) {
        let Some(held) = self.tasks.get_mut(&task) else {
            return;
        };
        held.place = Place::Fetching;
        let claimed = &held.claimed;
        let fields = claimed.input_encoding.as_deref() == Some("fields") && claimed.input.is_none();
        let (store, transfers) = (self.store.clone(), self.transfers.clone());
        self.ask(
            async move {
                let _turn = transfers.acquire().await;
                fetched(&store, task, fields).await
            },
            move |fetched| Event::Fetched(task, fetched),
        );
    }

    /// What a claim did not bring along has arrived.
    pub(super) fn fetched(&mut self, task: TaskId, fetched: Result<Fetched, StoreError>) {
        let Some(held) = self.tasks.get_mut(&task) else {
            return;
        };
        if held.place != Place::Fetching {
            return;
        }
        match fetched {
            Ok(fetched) => {
                let rank = held.claimed.rank;
                held.fetched = Some(fetched);
                self.wait_again(task, rank);
            }
            Err(error) => {
                self.database_failed(&error);
                self.release(task);
            }
        }
    }
}

/// What stands in the place of lines that cannot be stored; `None`: not even that.
fn storable_lines(mut chunk: LogChunk, text: &str) -> Option<LogChunk> {
    const TARGET: &str = "rework";
    let first = chunk.lines.first()?;
    if first.3.as_deref() == Some(TARGET) {
        return None;
    }
    let said = format!("{} lines cannot be stored: {text}", chunk.lines.len());
    let target = Some(TARGET.to_owned());
    chunk.lines = vec![LogLine(first.0, "log".into(), "error".into(), target, said)];
    Some(chunk)
}

fn held(claimed: Claimed, token: Token, operation: std::sync::Arc<CatalogRow>) -> Held {
    Held {
        claimed,
        fetched: None,
        operation,
        token,
        place: Place::Waiting,
        marked: false,
        abort: None,
        asked_to_end: None,
    }
}

/// What a claim did not bring along.
#[derive(Debug, Default)]
pub(super) struct Fetched {
    /// Large fields, as JSON text.
    pub(super) fields: Option<String>,
    /// Large raw bytes.
    pub(super) raw: Option<Vec<u8>>,
    /// The contents of file fields.
    pub(super) files: Vec<FileContent>,
}

async fn fetched(store: &Store, task: TaskId, fields: bool) -> Result<Fetched, StoreError> {
    let mut fetched = Fetched::default();
    if fields {
        let input = store.task_input(task).await?;
        fetched.fields = input
            .and_then(|row| row.fields)
            .map(|fields| fields.to_string());
    }
    for info in store.file_list(task, "input").await? {
        let Some(content) = store.file_read(task, "input", &info.name).await? else {
            continue;
        };
        if info.name.is_empty() {
            fetched.raw = Some(content);
        } else {
            let name = info.name;
            fetched.files.push(FileContent { name, content });
        }
    }
    Ok(fetched)
}
