//! The workers of one domain, shared by the plugins that offer its operations: which are to be
//! started, which have to leave, how many tasks of which plugin to claim. Only decisions: no process
//! is touched here; `staff` and `feed` do what is decided.

use super::{
    claim::{Appetite, Domain, Want},
    share::{AHEAD_TIME, Share},
};
use crate::{model::WorkerId, periods::Periods, wire::PluginFile};
use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

/// A worker that takes longer than this to be ready, perhaps for ever, holds no place of the pool
/// until it is: the other plugins of its domain go on.
const SLOW_START: Duration = Duration::from_secs(1);
/// A worker that was told to leave, has no task, and takes longer than this to go, likewise.
const SLOW_LEAVE: Duration = Duration::from_millis(250);
/// So many full looks in a row: there is a backlog, nobody needs to wake the monitor for this pool.
const BUSY_AFTER: u32 = 3;
/// Between two workers that leave because there is nothing to do.
const SHRINK_EVERY: Duration = Duration::from_secs(1);

/// How the workers of each domain are kept.
#[derive(Debug, Clone)]
pub struct PoolOptions {
    /// Never more workers than this, over all plugins of the domain.
    pub max_workers: usize,
    /// Never fewer, likewise.
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
            linger: Periods::current().worker_linger,
        }
    }
}

/// What a worker is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Spawned, not ready yet.
    Starting,
    /// Takes tasks.
    Ready,
    /// Told at that time to leave, to make room for a worker of another plugin.
    Leaving(Instant),
}

/// A worker of the domain, as far as decisions need it.
#[derive(Debug, Clone)]
pub(super) struct Member {
    pub(super) id: WorkerId,
    pub(super) plugin: Arc<PluginFile>,
    pub(super) stage: Stage,
    /// When it was ready; while it starts, when it was spawned.
    pub(super) since: Instant,
    /// Since when it has had no task, if it has none.
    pub(super) idle_since: Instant,
    /// Tasks in its hands.
    pub(super) handed: usize,
    /// The most urgent rank among them.
    pub(super) rank: Option<i16>,
    /// Since when its task runs, if one does.
    pub(super) runs_since: Option<Instant>,
    /// How many more tasks it can be given now.
    pub(super) room: usize,
}

impl Member {
    fn is_of(&self, plugin: &str) -> bool {
        self.plugin.hash == plugin
    }

    /// Notes that it has been given one more task.
    pub(super) fn given(&mut self) {
        self.handed += 1;
        // One that is not ready holds one at most.
        self.room = match self.stage {
            Stage::Ready => self.room.saturating_sub(1),
            Stage::Starting | Stage::Leaving(_) => 0,
        };
    }

    fn is_idle(&self) -> bool {
        self.stage == Stage::Ready && self.handed == 0
    }

    /// Starting for so long that the pool goes on without it.
    pub(super) fn is_slow_to_start(&self, now: Instant) -> bool {
        self.stage == Stage::Starting && now.saturating_duration_since(self.since) > SLOW_START
    }
}

/// The pool of one domain.
#[derive(Debug)]
pub(super) struct Pool {
    /// By hash of the plugin.
    shares: BTreeMap<String, Share>,
    /// There may be something to claim. Stays until the pool has room and a look has begun.
    pub(super) look: bool,
    full_looks: u32,
    last_shrink: Option<Instant>,
}

impl Default for Pool {
    fn default() -> Self {
        Self {
            shares: BTreeMap::new(),
            look: true,
            full_looks: 0,
            last_shrink: None,
        }
    }
}

/// The workers that have a place in the pool now, in numbers per plugin.
#[derive(Debug, Clone, Copy, Default)]
struct Census {
    /// All of them, also those that leave.
    places: usize,
    /// Those that stay.
    alive: usize,
    /// Ready, or about to be, with nothing to do.
    free: usize,
    /// Tasks that they can be given now.
    room: usize,
    /// Ready, and not at a task that takes long.
    quick: usize,
    /// There is one that is ready.
    is_ready: bool,
    /// There is one that takes too long to start.
    is_slow: bool,
}

/// One worker more, or less, of a plugin.
fn add(census: &mut BTreeMap<&str, Census>, plugin: &str, change: isize) {
    if let Some(census) = census.get_mut(plugin) {
        census.alive = census.alive.saturating_add_signed(change);
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
            // Nobody looks there any more.
            share.has_backlog &= !offer.lanes.is_empty();
        }
    }

    /// How many tasks one worker of a plugin may hold.
    pub(super) fn window(&self, plugin: &str) -> usize {
        self.shares.get(plugin).map_or(1, Share::window) as usize
    }

    /// Whether so many tasks have been found for so long that nobody needs to wake the monitor.
    pub(super) fn is_busy(&self) -> bool {
        self.full_looks >= BUSY_AFTER
    }

    /// A look came back with so many tasks for each of the wants. Answers whether there may be more.
    pub(super) fn looked(&mut self, appetite: &Appetite, found: &[usize]) -> bool {
        let is_full = found.iter().sum::<usize>() >= appetite.quota as usize;
        for (want, found) in appetite.wants.iter().zip(found) {
            if let Some(share) = self.shares.get_mut(&want.plugin) {
                share.has_backlog = is_full || *found >= want.most as usize;
                self.look |= share.has_backlog;
            }
        }
        self.full_looks = if is_full { self.full_looks + 1 } else { 0 };
        is_full
    }

    /// Whether a worker counts towards the most that there may be: not one that is started to see
    /// whether its plugin can be loaded again, nor one that takes too long to come or to go.
    fn has_place(&self, member: &Member, now: Instant) -> bool {
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

    /// How many tasks of a plugin are to be here for its workers: what they can be given now, and, while there
    /// is a backlog of short ones, what they are given while the database is busy with the next claim.
    fn enough(&self, share: &Share, census: Census) -> usize {
        census.room + share.ahead(census.quick, self.shares.len() > 1)
    }

    fn census<'a>(&'a self, members: &'a [Member], now: Instant) -> BTreeMap<&'a str, Census> {
        let mut counted: BTreeMap<&str, Census> = BTreeMap::new();
        for plugin in self.shares.keys() {
            counted.insert(plugin, Census::default());
        }
        for member in members {
            let census = counted.entry(&member.plugin.hash).or_default();
            census.is_slow |= member.is_slow_to_start(now);
            if !self.has_place(member, now) {
                continue;
            }
            census.places += 1;
            if matches!(member.stage, Stage::Leaving(_)) {
                continue;
            }
            census.alive += 1;
            census.free += usize::from(member.handed == 0);
            census.room += member.room;
            census.is_ready |= member.stage == Stage::Ready;
            let is_at_long_task = member
                .runs_since
                .is_some_and(|since| now.saturating_duration_since(since) >= AHEAD_TIME);
            census.quick += usize::from(member.stage == Stage::Ready && !is_at_long_task);
        }
        counted
    }

    /// Whether no worker of a plugin can be had: they do not start, or take too long.
    fn is_stuck(&self, plugin: &str, census: Census) -> bool {
        let is_failing = self.shares.get(plugin).is_some_and(Share::is_failing);
        (is_failing || census.is_slow) && !census.is_ready
    }

    /// Whether nothing is to be decided: no task waits, and all workers that there must be are ready.
    /// So it is most of the time.
    pub(super) fn is_settled(&self, members: &[Member], options: &PoolOptions) -> bool {
        (options.min_workers..=options.max_workers).contains(&members.len())
            && members.iter().all(|member| member.stage == Stage::Ready)
            && self
                .shares
                .values()
                .all(|share| share.waiting() == 0 && !share.is_failing())
    }

    /// The plugins of which no worker can be had now: what waits for them goes back to the queue, for
    /// other hosts, and stays there.
    pub(super) fn stuck(&self, members: &[Member], now: Instant) -> Vec<String> {
        self.census(members, now)
            .into_iter()
            .filter(|(plugin, census)| self.is_stuck(plugin, *census))
            .map(|(plugin, _)| plugin.to_owned())
            .collect()
    }

    /// How many tasks of which plugin it makes sense to claim: what the workers can be given now and, of
    /// short ones, soon, one for each worker that may still be started, and, within that, one for each worker of another
    /// plugin that would soon make room. The plugins are named in the order in which tasks that
    /// are equally urgent are to be taken; `None`: nothing.
    pub(super) fn appetite(
        &self,
        number: i32,
        name: &str,
        domain: &Domain,
        members: &[Member],
        options: &PoolOptions,
        now: Instant,
    ) -> Option<Appetite> {
        let census = self.census(members, now);
        let places: usize = census.values().map(|census| census.places).sum();
        let empty = options.max_workers.saturating_sub(places);
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
            let place = match (is_entitled, own.alive) {
                (true, _) => 0,
                (false, 1..) => 1,
                (false, 0) => 2,
            };
            let want = Want {
                plugin: plugin.clone(),
                lanes: offer.lanes.clone(),
                most: most as i32,
            };
            wants.push((place, share.last_handed, want));
        }
        wants.sort_by_key(|(place, last_handed, _)| (*place, *last_handed));
        (!wants.is_empty()).then(|| Appetite {
            pool: number,
            domain: name.to_owned(),
            quota: quota as i32,
            wants: wants.into_iter().map(|(_, _, want)| want).collect(),
        })
    }

    /// Whether a worker has nothing to do, or will soon have done it.
    fn is_free_soon(&self, member: &Member, now: Instant) -> bool {
        let runs_for = member
            .runs_since
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
    fn has_had_its_turn(
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
            return !share.is_some_and(|share| share.has_backlog)
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
    fn by_urgency<'a>(&'a self, census: &BTreeMap<&str, Census>) -> Vec<(&'a str, i16)> {
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

    /// The workers that have to leave, after what they have been given, because tasks of another
    /// plugin wait and all workers that may be are there.
    pub(super) fn to_make_room(
        &self,
        members: &[Member],
        options: &PoolOptions,
        now: Instant,
    ) -> Vec<WorkerId> {
        let mut census = self.census(members, now);
        let alive: usize = census.values().map(|census| census.alive).sum();
        // Places that are empty, or will be when those that leave are gone; fewer than none after a
        // late start.
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
                // One that has nothing to do, for the longest; else the one that is there for the
                // longest.
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
        // A late start that nobody waits for any more.
        let idle = members.iter().filter(|member| {
            let share = self.shares.get(&member.plugin.hash);
            let is_wanted = share.is_some_and(|share| share.waiting() > 0 || share.has_backlog);
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

    /// Of which plugins a worker is to be started now, one for each time that one is named: for what
    /// waits, never past the maximum, never below the minimum; and one at a time of a plugin whose
    /// workers did not start, to see whether they do again.
    pub(super) fn to_start(
        &self,
        domain: &Domain,
        members: &[Member],
        options: &PoolOptions,
        now: Instant,
    ) -> Vec<String> {
        let mut census = self.census(members, now);
        let mut places: usize = census.values().map(|census| census.places).sum();
        let mut alive: usize = census.values().map(|census| census.alive).sum();
        let mut started: BTreeMap<&str, usize> = BTreeMap::new();
        let mut to_start = Vec::new();
        while places < options.max_workers {
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
            places += 1;
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
                let last_handed = self.shares.get(*plugin).and_then(|share| share.last_handed);
                (last_handed, std::cmp::Reverse(*plugin))
            })
            .map(String::as_str)
    }

    /// Whether enough time has passed since the last worker left that was one too many.
    pub(super) fn may_shrink(&self, now: Instant) -> bool {
        self.last_shrink
            .is_none_or(|last| now.saturating_duration_since(last) >= SHRINK_EVERY)
    }

    /// A worker that has had nothing to do for long and is one too many; one at a time.
    pub(super) fn surplus(
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

    /// The place in the list of the worker that is to be given the next task of a plugin: one that idles, one that is about to
    /// be ready, one that has room. Where a late start has made too many workers, no more of them than
    /// the most are given tasks.
    pub(super) fn candidate(
        &self,
        plugin: &str,
        members: &[Member],
        options: &PoolOptions,
    ) -> Option<usize> {
        let busy = members.iter().filter(|member| member.handed > 0).count();
        members
            .iter()
            .enumerate()
            .filter(|(_, member)| member.is_of(plugin) && member.room > 0)
            .filter(|(_, member)| member.handed > 0 || busy < options.max_workers)
            .min_by_key(|(_, member)| (member.stage != Stage::Ready, member.handed))
            .map(|(place, _)| place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{model::TaskId, monitor::claim::Offer};

    const MS: Duration = Duration::from_millis(1);

    fn options(min: usize, max: usize) -> PoolOptions {
        PoolOptions {
            min_workers: min,
            max_workers: max,
            ..PoolOptions::default()
        }
    }

    fn file(plugin: &str) -> Arc<PluginFile> {
        Arc::new(PluginFile {
            hash: plugin.to_owned(),
            name: format!("lib{plugin}.so"),
        })
    }

    /// A domain with these plugins, each with a lane, and a pool for it.
    fn pool_of(plugins: &[&str]) -> (Pool, Domain) {
        let offer = |(lane, plugin): (i32, &&str)| {
            let offer = Offer {
                file: file(plugin),
                lanes: vec![lane],
            };
            ((*plugin).to_owned(), offer)
        };
        let domain: Domain = (0..).zip(plugins).map(offer).collect();
        let mut pool = Pool::default();
        pool.offer(Some(&domain));
        (pool, domain)
    }

    /// Tasks of a plugin take so long, as was seen.
    fn takes(pool: &mut Pool, plugin: &str, time: Duration) {
        pool.share(plugin).took(time);
    }

    fn waits(pool: &mut Pool, plugin: &str, rank: i16, ids: std::ops::Range<i64>, now: Instant) {
        for id in ids {
            pool.share(plugin).push(rank, TaskId(id), now);
        }
    }

    fn idle(id: i64, plugin: &str, since: Instant) -> Member {
        Member {
            id: WorkerId(id),
            plugin: file(plugin),
            stage: Stage::Ready,
            since,
            idle_since: since,
            handed: 0,
            rank: None,
            runs_since: None,
            room: 1,
        }
    }

    fn busy(id: i64, plugin: &str, since: Instant) -> Member {
        Member {
            handed: 1,
            rank: Some(0),
            room: 0,
            runs_since: Some(since),
            ..idle(id, plugin, since)
        }
    }

    fn starting(id: i64, plugin: &str, since: Instant) -> Member {
        Member {
            stage: Stage::Starting,
            ..idle(id, plugin, since)
        }
    }

    /// Plugins and how many of each, in the order of their turns, and the quota of all.
    fn claims(
        pool: &Pool,
        domain: &Domain,
        members: &[Member],
        max: usize,
        now: Instant,
    ) -> (i32, Vec<(String, i32)>) {
        let appetite = pool.appetite(0, "d", domain, members, &options(0, max), now);
        appetite.map_or((0, Vec::new()), |appetite| {
            let wants = appetite.wants.into_iter();
            (
                appetite.quota,
                wants.map(|want| (want.plugin, want.most)).collect(),
            )
        })
    }

    fn named(wants: &[(&str, i32)]) -> Vec<(String, i32)> {
        let owned = |(plugin, most): &(&str, i32)| ((*plugin).to_owned(), *most);
        wants.iter().map(owned).collect()
    }

    #[test]
    fn a_backlog_of_short_tasks_is_claimed_ahead_of_the_workers() {
        let (mut pool, domain) = pool_of(&["a"]);
        let start = Instant::now();
        takes(&mut pool, "a", MS / 10);
        let workers = [idle(1, "a", start), idle(2, "a", start)];
        let of = |pool: &Pool, workers: &[Member], now| claims(pool, &domain, workers, 2, now).0;
        assert_eq!(of(&pool, &workers, start), 2, "what they can be given now");
        pool.share("a").has_backlog = true;
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
        pool.share("b").last_handed = Some(now);
        let start = |members: &[Member]| pool.to_start(&domain, members, &options(2, 3), now);
        assert_eq!(start(&[]), ["b", "b"], "what was used last is kept");
        assert_eq!(start(&[idle(1, "a", now)]), ["b"]);
    }

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

    /// With tasks of 5 ms of both plugins and one worker.
    #[test]
    fn two_plugins_that_are_wanted_alike_take_turns_of_tens_of_milliseconds() {
        let (mut pool, domain) = pool_of(&["a", "b"]);
        let start = Instant::now();
        takes(&mut pool, "a", 5 * MS);
        takes(&mut pool, "b", 5 * MS);
        pool.share("a").has_backlog = true;
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
            runs_since: Some(now),
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
        pool.share("a").has_backlog = false;
        assert!(leaves(&pool, idle_in_turn, at(20)));
    }

    #[test]
    fn the_more_urgent_task_does_not_wait_for_a_turn_and_the_less_urgent_one_gets_none() {
        let (mut pool, _) = pool_of(&["a", "b"]);
        let start = Instant::now();
        takes(&mut pool, "a", 5 * MS);
        let leaves = |pool: &Pool, ms: u32| {
            let now = start + MS * ms;
            let member = Member {
                runs_since: Some(now),
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
    fn nothing_is_claimed_in_vain_behind_long_tasks_of_another_plugin() {
        let (mut pool, domain) = pool_of(&["a", "b"]);
        let start = Instant::now();
        let later = start + MS * 1000;
        let members = [busy(1, "a", start), busy(2, "a", start)];
        assert_eq!(claims(&pool, &domain, &members, 2, later).0, 0);
        waits(&mut pool, "b", 0, 1..2, start);
        assert_eq!(pool.to_make_room(&members, &options(0, 2), later), []);
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
            runs_since: Some(later),
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
                runs_since: Some(later),
                ..busy(2, "a", start)
            },
            idle(1, "b", later),
        ];
        assert_eq!(pool.candidate("b", &members, &options(0, 1)), None);
        assert_eq!(
            pool.to_make_room(&members, &options(0, 1), later),
            [WorkerId(2)]
        );
        assert_eq!(pool.candidate("b", &members, &options(0, 2)), Some(1));
    }

    #[test]
    fn each_pool_remembers_its_own_backlog() {
        let (mut pool, domain) = pool_of(&["a"]);
        let now = Instant::now();
        let members = [idle(1, "a", now)];
        let appetite = pool.appetite(0, "d", &domain, &members, &options(1, 3), now);
        let appetite = appetite.expect("three workers can take something");
        pool.look = false;
        assert!(pool.looked(&appetite, &[3]));
        assert!(pool.look, "there may be more, whenever there is room");
        pool.looked(&appetite, &[3]);
        assert!(!pool.is_busy());
        pool.looked(&appetite, &[3]);
        assert!(pool.is_busy());
        pool.look = false;
        assert!(!pool.looked(&appetite, &[2]));
        assert!(!pool.look && !pool.is_busy());
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
