//! The tasks of a worker: how each is handed over, begins and ends there.

use super::Worker;
use crate::{
    model::{TaskId, worker::WorkerCause},
    monitor::{
        fault::Fault,
        workers::{
            life::Stop,
            pool::PoolOptions,
            slots::{Revoked, Terms},
        },
    },
    store::CatalogRow,
    wire::{Failure, Finished, Run, ToWorker},
};
use chrono::{DateTime, Utc};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// What follows from the end of a task that its worker has reported.
#[derive(Debug)]
pub(in crate::monitor::workers) struct Done {
    /// The version of the operation.
    pub(in crate::monitor::workers) operation: Arc<CatalogRow>,
    /// The task had been told to end, for this reason.
    pub(in crate::monitor::workers) stopped_for: Option<Fault>,
    /// The worker ends, and these tasks have not begun.
    pub(in crate::monitor::workers) revoked: Vec<Revoked>,
    /// Whether children that the task has left may still print.
    pub(in crate::monitor::workers) goes_on: bool,
}

/// The life of a task in a worker, in order.
impl Worker {
    /// Gives it a task, which it may begin once it has received it; `None`: all of its slots are taken. `lease`:
    /// how long it may go on with tasks that others would repeat.
    pub(in crate::monitor::workers) fn hand(
        &mut self,
        task: TaskId,
        rank: i16,
        terms: Terms,
        lease: u64,
    ) -> Option<u32> {
        let slot = self.slots.hand(task, rank, terms)?;
        self.slots.set_lease(lease);
        Some(slot)
    }

    /// Sends it a task that it was handed.
    pub(in crate::monitor::workers) fn run(&self, run: Run) {
        self.connection
            .send(ToWorker::Run(Box::new(run)), Vec::new());
    }

    /// Takes back a task, if it has not begun.
    pub(in crate::monitor::workers) fn revoke(
        &mut self,
        task: TaskId,
        now: Instant,
    ) -> Option<Revoked> {
        let revoked = self.slots.revoke(task)?;
        self.note_idle(now);
        Some(revoked)
    }

    /// Takes back every task that has not begun.
    pub(in crate::monitor::workers) fn revoke_all(&mut self, now: Instant) -> Vec<Revoked> {
        let revoked = self.slots.revoke_all();
        if !revoked.is_empty() {
            self.note_idle(now);
        }
        revoked
    }

    fn note_idle(&mut self, now: Instant) {
        if self.slots.is_empty() {
            self.idle_since = now;
        }
    }

    /// Notes which tasks have begun since the last look.
    pub(in crate::monitor::workers) fn notice_begun(&mut self, now: Instant) {
        self.slots.notice_begun(now);
    }

    /// Whether it was handed this task and has not given it back.
    pub(in crate::monitor::workers) fn has(&self, task: TaskId) -> bool {
        self.slots.get(task).is_some()
    }

    /// Takes back the tasks behind one that has run for longer than this.
    pub(in crate::monitor::workers) fn free_trapped(
        &mut self,
        after: Duration,
        now: Instant,
    ) -> Vec<Revoked> {
        let running = self.slots.running();
        let is_slow =
            running.is_some_and(|(_, begun)| now.saturating_duration_since(begun.noticed) > after);
        if is_slow && self.slots.len() > 1 {
            self.revoke_all(now)
        } else {
            Vec::new()
        }
    }

    /// The running task, if it has run for this long and the database does not show it as running; with the
    /// time when it began.
    pub(in crate::monitor::workers) fn to_show(
        &self,
        after: Duration,
        now: Instant,
    ) -> Option<(TaskId, DateTime<Utc>)> {
        let (handed, begun) = self.slots.running()?;
        let is_due = now.saturating_duration_since(begun.noticed) >= after;
        (is_due && !self.row.shows(handed.task)).then_some((handed.task, begun.time))
    }

    /// When [`Worker::to_show`] has something to show.
    pub(in crate::monitor::workers) fn next_show(
        &self,
        after: Duration,
        now: Instant,
    ) -> Option<Instant> {
        if !self.row.is_started() {
            return None;
        }
        let hidden = self.slots.iter().filter(|one| !self.row.shows(one.task));
        hidden
            // Whether a task has begun is seen when the page is looked at.
            .map(|handed| handed.begun.map_or(now, |begun| begun.noticed) + after)
            .min()
    }

    /// The database shows this task as running, or will with the next cycle.
    pub(in crate::monitor::workers) fn show(&mut self, task: TaskId) {
        self.row.show(task);
    }

    /// A task tells how far it is. Answers when it began; `None`: it has ended.
    pub(in crate::monitor::workers) fn progress(
        &mut self,
        task: TaskId,
        now: Instant,
    ) -> Option<DateTime<Utc>> {
        self.slots.notice_begun(now);
        let handed = self.slots.get(task)?;
        Some(handed.begun.map_or_else(Utc::now, |begun| begun.time))
    }

    /// The running task panics.
    pub(in crate::monitor::workers) fn panicking(
        &mut self,
        task: TaskId,
        failure: Failure,
        now: Instant,
    ) {
        self.panic = self.has(task).then_some((task, failure, now));
    }

    /// It says that it has finished a task; `None`: it does not run that task.
    pub(in crate::monitor::workers) fn finish(
        &mut self,
        finished: &Finished,
        options: &PoolOptions,
        lease: u64,
        now: Instant,
    ) -> Option<Done> {
        let task = TaskId(finished.task);
        let handed = self.slots.finish(finished.slot, task)?;
        self.note_idle(now);
        self.panic = None;
        self.usage.finished(finished);
        self.row.finished(task);
        let stopped_for = self.stop.take().and_then(Stop::obeyed);
        if options.max_runs > 0 && self.row.runs() >= options.max_runs {
            self.drain(WorkerCause::MaxRuns, now);
        }
        let max_mem = options.max_mem << 20;
        if max_mem > 0 && finished.resident_bytes > max_mem {
            self.drain(WorkerCause::MaxMem, now);
        }
        if let Some(left) = &finished.left_behind {
            self.retire_for(format!("task {task} left {left}"), now);
        }
        let revoked = if self.is_draining() {
            self.revoke_all(now)
        } else {
            Vec::new()
        };
        self.slots.set_lease(lease);
        Some(Done {
            operation: handed.terms.operation,
            stopped_for,
            revoked,
            goes_on: self.outputs.is_left_to(task),
        })
    }

    /// How long it may go on with tasks that others would repeat.
    pub(in crate::monitor::workers) fn set_lease(&self, until: u64) {
        self.slots.set_lease(until);
    }

    /// Sends the answer to a request of its task.
    pub(in crate::monitor::workers) fn answer(&self, answer: Result<i64, String>) {
        self.connection
            .send(ToWorker::Scheduled(answer), Vec::new());
    }
}
