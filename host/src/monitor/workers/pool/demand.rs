//! How many tasks a pool can take, and of which plugins: what it asks for in a claim.

use super::{Member, Pool, PoolOptions, Share, census::Census};
use crate::monitor::claim::{Appetite, Domain, Want};
use std::time::Instant;

impl Pool {
    /// How many tasks of a plugin are to be here for its workers: what they can be given now, and, while there
    /// is a backlog of short ones, what they are given while the database is busy with the next claim.
    pub(super) fn enough(&self, share: &Share, census: Census) -> usize {
        census.room + share.ahead(census.quick, self.shares.len() > 1)
    }

    /// How many tasks of which plugin it makes sense to claim: what the workers can be given now and, of
    /// short ones, soon, one for each worker that may still be started, and, within that, one for each worker of another
    /// plugin that would soon make room. The plugins are named in the order in which tasks that
    /// are equally urgent are to be taken; `None`: nothing.
    pub(in crate::monitor::workers) fn appetite(
        &self,
        number: i32,
        name: &str,
        domain: &Domain,
        members: &[Member],
        options: &PoolOptions,
        now: Instant,
    ) -> Option<Appetite> {
        let census = self.census(members, now);
        let counted: usize = census.values().map(|census| census.counted).sum();
        let empty = options.max_workers.saturating_sub(counted);
        let (mut own, mut unmet) = (0, 0);
        for (plugin, share) in &self.shares {
            let wanted = self.enough(share, census[plugin.as_str()]);
            own += wanted.saturating_sub(share.waiting());
            unmet += share.waiting().saturating_sub(wanted);
        }
        let quota = own + empty.saturating_sub(unmet);
        if quota == 0 {
            return None;
        }
        let mut wants: Vec<(u8, Option<Instant>, Want)> = Vec::new();
        for (plugin, offer) in domain {
            let (Some(share), Some(own)) = (self.shares.get(plugin), census.get(plugin.as_str()))
            else {
                continue;
            };
            let own = *own;
            if offer.lanes.is_empty() || self.is_stuck(plugin, own) {
                continue;
            }
            let others = members
                .iter()
                .filter(|member| !member.is_of(plugin) && self.is_free_soon(member, now));
            let to_come = if share.is_failing() {
                0
            } else {
                empty + others.count()
            };
            let most = (self.enough(share, own) + to_come)
                .saturating_sub(share.waiting())
                .min(quota);
            if most == 0 {
                continue;
            }
            let is_entitled = members
                .iter()
                .any(|member| self.has_had_its_turn(member, plugin, &census, now));
            let order = match (is_entitled, own.alive) {
                (true, _) => 0,
                (false, 1..) => 1,
                (false, 0) => 2,
            };
            let want = Want {
                plugin: plugin.clone(),
                lanes: offer.lanes.clone(),
                most: most as i32,
            };
            wants.push((order, share.last_handed(), want));
        }
        wants.sort_by_key(|(order, last_handed, _)| (*order, *last_handed));
        (!wants.is_empty()).then(|| Appetite {
            pool: number,
            domain: name.to_owned(),
            quota: quota as i32,
            wants: wants.into_iter().map(|(_, _, want)| want).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::monitor::workers::pool::{
        fixtures::{MS, busy, claims, idle, named, options, pool_of, takes, waits},
        share::AHEAD_TIME,
    };

    #[test]
    fn one_plugin_claims_what_its_workers_can_take() {
        let (mut pool, domain) = pool_of(&["a"]);
        let now = Instant::now();
        let members = [idle(1, "a", now), busy(2, "a", now)];
        assert_eq!(
            claims(&pool, &domain, &members, 2, now),
            (1, named(&[("a", 1)]))
        );
        assert_eq!(
            claims(&pool, &domain, &members, 4, now),
            (3, named(&[("a", 3)]))
        );
        waits(&mut pool, "a", 0, 1..2, now);
        assert_eq!(claims(&pool, &domain, &members, 2, now).0, 0);
    }

    #[test]
    fn a_backlog_of_short_tasks_is_claimed_ahead_of_the_workers() {
        let (mut pool, domain) = pool_of(&["a"]);
        let start = Instant::now();
        takes(&mut pool, "a", MS / 10);
        let workers = [idle(1, "a", start), idle(2, "a", start)];
        let of = |pool: &Pool, workers: &[Member], now| claims(pool, &domain, workers, 2, now).0;
        assert_eq!(of(&pool, &workers, start), 2, "what they can be given now");
        pool.share("a").set_backlog(true);
        assert_eq!(of(&pool, &workers, start), 402);
        waits(&mut pool, "a", 0, 0..300, start);
        assert_eq!(of(&pool, &workers, start), 102);
        // A task behind which nothing is to wait.
        let workers = [busy(1, "a", start), idle(2, "a", start)];
        assert_eq!(of(&pool, &workers, start), 101);
        assert_eq!(of(&pool, &workers, start + AHEAD_TIME), 0);
        assert!(
            pool.to_make_room(&workers, &options(0, 2), start)
                .is_empty(),
            "nobody leaves for what is only claimed ahead"
        );
    }

    #[test]
    fn nothing_is_claimed_in_vain_behind_long_tasks_of_another_plugin() {
        let (mut pool, domain) = pool_of(&["a", "b"]);
        let start = Instant::now();
        let later = start + MS * 1000;
        let members = [busy(1, "a", start), busy(2, "a", start)];
        assert_eq!(claims(&pool, &domain, &members, 2, later).0, 0);
        waits(&mut pool, "b", 0, 1..2, start);
        assert_eq!(pool.to_make_room(&members, &options(0, 2), later), []);
    }
}
