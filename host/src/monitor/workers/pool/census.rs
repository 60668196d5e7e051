//! How many workers of each plugin there are, and of which plugins none can be had.

use super::{Member, Pool, PoolOptions, Share, Stage, share::AHEAD_TIME};
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// A worker that was told to leave and has no task does not count either once it takes longer than this to go.
pub(super) const SLOW_LEAVE: Duration = Duration::from_millis(250);

/// The workers of one plugin that count towards the most that there may be, in numbers.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Census {
    /// All of them, workers that leave included.
    pub(super) counted: usize,
    /// Workers that stay.
    pub(super) alive: usize,
    /// Ready, or about to be, with nothing to do.
    pub(super) free: usize,
    /// Tasks that they can be given now.
    pub(super) room: usize,
    /// Ready, and not at a task that takes long.
    pub(super) quick: usize,
    /// Whether a worker is ready.
    pub(super) is_ready: bool,
    /// Whether a worker takes too long to start.
    pub(super) is_slow: bool,
}

/// One worker more, or less, of a plugin.
pub(super) fn add(census: &mut BTreeMap<&str, Census>, plugin: &str, change: isize) {
    if let Some(census) = census.get_mut(plugin) {
        census.alive = census.alive.saturating_add_signed(change);
    }
}

impl Pool {
    /// Whether a worker counts towards the most that there may be: not one that is started to see
    /// whether its plugin can be loaded again, nor one that takes too long to come or to go.
    fn is_counted(&self, member: &Member, now: Instant) -> bool {
        match member.stage {
            Stage::Ready => true,
            Stage::Starting => {
                let is_trial = self
                    .shares
                    .get(&member.plugin.hash)
                    .is_some_and(Share::is_failing);
                !is_trial && !member.is_slow_to_start(now)
            }
            Stage::Leaving(told) => {
                let idle_for = now.saturating_duration_since(told.max(member.idle_since));
                member.handed > 0 || idle_for <= SLOW_LEAVE
            }
        }
    }

    pub(super) fn census<'a>(
        &'a self,
        members: &'a [Member],
        now: Instant,
    ) -> BTreeMap<&'a str, Census> {
        let mut counted: BTreeMap<&str, Census> = BTreeMap::new();
        for plugin in self.shares.keys() {
            counted.insert(plugin, Census::default());
        }
        for member in members {
            let census = counted.entry(&member.plugin.hash).or_default();
            census.is_slow |= member.is_slow_to_start(now);
            if !self.is_counted(member, now) {
                continue;
            }
            census.counted += 1;
            if matches!(member.stage, Stage::Leaving(_)) {
                continue;
            }
            census.alive += 1;
            census.free += usize::from(member.handed == 0);
            census.room += member.room;
            census.is_ready |= member.stage == Stage::Ready;
            let is_at_long_task = member
                .running_since
                .is_some_and(|since| now.saturating_duration_since(since) >= AHEAD_TIME);
            census.quick += usize::from(member.stage == Stage::Ready && !is_at_long_task);
        }
        counted
    }

    /// Whether no worker of a plugin can be had: they do not start, or take too long.
    pub(super) fn is_stuck(&self, plugin: &str, census: Census) -> bool {
        let is_failing = self.shares.get(plugin).is_some_and(Share::is_failing);
        (is_failing || census.is_slow) && !census.is_ready
    }

    /// Whether nothing is to be decided: no task waits, and all workers that there must be are ready.
    /// So it is most of the time.
    pub(in crate::monitor::workers) fn is_settled(
        &self,
        members: &[Member],
        options: &PoolOptions,
    ) -> bool {
        (options.min_workers..=options.max_workers).contains(&members.len())
            && members.iter().all(|member| member.stage == Stage::Ready)
            && self
                .shares
                .values()
                .all(|share| share.waiting() == 0 && !share.is_failing())
    }

    /// The plugins of which no worker can be had now: what waits for them goes back to the queue, for
    /// other hosts, and stays there.
    pub(in crate::monitor::workers) fn stuck(
        &self,
        members: &[Member],
        now: Instant,
    ) -> Vec<String> {
        self.census(members, now)
            .into_iter()
            .filter(|(plugin, census)| self.is_stuck(plugin, *census))
            .map(|(plugin, _)| plugin.to_owned())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::WorkerId,
        monitor::workers::pool::{
            fixtures::{MS, busy, claims, idle, named, options, pool_of, starting, takes, waits},
            member::SLOW_START,
        },
    };

    #[test]
    fn a_plugin_that_does_not_start_holds_up_nobody_else() {
        let (mut pool, domain) = pool_of(&["a", "b"]);
        let start = Instant::now();
        waits(&mut pool, "b", 0, 1..3, start);
        assert!(
            pool.share("b")
                .failed_to_start("no such library", start)
                .is_some()
        );
        let members = [idle(1, "a", start)];
        // What waits for it goes back, and nothing more is claimed, and nobody leaves for it.
        assert_eq!(pool.stuck(&members, start), ["b"]);
        assert_eq!(pool.share("b").drain().len(), 2);
        assert_eq!(
            claims(&pool, &domain, &members, 2, start),
            (2, named(&[("a", 2)]))
        );
        assert_eq!(pool.to_make_room(&members, &options(1, 1), start), []);
        assert_eq!(
            pool.to_start(&domain, &members, &options(1, 2), start),
            [""; 0]
        );
        // It is tried again when it is due, beside all that there may be, and one at a time.
        let later = start + MS * 600;
        assert_eq!(
            pool.to_start(&domain, &members, &options(1, 1), later),
            ["b"]
        );
        let trying = [idle(1, "a", start), starting(2, "b", later)];
        assert_eq!(
            pool.to_start(&domain, &trying, &options(1, 1), later),
            [""; 0]
        );
        waits(&mut pool, "a", 0, 9..12, start);
        assert_eq!(
            pool.to_start(&domain, &trying, &options(1, 2), later),
            ["a"]
        );
        // A worker of it that is there is used.
        let both = [idle(1, "a", start), idle(2, "b", start)];
        assert_eq!(pool.stuck(&both, start), [""; 0]);
    }

    #[test]
    fn a_start_that_takes_long_holds_up_nobody_else() {
        let (mut pool, domain) = pool_of(&["a", "b"]);
        let start = Instant::now();
        waits(&mut pool, "a", 0, 1..2, start);
        let members = [starting(1, "b", start)];
        let begun = |pool: &Pool, now| pool.to_start(&domain, &members, &options(0, 1), now);
        assert_eq!(begun(&pool, start + MS * 500), [""; 0]);
        let later = start + SLOW_START + MS;
        assert_eq!(begun(&pool, later), ["a"]);
        assert_eq!(pool.stuck(&members, later), ["b"]);
        // When it is ready after all, it is given nothing until another one has left.
        takes(&mut pool, "a", 5 * MS);
        waits(&mut pool, "b", 0, 7..8, later);
        let members = [
            Member {
                running_since: Some(later),
                ..busy(2, "a", start)
            },
            idle(1, "b", later),
        ];
        assert_eq!(
            pool.to_make_room(&members, &options(0, 1), later),
            [WorkerId(2)]
        );
    }
}
