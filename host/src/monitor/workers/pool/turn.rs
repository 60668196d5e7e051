//! When a worker has served its plugin for long enough to leave for another one that is wanted as much.

use super::{Member, Pool, Share, Stage, census::Census};
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

impl Pool {
    /// Whether a worker has nothing to do, or will soon have done it.
    pub(super) fn is_free_soon(&self, member: &Member, now: Instant) -> bool {
        let runs_for = member
            .running_since
            .map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        match member.stage {
            Stage::Ready => {
                member.handed == 0
                    || self
                        .shares
                        .get(&member.plugin.hash)
                        .is_some_and(|share| share.is_free_soon(runs_for))
            }
            // It will be there in a moment, with nothing to do.
            Stage::Starting => member.handed == 0 && !member.is_slow_to_start(now),
            Stage::Leaving(_) => false,
        }
    }

    /// Whether a worker has served its own plugin for long enough to leave for tasks of this one that
    /// are as urgent as its own: all of its time if the other plugin has no worker at all, else only
    /// as far as the two have unequal numbers of workers, so that they do not take turns for ever
    /// where each can have workers of its own.
    pub(super) fn has_had_its_turn(
        &self,
        member: &Member,
        plugin: &str,
        census: &BTreeMap<&str, Census>,
        now: Instant,
    ) -> bool {
        let alive = |plugin: &str| census.get(plugin).map_or(0, |census| census.alive);
        let turn = self
            .shares
            .get(&member.plugin.hash)
            .map_or(Duration::ZERO, Share::turn);
        !member.is_of(plugin)
            && now.saturating_duration_since(member.since) >= turn
            && self.is_free_soon(member, now)
            && (alive(plugin) == 0 || alive(&member.plugin.hash) >= alive(plugin) + 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::monitor::workers::pool::fixtures::{
        MS, busy, claims, idle, named, options, pool_of, takes, waits,
    };

    /// With tasks of 5 ms of both plugins and one worker.
    #[test]
    fn two_plugins_that_are_wanted_alike_take_turns_of_tens_of_milliseconds() {
        let (mut pool, domain) = pool_of(&["a", "b"]);
        let start = Instant::now();
        takes(&mut pool, "a", 5 * MS);
        takes(&mut pool, "b", 5 * MS);
        pool.share("a").set_backlog(true);
        let at = |ms: u32| start + MS * ms;
        let between_tasks = |now| {
            [Member {
                idle_since: now,
                ..idle(1, "a", start)
            }]
        };
        // In its turn it is a's tasks that are claimed; b's only if there are none.
        assert_eq!(
            claims(&pool, &domain, &between_tasks(at(20)), 1, at(20)),
            (1, named(&[("a", 1), ("b", 1)]))
        );
        // After that b's come first.
        assert_eq!(
            claims(&pool, &domain, &between_tasks(at(60)), 1, at(60)),
            (1, named(&[("b", 1), ("a", 1)]))
        );
        waits(&mut pool, "b", 0, 1..2, at(5));
        let leaves = |pool: &Pool, member: Member, now| {
            !pool.to_make_room(&[member], &options(0, 1), now).is_empty()
        };
        let busy_since = |now| Member {
            running_since: Some(now),
            ..busy(1, "a", start)
        };
        let [idle_in_turn] = between_tasks(at(20));
        assert!(
            !leaves(&pool, idle_in_turn.clone(), at(20)),
            "its next task is on its way"
        );
        assert!(!leaves(&pool, busy_since(at(20)), at(20)));
        assert!(
            leaves(&pool, busy_since(at(60)), at(60)),
            "its turn is over"
        );
        // Its turn ends early where nothing is left for it.
        pool.share("a").set_backlog(false);
        assert!(leaves(&pool, idle_in_turn, at(20)));
    }
}
