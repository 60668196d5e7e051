//! Which workers have to leave so that there is room for workers of another plugin.

use super::{
    Member, Pool, PoolOptions, Share, Stage,
    census::{Census, add},
};
use crate::model::WorkerId;
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

impl Pool {
    /// The workers that have to leave, after what they have been given, because tasks of another
    /// plugin wait and all workers that may be are there.
    pub(in crate::monitor::workers) fn to_make_room(
        &self,
        members: &[Member],
        options: &PoolOptions,
        now: Instant,
    ) -> Vec<WorkerId> {
        let mut census = self.census(members, now);
        let alive: usize = census.values().map(|census| census.alive).sum();
        // How many more workers there may be when those that leave are gone; less than none after a late
        // start.
        let mut empty = options.max_workers as isize - alive as isize;
        let mut gone: Vec<WorkerId> = Vec::new();
        for (plugin, rank) in self.by_urgency(&census) {
            let own = census[plugin];
            let share = &self.shares[plugin];
            let mut unmet = share.waiting().saturating_sub(self.enough(share, own));
            let is_excess = empty < 0;
            if is_excess {
                // Perhaps its worker is there, as one too many: it counts once another one leaves.
                unmet = unmet.max(1);
                add(&mut census, plugin, -1);
            }
            while unmet > 0 {
                unmet -= 1;
                if empty > 0 {
                    empty -= 1;
                    continue;
                }
                let is_candidate = |member: &&Member| {
                    !gone.contains(&member.id)
                        && self.gives_way(member, (plugin, rank), &census, now)
                };
                // The worker that has had nothing to do for the longest time; else the one that has been
                // there for the longest time.
                let victim = members
                    .iter()
                    .filter(is_candidate)
                    .min_by_key(|member| match member.handed {
                        0 => (0, member.idle_since),
                        _ => (1, member.since),
                    });
                let Some(victim) = victim else { break };
                gone.push(victim.id);
                add(&mut census, &victim.plugin.hash, -1);
                if empty < 0 {
                    empty += 1;
                } else {
                    add(&mut census, plugin, 1);
                }
            }
            if is_excess {
                add(&mut census, plugin, 1);
            }
        }
        // Workers of a late start that no task waits for any more.
        let idle = members.iter().filter(|member| {
            let share = self.shares.get(&member.plugin.hash);
            let is_wanted = share.is_some_and(|share| share.waiting() > 0 || share.has_backlog());
            let turn = share.map_or(Duration::ZERO, Share::turn);
            member.is_idle()
                && !is_wanted
                && !gone.contains(&member.id)
                && now.saturating_duration_since(member.since) >= turn
        });
        let excess = usize::try_from(-empty).unwrap_or(0);
        let late: Vec<WorkerId> = idle.map(|member| member.id).take(excess).collect();
        gone.extend(late);
        gone
    }

    /// Whether a worker leaves for a task of this plugin and rank.
    fn gives_way(
        &self,
        member: &Member,
        (plugin, rank): (&str, i16),
        census: &BTreeMap<&str, Census>,
        now: Instant,
    ) -> bool {
        if member.stage != Stage::Ready || member.is_of(plugin) {
            return false;
        }
        let share = self.shares.get(&member.plugin.hash);
        let waiting = share.and_then(Share::urgency).map(|(rank, _)| rank);
        let Some(own) = waiting.into_iter().chain(member.rank).min() else {
            // It has nothing to do. What it waits for may be on its way, in its turn.
            return !share.is_some_and(|share| share.has_backlog())
                || self.has_had_its_turn(member, plugin, census, now);
        };
        match rank.cmp(&own) {
            std::cmp::Ordering::Less => self.is_free_soon(member, now),
            std::cmp::Ordering::Equal => self.has_had_its_turn(member, plugin, census, now),
            std::cmp::Ordering::Greater => false,
        }
    }

    /// The plugins of which tasks wait, the most urgent first, then those with the fewest workers, then
    /// those that have waited for the longest; with the rank of the next task.
    pub(super) fn by_urgency<'a>(&'a self, census: &BTreeMap<&str, Census>) -> Vec<(&'a str, i16)> {
        let mut waiting: Vec<_> = self
            .shares
            .iter()
            .filter_map(|(plugin, share)| {
                let (rank, since) = share.urgency()?;
                let census = census[plugin.as_str()];
                let can_start = !share.is_failing() && !self.is_stuck(plugin, census);
                can_start.then_some((rank, census.alive, since, plugin.as_str()))
            })
            .collect();
        waiting.sort_unstable();
        waiting
            .into_iter()
            .map(|(rank, _, _, plugin)| (plugin, rank))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::monitor::workers::pool::{
        census::SLOW_LEAVE,
        fixtures::{MS, busy, claims, file, idle, named, options, pool_of, takes, waits},
    };

    #[test]
    fn an_idle_worker_of_another_plugin_makes_room_at_once() {
        let (mut pool, domain) = pool_of(&["a", "b"]);
        let now = Instant::now();
        let members = [idle(1, "a", now)];
        // It is worth a claim,
        assert_eq!(
            claims(&pool, &domain, &members, 1, now),
            (1, named(&[("a", 1), ("b", 1)]))
        );
        // and once there is a task, a reason to go; with room for another worker it is none.
        waits(&mut pool, "b", 0, 1..2, now);
        let leave = |pool: &Pool, max| pool.to_make_room(&members, &options(1, max), now);
        assert_eq!(leave(&pool, 1), [WorkerId(1)]);
        assert_eq!(leave(&pool, 2), []);
        assert_eq!(
            pool.to_start(&domain, &members, &options(1, 1), now),
            [""; 0]
        );
        // The place is free when it has gone, and nobody else leaves for it.
        let going = [
            Member {
                stage: Stage::Leaving(now),
                room: 0,
                ..idle(1, "a", now)
            },
            idle(2, "a", now),
        ];
        assert_eq!(pool.to_make_room(&going, &options(1, 2), now), []);
        assert_eq!(pool.to_start(&domain, &going, &options(1, 2), now), [""; 0]);
        assert_eq!(
            pool.to_start(&domain, &going[1..], &options(1, 2), now),
            ["b"]
        );
        // Not even one that does not go holds it for ever.
        let later = now + SLOW_LEAVE + MS;
        assert_eq!(pool.to_start(&domain, &going, &options(1, 2), later), ["b"]);
    }

    #[test]
    fn the_more_urgent_task_does_not_wait_for_a_turn_and_the_less_urgent_one_gets_none() {
        let (mut pool, _) = pool_of(&["a", "b"]);
        let start = Instant::now();
        takes(&mut pool, "a", 5 * MS);
        let leaves = |pool: &Pool, ms: u32| {
            let now = start + MS * ms;
            let member = Member {
                running_since: Some(now),
                ..busy(1, "a", start)
            };
            !pool.to_make_room(&[member], &options(0, 1), now).is_empty()
        };
        waits(&mut pool, "b", 1, 1..2, start);
        assert!(!leaves(&pool, 10) && !leaves(&pool, 500));
        waits(&mut pool, "b", -1, 2..3, start);
        assert!(leaves(&pool, 10));
    }

    #[test]
    fn where_each_plugin_can_have_workers_they_stay() {
        let (mut pool, _) = pool_of(&["a", "b"]);
        let start = Instant::now();
        let later = start + MS * 1000;
        takes(&mut pool, "a", 5 * MS);
        takes(&mut pool, "b", 5 * MS);
        waits(&mut pool, "b", 0, 1..9, start);
        let all_a = [1, 2, 3, 4].map(|id| Member {
            running_since: Some(later),
            ..busy(id, "a", start)
        });
        let leaving = pool.to_make_room(&all_a, &options(0, 4), later);
        assert_eq!(leaving.len(), 2, "half of them: {leaving:?}");
        let mut halves = all_a.clone();
        for member in &mut halves[2..] {
            member.plugin = file("b");
        }
        assert_eq!(pool.to_make_room(&halves, &options(0, 4), later), []);
    }
}
