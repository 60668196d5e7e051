//! One plugin's share of a domain's pool: its claimed tasks that wait for a worker, how long they
//! take, and how its workers start.

use super::backoff::Backoff;
use crate::model::TaskId;
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// A worker is given at most this much work in advance.
const WINDOW_TIME: Duration = Duration::from_millis(4);
/// And at most this many tasks.
const WINDOW_MAX: u32 = 64;

/// While there is a backlog, so much work of each worker is claimed in advance: what the workers do while the
/// database is busy with a cycle. Tasks that take longer than this are claimed one by one.
pub(super) const AHEAD_TIME: Duration = Duration::from_millis(20);
/// And at most so many tasks for each worker.
const AHEAD_MAX: u32 = 256;

/// A worker may serve its plugin for at least this long before it has to leave for tasks of another
/// plugin that are as urgent: starting a process and loading a plugin takes some milliseconds, which
/// must stay a small part of the time. A task of the other plugin waits for little more than this.
const TURN: Duration = Duration::from_millis(50);
/// Where plugins take long to load, a turn lasts this many times as long as that ...
const TURN_PER_START: u32 = 10;
/// ... but never longer than this: well below the second after which a claimed task goes back.
const TURN_MAX: Duration = Duration::from_millis(500);

/// Workers of a plugin whose tasks take no longer than this are free soon.
const SOON: Duration = Duration::from_millis(250);

/// See the module.
#[derive(Debug, Default)]
pub(in crate::monitor::workers) struct Share {
    /// In the order in which they are to run: rank, then id. With the time since when they wait.
    queue: BTreeMap<(i16, TaskId), Instant>,
    /// How long tasks take here, lately; `None` until one has ended.
    typical: Option<Duration>,
    /// How long the last worker took from spawn to ready.
    start_took: Duration,
    /// The starts of its workers, which may fail.
    starts: Backoff,
    /// When a worker was last given a task; `None`: never.
    last_handed: Option<Instant>,
    /// Whether the last claim from its lanes brought all that was asked for: there may be more. If not, a
    /// worker without a task has nothing to wait for.
    has_backlog: bool,
}

impl Share {
    /// A claimed task waits here.
    pub(in crate::monitor::workers) fn push(&mut self, rank: i16, task: TaskId, now: Instant) {
        self.queue.insert((rank, task), now);
    }

    /// A worker is given the next task.
    pub(in crate::monitor::workers) fn hand(&mut self, rank: i16, task: TaskId, now: Instant) {
        self.remove(rank, task);
        self.last_handed = Some(now);
    }

    /// When a worker was last given a task; `None`: never.
    pub(super) fn last_handed(&self) -> Option<Instant> {
        self.last_handed
    }

    /// Whether there may be more tasks than the last claim has brought.
    pub(super) fn has_backlog(&self) -> bool {
        self.has_backlog
    }

    /// A claim has brought all that was asked for, or not.
    pub(super) fn set_backlog(&mut self, has_backlog: bool) {
        self.has_backlog = has_backlog;
    }

    /// The next task to run.
    pub(in crate::monitor::workers) fn first(&self) -> Option<(i16, TaskId)> {
        self.queue.first_key_value().map(|(key, _)| *key)
    }

    /// The rank of the next task, and since when it waits.
    pub(in crate::monitor::workers) fn urgency(&self) -> Option<(i16, Instant)> {
        self.queue
            .first_key_value()
            .map(|((rank, _), since)| (*rank, *since))
    }

    /// A waiting task is no longer wanted.
    pub(in crate::monitor::workers) fn remove(&mut self, rank: i16, task: TaskId) -> bool {
        self.queue.remove(&(rank, task)).is_some()
    }

    /// How many wait.
    pub(in crate::monitor::workers) fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// Takes out the tasks that have waited for so long that another host should have them.
    pub(in crate::monitor::workers) fn take_overdue(
        &mut self,
        limit: Duration,
        now: Instant,
    ) -> Vec<TaskId> {
        let is_overdue = |since: Instant| now.saturating_duration_since(since) > limit;
        let overdue = self.queue.iter().filter(|(_, since)| is_overdue(**since));
        let overdue = overdue.map(|((_, task), _)| *task).collect();
        self.queue.retain(|_, since| !is_overdue(*since));
        overdue
    }

    /// Takes every waiting task out.
    pub(in crate::monitor::workers) fn drain(&mut self) -> Vec<TaskId> {
        let queue = std::mem::take(&mut self.queue);
        queue.into_keys().map(|(_, task)| task).collect()
    }

    /// A worker did not start. Answers how long the next one waits, if the reason has not been logged yet.
    pub(in crate::monitor::workers) fn failed_to_start(
        &mut self,
        reason: &str,
        now: Instant,
    ) -> Option<Duration> {
        self.starts.failed(reason, now)
    }

    /// A worker is ready. Answers whether the ones before had failed.
    pub(in crate::monitor::workers) fn started(&mut self, took: Duration) -> bool {
        self.start_took = took;
        self.starts.succeeded()
    }

    /// Whether the last worker did not start.
    pub(super) fn is_failing(&self) -> bool {
        self.starts.is_failing()
    }

    /// Whether a worker is to be started to see whether they start again.
    pub(super) fn is_trial_due(&self, now: Instant) -> bool {
        self.starts.is_trial_due(now)
    }

    /// Learns how long a task took.
    pub(in crate::monitor::workers) fn took(&mut self, duration: Duration) {
        self.typical = Some(match self.typical {
            None => duration,
            // A longer task counts at once, shorter ones only little by little.
            Some(typical) if duration > typical => (typical + duration) / 2,
            Some(typical) => (typical * 7 + duration) / 8,
        });
    }

    /// How many tasks one worker may hold: one until their length is known, many if they are short.
    pub(in crate::monitor::workers) fn window(&self) -> u32 {
        match self.typical {
            None => 1,
            Some(typical) => {
                let fit = WINDOW_TIME.as_nanos() / typical.as_nanos().max(1);
                u32::try_from(fit).unwrap_or(u32::MAX).clamp(1, WINDOW_MAX)
            }
        }
    }

    /// How many tasks are to wait here for so many workers, none of which is at a long task. Where other plugins
    /// have a share too (`is_shared`), less: a worker may leave for one of theirs before it has done them.
    pub(super) fn ahead(&self, workers: usize, is_shared: bool) -> usize {
        let Some(typical) = self.typical.filter(|_| self.has_backlog) else {
            return 0;
        };
        let time = if is_shared { WINDOW_TIME } else { AHEAD_TIME };
        let fit = time.as_nanos() / typical.as_nanos().max(1);
        let each = u32::try_from(fit).unwrap_or(u32::MAX).min(AHEAD_MAX);
        workers * each as usize
    }

    /// For how long a worker may serve this plugin while another one's tasks wait.
    pub(in crate::monitor::workers) fn turn(&self) -> Duration {
        (self.start_took * TURN_PER_START).clamp(TURN, TURN_MAX)
    }

    /// Whether a worker whose task has run for so long is likely to end it soon.
    pub(in crate::monitor::workers) fn is_free_soon(&self, runs_for: Duration) -> bool {
        runs_for <= SOON && self.typical.is_some_and(|typical| typical <= SOON)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_opens_for_short_tasks_only() {
        let mut share = Share::default();
        assert_eq!(share.window(), 1);
        share.took(Duration::from_micros(10));
        assert_eq!(share.window(), 64);
        share.took(Duration::from_secs(10));
        assert_eq!(share.window(), 1);
    }

    #[test]
    fn short_tasks_are_claimed_in_advance_as_long_as_there_is_a_backlog() {
        let mut share = Share {
            has_backlog: true,
            ..Share::default()
        };
        assert_eq!(share.ahead(2, false), 0, "nobody knows how long they take");
        share.took(Duration::from_micros(10));
        assert_eq!(share.ahead(2, false), 512);
        share.has_backlog = false;
        assert_eq!(share.ahead(2, false), 0);
        share.has_backlog = true;
        share.typical = Some(Duration::from_millis(5));
        assert_eq!(share.ahead(3, false), 12);
        assert_eq!(share.ahead(3, true), 0);
        share.typical = Some(Duration::from_millis(21));
        assert_eq!(share.ahead(3, false), 0);
    }

    #[test]
    fn the_most_urgent_and_then_the_oldest_first() {
        let mut share = Share::default();
        let now = Instant::now();
        for (rank, id) in [(0, 1), (-5, 3), (0, 2)] {
            share.push(rank, TaskId(id), now);
        }
        let order: Vec<i64> = std::iter::from_fn(|| {
            let (rank, task) = share.first()?;
            share.remove(rank, task);
            Some(task.0)
        })
        .collect();
        assert_eq!(order, [3, 1, 2]);
    }

    #[test]
    fn a_turn_is_long_enough_for_what_a_start_costs() {
        let mut share = Share::default();
        share.started(Duration::from_millis(2));
        assert_eq!(share.turn(), TURN);
        share.started(Duration::from_millis(20));
        assert_eq!(share.turn(), Duration::from_millis(200));
        share.started(Duration::from_secs(5));
        assert_eq!(share.turn(), TURN_MAX);
    }
}
