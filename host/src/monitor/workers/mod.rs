//! The workers of a monitor: their processes, the tasks in their hands, and the pools that decide how many of
//! them there are.
//!
//! [`Workers`] is the one owner of all that. It asks nobody about tasks: a worker is told the terms of each
//! task with the task, and what follows for tasks is [`News`], which the supervisor passes on. Decisions are
//! functions of plain values, with the time as an argument: which worker gets which task (`dispatch`), which
//! workers are started and which leave (`pool`), what has had its time (`deadlines`), what a death means
//! (`post_mortem`).

mod cgroup;
mod connection;
mod deadlines;
mod dispatch;
mod event;
mod exits;
#[cfg(test)]
mod fixtures;
mod identity;
mod life;
mod limits;
mod messages;
mod output;
pub(super) mod pages;
mod pool;
mod post_mortem;
pub(super) mod process;
mod rows;
mod scaling;
mod slots;
mod usage;
mod worker;

pub(super) use dispatch::{Contents, Order};
pub(super) use event::{Event, News, Report};
pub(super) use identity::Identity;
pub use identity::IdentityError;
pub use pool::PoolOptions;
pub(super) use slots::{Revoked, Terms};
pub(super) use worker::Aborted;

use super::{
    claim::{Appetite, Domain},
    database::Database,
    poll::Poll,
    wakeup::Backlog,
};
use crate::model::{MonitorId, TaskId, WorkerId};
use cgroup::Delegated;
use pool::Pool;
use rows::Rows;
use std::{
    collections::{BTreeMap, HashSet},
    path::PathBuf,
    time::{Duration, Instant},
};
use worker::Worker;

/// How often it is looked for workers that somebody wants to end. A notification tells at once.
const STOP_REQUESTS_EVERY: Duration = Duration::from_secs(1);

/// How a monitor keeps its workers.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) monitor: MonitorId,
    pub(super) host: String,
    /// How each domain's workers are kept.
    pub(super) pool: PoolOptions,
    /// How long a task that has asked `cancelled()` may take to end.
    pub(super) kill_grace: Duration,
    /// The directory of the monitor's shared pages.
    pub(super) pages: PathBuf,
    /// What workers have in their environment.
    pub(super) environment: Vec<(String, String)>,
    /// The user that workers run as, if not the monitor's own.
    pub(super) user: Option<Identity>,
    /// Whether TCP is denied to plugins.
    pub(super) no_network: bool,
}

/// The workers of a monitor.
#[derive(Debug)]
pub(super) struct Workers {
    settings: Settings,
    database: Database<Event>,
    /// Where workers get cgroups of their own, if anywhere.
    cgroup: Option<Delegated>,
    /// By domain.
    pools: BTreeMap<String, Pool>,
    workers: BTreeMap<WorkerId, Worker>,
    rows: Rows,
    stop_requests: Poll,
    /// When it is measured next what workers use.
    next_sample: Instant,
    /// How long workers may go on with tasks that others would repeat, in nanoseconds of the boot clock.
    lease: u64,
    /// The operations that were logged for leaving their worker changed: hash of the plugin, and name.
    leftovers_logged: HashSet<(String, String)>,
}

impl Workers {
    /// No workers yet; `lease`: as [`Workers::set_lease`] says later.
    pub(super) fn new(
        settings: Settings,
        database: Database<Event>,
        lease: u64,
        now: Instant,
    ) -> Self {
        Self {
            settings,
            database,
            cgroup: cgroup::delegated(),
            pools: BTreeMap::new(),
            workers: BTreeMap::new(),
            rows: Rows::default(),
            stop_requests: Poll::every(STOP_REQUESTS_EVERY, now),
            next_sample: Self::first_sample(now),
            lease,
            leftovers_logged: HashSet::new(),
        }
    }

    /// Something has happened to a worker.
    pub(super) fn handle(&mut self, event: Event, now: Instant) -> Vec<News> {
        match event {
            Event::Message(id, message, descriptors) => self.message(id, message, descriptors, now),
            Event::ProtocolError(id, error) => self.protocol_error(id, &error, now),
            Event::Disconnected(id) => {
                if let Some(worker) = self.workers.get_mut(&id) {
                    worker.disconnected();
                }
                self.bury(now)
            }
            Event::SendFailed(id, task, error) => self.send_failed(id, task, &error, now),
            Event::Readable(id, pipe) => self.readable(id, pipe),
            Event::StopRequests(requests) => self.stop_requested(requests, now),
            Event::Saved(saved, rows) => self.saved(saved, rows, now),
        }
    }

    /// When something of this is due next.
    pub(super) fn next_wake(&self) -> Option<Instant> {
        [
            self.stop_requests.next_wake(),
            self.next_limit(),
            self.next_usage(),
            self.next_burial(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Whether there is no worker.
    pub(super) fn is_empty(&self) -> bool {
        self.workers.is_empty()
    }

    /// Whether everything about dead workers has been written.
    pub(super) fn is_settled(&self) -> bool {
        self.rows.is_settled()
    }

    /// The lease was renewed: workers may go on until then with tasks that others would repeat.
    pub(super) fn set_lease(&mut self, until: u64) {
        self.lease = until;
        for worker in self.workers.values() {
            worker.set_lease(until);
        }
    }

    /// Notes which tasks have begun since the last look.
    pub(super) fn notice_begun(&mut self, now: Instant) {
        for worker in self.workers.values_mut() {
            worker.notice_begun(now);
        }
    }

    /// A worker that runs a task has wanted another one queued: that has happened, or why not.
    pub(super) fn answer_request(&self, worker: WorkerId, answer: Result<i64, String>) {
        if let Some(worker) = self.workers.get(&worker) {
            worker.answer(answer);
        }
    }
}

/// The pools, as claims see them.
impl Workers {
    fn pool(&mut self, domain: &str) -> &mut Pool {
        if !self.pools.contains_key(domain) {
            self.pools.insert(domain.to_owned(), Pool::default());
        }
        self.pools.get_mut(domain).expect("it was just made")
    }

    /// The domains of this host, and their plugins, are these.
    pub(super) fn offer(&mut self, domains: &BTreeMap<String, Domain>) {
        for domain in domains.keys() {
            self.pool(domain);
        }
        for (domain, pool) in &mut self.pools {
            pool.offer(domains.get(domain));
        }
    }

    /// The domains with pools.
    pub(super) fn domains(&self) -> Vec<String> {
        self.pools.keys().cloned().collect()
    }

    /// There may be something to claim for any of the pools: each that has no room now claims when it has.
    pub(super) fn want_claims(&mut self) {
        for pool in self.pools.values_mut() {
            pool.want_claim();
        }
    }

    /// What can be taken by the pools for which there may be something, as the request of a claim that begins
    /// now. A pool that has no reason to claim is left alone: an idle domain costs a busy one nothing.
    pub(super) fn begin_claim(
        &mut self,
        domains: &BTreeMap<String, Domain>,
        now: Instant,
    ) -> Vec<Appetite> {
        let appetites: Vec<Appetite> = (0..)
            .zip(domains)
            .filter_map(|(number, (name, domain))| {
                let pool = self.pools.get(name).filter(|pool| pool.wants_claim())?;
                let members = self.members(name, now);
                pool.appetite(number, name, domain, &members, &self.settings.pool, now)
            })
            .collect();
        for appetite in &appetites {
            self.pool(&appetite.domain).begin_claim();
        }
        appetites
    }

    /// A claim has brought this many tasks for each of the wants. Answers whether there may be more.
    pub(super) fn claimed(&mut self, appetite: &Appetite, found: &[usize]) -> bool {
        self.pool(&appetite.domain).claimed(appetite, found)
    }

    /// Which domains have a backlog.
    pub(super) fn backlog(&self) -> Backlog {
        Backlog {
            is_any_busy: self.pools.values().any(Pool::is_busy),
            is_any_idle: self.pools.values().any(|pool| !pool.is_busy()),
        }
    }

    /// A task waits for a worker of this plugin.
    pub(super) fn enqueue(
        &mut self,
        (domain, plugin): (&str, &str),
        rank: i16,
        task: TaskId,
        now: Instant,
    ) {
        self.pool(domain).share(plugin).push(rank, task, now);
    }

    /// A task waits no longer for a worker; false: it did not wait.
    pub(super) fn dequeue(
        &mut self,
        (domain, plugin): (&str, &str),
        rank: i16,
        task: TaskId,
    ) -> bool {
        self.pool(domain).share(plugin).remove(rank, task)
    }

    /// Takes out the tasks that have waited for so long that another host should have them.
    pub(super) fn take_overdue(&mut self, now: Instant) -> Vec<TaskId> {
        let shares = self.pools.values_mut().flat_map(Pool::shares);
        shares
            .flat_map(|(_, share)| share.take_overdue(dispatch::OVERDUE, now))
            .collect()
    }

    /// Takes out every task that waits.
    pub(super) fn take_waiting(&mut self) -> Vec<TaskId> {
        let shares = self.pools.values_mut().flat_map(Pool::shares);
        shares.flat_map(|(_, share)| share.drain()).collect()
    }
}
