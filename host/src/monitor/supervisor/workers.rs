//! Tasks and workers: which workers there are, which tasks they are given, and what follows for tasks from what
//! happens to workers. The owners decide; this passes on what they say to each other.

use super::Supervisor;
use crate::{
    model::{TaskId, WorkerId},
    monitor::{
        event::Event,
        shutdown::Phase,
        tasks::{Held, Stage},
        workers::{Aborted, Contents, News, Order, Report, Revoked, Terms, process},
    },
    store::StoreError,
};
use chrono::Utc;
use std::{sync::Arc, time::Instant};

impl Supervisor {
    /// Sees to it that there are the workers that are needed, and hands them the tasks that wait.
    pub(super) fn feed(&mut self, now: Instant) {
        self.workers.notice_begun(now);
        let trapped = self.workers.free_trapped(now);
        self.wait_for_others(trapped, now);
        match self.shutdown.phase() {
            Phase::Working => {
                let catalog = self.claims.catalog();
                let outdated = self
                    .workers
                    .retire_outdated(|domain, plugin| catalog.offers(domain, plugin), now);
                self.wait_for_others(outdated, now);
                for domain in self.workers.domains() {
                    self.scale(&domain, now);
                    self.dispatch(&domain, now);
                    self.workers.shrink(&domain, now);
                }
            }
            Phase::Draining(deadline) => {
                let waiting = self.workers.take_waiting();
                self.release_all(waiting);
                let revoked = self.workers.end_all(now >= deadline, now);
                self.release_all(revoked.into_iter().map(|revoked| revoked.task));
            }
            Phase::Forced(_) | Phase::Lost => {
                let waiting = self.workers.take_waiting();
                self.release_all(waiting);
                let revoked = self.workers.kill_all(now);
                self.release_all(revoked.into_iter().map(|revoked| revoked.task));
            }
        }
    }

    /// Starts the workers of a domain that are missing, and lets those go that have to make room.
    fn scale(&mut self, domain: &str, now: Instant) {
        let plugins = self.claims.catalog().domains().get(domain);
        let scaling = self.workers.scale(domain, plugins, now);
        self.release_all(scaling.given_up);
        for plugin in scaling.to_start {
            if !self.start_worker(domain, &plugin, now) {
                break;
            }
        }
    }

    /// Starts a worker of a plugin; false: no number for a worker is at hand.
    fn start_worker(&mut self, domain: &str, plugin: &str, now: Instant) -> bool {
        let plugins = self.claims.catalog().domains().get(domain);
        let offer = plugins.and_then(|plugins| plugins.get(plugin));
        let Some(file) = offer.map(|offer| Arc::clone(&offer.file)) else {
            return true;
        };
        if !self.plugins.cache().is_unchanged(&file.hash) {
            // The copy is looked at before anybody loads it.
            if self.plugins.has_to_look(&file.hash, now) {
                self.claims.reload(now);
            }
            return true;
        }
        let Some(id) = self.housekeeping.take_number() else {
            return false;
        };
        self.workers
            .start(id, domain, &file, self.plugins.cache(), now);
        true
    }

    /// Hands the tasks of a domain that wait to its workers.
    fn dispatch(&mut self, domain: &str, now: Instant) {
        let tasks = &self.tasks;
        let contents = |task| tasks.get(task).map_or(Contents::Claimed, contents);
        let orders = self
            .workers
            .dispatch(domain, || tasks.fetching(domain), contents, now);
        for order in orders {
            match order {
                Order::Fetch(task) => self.fetch(task),
                Order::Hand { task, rank, worker } => self.hand(worker, task, rank, now),
            }
        }
    }

    fn hand(&mut self, worker: WorkerId, task: TaskId, rank: i16, now: Instant) {
        let Some(held) = self.tasks.get(task) else {
            return;
        };
        let Some(slot) = self.workers.hand(worker, task, rank, terms(held)) else {
            let operation = Arc::clone(&held.operation);
            let plugin = (operation.domain.as_str(), operation.hash.as_str());
            return self.workers.enqueue(plugin, rank, task, now);
        };
        if let Some(run) = self.tasks.hand(task, worker, slot) {
            self.workers.run(worker, run);
        }
    }

    /// What has happened to workers, as it concerns others.
    pub(super) fn workers_news(&mut self, news: Vec<News>, now: Instant) {
        for news in news {
            match news {
                News::Revoked(revoked) => self.wait_again(revoked.task, revoked.rank, now),
                News::Printed(lines) => {
                    for (task, printed) in lines {
                        self.tasks.print(task, printed, now);
                    }
                }
                News::OutputClosed(task) => self.tasks.close_lines(task),
                News::Progress {
                    task,
                    worker,
                    started,
                    progress,
                } => {
                    if self.tasks.progress(task, worker, started, progress) {
                        self.workers.show(worker, task);
                    }
                }
                News::Finished(report) => self.finished(*report),
                News::Ended { task, fault, ran } => self.tasks.end(task, fault, ran, Utc::now()),
                News::Request {
                    worker,
                    request,
                    raw_input,
                } => self.enqueue_for(worker, request, raw_input),
                News::HasRoom => self.wakeup.want(),
                News::DatabaseFailed(error) => self.database_failed(&error, now),
            }
        }
    }

    fn finished(&mut self, report: Report) {
        let Report {
            worker,
            finished,
            descriptors,
            stopped_for,
            goes_on,
        } = report;
        let ended = self.tasks.finish(&finished, worker, stopped_for, goes_on);
        if let Some(ended) = ended {
            self.unpack(ended, finished.output, finished.files, descriptors);
        }
    }

    /// Tasks that were handed over and have not begun wait for other workers.
    fn wait_for_others(&mut self, revoked: Vec<Revoked>, now: Instant) {
        for revoked in revoked {
            self.wait_again(revoked.task, revoked.rank, now);
        }
    }

    /// A task that was claimed and has not begun waits for a worker again.
    pub(super) fn wait_again(&mut self, task: TaskId, rank: i16, now: Instant) {
        let Some(held) = self.tasks.get(task) else {
            return;
        };
        if self.claims.catalog().is_outdated(&held.operation) {
            return self.release(task);
        }
        if let Some(operation) = self.tasks.wait(task) {
            let plugin = (operation.domain.as_str(), operation.hash.as_str());
            self.workers.enqueue(plugin, rank, task, now);
        }
    }

    /// A waiting task waits no longer for a worker; false: it did not wait.
    fn stop_waiting(&mut self, task: TaskId) -> bool {
        let Some(held) = self.tasks.get(task) else {
            return false;
        };
        let plugin = (held.operation.domain.as_str(), held.operation.hash.as_str());
        self.workers.dequeue(plugin, held.claimed.rank, task)
    }

    /// Gives a task back to the queue, as if nobody had claimed it.
    pub(super) fn release(&mut self, task: TaskId) {
        self.tasks.release(task, Utc::now());
    }

    fn release_all(&mut self, tasks: impl IntoIterator<Item = TaskId>) {
        for task in tasks {
            self.release(task);
        }
    }

    /// Tasks that wait here and were claimed for another version of their operation are given back,
    /// so that they are claimed for the one that will run them: its limits, its outputs and the
    /// version that their rows name belong together.
    pub(super) fn release_outdated(&mut self) {
        let catalog = self.claims.catalog();
        let is_outdated =
            |held: &Held| held.stage() == Stage::Waiting && catalog.is_outdated(&held.operation);
        for (task, _) in self.tasks.select(is_outdated) {
            if self.stop_waiting(task) {
                self.release(task);
            }
        }
    }

    /// Tasks of operations that have been paused, and that have not begun, are given back.
    pub(super) fn release_paused(&mut self, now: Instant) {
        let catalog = self.claims.catalog();
        let is_paused = |held: &Held| {
            let operation = catalog.operation(held.claimed.operation);
            operation.is_some_and(|operation| operation.paused)
        };
        for (task, stage) in self.tasks.select(is_paused) {
            let is_free = match stage {
                Stage::Waiting => self.stop_waiting(task),
                Stage::Handed(worker) => self.workers.revoke(worker, task, now),
                Stage::Fetching | Stage::Ending => false,
            };
            if is_free {
                self.release(task);
            }
        }
    }

    /// Tasks that no worker here had time for are given back.
    pub(super) fn release_overdue(&mut self, now: Instant) {
        let overdue = self.workers.take_overdue(now);
        self.release_all(overdue);
    }

    /// Asks which tasks somebody wants to end.
    pub(super) fn poll_abort_requests(&mut self, now: Instant) {
        if !self.abort_requests.begin(now) {
            return;
        }
        let tasks = self.tasks.ids();
        if tasks.is_empty() {
            return self.abort_requests.answered();
        }
        let store = self.store.clone();
        self.ask(
            async move { store.claim_aborts(&tasks).await },
            Event::Aborts,
        );
    }

    /// Somebody wants these tasks to end: at once where they have not begun, else with their worker.
    pub(super) fn abort_requested(
        &mut self,
        requests: Result<Vec<(TaskId, Option<String>)>, StoreError>,
        now: Instant,
    ) {
        self.abort_requests.answered();
        let requests = match requests {
            Ok(requests) => requests,
            Err(error) => return self.database_failed(&error, now),
        };
        for (task, message) in requests {
            let Some(stage) = self.tasks.want_abort(task, message.clone()) else {
                continue;
            };
            let aborted = match stage {
                Stage::Ending => continue,
                Stage::Fetching => Aborted::BeforeBegin,
                Stage::Waiting => {
                    self.stop_waiting(task);
                    Aborted::BeforeBegin
                }
                Stage::Handed(worker) => self.workers.abort(worker, task, message, now),
            };
            match aborted {
                Aborted::BeforeBegin => self.tasks.abort(task, Utc::now()),
                Aborted::Ending => {}
                Aborted::TooLate => self.tasks.forget_abort(task),
            }
        }
    }

    /// Children have ended: workers, examiners, and what workers have left behind.
    pub(super) fn reap(&mut self, now: Instant) {
        let mut is_any_worker = false;
        while let Some(exit) = process::reap() {
            self.plugins.reaped(exit.pid);
            is_any_worker |= self.workers.reaped(exit, now);
        }
        if is_any_worker {
            // What dead workers have left has come to this process.
            self.kill_orphans();
        }
        let news = self.workers.bury(now);
        self.workers_news(news, now);
    }

    /// Kills what dead workers have left behind.
    pub(super) fn kill_orphans(&self) {
        let workers = self.workers.live_pids();
        process::kill_orphans(&|pid| workers.contains(&pid) || self.plugins.is_examiner(pid));
    }
}

/// Where the contents of a task's input are.
fn contents(held: &Held) -> Contents {
    match (held.claimed.has_more, held.is_incomplete()) {
        (false, _) => Contents::Claimed,
        (true, true) => Contents::ToFetch,
        (true, false) => Contents::Fetched,
    }
}

/// Under which conditions a worker runs a task.
fn terms(held: &Held) -> Terms {
    Terms {
        operation: Arc::clone(&held.operation),
        limits: held.limits(),
        timeout: held.timeout(),
        is_repeated_if_lost: held.claimed.max_attempts > 1,
    }
}
