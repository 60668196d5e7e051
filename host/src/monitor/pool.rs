//! The workers of one domain as numbers: how many there should be, how many tasks they can take.
//! No process is touched here; `feed` does what these numbers say.

use crate::model::TaskId;
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// A worker is given at most this much work in advance.
const WINDOW_TIME: Duration = Duration::from_millis(4);
/// And at most so many tasks.
const WINDOW_MAX: u32 = 64;

/// How the workers of each domain are kept.
#[derive(Debug, Clone)]
pub struct PoolOptions {
    /// Never more workers than this.
    pub max_workers: usize,
    /// Never fewer.
    pub min_workers: usize,
    /// A worker ends after so many tasks; 0: never.
    pub max_runs: u64,
    /// A worker that has grown beyond this many MB ends after its task; 0: never.
    pub max_mem: u64,
    /// How long a worker may take to be ready.
    pub start_timeout: Duration,
    /// How long a surplus worker idles before it ends.
    pub linger: Duration,
}

impl Default for PoolOptions {
    fn default() -> Self {
        Self {
            max_workers: 2,
            min_workers: 1,
            max_runs: 0,
            max_mem: 0,
            start_timeout: Duration::from_secs(30),
            linger: Duration::from_secs(5),
        }
    }
}

/// The tasks of one domain that are claimed and wait for a worker of this monitor.
#[derive(Debug, Default)]
pub(super) struct Pool {
    /// In the order in which they are to run: rank, then id.
    queue: BTreeMap<(i16, TaskId), Instant>,
    /// How long tasks take here, lately; `None` until one has ended.
    typical: Option<Duration>,
    /// When a surplus worker was last told to end.
    pub(super) last_shrink: Option<Instant>,
    /// After a worker that did not start, the next one has to wait.
    pub(super) spawn_not_before: Option<Instant>,
    failed_starts: u32,
}

/// How many workers a pool has, by what they do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Census {
    /// Ready, nothing to do.
    pub(super) idle: usize,
    /// Ready, at work.
    pub(super) busy: usize,
    /// Spawned, not ready yet.
    pub(super) starting: usize,
    /// Tasks that they can be given now.
    pub(super) room: usize,
}

impl Census {
    /// Workers that can still be given something.
    pub(super) fn alive(self) -> usize {
        self.idle + self.busy + self.starting
    }
}

impl Pool {
    /// A claimed task waits here.
    pub(super) fn push(&mut self, rank: i16, task: TaskId, now: Instant) {
        self.queue.insert((rank, task), now);
    }

    /// The next task to run.
    pub(super) fn first(&self) -> Option<(i16, TaskId)> {
        self.queue.first_key_value().map(|(key, _)| *key)
    }

    /// A waiting task is no longer wanted.
    pub(super) fn remove(&mut self, rank: i16, task: TaskId) -> bool {
        self.queue.remove(&(rank, task)).is_some()
    }

    /// How many wait.
    pub(super) fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// Tasks that have waited for so long that another host should have them.
    pub(super) fn overdue(&self, limit: Duration, now: Instant) -> Vec<(i16, TaskId)> {
        self.queue
            .iter()
            .filter(|(_, since)| now.duration_since(**since) > limit)
            .map(|(key, _)| *key)
            .collect()
    }

    /// Every waiting task.
    pub(super) fn drain(&mut self) -> Vec<(i16, TaskId)> {
        std::mem::take(&mut self.queue).into_keys().collect()
    }

    /// A worker could not be started: the next one waits, longer each time.
    pub(super) fn failed_to_start(&mut self, now: Instant) {
        let pause = Duration::from_millis(500) * 2_u32.pow(self.failed_starts.min(6));
        self.failed_starts += 1;
        self.spawn_not_before = Some(now + pause);
    }

    /// A worker is ready.
    pub(super) fn started(&mut self) {
        self.failed_starts = 0;
        self.spawn_not_before = None;
    }

    /// Learns how long a task took.
    pub(super) fn took(&mut self, duration: Duration) {
        self.typical = Some(match self.typical {
            None => duration,
            // Long tasks count at once, short ones have to be believed.
            Some(typical) if duration > typical => (typical + duration) / 2,
            Some(typical) => (typical * 7 + duration) / 8,
        });
    }

    /// How many tasks one worker may hold: one until their length is known, many if they are short.
    pub(super) fn window(&self) -> u32 {
        match self.typical {
            None => 1,
            Some(typical) => {
                let fit = WINDOW_TIME.as_nanos() / typical.as_nanos().max(1);
                u32::try_from(fit).unwrap_or(u32::MAX).clamp(1, WINDOW_MAX)
            }
        }
    }

    /// How many more tasks it makes sense to claim: what the workers can be given now, and one for
    /// each worker that may still be started.
    pub(super) fn appetite(&self, census: Census, options: &PoolOptions) -> usize {
        let to_come = options.max_workers.saturating_sub(census.alive());
        (census.room + to_come).saturating_sub(self.waiting())
    }

    /// How many workers to spawn now: for what waits, never past the maximum, never below the
    /// minimum.
    pub(super) fn to_spawn(&self, census: Census, options: &PoolOptions) -> usize {
        let free = census.idle + census.starting;
        let for_demand = self.waiting().saturating_sub(free);
        let for_minimum = options.min_workers.saturating_sub(census.alive());
        for_demand
            .max(for_minimum)
            .min(options.max_workers.saturating_sub(census.alive()))
    }

    /// Whether there is a worker too many.
    pub(super) fn is_surplus(&self, census: Census, options: &PoolOptions) -> bool {
        self.waiting() == 0 && census.idle > 0 && census.alive() > options.min_workers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(min: usize, max: usize) -> PoolOptions {
        PoolOptions {
            min_workers: min,
            max_workers: max,
            ..PoolOptions::default()
        }
    }

    #[test]
    fn grows_with_demand_and_never_past_it() {
        let mut pool = Pool::default();
        let now = Instant::now();
        assert_eq!(pool.to_spawn(Census::default(), &options(1, 4)), 1);
        assert_eq!(pool.to_spawn(Census::default(), &options(0, 4)), 0);
        for id in 1..=3 {
            pool.push(0, TaskId(id), now);
        }
        let idle_one = Census {
            idle: 1,
            ..Census::default()
        };
        assert_eq!(pool.to_spawn(idle_one, &options(1, 4)), 2);
        assert_eq!(pool.to_spawn(idle_one, &options(1, 2)), 1);
        let starting = Census {
            starting: 3,
            ..Census::default()
        };
        assert_eq!(pool.to_spawn(starting, &options(1, 4)), 0);
    }

    #[test]
    fn the_window_opens_for_short_tasks_only() {
        let mut pool = Pool::default();
        assert_eq!(pool.window(), 1);
        pool.took(Duration::from_micros(10));
        assert_eq!(pool.window(), 64);
        pool.took(Duration::from_secs(10));
        assert_eq!(pool.window(), 1);
    }

    #[test]
    fn the_most_urgent_and_then_the_oldest_first() {
        let mut pool = Pool::default();
        let now = Instant::now();
        for (rank, id) in [(0, 1), (-5, 3), (0, 2)] {
            pool.push(rank, TaskId(id), now);
        }
        let order: Vec<i64> = std::iter::from_fn(|| {
            let (rank, task) = pool.first()?;
            pool.remove(rank, task);
            Some(task.0)
        })
        .collect();
        assert_eq!(order, [3, 1, 2]);
    }

    #[test]
    fn claims_what_workers_can_take() {
        let mut pool = Pool::default();
        let census = Census {
            idle: 1,
            busy: 1,
            room: 1,
            ..Census::default()
        };
        assert_eq!(pool.appetite(census, &options(1, 2)), 1);
        assert_eq!(pool.appetite(census, &options(1, 4)), 3);
        pool.push(0, TaskId(1), Instant::now());
        assert_eq!(pool.appetite(census, &options(1, 2)), 0);
    }
}
