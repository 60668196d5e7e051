//! Tasks to workers: hands over what waits, takes back what has to wait again, gives back what no
//! worker has time for.

use super::{
    limits::end_task,
    pool::{Member, Pool, PoolOptions},
    supervisor::{Phase, Supervisor},
    tasks::{Held, Stage},
    worker::{Life, Worker},
};
use crate::{
    model::{TaskId, WorkerId, worker::WorkerCause},
    wire::ToWorker,
};
use chrono::Utc;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// A task that runs for longer than this no longer has others waiting behind it.
const TRAPPED_AFTER: Duration = Duration::from_millis(20);

/// A claimed task that finds no worker here for so long goes back to the queue, for other hosts.
const OVERDUE: Duration = Duration::from_secs(1);

impl Supervisor {
    /// Sees to it that there are the workers that are needed, and hands them what waits.
    pub(super) fn feed(&mut self, now: Instant) {
        for worker in self.workers.values_mut() {
            worker.see_begun(now);
        }
        self.free_trapped(now);
        let draining = self.phase != Phase::Working;
        if !draining {
            self.retire_outdated();
        }
        let domains: Vec<String> = self.pools.keys().cloned().collect();
        for domain in domains {
            if draining {
                self.release_waiting(&domain);
                continue;
            }
            self.staff(&domain, now);
            self.hand_over(&domain, now);
            self.shrink(&domain, now);
        }
        match self.phase {
            Phase::Working => {}
            Phase::Draining(deadline) => self.end_workers(now >= deadline, now),
            Phase::Forced(_) | Phase::Lost => self.kill_workers(),
        }
    }

    pub(super) fn pool(&mut self, domain: &str) -> &mut Pool {
        self.pools.entry(domain.to_owned()).or_default()
    }

    fn hand_over(&mut self, domain: &str, now: Instant) {
        let wanted = self.pools[domain].wanted();
        if wanted.is_empty() {
            return;
        }
        let mut members = self.members(domain, now);
        for plugin in wanted {
            self.hand_over_of(domain, &plugin, &mut members, now);
        }
    }

    /// Hands waiting tasks of one plugin to its workers.
    fn hand_over_of(&mut self, domain: &str, plugin: &str, members: &mut [Member], now: Instant) {
        loop {
            let candidate = self.pools[domain].candidate(plugin, members, &self.options.pool);
            let Some(candidate) = candidate else { return };
            let Some((rank, task)) = self.pool(domain).share(plugin).first() else {
                return;
            };
            let is_incomplete = self.tasks.get(task).is_some_and(Held::is_incomplete);
            if is_incomplete && self.tasks.fetching(domain) >= self.options.pool.max_workers {
                // It is the next one, and those behind it wait their turn.
                return;
            }
            let share = self.pool(domain).share(plugin);
            share.remove(rank, task);
            if is_incomplete {
                self.fetch(task);
            } else {
                share.last_handed = Some(now);
                self.hand_task(members[candidate].id, task, rank, now);
                members[candidate].given();
            }
        }
    }

    fn hand_task(&mut self, worker: WorkerId, task: TaskId, rank: i16, now: Instant) {
        let Some(held) = self.tasks.get(task) else {
            return;
        };
        let worker = self.workers.get_mut(&worker).expect("the candidate lives");
        let Some(slot) = worker.hand(task, rank) else {
            let operation = Arc::clone(&held.operation);
            let share = self.pool(&operation.domain).share(&operation.hash);
            share.push(rank, task, now);
            return;
        };
        let worker = worker.id;
        let Some(run) = self.tasks.hand(task, worker, slot) else {
            return;
        };
        // Before it can begin.
        self.set_lease(worker);
        self.workers[&worker].send(ToWorker::Run(Box::new(run)));
    }

    /// Tasks behind one that turns out to be slow are taken back, for other workers.
    fn free_trapped(&mut self, now: Instant) {
        let mut revoked = Vec::new();
        for worker in self.workers.values_mut() {
            let slow = worker.running().is_some_and(|(_, task)| {
                task.begun
                    .is_some_and(|(at, _)| now.duration_since(at) > TRAPPED_AFTER)
            });
            if slow && worker.handed.len() > 1 {
                revoked.extend(worker.revoke_all());
            }
        }
        for handed in revoked {
            self.wait_again(handed.task, handed.rank);
        }
    }

    /// A task that was handed over and has not begun waits for another worker.
    pub(super) fn wait_again(&mut self, task: TaskId, rank: i16) {
        let Some(held) = self.tasks.get(task) else {
            return;
        };
        if self.claims.catalog().is_outdated(&held.operation) {
            return self.release(task);
        }
        if let Some(operation) = self.tasks.wait(task) {
            let share = self.pool(&operation.domain).share(&operation.hash);
            share.push(rank, task, Instant::now());
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

    /// Gives back what waits here: nobody will run it.
    fn release_waiting(&mut self, domain: &str) {
        let shares = self.pool(domain).shares();
        let waiting: Vec<TaskId> = shares.flat_map(|(_, share)| share.drain()).collect();
        for task in waiting {
            self.release(task);
        }
    }

    /// A waiting task waits no longer for a worker; false: it did not wait.
    pub(super) fn stop_waiting(&mut self, task: TaskId) -> bool {
        let Some(held) = self.tasks.get(task) else {
            return false;
        };
        let (operation, rank) = (Arc::clone(&held.operation), held.claimed.rank);
        let share = self.pool(&operation.domain).share(&operation.hash);
        share.remove(rank, task)
    }

    /// Gives a task back to the queue, as if nobody had claimed it.
    pub(super) fn release(&mut self, task: TaskId) {
        self.tasks.release(task, Utc::now());
    }

    /// Tasks of operations that have been paused, and that have not begun, are given back.
    pub(super) fn release_paused(&mut self) {
        let catalog = self.claims.catalog();
        let is_paused = |held: &Held| {
            let operation = catalog.operation(held.claimed.operation);
            operation.is_some_and(|operation| operation.paused)
        };
        for (task, stage) in self.tasks.select(is_paused) {
            let is_free = match stage {
                Stage::Waiting => self.stop_waiting(task),
                Stage::Handed(worker) => self.workers.get_mut(&worker).is_some_and(|worker| {
                    let slot = worker.slot_of(task);
                    slot.is_some_and(|slot| worker.revoke(slot).is_some())
                }),
                Stage::Fetching | Stage::Ending => false,
            };
            if is_free {
                self.release(task);
            }
        }
    }

    /// Tasks that no worker here had time for are given back.
    pub(super) fn release_overdue(&mut self, now: Instant) {
        let shares = self.pools.values_mut().flat_map(Pool::shares);
        let overdue: Vec<TaskId> = shares
            .flat_map(|(_, share)| share.take_overdue(OVERDUE, now))
            .collect();
        for task in overdue {
            self.release(task);
        }
    }

    /// Interrupted: workers with nothing begun end now. At the deadline the others do: a task that asks
    /// `cancelled()` is told then, and given some time to keep what it has.
    fn end_workers(&mut self, is_deadline: bool, now: Instant) {
        let mut unbegun = Vec::new();
        for worker in self.workers.values_mut() {
            unbegun.extend(worker.revoke_all());
            worker.see_begun(now);
            match worker.running() {
                None if worker.handed.is_empty() => worker.kill(WorkerCause::MonitorExit),
                Some((slot, _)) if is_deadline && worker.kill_at.is_none() => {
                    let grace = self.options.kill_grace;
                    end_task(worker, slot, grace, WorkerCause::MonitorExit, now);
                }
                _ => {}
            }
        }
        for handed in unbegun {
            self.release(handed.task);
        }
    }

    /// No more waiting for anything.
    fn kill_workers(&mut self) {
        let mut unbegun = Vec::new();
        for worker in self.workers.values_mut() {
            unbegun.extend(worker.revoke_all());
            worker.kill(WorkerCause::MonitorExit);
        }
        for handed in unbegun {
            self.release(handed.task);
        }
    }
}

/// How many more tasks a worker can be given now: none behind one that turns out to be slow, or after
/// which it may have to end, for it could begin them before it hears of that.
pub(super) fn room(worker: &Worker, window: usize, options: &PoolOptions) -> usize {
    let window = if options.max_mem > 0 { 1 } else { window };
    let runs_left = match options.max_runs {
        0 => usize::MAX,
        most => most.saturating_sub(worker.runs) as usize,
    };
    let window = window.min(runs_left);
    match worker.life {
        Life::Starting => usize::from(worker.handed.is_empty()),
        Life::Ready => {
            let is_slow = worker.running().is_some_and(|(_, task)| {
                task.begun
                    .is_some_and(|(at, _)| at.elapsed() >= TRAPPED_AFTER)
            });
            if is_slow {
                0
            } else {
                window.saturating_sub(worker.handed.len())
            }
        }
        Life::Draining(_) | Life::Killed(_) => 0,
    }
}
