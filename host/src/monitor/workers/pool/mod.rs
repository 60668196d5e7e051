//! The workers of one domain, shared by the plugins that offer its operations: which are to be started, which
//! have to leave, how many tasks of which plugin to claim. Only decisions, by the time that is given: no process
//! is touched here. `scaling` and `dispatch` do what is decided.

mod backoff;
mod census;
mod demand;
#[cfg(test)]
pub(super) mod fixtures;
mod member;
mod options;
mod room;
mod share;
mod size;
mod turn;

pub(super) use member::{Member, Stage, TRAPPED_AFTER};
pub use options::PoolOptions;
use share::Share;

use crate::monitor::claim::{Appetite, Domain};
use std::{collections::BTreeMap, time::Instant};

/// After this many full claims in a row there is a backlog: nobody needs to wake the monitor for this pool.
const BUSY_AFTER: u32 = 3;

/// The pool of one domain.
#[derive(Debug)]
pub(super) struct Pool {
    /// By hash of the plugin.
    shares: BTreeMap<String, Share>,
    /// There may be something to claim. Stays until the pool has room and a claim has begun.
    wants_claim: bool,
    /// How many claims in a row have brought all that was asked for.
    full_claims: u32,
    last_shrink: Option<Instant>,
}

impl Default for Pool {
    fn default() -> Self {
        Self {
            shares: BTreeMap::new(),
            wants_claim: true,
            full_claims: 0,
            last_shrink: None,
        }
    }
}

impl Pool {
    /// A plugin's share; made when it is first asked for.
    pub(super) fn share(&mut self, plugin: &str) -> &mut Share {
        if !self.shares.contains_key(plugin) {
            self.shares.insert(plugin.to_owned(), Share::default());
        }
        self.shares.get_mut(plugin).expect("it was just made")
    }

    /// Every share, by the hash of its plugin.
    pub(super) fn shares(&mut self) -> impl Iterator<Item = (&String, &mut Share)> {
        self.shares.iter_mut()
    }

    /// The hashes of the plugins of which tasks wait here.
    pub(super) fn wanted(&self) -> Vec<String> {
        let wanted = self.shares.iter().filter(|(_, share)| share.waiting() > 0);
        wanted.map(|(plugin, _)| plugin.clone()).collect()
    }

    /// The plugins of the domain are these; what is known about others is forgotten once none of
    /// their tasks waits.
    pub(super) fn offer(&mut self, domain: Option<&Domain>) {
        let is_offered = |plugin: &str| domain.is_some_and(|domain| domain.contains_key(plugin));
        self.shares
            .retain(|plugin, share| is_offered(plugin) || share.waiting() > 0);
        for (plugin, offer) in domain.into_iter().flatten() {
            let share = self.share(plugin);
            // Nothing is claimed there any more.
            share.set_backlog(share.has_backlog() && !offer.lanes.is_empty());
        }
    }

    /// How many tasks one worker of a plugin may hold.
    pub(super) fn window(&self, plugin: &str) -> usize {
        self.shares.get(plugin).map_or(1, Share::window) as usize
    }

    /// Whether there is a backlog: the monitor claims again as soon as there is room, and nobody needs to wake it.
    pub(super) fn is_busy(&self) -> bool {
        self.full_claims >= BUSY_AFTER
    }

    /// There may be something to claim.
    pub(super) fn want_claim(&mut self) {
        self.wants_claim = true;
    }

    /// Whether there may be something to claim.
    pub(super) fn wants_claim(&self) -> bool {
        self.wants_claim
    }

    /// A claim begins that asks for all that the pool can take.
    pub(super) fn begin_claim(&mut self) {
        self.wants_claim = false;
    }

    /// A claim has brought this many tasks for each of the wants. Answers whether there may be more.
    pub(super) fn claimed(&mut self, appetite: &Appetite, found: &[usize]) -> bool {
        let is_full = found.iter().sum::<usize>() >= appetite.quota as usize;
        for (want, found) in appetite.wants.iter().zip(found) {
            if let Some(share) = self.shares.get_mut(&want.plugin) {
                share.set_backlog(is_full || *found >= want.most as usize);
                self.wants_claim |= share.has_backlog();
            }
        }
        self.full_claims = if is_full { self.full_claims + 1 } else { 0 };
        is_full
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::monitor::workers::pool::fixtures::{idle, options, pool_of};

    #[test]
    fn each_pool_remembers_its_own_backlog() {
        let (mut pool, domain) = pool_of(&["a"]);
        let now = Instant::now();
        let members = [idle(1, "a", now)];
        let appetite = pool.appetite(0, "d", &domain, &members, &options(1, 3), now);
        let appetite = appetite.expect("three workers can take something");
        pool.begin_claim();
        assert!(pool.claimed(&appetite, &[3]));
        assert!(
            pool.wants_claim(),
            "there may be more, whenever there is room"
        );
        pool.claimed(&appetite, &[3]);
        assert!(!pool.is_busy());
        pool.claimed(&appetite, &[3]);
        assert!(pool.is_busy());
        pool.begin_claim();
        assert!(!pool.claimed(&appetite, &[2]));
        assert!(!pool.wants_claim() && !pool.is_busy());
    }
}
