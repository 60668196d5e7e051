//! Dispatch: which task goes to which worker. A worker is given several short tasks in advance, and none behind
//! a task that takes long.

use super::{
    Aborted, Revoked, Terms, Workers,
    pool::{Member, Pool, PoolOptions, Stage, TRAPPED_AFTER},
};
use crate::{
    model::{TaskId, WorkerId, worker::WorkerCause},
    wire::Run,
};
use chrono::{DateTime, Utc};
use std::time::{Duration, Instant};

/// A claimed task that finds no worker here for so long goes back to the queue, for other hosts.
pub(super) const OVERDUE: Duration = Duration::from_secs(1);
/// A task that has begun is shown as running when it has not ended after this.
const SHOW_AFTER: Duration = Duration::from_millis(2);

/// Where the contents of a task's input are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::monitor) enum Contents {
    /// The claim has brought all of them.
    Claimed,
    /// Some have to be fetched before the task can be handed over.
    ToFetch,
    /// They were fetched, and are in this process's memory until the task is handed over.
    Fetched,
}

/// What is to be done with a task that waited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::monitor) enum Order {
    /// It is handed to this worker.
    Hand {
        task: TaskId,
        /// Its place in the order of running.
        rank: i16,
        worker: WorkerId,
    },
    /// Its contents are fetched.
    Fetch(TaskId),
}

/// The index of the worker that is to be given the next task of a plugin: one that idles, one that is about to be
/// ready, one that has room. Where a late start has made too many workers, no more of them than the most are
/// given tasks.
fn candidate(plugin: &str, members: &[Member], options: &PoolOptions) -> Option<usize> {
    let busy = members.iter().filter(|member| member.handed > 0).count();
    members
        .iter()
        .enumerate()
        .filter(|(_, member)| member.plugin.hash == plugin && member.room > 0)
        .filter(|(_, member)| member.handed > 0 || busy < options.max_workers)
        .min_by_key(|(_, member)| (member.stage != Stage::Ready, member.handed))
        .map(|(index, _)| index)
}

/// Takes the waiting tasks of a pool out for which something can be done now, in the order in which they are to
/// run. `may_fetch`: how many more tasks may have their contents in this process's memory; the next task waits
/// for that, and those behind it wait their turn.
fn orders(
    pool: &mut Pool,
    members: &mut [Member],
    options: &PoolOptions,
    mut may_fetch: usize,
    contents: impl Fn(TaskId) -> Contents,
    now: Instant,
) -> Vec<Order> {
    let mut orders = Vec::new();
    for plugin in pool.wanted() {
        while let Some(candidate) = candidate(&plugin, members, options) {
            let share = pool.share(&plugin);
            let Some((rank, task)) = share.first() else {
                break;
            };
            let contents = contents(task);
            if contents == Contents::ToFetch {
                if may_fetch == 0 {
                    break;
                }
                may_fetch -= 1;
                share.remove(rank, task);
                orders.push(Order::Fetch(task));
                continue;
            }
            if contents == Contents::Fetched {
                may_fetch += 1;
            }
            share.hand(rank, task, now);
            let member = &mut members[candidate];
            member.given();
            orders.push(Order::Hand {
                task,
                rank,
                worker: member.id,
            });
        }
    }
    orders
}

impl Workers {
    /// Which tasks of a domain go to which workers now; see [`orders`]. `fetching`: how many of its tasks have
    /// their contents in this process's memory, or on their way there.
    pub(in crate::monitor) fn dispatch(
        &mut self,
        domain: &str,
        fetching: impl FnOnce() -> usize,
        contents: impl Fn(TaskId) -> Contents,
        now: Instant,
    ) -> Vec<Order> {
        if self.pools[domain].wanted().is_empty() {
            return Vec::new();
        }
        let mut members = self.members(domain, now);
        let options = &self.settings.pool;
        let may_fetch = options.max_workers.saturating_sub(fetching());
        let Some(pool) = self.pools.get_mut(domain) else {
            return Vec::new();
        };
        orders(pool, &mut members, options, may_fetch, contents, now)
    }

    /// Puts a task into the hands of a worker, which may begin it once it is told by [`Workers::run`]. Answers
    /// the slot; `None`: all slots of the worker are taken.
    pub(in crate::monitor) fn hand(
        &mut self,
        worker: WorkerId,
        task: TaskId,
        rank: i16,
        terms: Terms,
    ) -> Option<u32> {
        let lease = self.lease;
        self.workers
            .get_mut(&worker)?
            .hand(task, rank, terms, lease)
    }

    /// Sends a worker a task that it was handed.
    pub(in crate::monitor) fn run(&self, worker: WorkerId, run: Run) {
        if let Some(worker) = self.workers.get(&worker) {
            worker.run(run);
        }
    }

    /// Takes back the tasks behind those that turn out to be slow, for other workers.
    pub(in crate::monitor) fn free_trapped(&mut self, now: Instant) -> Vec<Revoked> {
        let workers = self.workers.values_mut();
        workers
            .flat_map(|worker| worker.free_trapped(TRAPPED_AFTER, now))
            .collect()
    }

    /// Takes a task back from its worker; false: it has begun.
    pub(in crate::monitor) fn revoke(
        &mut self,
        worker: WorkerId,
        task: TaskId,
        now: Instant,
    ) -> bool {
        let worker = self.workers.get_mut(&worker);
        worker.is_some_and(|worker| worker.revoke(task, now).is_some())
    }

    /// Somebody wants a task aborted that is in the hands of a worker.
    pub(in crate::monitor) fn abort(
        &mut self,
        worker: WorkerId,
        task: TaskId,
        reason: Option<String>,
        now: Instant,
    ) -> Aborted {
        let grace = self.settings.kill_grace;
        match self.workers.get_mut(&worker) {
            Some(worker) => worker.abort(task, reason, grace, now),
            None => Aborted::TooLate,
        }
    }

    /// The tasks that have run for a moment and are to be shown as running: the worker, and when they began.
    pub(in crate::monitor) fn to_show(
        &self,
        now: Instant,
    ) -> Vec<(WorkerId, TaskId, DateTime<Utc>)> {
        let workers = self.workers.values();
        workers
            .filter_map(|worker| {
                let (task, started) = worker.to_show(SHOW_AFTER, now)?;
                Some((worker.id(), task, started))
            })
            .collect()
    }

    /// A task is shown as running on this worker, or will be with the next cycle.
    pub(in crate::monitor) fn show(&mut self, worker: WorkerId, task: TaskId) {
        if let Some(worker) = self.workers.get_mut(&worker) {
            worker.show(task);
        }
    }

    /// When [`Workers::to_show`] has something to show.
    pub(in crate::monitor) fn next_show(&self, now: Instant) -> Option<Instant> {
        let workers = self.workers.values();
        workers
            .filter_map(|worker| worker.next_show(SHOW_AFTER, now))
            .min()
    }

    /// The monitor ends: workers with nothing begun end now. Once running tasks have had their time
    /// (`is_deadline`), those end too: a task that asks `cancelled()` is told, and given some time to keep what
    /// it has.
    pub(in crate::monitor) fn end_all(&mut self, is_deadline: bool, now: Instant) -> Vec<Revoked> {
        let grace = self.settings.kill_grace;
        let mut revoked = Vec::new();
        for worker in self.workers.values_mut() {
            revoked.extend(worker.revoke_all(now));
            worker.notice_begun(now);
            if worker.is_idle() {
                worker.kill(WorkerCause::MonitorExit);
            } else if is_deadline {
                worker.stop_running(WorkerCause::MonitorExit, grace, now);
            }
        }
        revoked
    }

    /// The monitor ends at once.
    pub(in crate::monitor) fn kill_all(&mut self, now: Instant) -> Vec<Revoked> {
        let mut revoked = Vec::new();
        for worker in self.workers.values_mut() {
            revoked.extend(worker.revoke_all(now));
            worker.kill(WorkerCause::MonitorExit);
        }
        revoked
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::monitor::workers::pool::fixtures::{busy, idle};

    /// A pool in which these tasks of plugin `a` wait, with their ranks.
    fn waiting(tasks: &[(i16, i64)], now: Instant) -> Pool {
        let mut pool = Pool::default();
        for (rank, task) in tasks {
            pool.share("a").push(*rank, TaskId(*task), now);
        }
        pool
    }

    fn options() -> PoolOptions {
        PoolOptions {
            max_workers: 2,
            ..PoolOptions::default()
        }
    }

    fn hand(task: i64, rank: i16, worker: i64) -> Order {
        Order::Hand {
            task: TaskId(task),
            rank,
            worker: WorkerId(worker),
        }
    }

    #[test]
    fn no_task_is_handed_over_behind_one_that_takes_long() {
        let start = Instant::now();
        let now = start + TRAPPED_AFTER;
        let mut pool = waiting(&[(0, 7)], start);
        let mut members = [busy(1, "a", start).with_room(64, u64::MAX, now)];
        let orders = orders(
            &mut pool,
            &mut members,
            &options(),
            9,
            |_| Contents::Claimed,
            now,
        );
        assert_eq!(orders, [], "it waits for another worker");
        assert_eq!(pool.share("a").waiting(), 1);
    }

    #[test]
    fn a_worker_too_many_is_given_nothing_until_another_one_has_left() {
        let now = Instant::now();
        let members = [busy(2, "a", now), idle(1, "b", now)];
        let options = |max_workers| PoolOptions {
            max_workers,
            ..PoolOptions::default()
        };
        assert_eq!(candidate("b", &members, &options(1)), None);
        assert_eq!(candidate("b", &members, &options(2)), Some(1));
    }

    #[test]
    fn the_most_urgent_task_goes_first_and_to_a_worker_that_idles() {
        let now = Instant::now();
        let mut pool = waiting(&[(0, 1), (-5, 2), (0, 3)], now);
        let mut members = [
            Member {
                room: 1,
                ..busy(1, "a", now)
            },
            idle(2, "a", now),
        ];
        let orders = orders(
            &mut pool,
            &mut members,
            &options(),
            9,
            |_| Contents::Claimed,
            now,
        );
        assert_eq!(orders, [hand(2, -5, 2), hand(1, 0, 1)]);
        assert_eq!(pool.share("a").first(), Some((0, TaskId(3))));
    }

    #[test]
    fn contents_are_fetched_for_no_more_tasks_than_there_is_memory_for() {
        let now = Instant::now();
        let contents = |task: TaskId| match task.0 {
            1 => Contents::Fetched,
            _ => Contents::ToFetch,
        };
        let mut pool = waiting(&[(0, 1), (0, 2), (0, 3)], now);
        let mut members = [Member {
            room: 9,
            ..idle(1, "a", now)
        }];
        // What was fetched for the first task leaves the memory with it, which makes room for the second one.
        let orders = orders(&mut pool, &mut members, &options(), 0, contents, now);
        assert_eq!(orders, [hand(1, 0, 1), Order::Fetch(TaskId(2))]);
        assert_eq!(pool.share("a").first(), Some((0, TaskId(3))));
    }
}
