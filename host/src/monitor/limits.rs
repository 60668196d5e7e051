//! Ends that are asked for: tasks that run for too long, workers that do not start, aborts.

use super::{event::Event, supervisor::Supervisor, tasks::Stage, worker::Life};
use crate::{
    model::{TaskId, WorkerId, duration::human, task::Cause, worker::WorkerCause},
    store::{SLOW_LOAD, StoreError},
};
use chrono::Utc;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

impl Supervisor {
    /// Tasks that have run for too long, workers that take too long to start, and those that were
    /// given a last chance to end by themselves.
    pub(super) fn enforce_limits(&mut self, now: Instant) {
        let mut late = Vec::new();
        for worker in self.workers.values_mut() {
            if worker.life == Life::Starting
                && now.duration_since(worker.spawned) > self.options.pool.start_timeout
            {
                worker.kill(WorkerCause::StartTimeout);
                // Now, for the killed are not counted, and the next one would be spawned at once.
                late.push((worker.domain.clone(), Arc::clone(&worker.plugin)));
                continue;
            }
            if worker.slow_load_at().is_some_and(|at| now >= at) {
                worker.is_slow_load_told = true;
                let (id, name) = (worker.id, &worker.plugin.name);
                let doing = if worker.is_loading {
                    "loading"
                } else {
                    "waiting to load"
                };
                tracing::warn!(
                    worker.id = %id,
                    plugin.hash = %worker.plugin.hash,
                    "worker {id} of domain {} has been {doing} {name} for {}; it is killed after {}",
                    worker.domain,
                    human(SLOW_LOAD),
                    human(self.options.pool.start_timeout)
                );
            }
            if let Some((at, cause)) = worker.kill_at
                && now >= at
            {
                worker.kill(cause);
                continue;
            }
            if let Life::Draining(cause) = worker.life
                && worker.goodbye_deadline().is_some_and(|at| now >= at)
            {
                tracing::warn!(
                    worker.id = %worker.id,
                    "worker {} has nothing to do and does not end: killed",
                    worker.id
                );
                worker.kill(cause);
                continue;
            }
            let Some((slot, handed)) = worker.running() else {
                continue;
            };
            let Some((begun, _)) = handed.begun else {
                continue;
            };
            let Some(held) = self.tasks.get(handed.task) else {
                continue;
            };
            let limit = held
                .operation
                .timeout_ms
                .map(|ms| Duration::from_millis(ms.max(0).cast_unsigned()));
            if let Some(limit) = limit
                && now.duration_since(begun) >= limit
                && !held.is_asked_to_end()
            {
                let because = format!("ran longer than {}", human(limit));
                self.tasks.ask_to_end(handed.task, Some(because));
                end_task(
                    worker,
                    slot,
                    self.options.kill_grace,
                    WorkerCause::Task(Cause::Timeout),
                    now,
                );
            }
        }
        let limit = human(self.options.pool.start_timeout);
        for (domain, plugin) in late {
            let reason = format!("a worker was not ready within {limit}");
            self.start_failed(&domain, &plugin, &reason);
        }
    }

    pub(super) fn next_limit(&self) -> Option<Instant> {
        let now = Instant::now();
        self.workers
            .values()
            .filter_map(|worker| {
                let starting = (worker.life == Life::Starting)
                    .then(|| worker.spawned + self.options.pool.start_timeout);
                let timeout = worker.running().and_then(|(_, handed)| {
                    let held = self.tasks.get(handed.task)?;
                    // Once it is being ended, that has a deadline of its own.
                    let limit = held
                        .operation
                        .timeout_ms
                        .filter(|_| !held.is_asked_to_end())?;
                    Some(handed.begun?.0 + Duration::from_millis(limit.max(0).cast_unsigned()))
                });
                let dying = worker.exit.map(|_| now + Duration::from_millis(50));
                let drained = worker.goodbye_deadline();
                [
                    starting,
                    worker.slow_load_at(),
                    timeout,
                    // What has been killed is awaited, not killed again.
                    worker
                        .kill_at
                        .map(|(at, _)| at)
                        .filter(|_| !matches!(worker.life, Life::Killed(_))),
                    dying,
                    drained,
                ]
                .into_iter()
                .flatten()
                .min()
            })
            .min()
    }

    /// Dead workers whose socket somebody keeps open are not waited for.
    pub(super) fn reap_silent(&mut self) {
        let dead: Vec<WorkerId> = self
            .workers
            .values()
            .filter(|worker| worker.exit.is_some())
            .map(|worker| worker.id)
            .collect();
        for id in dead {
            self.reap_worker(id);
        }
    }

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

    /// Somebody wants these tasks to end: at once where they have not begun, else with their
    /// worker.
    pub(super) fn aborts_arrived(
        &mut self,
        requests: Result<Vec<(TaskId, Option<String>)>, StoreError>,
    ) {
        self.abort_requests.answered();
        let requests = match requests {
            Ok(requests) => requests,
            Err(error) => return self.database_failed(&error),
        };
        let now = Instant::now();
        for (task, message) in requests {
            let Some(stage) = self.tasks.want_abort(task, message.clone()) else {
                continue;
            };
            match stage {
                Stage::Ending => {}
                Stage::Fetching => self.tasks.abort(task, Utc::now()),
                Stage::Waiting => {
                    self.stop_waiting(task);
                    self.tasks.abort(task, Utc::now());
                }
                Stage::Handed(id) => {
                    let Some(worker) = self.workers.get_mut(&id) else {
                        continue;
                    };
                    let Some(slot) = worker.slot_of(task) else {
                        continue;
                    };
                    worker.see_begun(now);
                    if worker.revoke(slot).is_some() {
                        self.tasks.abort(task, Utc::now());
                    } else if worker
                        .running()
                        .is_some_and(|(_, handed)| handed.task == task)
                        || worker.handed.len() == 1
                    {
                        if !self.tasks.ask_to_end(task, message) {
                            continue;
                        }
                        let cause = WorkerCause::Task(Cause::Abort);
                        end_task(worker, slot, self.options.kill_grace, cause, now);
                    } else {
                        // It has ended a moment ago, and a later one runs: its report is on its way.
                        self.tasks.forget_abort(task);
                    }
                }
            }
        }
    }
}

/// Ends a running task: a task that asks `cancelled()` is told and given some time, others have
/// nothing to gain from waiting.
pub(super) fn end_task(
    worker: &mut super::worker::Worker,
    slot: u32,
    grace: Duration,
    cause: WorkerCause,
    now: Instant,
) {
    worker.page.request_cancel(slot);
    if worker.page.asked_cancel(slot) && !grace.is_zero() {
        worker.kill_at.get_or_insert((now + grace, cause));
    } else {
        worker.kill(cause);
    }
}
