//! Holds workers and their tasks to their limits. `deadlines` decides what has had its time, `usage` what uses too
//! much.

use super::{
    Workers,
    deadlines::{Due, deadlines, due},
    pool::PoolOptions,
    worker::Worker,
};
use crate::{
    descendants::Processes,
    model::{duration::human, task::Cause, worker::WorkerCause},
    store::SLOW_LOAD,
};
use std::{sync::Arc, time::Instant};

impl Workers {
    /// Ends what has had its time: tasks that run for too long, workers that take too long to start or to go.
    pub(in crate::monitor) fn enforce_limits(&mut self, now: Instant) {
        let (pool, grace) = (&self.settings.pool, self.settings.kill_grace);
        let mut late = Vec::new();
        for worker in self.workers.values_mut() {
            for due in due(&worker.times(), pool.start_timeout, now) {
                match due {
                    Due::StartTimeout => {
                        worker.kill(WorkerCause::StartTimeout);
                        late.push((worker.domain().to_owned(), Arc::clone(worker.plugin())));
                    }
                    Due::SlowLoad => log_slow_load(worker, pool),
                    Due::StopTimeout(cause) => worker.kill(cause),
                    Due::GoodbyeTimeout(cause) => {
                        let id = worker.id();
                        tracing::warn!(
                            worker.id = %id,
                            "worker {id} has nothing to do and does not end: killed"
                        );
                        worker.kill(cause);
                    }
                    Due::TaskTimeout(task, limit) => {
                        let reason = format!("ran longer than {}", human(limit));
                        let cause = WorkerCause::Task(Cause::Timeout);
                        worker.stop(task, cause, Some(reason), grace, now);
                    }
                }
            }
        }
        let limit = human(pool.start_timeout);
        for (domain, plugin) in late {
            // Noted at once, because a worker that was killed does not count, and the next one would be
            // started at once.
            let reason = format!("a worker was not ready within {limit}");
            self.start_failed(&domain, &plugin, &reason, now);
        }
    }

    /// When [`Workers::enforce_limits`] has something to do next.
    pub(super) fn next_limit(&self) -> Option<Instant> {
        let start_timeout = self.settings.pool.start_timeout;
        self.workers
            .values()
            .filter_map(|worker| {
                deadlines(&worker.times(), start_timeout)
                    .map(|(at, _)| at)
                    .min()
            })
            .min()
    }

    /// Ends tasks that use more than they may.
    pub(in crate::monitor) fn enforce_usage(&mut self, now: Instant) {
        let is_due = self.next_usage().is_some_and(|next| now >= next);
        // One look at the processes of this machine serves all workers.
        let table = is_due.then(Processes::look);
        let grace = self.settings.kill_grace;
        for worker in self.workers.values_mut() {
            if let Some((task, cause, words)) = worker.watch_usage(table.as_ref(), now) {
                worker.stop(task, WorkerCause::Task(cause), Some(words), grace, now);
            }
        }
    }

    /// When the next task with limits is looked at.
    pub(super) fn next_usage(&self) -> Option<Instant> {
        let workers = self.workers.values();
        workers.filter_map(Worker::next_usage).min()
    }
}

fn log_slow_load(worker: &mut Worker, options: &PoolOptions) {
    let doing = match worker.log_slow_load() {
        true => "loading",
        false => "waiting to load",
    };
    let (id, domain, plugin) = (worker.id(), worker.domain(), worker.plugin());
    tracing::warn!(
        worker.id = %id,
        plugin.hash = %plugin.hash,
        "worker {id} of domain {domain} has been {doing} {} for {}; it is killed after {}",
        plugin.name,
        human(SLOW_LOAD),
        human(options.start_timeout)
    );
}
