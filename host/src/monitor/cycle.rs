//! The cycle: one statement at a time carries to the database what ended and what began, and brings
//! back what is to be run next.

use super::{
    claim::Appetite,
    event::Event,
    report::{self, Held, Place},
    supervisor::{Phase, Supervisor},
};
use crate::{
    model::{TaskId, Token, task::Cause},
    store::{
        CatalogRow, Claimed, Cycle, CycleResult, Ended, Fate, FileContent, Mark, Store, StoreError,
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
        if self.in_flight.is_some() || self.upkeep.is_backing_off(now) {
            return;
        }
        self.mark_running(now);
        self.save_workers();
        if self.upkeep.saving {
            // The workers first: whoever sees a task running finds the worker that runs it.
            return;
        }
        let appetites = self.appetites();
        let wants = self.look && !appetites.is_empty();
        if self.outbox.is_empty() && self.lines.is_empty() && !wants {
            return;
        }
        self.cycle_number += 1;
        let (ended, marks, finished_cycles) = self.outbox.take();
        let scans = if wants {
            self.positions.scans(&appetites, now)
        } else {
            Vec::new()
        };
        if wants {
            self.look = false;
        }
        let cycle = Cycle {
            monitor: self.monitor,
            number: self.cycle_number,
            ended,
            marks,
            logs: self.lines.take(),
            finished_cycles,
            scans,
        };
        self.in_flight = Some(cycle.clone());
        let store = self.store.clone();
        self.ask(async move { store.cycle(&cycle).await }, Event::Cycled);
    }

    fn appetites(&self) -> Vec<Appetite> {
        if self.phase != Phase::Working {
            return Vec::new();
        }
        self.catalog
            .domains()
            .iter()
            .enumerate()
            .filter_map(|(number, (name, domain))| {
                let pool = self.pools.get(name)?;
                if pool.spawn_not_before.is_some() && self.census(name).alive() == 0 {
                    return None;
                }
                let quota = pool.appetite(self.census(name), &self.options.pool);
                (quota > 0 && !domain.lanes.is_empty()).then(|| Appetite {
                    pool: number as i32,
                    quota: quota as i32,
                    lanes: domain.lanes.clone(),
                })
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
                self.upkeep.found();
                let token = Token::new(cycle.monitor, cycle.number);
                self.positions.learn(&result.claimed, now);
                let waiting = self.settle(cycle.ended, &result);
                let unmarked = self.unmarked(cycle.marks, &result);
                if !waiting.is_empty() || !unmarked.is_empty() {
                    self.upkeep.breathe(now);
                }
                self.outbox.put_back(waiting, unmarked, Vec::new());
                // More where that came from, or a backlog that went to others in between.
                let quota: i64 = cycle
                    .scans
                    .iter()
                    .map(|scan| (scan.pool, i64::from(scan.quota)))
                    .collect::<std::collections::BTreeMap<_, _>>()
                    .into_values()
                    .sum();
                let full = !cycle.scans.is_empty() && result.claimed.len() as i64 >= quota;
                if !cycle.scans.is_empty() {
                    self.upkeep.looked(full, !result.claimed.is_empty(), now);
                    // What stands before the remembered positions is found from the front.
                    if let Some(at) = self.positions.next_front().filter(|_| !full) {
                        self.upkeep.look_at(at.max(now));
                    }
                }
                self.look |= full || self.upkeep.is_busy();
                for claimed in result.claimed {
                    self.claimed(claimed, token);
                }
            }
            Err(error) if error.is_disconnect() => {
                self.upkeep.lost(&error);
                self.look = true;
                self.outbox
                    .put_back(cycle.ended, cycle.marks, cycle.finished_cycles);
                self.lines.put_back(cycle.logs);
            }
            Err(error) => {
                // Something in it cannot be stored. Nothing may be lost, so say each thing alone.
                let text = report::chain(&error);
                tracing::error!("the database refused a report: {text}");
                self.upkeep.lost(&error);
                self.look = true;
                self.refused_cycle(cycle, &text);
            }
        }
    }

    /// Marks that a cycle had to leave out, of tasks that still run.
    fn unmarked(&self, marks: Vec<Mark>, result: &CycleResult) -> Vec<Mark> {
        let written: HashSet<TaskId> = result.marked.iter().copied().collect();
        let runs = |task: &TaskId| {
            let held = self.tasks.get(task);
            held.is_some_and(|held| matches!(held.place, Place::Handed(_)))
        };
        marks
            .into_iter()
            .filter(|mark| !written.contains(&mark.task) && runs(&mark.task))
            .collect()
    }

    /// A cycle that cannot be stored: what its tasks made is replaced by a plain failure, so that
    /// they end and the others go on.
    fn refused_cycle(&mut self, cycle: Cycle, text: &str) {
        let ended = cycle
            .ended
            .into_iter()
            .map(|ended| match ended.fate {
                Fate::End(_) if ended.output.is_some() || ended.output_raw.is_some() => Ended {
                    output: None,
                    output_raw: None,
                    output_encoding: None,
                    fate: Fate::End(Cause::BadOutput.outcome()),
                    cause: Some(Cause::BadOutput),
                    error: Some(format!("the output cannot be stored: {text}")),
                    ..ended
                },
                _ => ended,
            })
            .collect();
        self.outbox
            .put_back(ended, cycle.marks, cycle.finished_cycles);
        self.lines.put_back(cycle.logs);
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
                    self.upkeep.promote_at(Instant::now() + delay);
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
        let Some(operation) = self.catalog.operation(claimed.operation).cloned() else {
            // The catalog changed while the claim was under way.
            self.outbox
                .end(Ended::new(task, token, Fate::Release, Utc::now()));
            return;
        };
        self.lines.open(task, claimed.attempt, claimed.log_lines);
        let fetches = claimed.has_more;
        let large = claimed.input_encoding.as_deref() == Some("fields") && claimed.input.is_none();
        let rank = claimed.rank;
        let domain = operation.domain.clone();
        self.tasks.insert(task, held(claimed, token, operation));
        if fetches {
            let store = self.store.clone();
            self.ask(
                async move { fetch(&store, task, large).await },
                move |fetched| Event::Fetched(task, fetched),
            );
        } else {
            let held = self.tasks.get_mut(&task).expect("just inserted");
            held.place = Place::Waiting;
            self.pool(&domain).push(rank, task, Instant::now());
        }
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
                if fetched.fields.is_some() {
                    held.claimed.input = fetched.fields;
                }
                for file in fetched.files {
                    if file.name.is_empty() {
                        held.claimed.input_raw = Some(file.content);
                    } else {
                        held.files.push((file.name, file.content));
                    }
                }
                self.wait_again(task, rank);
            }
            Err(error) => {
                self.upkeep.lost(&error);
                self.release(task);
            }
        }
    }
}

fn held(claimed: Claimed, token: Token, operation: std::sync::Arc<CatalogRow>) -> Held {
    Held {
        claimed,
        files: Vec::new(),
        operation,
        token,
        place: Place::Fetching,
        marked: false,
        abort: None,
        killed_because: None,
    }
}

/// What a claim did not bring along.
#[derive(Debug, Default)]
pub(super) struct Fetched {
    /// Large fields, as JSON text.
    fields: Option<String>,
    files: Vec<FileContent>,
}

async fn fetch(store: &Store, task: TaskId, fields: bool) -> Result<Fetched, StoreError> {
    let mut fetched = Fetched::default();
    if fields {
        let input = store.task_input(task).await?;
        fetched.fields = input
            .and_then(|row| row.fields)
            .map(|fields| fields.to_string());
    }
    for info in store.file_list(task, "input").await? {
        if let Some(content) = store.file_read(task, "input", &info.name).await? {
            fetched.files.push(FileContent {
                name: info.name,
                content,
            });
        }
    }
    Ok(fetched)
}
