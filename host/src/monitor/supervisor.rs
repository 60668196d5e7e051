//! The loop: wait for an event, handle it, then do what can be done now.

use super::{
    catalog::Catalog,
    cgroup::Delegated,
    claim::{Appetite, Positions},
    cron::Cron,
    database::Database,
    event::Event,
    identity::{Identity, IdentityError},
    init,
    lines::Lines,
    mailbox::Mailbox,
    pages::{Pages, pages_dir},
    plugins::{self, News, Plugins},
    pool::{Pool, PoolOptions},
    process,
    refusals::Said,
    report::{Held, Outbox},
    unsaid::Keeping,
    upkeep::Upkeep,
    witness::Witness,
    worker::Worker,
};
use crate::{
    here,
    model::{MonitorId, TaskId, WorkerId, duration::human},
    plugin::{Cache, Confinement, TrustedKey},
    store::{ConnectOptions, Cycle, Notification, Store, StoreError},
};
use nix::sys::signal::Signal;
use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{Semaphore, mpsc},
};

/// So many transfers of files are under way at a time.
const TRANSFERS: usize = 2;
/// When a monitor is told to end and its workers are gone, the database has so long to take what became
/// of the tasks, counted from the last report that it took.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// And so long for contents of files, if it takes them at all.
const LAST_FILES: Duration = Duration::from_secs(60);

/// How a monitor is to work.
#[derive(Debug, Clone)]
pub struct Options {
    /// The host it works for.
    pub host: String,
    /// What it claims for; empty: every domain.
    pub domains: Vec<String>,
    /// How each domain's workers are kept.
    pub pool: PoolOptions,
    /// How long running tasks may go on after an interrupt.
    pub grace: Duration,
    /// How long a task that has asked `cancelled()` may take to end.
    pub kill_grace: Duration,
    /// Tasks and workers that ended so long ago are removed; `None`: they stay.
    pub vacuum: Option<Duration>,
    /// Names of environment variables that workers get.
    pub environment: Vec<String>,
    /// The user that workers run as, if not the monitor's own.
    pub worker_user: Option<String>,
    /// Whether TCP is denied to plugins.
    pub no_network: bool,
    /// Drop-in directories, by their canonical paths.
    pub plugin_dirs: Vec<std::path::PathBuf>,
    /// Whether to run what other hosts have published.
    pub fetch_plugins: bool,
    /// The key that drop-in files and fetched plugins have to be signed with.
    pub key: Option<TrustedKey>,
}

/// Why a monitor could not go on.
#[derive(Debug, thiserror::Error)]
pub enum MonitorError {
    /// The database could not do it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It could not renew its lease for too long, and others have taken over.
    #[error("monitor {0} was declared lost while it was away; its workers have ended")]
    Lost(MonitorId),
    /// It was told to end, and the database did not take in time what became of its tasks.
    #[error(
        "monitor {monitor} has ended, but the database has not taken all that it had to say \
         (results: {results}); {rest}"
    )]
    Unheard {
        /// The monitor.
        monitor: MonitorId,
        /// How many ends of tasks wait.
        results: usize,
        /// Where they are now.
        rest: String,
    },
    /// Workers cannot run as the user that was asked for.
    #[error(transparent)]
    WorkerUser(#[from] IdentityError),
    /// The kernel cannot deny the network.
    #[error("--no-network needs Landlock with rules for TCP (Linux 6.7); {0}")]
    NoLandlock(String),
    /// The system could not do it.
    #[error("{doing}")]
    System {
        /// What was attempted.
        doing: String,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
}

/// Runs a monitor until it is interrupted and drained. Must be called on the main thread of a
/// process that does nothing else: it becomes a child subreaper and reaps every child.
pub fn run(database: ConnectOptions, options: Options) -> Result<(), MonitorError> {
    let system = |doing: &str| {
        let doing = doing.to_owned();
        move |source| MonitorError::System { doing, source }
    };
    let worker_user = options
        .worker_user
        .as_deref()
        .map(Identity::of)
        .transpose()?;
    if options.no_network {
        process::check_landlock().map_err(MonitorError::NoLandlock)?;
    }
    process::become_monitor().map_err(system("could not become the reaper of its workers"))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(system("could not start the event loop"))?;
    runtime.block_on(async {
        let local = tokio::task::LocalSet::new();
        let ended = local
            .run_until(async {
                let database = database.without_lock_limit();
                let store = Store::connect(database.clone(), 6).await?;
                store.schema_check().await?;
                // The lease must not wait for anything else that is asked of the database.
                let lease = Store::connect(database, 1).await?;
                let mut supervisor = Supervisor::start(store, lease, options, worker_user).await?;
                supervisor.run().await
            })
            .await;
        // Inside the runtime: what the local tasks hold (a listener) needs it to be dropped.
        drop(local);
        ended
    })
}

/// What becomes of a monitor that was interrupted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// At work.
    Working,
    /// Interrupted; running tasks may go on until then.
    Draining(Instant),
    /// Interrupted again: at once. What cannot be said until then is left to the next monitor.
    Forced(Instant),
    /// Others have declared it lost.
    Lost,
}

/// How often a monitor was told to end. Where there is an init above it, the two may each hear of the
/// same order, or only one of them does.
#[derive(Debug, Default)]
struct Interrupts {
    own: u32,
    relayed: u32,
    /// How many orders have been obeyed.
    obeyed: u32,
}

impl Interrupts {
    /// Whether there is an order that has not been obeyed; now it has.
    fn is_another(&mut self) -> bool {
        let given = self.own.max(self.relayed);
        let is_another = given > self.obeyed;
        self.obeyed = given;
        is_another
    }
}

/// All that a monitor knows.
#[derive(Debug)]
pub(super) struct Supervisor {
    pub(super) store: Store,
    /// A connection that only renews the lease.
    pub(super) lease: Store,
    /// Contents of files go through few connections at a time.
    pub(super) transfers: Arc<Semaphore>,
    pub(super) options: Options,
    pub(super) monitor: MonitorId,
    pub(super) pages: Pages,
    pub(super) environment: Vec<(String, String)>,
    pub(super) events: mpsc::UnboundedSender<Event>,
    arrivals: mpsc::UnboundedReceiver<Event>,
    pub(super) catalog: Catalog,
    pub(super) pools: BTreeMap<String, Pool>,
    pub(super) workers: BTreeMap<WorkerId, Worker>,
    pub(super) worker_ids: VecDeque<WorkerId>,
    pub(super) dead_workers: Vec<crate::store::WorkerSave>,
    pub(super) tasks: HashMap<TaskId, Held>,
    pub(super) positions: Positions,
    pub(super) lines: Lines,
    pub(super) outbox: Outbox,
    /// The cycle that the database is working on.
    pub(super) in_flight: Option<Cycle>,
    /// What that cycle looks for.
    pub(super) looking_for: Vec<Appetite>,
    pub(super) cycle_number: u64,
    /// So many things are said in cycles of their own, for the database has refused one of them.
    pub(super) said_alone: usize,
    /// There may be something to claim for any of the pools; each then remembers it for itself.
    pub(super) look: bool,
    pub(super) upkeep: Upkeep,
    pub(super) cron: Cron,
    pub(super) plugins: Plugins,
    pub(super) phase: Phase,
    interrupts: Interrupts,
    /// The versions of operations of which it has been said that they leave something behind.
    pub(super) left_behind: HashSet<i32>,
    /// Where workers get cgroups of their own, if anywhere.
    pub(super) cgroup: Option<Delegated>,
    /// Who workers run as, if not as this process.
    pub(super) worker_user: Option<Identity>,
    /// Which installation this is; see `unsaid`.
    pub(super) installation: String,
    /// What is known of the other monitors, unless somebody is looking.
    pub(super) witness: Witness,
    pub(super) recovering: bool,
    /// When one of them may turn out to be silent for good.
    pub(super) next_verdict: Option<Instant>,
    /// Where not everybody notifies, or as long as that is unknown: when to look at the queue next.
    pub(super) often: Option<Instant>,
    /// The database has refused the rows of workers: not before then.
    pub(super) workers_again: Option<Instant>,
    pub(super) keeping: Keeping,
    /// Since when an ending monitor has nothing left but words.
    quiet_since: Option<Instant>,
}

impl Supervisor {
    async fn start(
        store: Store,
        lease: Store,
        options: Options,
        worker_user: Option<Identity>,
    ) -> Result<Self, MonitorError> {
        let pages = Pages::create(&pages_dir()).map_err(|source| {
            let doing = format!(
                "could not use its state directory {} (REWORK_STATE_DIR names another one)",
                here::state_dir().display()
            );
            MonitorError::System { doing, source }
        })?;
        let pool = &options.pool;
        let shown = serde_json::json!({
            "maxworkers": pool.max_workers,
            "minworkers": pool.min_workers,
            "maxruns": pool.max_runs,
            "maxmem": pool.max_mem,
            "plugin_dirs": &options.plugin_dirs,
            "fetch_plugins": options.fetch_plugins,
            "vacuum": options.vacuum.map_or_else(|| "never".to_owned(), human),
        });
        let monitor = store
            .monitor_start(
                &options.host,
                std::process::id().cast_signed(),
                &options.domains,
                &shown,
                &pages.directory().to_string_lossy(),
            )
            .await?;
        let environment: Vec<_> = options
            .environment
            .iter()
            .filter_map(|name| Some((name.clone(), std::env::var(name).ok()?)))
            .collect();
        let (events, arrivals) = mpsc::unbounded_channel();
        let plugins = Plugins::new(
            plugin_settings(monitor, &options, worker_user.as_ref(), &environment),
            Cache::at(here::plugin_cache_dir()),
            Database::new(store.clone(), Mailbox::new(events.clone(), Event::Plugins)),
            Instant::now(),
        );
        Ok(Self {
            monitor,
            pages,
            environment,
            events,
            arrivals,
            catalog: Catalog::default(),
            pools: BTreeMap::new(),
            workers: BTreeMap::new(),
            worker_ids: store.worker_reserve(8).await?.into(),
            dead_workers: Vec::new(),
            tasks: HashMap::new(),
            positions: Positions::default(),
            lines: Lines::default(),
            outbox: Outbox::default(),
            in_flight: None,
            looking_for: Vec::new(),
            cycle_number: 0,
            said_alone: 0,
            look: true,
            upkeep: Upkeep::new(Instant::now()),
            cron: Cron::new(Instant::now()),
            plugins,
            phase: Phase::Working,
            interrupts: Interrupts::default(),
            left_behind: HashSet::new(),
            cgroup: delegated_cgroup(),
            worker_user,
            installation: store.schema_installation().await?,
            witness: Witness::default(),
            recovering: false,
            next_verdict: None,
            often: Some(Instant::now()),
            workers_again: None,
            keeping: Keeping::default(),
            quiet_since: None,
            store,
            lease,
            transfers: Arc::new(Semaphore::new(TRANSFERS)),
            options,
        })
    }

    async fn run(&mut self) -> Result<(), MonitorError> {
        let domains = match self.options.domains.as_slice() {
            [] => "every domain".to_owned(),
            some => some.join(", "),
        };
        tracing::info!(
            monitor.id = %self.monitor,
            "monitor {} claims tasks of {domains} on host {}",
            self.monitor,
            self.options.host
        );
        if self.worker_user.is_none() && nix::unistd::geteuid().is_root() {
            tracing::info!(
                "workers run as root: a plugin may do anything here; --worker-user prevents that"
            );
        }
        self.listen_to_signals()?;
        self.listen_to_database();
        self.refresh_catalog();
        while !self.is_finished() {
            let wake = self.next_wake();
            let event = tokio::select! {
                event = self.arrivals.recv() => event,
                () = tokio::time::sleep_until(wake.into()) => None,
            };
            if let Some(event) = event {
                self.handle(event);
            }
            // What else has happened in the meantime is one batch.
            for _ in 0..256 {
                let Ok(event) = self.arrivals.try_recv() else {
                    break;
                };
                self.handle(event);
            }
            self.act(Instant::now());
        }
        super::process::leave_nothing();
        if self.phase == Phase::Lost {
            if !self.is_settled() {
                self.leave_unsaid();
            }
            return Err(MonitorError::Lost(self.monitor));
        }
        let is_heard = self.is_settled() && {
            let end = self.store.monitor_end(self.monitor);
            matches!(tokio::time::timeout(LAST_WORDS, end).await, Ok(Ok(())))
        };
        if !is_heard {
            return Err(self.leave_unsaid());
        }
        tracing::info!(monitor.id = %self.monitor, "monitor {} has ended", self.monitor);
        Ok(())
    }

    /// One thing happened: take note of it. What follows from it is done by [`Supervisor::act`].
    fn handle(&mut self, event: Event) {
        match event {
            Event::Notified(Notification::Ready) => self.look = true,
            Event::Notified(Notification::Abort(_)) => self.upkeep.aborts_due(),
            Event::Notified(Notification::Catalog) => {
                self.plugins.database_changed(Instant::now());
                self.refresh_catalog();
            }
            Event::Notified(Notification::Worker) => self.upkeep.asked_due(),
            Event::Notified(Notification::Schedules) => self.cron.reload(Instant::now()),
            Event::Notified(Notification::Reconnected { may_notify }) => {
                self.told_who_notifies(may_notify);
                self.look = true;
                self.upkeep.aborts_due();
                self.upkeep.asked_due();
                self.cron.reload(Instant::now());
                self.refresh_catalog();
            }
            Event::Said(worker, message, descriptors) => self.said(worker, message, descriptors),
            Event::Garbled(worker, error) => self.garbled(worker, &error),
            Event::Hung(worker) => self.hung(worker),
            Event::Unsaid(worker, task, error) => self.unsaid(worker, task, &error),
            Event::Unpacked(task, ended, saved) => self.unpacked(task, *ended, saved),
            Event::Readable(worker, pipe) => self.readable(worker, pipe),
            Event::Child => self.reap(),
            Event::Interrupted => {
                self.interrupts.own += 1;
                self.interrupted();
            }
            Event::Relayed => {
                self.interrupts.relayed += 1;
                self.interrupted();
            }
            Event::Cycled(result) => self.cycled(result),
            Event::LinesDeleted(deleted, rows) => self.lines_deleted(deleted, rows),
            Event::Catalog(rows) => self.catalog_arrived(rows),
            Event::Aborts(requests) => self.aborts_arrived(requests),
            Event::Fetched(task, files) => self.fetched(task, files),
            Event::Stored(task, stored) => self.stored(task, stored),
            Event::Scheduled(worker, answer) => self.scheduled(worker, answer),
            Event::Schedules(rows) => self.schedules_arrived(rows),
            Event::Fired(schedule, time, fired) => self.fired(schedule, time, fired),
            Event::Asked(asked) => self.asked_arrived(asked),
            Event::Vacuumed(vacuumed) => self.vacuumed(vacuumed),
            Event::Renewed(sent, renewed) => self.renewed(sent, renewed),
            Event::SleepSaid(said) => self.sleep_said(said),
            Event::Reserved(ids) => self.reserved(ids),
            Event::WorkersSaved(saved, rows) => self.workers_saved(saved, rows),
            Event::Promoted(promoted) => self.promoted(promoted),
            Event::Plugins(event) => {
                let is_working = self.phase == Phase::Working;
                let news = self.plugins.handle(event, Instant::now(), is_working);
                self.plugins_said(news);
            }
            Event::Held(held) => self.held_arrived(held),
            Event::Recovered(witness, recovered) => self.recovered(witness, recovered),
            Event::Kept(kept) => self.kept(kept, Instant::now()),
            Event::Refused(error) => self.upkeep.lost(&error),
        }
    }

    /// Does everything that can be done now. Idempotent: whatever is not yet due stays.
    fn act(&mut self, now: Instant) {
        self.tick(now);
        self.feed(now);
        self.cycle(now);
        if self.phase != Phase::Working && self.workers.is_empty() {
            self.quiet_since.get_or_insert(now);
        }
    }

    /// Looks after the plugins of this host.
    pub(super) fn tick_plugins(&mut self, now: Instant) {
        let news = self.plugins.tick(now, self.phase == Phase::Working);
        self.plugins_said(news);
    }

    fn plugins_said(&mut self, news: Option<News>) {
        match news {
            Some(News::CatalogChanged) => self.refresh_catalog(),
            Some(News::DatabaseFailed(error)) => self.upkeep.lost(&error),
            None => {}
        }
    }

    /// Leaves what could not be said to the host's next monitor, with the claims and what tells that this
    /// one is gone.
    fn leave_unsaid(&mut self) -> MonitorError {
        self.pages.leave();
        let unsaid = self.all_unsaid();
        let results = unsaid.ended.len();
        let rest = if unsaid.is_empty() {
            "the next monitor of this host clears up after it".to_owned()
        } else {
            match unsaid.write(self.pages.directory()) {
                Ok(path) => format!(
                    "that is kept in {}, and the next monitor of this host reports it",
                    path.display()
                ),
                Err(error) => format!(
                    "it could not be kept in {} either ({error}), so the next monitor counts these tasks \
                     as lost",
                    self.pages.directory().display()
                ),
            }
        };
        MonitorError::Unheard {
            monitor: self.monitor,
            results,
            rest,
        }
    }

    /// Says which writes are refused, and when that is over.
    pub(super) fn tell_refusals(&mut self, now: Instant) {
        let waiting = self.unreported();
        let all_reported = self.outbox.parked.is_over()
            && self.upkeep.taken_at.is_some()
            && !self.upkeep.refusals.is_general()
            && self.said_alone == 0;
        for said in self.upkeep.refusals.say(waiting, all_reported, now) {
            match said {
                Said::Refused(line) => tracing::error!("{line}"),
                Said::Over(line) => tracing::info!("{line}"),
            }
        }
        self.keep_unsaid(now);
    }

    fn interrupted(&mut self) {
        if !self.interrupts.is_another() {
            return;
        }
        let now = Instant::now();
        self.phase = match self.phase {
            Phase::Working => {
                tracing::info!("interrupted: no more claims, ending the workers");
                Phase::Draining(now + self.options.grace)
            }
            Phase::Draining(_) => {
                tracing::info!("interrupted again: killing what is left");
                Phase::Forced(now + LAST_WORDS)
            }
            Phase::Forced(deadline) => Phase::Forced(deadline),
            Phase::Lost => Phase::Lost,
        };
    }

    fn is_finished(&self) -> bool {
        if self.phase == Phase::Working || !self.workers.is_empty() || self.keeping.is_busy {
            return false;
        }
        self.is_settled() || self.is_unheard(Instant::now())
    }

    /// Whether the database has had its time to take what this monitor has to say. What it has not taken is
    /// kept on the disk, so that waiting for longer would save nothing.
    fn is_unheard(&self, now: Instant) -> bool {
        match self.phase {
            Phase::Working => false,
            Phase::Forced(deadline) => self.upkeep.is_away() || now >= deadline,
            Phase::Draining(_) | Phase::Lost => {
                let in_trouble = self.upkeep.is_away() || self.upkeep.refusals.is_any();
                let limit = if self.upkeep.storing.is_empty() || in_trouble {
                    LAST_WORDS
                } else {
                    LAST_FILES
                };
                let since = self.quiet_since.max(self.upkeep.taken_at);
                self.quiet_since.is_some() && since.is_some_and(|since| now >= since + limit)
            }
        }
    }

    /// Whether everything has been said.
    fn is_settled(&self) -> bool {
        self.in_flight.is_none()
            && self.tasks.is_empty()
            && self.outbox.is_empty()
            && self.outbox.parked.is_empty()
            && self.lines.is_empty()
            && !self.lines.is_deleting
            && self.dead_workers.is_empty()
            && !self.upkeep.saving
    }

    fn listen_to_signals(&self) -> Result<(), MonitorError> {
        let listen = |kind: SignalKind, make: fn() -> Event| {
            let mut stream = signal(kind).map_err(|source| MonitorError::System {
                doing: "could not listen to signals".to_owned(),
                source,
            })?;
            let events = self.events.clone();
            tokio::task::spawn_local(async move {
                while stream.recv().await.is_some() && events.send(make()).is_ok() {}
            });
            Ok::<_, MonitorError>(())
        };
        listen(SignalKind::child(), || Event::Child)?;
        listen(SignalKind::interrupt(), || Event::Interrupted)?;
        listen(SignalKind::terminate(), || Event::Interrupted)?;
        listen(SignalKind::from_raw(init::relay()), || Event::Relayed)?;
        if process::is_ignored(Signal::SIGHUP) {
            // As under nohup(1): the terminal may go, the monitor stays.
            return Ok(());
        }
        listen(SignalKind::hangup(), || Event::Interrupted)
    }

    /// Carries notifications into the loop; while there is no connection the periodic look is all
    /// there is, and all that is needed.
    fn listen_to_database(&self) {
        let (store, events) = (self.store.clone(), self.events.clone());
        tokio::task::spawn_local(async move {
            let mut pause = Duration::from_millis(100);
            loop {
                if let Ok(mut listener) = store.listen().await {
                    pause = Duration::from_millis(100);
                    let mut news = listener.reconnected();
                    loop {
                        if events.send(Event::Notified(news)).is_err() {
                            return;
                        }
                        match listener.next().await {
                            Ok(next) => news = next,
                            Err(_) => break,
                        }
                    }
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(5));
            }
        });
    }

    /// Lets the database do something while the loop goes on; its answer is an event.
    pub(super) fn ask<T: 'static>(
        &self,
        question: impl Future<Output = T> + 'static,
        event: impl FnOnce(T) -> Event + 'static,
    ) {
        let events = self.events.clone();
        tokio::task::spawn_local(async move {
            let _ = events.send(event(question.await));
        });
    }
}

fn plugin_settings(
    monitor: MonitorId,
    options: &Options,
    worker_user: Option<&Identity>,
    environment: &[(String, String)],
) -> plugins::Settings {
    plugins::Settings {
        monitor,
        host: options.host.clone(),
        domains: options.domains.clone(),
        directories: options.plugin_dirs.clone(),
        fetches: options.fetch_plugins,
        key: options.key.clone(),
        confinement: Confinement {
            user: worker_user.map(|user| (user.user.as_raw(), user.group.as_raw())),
            no_network: options.no_network,
            // An examiner's request is an argument of its process, which everybody can read; so the
            // environment goes another way.
            environment: Vec::new(),
        },
        environment: environment.to_owned(),
    }
}

fn delegated_cgroup() -> Option<Delegated> {
    match Delegated::find() {
        Ok(delegated) => {
            tracing::debug!("each worker gets a cgroup of its own");
            Some(delegated)
        }
        Err(reason) => {
            tracing::debug!(
                "no cgroups for workers ({reason}): rlimits and samples hold the limits"
            );
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_that_comes_twice_counts_once() {
        let mut interrupts = Interrupts::default();
        interrupts.own += 1;
        assert!(interrupts.is_another());
        interrupts.relayed += 1;
        assert!(
            !interrupts.is_another(),
            "the same order by way of the init"
        );
        interrupts.relayed += 1;
        assert!(interrupts.is_another());
        assert!(!interrupts.is_another());
    }
}
