//! What workers say: ready, finished, how far they are, what else is to be queued; and what they
//! print.

use super::{
    event::Event,
    fault::Fault,
    output::{Said, TaskLine},
    supervisor::Supervisor,
    tasks::{self, Ran, Saved},
    worker::Life,
};
use crate::{
    causes::chain,
    model::{TaskId, WorkerId, task::Cause, worker::WorkerCause},
    store::{Ended, ScheduleRequest, StoreError},
    wire::{Finished, FromWorker, ToWorker, WireError},
};
use chrono::Utc;
use std::{
    os::fd::OwnedFd,
    sync::Arc,
    time::{Duration, Instant},
};

/// A database that could not store a file is asked again after this.
const STORE_AGAIN: Duration = Duration::from_millis(500);

impl Supervisor {
    /// A worker says something.
    pub(super) fn said(&mut self, id: WorkerId, message: FromWorker, descriptors: Vec<OwnedFd>) {
        let Some(worker) = self.workers.get_mut(&id) else {
            return;
        };
        match message {
            FromWorker::Ready {
                resident_bytes,
                peak_resident_bytes,
                ..
            } => {
                worker.started = Some(Utc::now());
                worker.memory = Some(resident_bytes);
                worker.resident_before = resident_bytes;
                worker.peak_before = peak_resident_bytes;
                worker.dirty = true;
                worker.idle_since = Instant::now();
                worker.since = Instant::now();
                let took = worker.spawned.elapsed();
                if worker.life == Life::Starting {
                    worker.life = Life::Ready;
                }
                tracing::debug!(worker.id = %id, "worker {id} is ready after {took:?}");
                let (domain, plugin) = (worker.domain.clone(), Arc::clone(&worker.plugin));
                self.has_started(&domain, &plugin, took);
            }
            FromWorker::Loading => worker.is_loading = true,
            FromWorker::Loaded => worker.is_loading = false,
            FromWorker::Refused(reason) => worker.refused = Some(reason),
            FromWorker::Finished(finished) => self.finished(id, *finished, descriptors),
            FromWorker::Panicking { task, failure } => {
                let handed = worker.handed_task(TaskId(task));
                worker.panic = handed.map(|handed| (handed.task, failure, Instant::now()));
            }
            FromWorker::Progress {
                task,
                fraction,
                message,
            } => {
                worker.see_begun(Instant::now());
                // A thread that a task has left behind may still speak of it.
                let Some(handed) = worker.handed_task(TaskId(task)) else {
                    return;
                };
                let started = handed.begun.map_or_else(Utc::now, |(_, time)| time);
                let progress = (fraction.clamp(0.0, 1.0) as f32, tasks::without_nul(message));
                if self.tasks.progress(handed.task, id, started, progress) {
                    worker.dirty |= worker.shown_task != Some(handed.task);
                    worker.shown_task = Some(handed.task);
                }
            }
            FromWorker::Schedule {
                task,
                request,
                raw_input,
            } => {
                if worker.handed_task(TaskId(task)).is_none() {
                    let refusal = format!("task {task} has ended: nothing is queued for it");
                    return worker.send(ToWorker::Scheduled(Err(refusal)));
                }
                let mut descriptors = descriptors;
                let raw_input = raw_input.map(|bytes| bytes.into_vec(&mut descriptors));
                self.schedule_for(id, request, raw_input.transpose());
            }
            FromWorker::Pipes { task } if worker.handed_task(TaskId(task)).is_none() => {
                self.misspoke(
                    id,
                    &format!("of children of task {task}, which it does not run"),
                );
            }
            FromWorker::Pipes { task } => {
                let events = self.events.clone();
                if let Err(error) = worker.replace_pipes(descriptors, TaskId(task), &events) {
                    let why = chain(&error);
                    tracing::error!(worker.id = %id, "could not take over pipes of worker {id}: {why}");
                    worker.kill(WorkerCause::Task(Cause::Crash));
                }
            }
            FromWorker::LeftBehind { operation, left } => {
                worker.retire_for(format!("a task of `{operation}` left {left}"));
                let key = (worker.plugin.hash.clone(), operation.clone());
                if self.left_behind.insert(key) {
                    let warning = leftovers_warning(&operation, &worker.domain, &left);
                    tracing::warn!(worker.id = %id, "{warning}");
                }
                for handed in worker.revoke_all() {
                    self.wait_again(handed.task, handed.rank);
                }
            }
            FromWorker::Goodbye => {}
        }
    }

    /// A worker has finished a task: its lines first, then its end.
    fn finished(&mut self, id: WorkerId, finished: Finished, mut descriptors: Vec<OwnedFd>) {
        let mut lines = Vec::new();
        let worker = self.workers.get_mut(&id).expect("the caller looked");
        worker.read_all(&mut lines);
        let Some(handed) = worker.take_back(finished.slot, TaskId(finished.task)) else {
            self.keep_lines(lines);
            let task = finished.task;
            return self.misspoke(
                id,
                &format!("of the end of task {task}, which it does not run"),
            );
        };
        worker.runs += 1;
        worker.panic = None;
        worker.resident_before = finished.resident_bytes;
        worker.peak_before = worker.peak_before.max(finished.peak_resident_bytes);
        worker.cpu_of_finished += Duration::from_micros(finished.cpu_us);
        // Asked to end, and it did so by itself.
        let ended_for = worker.kill_at.take().map(|(_, cause)| cause.task_cause());
        if worker.shown_task == Some(handed.task) {
            worker.shown_task = None;
            worker.dirty = true;
        }
        let options = &self.options.pool;
        if options.max_runs > 0 && worker.runs >= options.max_runs {
            worker.drain(WorkerCause::MaxRuns);
        }
        let max_mem = options.max_mem << 20;
        if max_mem > 0 && finished.resident_bytes > max_mem {
            worker.drain(WorkerCause::MaxMem);
        }
        if let Some(left) = finished.left_behind.clone() {
            worker.retire_for(format!("task {} left {left}", handed.task));
        }
        let revoked = if matches!(worker.life, Life::Draining(_)) {
            worker.revoke_all()
        } else {
            Vec::new()
        };
        let lingering = worker.has_pipe_of(handed.task);
        let (domain, plugin) = (worker.domain.clone(), Arc::clone(&worker.plugin));
        for handed in revoked {
            self.wait_again(handed.task, handed.rank);
        }
        self.set_lease(id);
        self.keep_lines(lines);
        let micros = (finished.finished_us - finished.started_us)
            .max(0)
            .cast_unsigned();
        let share = self.pool(&domain).share(&plugin.hash);
        share.took(Duration::from_micros(micros));
        if let Some(left) = &finished.left_behind {
            self.say_left_behind(handed.task, left);
        }
        let ended = self.tasks.finish(&finished, id, ended_for, lingering);
        let Some(ended) = ended else { return };
        let Finished { output, files, .. } = finished;
        if descriptors.is_empty() {
            let saved = tasks::saved(output, files, &mut descriptors);
            self.unpacked(ended, saved);
        } else {
            // Large: to be hashed and checked off the loop.
            let unpack =
                tokio::task::spawn_blocking(move || tasks::saved(output, files, &mut descriptors));
            self.ask(
                async move { unpack.await.unwrap_or_else(|error| Err(error.to_string())) },
                move |saved| Event::Unpacked(Box::new(ended), saved),
            );
        }
    }

    /// Says once per version of an operation what it leaves in its process.
    fn say_left_behind(&mut self, task: TaskId, left: &str) {
        let Some(held) = self.tasks.get(task) else {
            return;
        };
        let operation = &held.operation;
        let key = (operation.hash.clone(), operation.name.clone());
        if self.left_behind.insert(key) {
            let warning = leftovers_warning(&operation.name, &operation.domain, left);
            tracing::warn!(task.id = %task, "{warning}");
        }
    }

    /// What a task left is at hand, or cannot be stored: its end is reported, or first what goes beside its
    /// output is written.
    pub(super) fn unpacked(&mut self, ended: Ended, saved: Result<Saved, String>) {
        let task = ended.task;
        let Some((token, files)) = self.tasks.output(ended, saved) else {
            return;
        };
        let (store, transfers) = (self.store.clone(), self.transfers.clone());
        let events = self.events.clone();
        self.ask(
            async move {
                loop {
                    let saved = {
                        // Not while it waits to be tried again: others have files too.
                        let _turn = transfers.acquire().await;
                        store.file_save_output(task, token, &files).await
                    };
                    match saved {
                        // A finished result is never dropped because the database was away, or refuses
                        // it for another reason than its content.
                        Err(error) if !error.is_bad_data() => {
                            let _ = events.send(Event::Refused(error));
                            tokio::time::sleep(STORE_AGAIN).await;
                        }
                        result => return result,
                    }
                }
            },
            move |stored| Event::Stored(task, stored),
        );
    }

    /// The contents beside an output are stored; now its end.
    pub(super) fn stored(&mut self, task: TaskId, stored: Result<(), StoreError>) {
        let stored = stored.map_err(|error| chain(&error));
        self.tasks.stored(task, stored);
    }

    /// A message could not be put together for a worker that lives.
    pub(super) fn unsaid(&mut self, id: WorkerId, task: Option<TaskId>, error: &WireError) {
        let words = chain(error);
        let Some(worker) = self.workers.get_mut(&id) else {
            return;
        };
        let slot = task.and_then(|task| worker.slot_of(task));
        let revoked = slot.and_then(|slot| worker.revoke(slot));
        let held = revoked.filter(|handed| self.tasks.get(handed.task).is_some());
        let Some(handed) = held else {
            // It waits for what it will never hear.
            tracing::error!(worker.id = %id, "worker {id} could not be told something: {words}");
            worker.kill(WorkerCause::Task(Cause::Crash));
            return;
        };
        let fault = format!("it could not be handed to a worker: {words}");
        let fault = Fault::of(Cause::Error, Some(fault));
        self.tasks
            .end(handed.task, fault, Ran::default(), Utc::now());
    }

    /// There is something to read.
    pub(super) fn readable(&mut self, id: WorkerId, pipe: u64) {
        let Some(worker) = self.workers.get_mut(&id) else {
            return;
        };
        let mut lines = Vec::new();
        worker.read(pipe, &mut lines);
        let orphaned = worker.drop_closed_pipes();
        self.keep_lines(lines);
        for task in orphaned {
            self.tasks.close_lines(task);
        }
    }

    pub(super) fn keep_lines(&mut self, lines: Vec<TaskLine>) {
        let now = Instant::now();
        for (task, said) in lines {
            match (task, said) {
                (Some(task), said) => self.tasks.print(task, said, now),
                (None, Said::Line(line)) => {
                    tracing::debug!("a worker said between two tasks: {}", line.4);
                }
                (None, Said::Unfinished(_)) => {}
            }
        }
    }

    /// Rows of the log whose place others have taken are gone (or not).
    pub(super) fn lines_deleted(
        &mut self,
        deleted: Result<(), StoreError>,
        rows: Vec<(TaskId, i64)>,
    ) {
        let left = match deleted {
            Ok(()) => Vec::new(),
            Err(error) => {
                self.database_failed(&error);
                // What the database refuses to delete stays, and harms nobody.
                rows.into_iter().filter(|_| error.is_disconnect()).collect()
            }
        };
        self.tasks.lines_deleted(left);
    }

    /// Queues a task that a task asks for.
    fn schedule_for(
        &mut self,
        id: WorkerId,
        request: String,
        raw_input: Result<Option<Vec<u8>>, WireError>,
    ) {
        let store = self.store.clone();
        self.ask(
            async move {
                let mut request = serde_json::from_str::<ScheduleRequest>(&request)
                    .map_err(|error| format!("the request cannot be read: {error}"))?;
                request.input_raw =
                    raw_input.map_err(|error| format!("the input cannot be read: {error}"))?;
                match store.task_schedule(&request, None).await {
                    Ok(task) => Ok(task.0),
                    Err(error) => Err(chain(&error)),
                }
            },
            move |answer| Event::Scheduled(id, answer),
        );
    }

    pub(super) fn scheduled(&mut self, id: WorkerId, answer: Result<i64, String>) {
        if let Some(worker) = self.workers.get(&id) {
            worker.send(ToWorker::Scheduled(answer));
        }
        self.look = true;
    }
}

/// What the author of an operation should know that leaves its process changed.
fn leftovers_warning(operation: &str, domain: &str, left: &str) -> String {
    format!(
        "operation `{operation}` of domain {domain} leaves its worker changed ({left}): that worker runs \
         nothing more; what has to last belongs where the plugin is loaded"
    )
}
