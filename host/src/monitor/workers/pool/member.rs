//! A worker, as far as the decisions of its pool need it.

use crate::{model::WorkerId, wire::PluginFile};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// A worker that takes longer than this to be ready, perhaps for ever, does not count towards the most workers
/// until it is: the other plugins of its domain go on.
pub(super) const SLOW_START: Duration = Duration::from_secs(1);

/// A task that runs for longer than this has no others waiting behind it.
pub(in crate::monitor::workers) const TRAPPED_AFTER: Duration = Duration::from_millis(20);

/// How far a worker is, as its pool sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::monitor::workers) enum Stage {
    /// Spawned, not ready yet.
    Starting,
    /// Takes tasks.
    Ready,
    /// Told at that time to leave, to make room for a worker of another plugin.
    Leaving(Instant),
}

/// A worker of the domain, as far as decisions need it.
#[derive(Debug, Clone)]
pub(in crate::monitor::workers) struct Member {
    pub(in crate::monitor::workers) id: WorkerId,
    pub(in crate::monitor::workers) plugin: Arc<PluginFile>,
    pub(in crate::monitor::workers) stage: Stage,
    /// When it was ready; while it starts, when it was spawned.
    pub(in crate::monitor::workers) since: Instant,
    /// Since when it has had no task, if it has none.
    pub(in crate::monitor::workers) idle_since: Instant,
    /// Tasks in its hands.
    pub(in crate::monitor::workers) handed: usize,
    /// The most urgent rank among them.
    pub(in crate::monitor::workers) rank: Option<i16>,
    /// Since when its task runs, if one does.
    pub(in crate::monitor::workers) running_since: Option<Instant>,
    /// How many more tasks it can be given now.
    pub(in crate::monitor::workers) room: usize,
}

impl Member {
    pub(super) fn is_of(&self, plugin: &str) -> bool {
        self.plugin.hash == plugin
    }

    /// Notes that it has been given one more task.
    pub(in crate::monitor::workers) fn given(&mut self) {
        self.handed += 1;
        // A worker that is not ready holds one task at most.
        self.room = match self.stage {
            Stage::Ready => self.room.saturating_sub(1),
            Stage::Starting | Stage::Leaving(_) => 0,
        };
    }

    pub(super) fn is_idle(&self) -> bool {
        self.stage == Stage::Ready && self.handed == 0
    }

    /// Whether it has been starting for so long that the pool goes on without it.
    pub(in crate::monitor::workers) fn is_slow_to_start(&self, now: Instant) -> bool {
        self.stage == Stage::Starting && now.saturating_duration_since(self.since) > SLOW_START
    }

    /// With the room that it has now: how many more tasks it can be given. None behind a task that turns out to
    /// be slow, or after which it may have to end, because it could begin them before it hears of that. A worker
    /// that is not ready holds one at most. `window`: how many short tasks it may hold; `runs_left`: after this
    /// many tasks it ends.
    pub(in crate::monitor::workers) fn with_room(
        mut self,
        window: usize,
        runs_left: u64,
        now: Instant,
    ) -> Self {
        self.room = match self.stage {
            Stage::Starting if self.is_slow_to_start(now) => 0,
            Stage::Starting => usize::from(self.handed == 0),
            Stage::Ready => {
                let is_slow = self
                    .running_since
                    .is_some_and(|since| now.saturating_duration_since(since) >= TRAPPED_AFTER);
                let most = window.min(usize::try_from(runs_left).unwrap_or(usize::MAX));
                if is_slow {
                    0
                } else {
                    most.saturating_sub(self.handed)
                }
            }
            Stage::Leaving(_) => 0,
        };
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::monitor::workers::pool::fixtures::{MS, busy, idle, starting};

    fn room(member: &Member, runs_left: u64, now: Instant) -> usize {
        member.clone().with_room(64, runs_left, now).room
    }

    #[test]
    fn a_worker_whose_task_takes_long_is_given_nothing_behind_it() {
        let start = Instant::now();
        let running = busy(1, "a", start);
        assert_eq!(room(&running, u64::MAX, start + 19 * MS), 63);
        assert_eq!(room(&running, u64::MAX, start + 20 * MS), 0);
    }

    #[test]
    fn a_worker_that_ends_soon_or_starts_is_given_no_more_than_it_will_run() {
        let start = Instant::now();
        assert_eq!(room(&idle(1, "a", start), 3, start), 3);
        assert_eq!(room(&idle(1, "a", start), 0, start), 0);
        let mut member = starting(1, "a", start);
        assert_eq!(room(&member, u64::MAX, start), 1);
        assert_eq!(room(&member, u64::MAX, start + 2000 * MS), 0);
        member.handed = 1;
        assert_eq!(room(&member, u64::MAX, start), 0);
        member.stage = Stage::Leaving(start);
        assert_eq!(room(&member, u64::MAX, start), 0);
    }
}
