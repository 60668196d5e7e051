//! How many workers there are: which are started, and which go because there is nothing to do.

use super::{Member, Pool, PoolOptions, Share, Stage, census::Census};
use crate::{model::WorkerId, monitor::claim::Domain};
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// Between two workers that leave because there is nothing to do.
const SHRINK_EVERY: Duration = Duration::from_secs(1);

impl Pool {
    /// Of which plugins a worker is to be started now, one for each time that one is named: for what
    /// waits, never past the maximum, never below the minimum; and one at a time of a plugin whose
    /// workers did not start, to see whether they do again.
    pub(in crate::monitor::workers) fn to_start(
        &self,
        domain: &Domain,
        members: &[Member],
        options: &PoolOptions,
        now: Instant,
    ) -> Vec<String> {
        let mut census = self.census(members, now);
        let mut counted: usize = census.values().map(|census| census.counted).sum();
        let mut alive: usize = census.values().map(|census| census.alive).sum();
        let mut started: BTreeMap<&str, usize> = BTreeMap::new();
        let mut to_start = Vec::new();
        while counted < options.max_workers {
            let is_short = |(plugin, _): &(&str, i16)| {
                let begun = started.get(plugin).copied().unwrap_or_default();
                self.shares[*plugin].waiting() > census[plugin].free + begun
            };
            let next = self.by_urgency(&census).into_iter().find(is_short);
            let plugin = match next {
                Some((plugin, _)) => plugin,
                None if alive < options.min_workers => match self.for_minimum(domain, &census) {
                    Some(plugin) => plugin,
                    None => break,
                },
                None => break,
            };
            *started.entry(plugin).or_default() += 1;
            if let Some(census) = census.get_mut(plugin) {
                census.alive += 1;
            }
            counted += 1;
            alive += 1;
            to_start.push(plugin.to_owned());
        }
        let is_starting = |plugin: &str| {
            let mut of_it = members.iter().filter(|member| member.is_of(plugin));
            of_it.any(|member| member.stage == Stage::Starting)
        };
        let trials = domain.keys().filter(|plugin| {
            let share = self.shares.get(*plugin);
            share.is_some_and(|share| share.is_trial_due(now)) && !is_starting(plugin)
        });
        to_start.extend(trials.cloned());
        to_start
    }

    /// The plugin that a worker is kept for while there is nothing to do: the one that was used last.
    fn for_minimum<'a>(
        &'a self,
        domain: &'a Domain,
        census: &BTreeMap<&str, Census>,
    ) -> Option<&'a str> {
        let can_start = |plugin: &&String| {
            let share = self.shares.get(*plugin);
            let is_stuck = self.is_stuck(plugin, census.get(plugin.as_str()).copied()?);
            share.map(|share| !share.is_failing() && !is_stuck)
        };
        domain
            .keys()
            .filter(|plugin| can_start(plugin) == Some(true))
            .max_by_key(|plugin| {
                let last_handed = self.shares.get(*plugin).and_then(Share::last_handed);
                (last_handed, std::cmp::Reverse(*plugin))
            })
            .map(String::as_str)
    }

    /// Whether enough time has passed since the last worker left that was one too many.
    pub(in crate::monitor::workers) fn may_shrink(&self, now: Instant) -> bool {
        self.last_shrink
            .is_none_or(|last| now.saturating_duration_since(last) >= SHRINK_EVERY)
    }

    /// A worker that has had nothing to do for long and is one too many; one at a time.
    pub(in crate::monitor::workers) fn surplus(
        &mut self,
        members: &[Member],
        options: &PoolOptions,
        now: Instant,
    ) -> Option<WorkerId> {
        if members.len() <= options.min_workers || !self.may_shrink(now) {
            return None;
        }
        let census = self.census(members, now);
        let alive: usize = census.values().map(|census| census.alive).sum();
        if alive <= options.min_workers {
            return None;
        }
        let is_wanted = |plugin: &str| self.shares.get(plugin).is_some_and(|s| s.waiting() > 0);
        let surplus = members
            .iter()
            .filter(|member| member.is_idle() && !is_wanted(&member.plugin.hash))
            .filter(|member| now.saturating_duration_since(member.idle_since) >= options.linger)
            .min_by_key(|member| member.idle_since)
            .map(|member| member.id)?;
        self.last_shrink = Some(now);
        Some(surplus)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::TaskId,
        monitor::workers::pool::fixtures::{MS, busy, idle, options, pool_of, starting, waits},
    };

    #[test]
    fn one_plugin_grows_with_demand_and_never_past_the_maximum() {
        let (mut pool, domain) = pool_of(&["a"]);
        let now = Instant::now();
        let started = |pool: &Pool, members: &[Member], min, max| {
            pool.to_start(&domain, members, &options(min, max), now)
                .len()
        };
        assert_eq!(started(&pool, &[], 1, 4), 1);
        assert_eq!(started(&pool, &[], 0, 4), 0);
        waits(&mut pool, "a", 0, 1..4, now);
        let one = [idle(1, "a", now)];
        assert_eq!(started(&pool, &one, 1, 4), 2);
        assert_eq!(started(&pool, &one, 1, 2), 1);
        let three = [1, 2, 3].map(|id| starting(id, "a", now));
        assert_eq!(started(&pool, &three, 1, 4), 0);
    }

    #[test]
    fn the_maximum_and_the_minimum_hold_over_all_plugins() {
        let (mut pool, domain) = pool_of(&["a", "b"]);
        let now = Instant::now();
        waits(&mut pool, "a", 0, 1..9, now);
        waits(&mut pool, "b", 0, 9..11, now);
        let start =
            |members: &[Member], min, max| pool.to_start(&domain, members, &options(min, max), now);
        assert_eq!(start(&[], 0, 3), ["a", "b", "a"], "in turns");
        assert_eq!(start(&[idle(1, "a", now)], 0, 2), ["b"]);
        assert_eq!(
            start(&[busy(1, "a", now), busy(2, "b", now)], 2, 2),
            [""; 0]
        );
        let (mut pool, domain) = pool_of(&["a", "b"]);
        pool.share("b").hand(0, TaskId(0), now);
        let start = |members: &[Member]| pool.to_start(&domain, members, &options(2, 3), now);
        assert_eq!(start(&[]), ["b", "b"], "what was used last is kept");
        assert_eq!(start(&[idle(1, "a", now)]), ["b"]);
    }

    #[test]
    fn one_worker_too_many_goes_at_a_time_the_one_that_has_idled_longest() {
        let (mut pool, _) = pool_of(&["a", "b"]);
        let start = Instant::now();
        let now = start + Duration::from_secs(10);
        let members = [
            idle(1, "a", start + MS),
            idle(2, "b", start),
            busy(3, "b", start),
        ];
        assert_eq!(pool.surplus(&members, &options(3, 3), now), None);
        assert_eq!(pool.surplus(&members, &options(1, 3), start + MS), None);
        assert_eq!(
            pool.surplus(&members, &options(1, 3), now),
            Some(WorkerId(2))
        );
        assert_eq!(pool.surplus(&members, &options(1, 3), now + MS), None);
    }
}
