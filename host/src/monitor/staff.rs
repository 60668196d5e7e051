//! Which workers there are: starts those that are missing, sends home those that are not needed, or
//! that have to make room. `pool` decides; here it is done.

use super::{
    pool::{Member, Stage},
    supervisor::Supervisor,
    tasks::without_nul,
    worker::{Life, Spawn, Worker},
};
use crate::{
    causes::chain,
    model::{WorkerId, duration::human, task::Cause, worker::WorkerCause},
    store::WorkerSave,
    wire::PluginFile,
};
use chrono::Utc;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

impl Supervisor {
    /// The workers of a domain, as its pool's decisions see them: not those that end for reasons of
    /// their own, or of an operator.
    pub(super) fn members(&self, domain: &str, now: Instant) -> Vec<Member> {
        let Some(pool) = self.pools.get(domain) else {
            return Vec::new();
        };
        let of_it = self
            .workers
            .values()
            .filter(|worker| worker.domain == domain);
        of_it
            .filter_map(|worker| {
                let stage = match worker.life {
                    Life::Starting => Stage::Starting,
                    Life::Ready => Stage::Ready,
                    Life::Draining(WorkerCause::MadeRoom) => {
                        Stage::Leaving(worker.said_goodbye.unwrap_or(now))
                    }
                    Life::Draining(_) | Life::Killed(_) => return None,
                };
                let window = pool.window(&worker.plugin.hash);
                let mut member = Member {
                    id: worker.id,
                    plugin: Arc::clone(&worker.plugin),
                    stage,
                    since: worker.since,
                    idle_since: worker.idle_since,
                    handed: worker.handed.len(),
                    rank: worker.handed.values().map(|(_, handed)| handed.rank).min(),
                    runs_since: worker
                        .running()
                        .and_then(|(_, handed)| handed.begun)
                        .map(|(at, _)| at),
                    room: super::feed::room(worker, window, &self.options.pool),
                };
                if member.is_slow_to_start(now) {
                    member.room = 0;
                }
                Some(member)
            })
            .collect()
    }

    /// Does what the decisions of a domain's pool say, except for handing over tasks.
    pub(super) fn staff(&mut self, domain: &str, now: Instant) {
        let mut members = self.members(domain, now);
        if self.pools[domain].is_settled(&members, &self.options.pool) {
            return;
        }
        if self.give_up_stuck(domain, &members, now) {
            members = self.members(domain, now);
        }
        let pool = &self.pools[domain];
        let leaving = pool.to_make_room(&members, &self.options.pool, now);
        let to_start = match self.claims.catalog().domains().get(domain) {
            Some(offers) => pool.to_start(offers, &members, &self.options.pool, now),
            None => Vec::new(),
        };
        for worker in leaving {
            self.send_home(worker, WorkerCause::MadeRoom);
        }
        for plugin in to_start {
            if !self.start_worker(domain, &plugin, now) {
                break;
            }
        }
    }

    /// Lets a worker that has been idle for long go, if it is one too many.
    pub(super) fn shrink(&mut self, domain: &str, now: Instant) {
        if !self.pools[domain].may_shrink(now) {
            return;
        }
        let members = self.members(domain, now);
        let pool = self.pools.get_mut(domain).expect("looked up above");
        if let Some(worker) = pool.surplus(&members, &self.options.pool, now) {
            self.send_home(worker, WorkerCause::Idle);
        }
    }

    fn send_home(&mut self, id: WorkerId, cause: WorkerCause) {
        if let Some(worker) = self.workers.get_mut(&id) {
            tracing::debug!(worker.id = %id, "worker {id} goes home: {cause}");
            worker.drain(cause);
        }
    }

    /// Workers of a plugin that their domain no longer has end after what they have begun; those of
    /// its other plugins are not concerned.
    pub(super) fn retire_outdated(&mut self) {
        let mut revoked = Vec::new();
        for worker in self.workers.values_mut() {
            if matches!(worker.life, Life::Starting | Life::Ready)
                && !self
                    .claims
                    .catalog()
                    .offers(&worker.domain, &worker.plugin.hash)
            {
                revoked.extend(worker.revoke_all());
                worker.drain(WorkerCause::Upgrade);
            }
        }
        for handed in revoked {
            self.wait_again(handed.task, handed.rank);
        }
    }

    /// Tasks of a plugin of which no worker can be had for now go back to the queue: other hosts may
    /// be able to run them, and whoever looks sees that they wait. False: there is no such plugin.
    fn give_up_stuck(&mut self, domain: &str, members: &[Member], now: Instant) -> bool {
        let stuck = self.pools[domain].stuck(members, now);
        for plugin in &stuck {
            let mut revoked = Vec::new();
            for worker in self.workers.values_mut() {
                if worker.domain == domain
                    && worker.plugin.hash == *plugin
                    && worker.life == Life::Starting
                {
                    revoked.extend(worker.revoke_all());
                }
            }
            let waiting = self.pool(domain).share(plugin).drain();
            for task in waiting
                .into_iter()
                .chain(revoked.iter().map(|one| one.task))
            {
                self.release(task);
            }
        }
        !stuck.is_empty()
    }

    /// Starts a worker for a plugin; false: no number for a worker is at hand. A start that fails is noted,
    /// and other plugins are not concerned.
    fn start_worker(&mut self, domain: &str, plugin: &str, now: Instant) -> bool {
        let offer = self
            .claims
            .catalog()
            .domains()
            .get(domain)
            .and_then(|offers| offers.get(plugin));
        let Some(file) = offer.map(|offer| Arc::clone(&offer.file)) else {
            return true;
        };
        if !self.plugins.cache().is_unchanged(&file.hash) {
            // The copy is looked at before anybody loads it.
            if self.plugins.has_to_look(&file.hash, now) {
                self.claims.reload(now);
            }
            return true;
        }
        let Some(id) = self.housekeeping.take_number() else {
            return false;
        };
        let spawn = Spawn {
            id,
            domain,
            plugin: &file,
            cache: self.plugins.cache(),
            pages: self.pages.directory(),
            environment: &self.environment,
            user: self.worker_user.as_ref(),
            no_network: self.options.no_network,
            events: &self.events,
        };
        match Worker::spawn(&spawn) {
            Ok(mut worker) => {
                worker.enter(self.cgroup.as_ref());
                let name = &file.name;
                tracing::debug!(worker.id = %id, "spawned worker {id} of domain {domain} for {name}");
                self.workers.insert(id, worker);
                true
            }
            Err(error) => {
                let reason = chain(&error);
                // There was no process; whoever looks sees all the same why its tasks wait.
                self.dead_workers.push(WorkerSave {
                    id,
                    pid: 0,
                    domain: domain.to_owned(),
                    plugin: file.hash.clone(),
                    state: "dead",
                    task: None,
                    runs: 0,
                    memory: None,
                    cpu: None,
                    created: Utc::now(),
                    started: None,
                    finished: Some(Utc::now()),
                    cause: Some(WorkerCause::Task(Cause::Crash).as_str()),
                    error: Some(without_nul(format!(
                        "no process could be started: {reason}"
                    ))),
                });
                self.start_failed(domain, &file, &reason);
                true
            }
        }
    }

    /// A worker did not become ready. Its plugin's tasks stay in the queue, and the next start
    /// waits; other plugins of the domain are not concerned.
    pub(super) fn start_failed(&mut self, domain: &str, plugin: &PluginFile, reason: &str) {
        let share = self.pool(domain).share(&plugin.hash);
        let name = &plugin.name;
        match share.failed_to_start(reason, Instant::now()) {
            Some(pause) => tracing::error!(
                plugin.hash = %plugin.hash,
                "no worker of domain {domain} can be started for {name}, its operations wait: \
                 {reason}; tried again after {} and then less and less often",
                human(pause)
            ),
            None => tracing::debug!(
                plugin.hash = %plugin.hash,
                "still no worker of domain {domain} for {name}: {reason}"
            ),
        }
    }

    /// A worker is ready for the first task.
    pub(super) fn has_started(&mut self, domain: &str, plugin: &PluginFile, took: Duration) {
        let pool = self.pool(domain);
        // It can take more than while it started, and perhaps nothing was claimed until now.
        pool.look = true;
        if pool.share(&plugin.hash).started(took) {
            tracing::info!(
                plugin.hash = %plugin.hash,
                "workers of domain {domain} start again for {}",
                plugin.name
            );
        }
    }
}
