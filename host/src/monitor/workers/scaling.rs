//! Which workers there are: starts those that are missing, sends away those that are not needed, or that have
//! to make room. The pool decides; here it is done.

use super::{
    Revoked, Workers,
    pool::Member,
    rows::{Row, Subject},
    worker::{Spawn, Worker},
};
use crate::{
    causes::chain,
    model::{TaskId, WorkerId, duration::human, task::Cause, worker::WorkerCause},
    monitor::claim::Domain,
    plugin::Cache,
    wire::{PluginFile, WireError},
};
use chrono::Utc;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// What is to be done for a domain by others.
#[derive(Debug, Default)]
pub(in crate::monitor) struct Scaling {
    /// Tasks of plugins of which no worker can be had for now: they go back to the queue, where other hosts may
    /// be able to run them, and whoever looks sees that they wait.
    pub(in crate::monitor) given_up: Vec<TaskId>,
    /// The plugins of which workers are to be started, each as often as it is named.
    pub(in crate::monitor) to_start: Vec<String>,
}

impl Workers {
    /// The workers of a domain, as its pool sees them: not those that end for a reason of their own, or of an
    /// operator.
    pub(super) fn members(&self, domain: &str, now: Instant) -> Vec<Member> {
        let Some(pool) = self.pools.get(domain) else {
            return Vec::new();
        };
        let workers = self.workers.values();
        workers
            .filter(|worker| worker.domain() == domain)
            .filter_map(|worker| {
                let window = pool.window(&worker.plugin().hash);
                worker.member(window, &self.settings.pool, now)
            })
            .collect()
    }

    /// Does what the pool of a domain decides, except for what others have to do. `plugins`: those that the
    /// domain has now.
    pub(in crate::monitor) fn scale(
        &mut self,
        domain: &str,
        plugins: Option<&Domain>,
        now: Instant,
    ) -> Scaling {
        let mut members = self.members(domain, now);
        let options = &self.settings.pool;
        if self.pools[domain].is_settled(&members, options) {
            return Scaling::default();
        }
        let stuck = self.pools[domain].stuck(&members, now);
        let given_up = self.give_up(domain, &stuck, now);
        if !stuck.is_empty() {
            members = self.members(domain, now);
        }
        let (pool, options) = (&self.pools[domain], &self.settings.pool);
        let leaving = pool.to_make_room(&members, options, now);
        let to_start = plugins.map_or_else(Vec::new, |plugins| {
            pool.to_start(plugins, &members, options, now)
        });
        for worker in leaving {
            self.send_away(worker, WorkerCause::MadeRoom, now);
        }
        Scaling { given_up, to_start }
    }

    /// The tasks of these plugins that wait for a worker, or are in the hands of one that has not started.
    fn give_up(&mut self, domain: &str, plugins: &[String], now: Instant) -> Vec<TaskId> {
        let mut given_up = Vec::new();
        for plugin in plugins {
            given_up.extend(self.pool(domain).share(plugin).drain());
            let starting = self.workers.values_mut().filter(|worker| {
                worker.is_starting() && worker.domain() == domain && worker.plugin().hash == *plugin
            });
            let revoked = starting.flat_map(|worker| worker.revoke_all(now));
            given_up.extend(revoked.map(|revoked| revoked.task));
        }
        given_up
    }

    /// Lets a worker that has been idle for long go, if it is one too many.
    pub(in crate::monitor) fn shrink(&mut self, domain: &str, now: Instant) {
        if !self.pools[domain].may_shrink(now) {
            return;
        }
        let members = self.members(domain, now);
        let Some(pool) = self.pools.get_mut(domain) else {
            return;
        };
        if let Some(worker) = pool.surplus(&members, &self.settings.pool, now) {
            self.send_away(worker, WorkerCause::Idle, now);
        }
    }

    fn send_away(&mut self, id: WorkerId, cause: WorkerCause, now: Instant) {
        if let Some(worker) = self.workers.get_mut(&id) {
            tracing::debug!(worker.id = %id, "worker {id} is told to end: {cause}");
            worker.drain(cause, now);
        }
    }

    /// Workers of a plugin that their domain no longer has end after what they have begun; those of its other
    /// plugins are not concerned.
    pub(in crate::monitor) fn retire_outdated(
        &mut self,
        has_plugin: impl Fn(&str, &str) -> bool,
        now: Instant,
    ) -> Vec<Revoked> {
        let mut revoked = Vec::new();
        for worker in self.workers.values_mut() {
            if worker.is_wanted() && !has_plugin(worker.domain(), &worker.plugin().hash) {
                revoked.extend(worker.revoke_all(now));
                worker.drain(WorkerCause::Upgrade, now);
            }
        }
        revoked
    }

    /// Starts a worker of a plugin. A start that fails is noted, and other plugins are not concerned.
    pub(in crate::monitor) fn start(
        &mut self,
        id: WorkerId,
        domain: &str,
        plugin: &Arc<PluginFile>,
        cache: &Cache,
        now: Instant,
    ) {
        let settings = &self.settings;
        let spawn = Spawn {
            id,
            domain,
            plugin,
            cache,
            pages: &settings.pages,
            environment: &settings.environment,
            user: settings.user.as_ref(),
            no_network: settings.no_network,
            cgroup: self.cgroup.as_ref(),
            mailbox: self.database.mailbox(),
        };
        match Worker::spawn(&spawn, now) {
            Ok(worker) => {
                let name = &plugin.name;
                tracing::debug!(worker.id = %id, "spawned worker {id} of domain {domain} for {name}");
                self.workers.insert(id, worker);
            }
            Err(error) => self.not_spawned(id, domain, plugin, &error, now),
        }
    }

    /// There is no process; whoever looks sees all the same why its tasks wait.
    fn not_spawned(
        &mut self,
        id: WorkerId,
        domain: &str,
        plugin: &PluginFile,
        error: &WireError,
        now: Instant,
    ) {
        let reason = chain(error);
        let subject = Subject {
            id,
            pid: 0,
            domain: domain.to_owned(),
            plugin: plugin.hash.clone(),
        };
        let words = format!("no process could be started: {reason}");
        let dead = (WorkerCause::Task(Cause::Crash), Some(words));
        let time = Utc::now();
        self.rows
            .push_dead(Row::new(time).save(subject, Some(dead), time));
        self.start_failed(domain, plugin, &reason, now);
    }

    /// A worker did not become ready. The tasks of its plugin stay in the queue, and the next start waits;
    /// other plugins of the domain are not concerned.
    pub(super) fn start_failed(
        &mut self,
        domain: &str,
        plugin: &PluginFile,
        reason: &str,
        now: Instant,
    ) {
        let share = self.pool(domain).share(&plugin.hash);
        let name = &plugin.name;
        match share.failed_to_start(reason, now) {
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
        pool.want_claim();
        if pool.share(&plugin.hash).started(took) {
            tracing::info!(
                plugin.hash = %plugin.hash,
                "workers of domain {domain} start again for {}",
                plugin.name
            );
        }
    }
}
