//! The loop: wait for an event, handle it, then do what can be done now.

use super::{
    cgroup::Delegated,
    claim::{self, Claims},
    cron::Cron,
    database::{self, Database},
    event::Event,
    housekeeping::Housekeeping,
    identity::Identity,
    init,
    lease::{self, Lease},
    mailbox::Mailbox,
    outage::Outage,
    pages::{Pages, pages_dir},
    plugins::{self, Plugins},
    poll::Poll,
    pool::Pool,
    process,
    recover::Recovery,
    refusals::{Refusals, Refused, Said},
    run::{MonitorError, Options},
    tasks::Tasks,
    unsaid::Keeping,
    wakeup::{Backlog, Wakeup},
    worker::Worker,
};
use crate::{
    here,
    model::{MonitorId, WorkerId, duration::human},
    plugin::{Cache, Confinement},
    store::{CatalogRow, Claim, Notification, Store, StoreError},
};
use chrono::Utc;
use nix::sys::signal::Signal;
use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{Semaphore, mpsc},
};

/// How many transfers of files are under way at a time: files must not take all connections.
const TRANSFERS: usize = 2;
/// When a monitor is told to end and its workers are gone, the database has this long to take what became
/// of the tasks, counted from the last report that it took.
const REPORT_GRACE: Duration = Duration::from_secs(5);
/// For contents of files, which are large, it has this long, if it takes them at all.
const FILES_GRACE: Duration = Duration::from_secs(60);
/// What needs no answer at once is looked at this often: tasks that wait for too long, what dead workers
/// left.
const SECOND: Duration = Duration::from_secs(1);

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
    /// Contents of files go through few connections at a time.
    pub(super) transfers: Arc<Semaphore>,
    pub(super) options: Options,
    pub(super) monitor: MonitorId,
    pub(super) pages: Pages,
    pub(super) environment: Vec<(String, String)>,
    pub(super) events: mpsc::UnboundedSender<Event>,
    arrivals: mpsc::UnboundedReceiver<Event>,
    pub(super) claims: Claims,
    pub(super) pools: BTreeMap<String, Pool>,
    pub(super) workers: BTreeMap<WorkerId, Worker>,
    pub(super) dead_workers: Vec<crate::store::WorkerSave>,
    pub(super) tasks: Tasks,
    /// There may be something to claim for any of the pools; each then remembers it for itself.
    pub(super) look: bool,
    pub(super) outage: Outage,
    pub(super) wakeup: Wakeup,
    pub(super) housekeeping: Housekeeping,
    pub(super) lease: Lease,
    /// Writes that the database refuses.
    pub(super) refusals: Refusals,
    /// Which of this monitor's tasks somebody wants to end.
    pub(super) abort_requests: Poll,
    /// Which of this monitor's workers somebody wants to end.
    pub(super) stop_requests: Poll,
    /// When what is looked at each second is looked at next.
    next_second: Instant,
    /// When what workers use is measured next.
    pub(super) next_figures: Instant,
    /// Whether workers are being written down.
    pub(super) saving: bool,
    /// When a report was last taken.
    pub(super) taken_at: Option<Instant>,
    pub(super) cron: Cron,
    pub(super) plugins: Plugins,
    pub(super) phase: Phase,
    interrupts: Interrupts,
    /// The operations that were logged for leaving their worker changed: hash of the plugin, and name.
    pub(super) left_behind: HashSet<(String, String)>,
    /// Where workers get cgroups of their own, if anywhere.
    pub(super) cgroup: Option<Delegated>,
    /// Who workers run as, if not as this process.
    pub(super) worker_user: Option<Identity>,
    /// Which installation this is; see `unsaid`.
    pub(super) installation: String,
    /// The database has refused the rows of workers: not before then.
    pub(super) workers_again: Option<Instant>,
    pub(super) keeping: Keeping,
    /// Since when an ending monitor has nothing left but words.
    quiet_since: Option<Instant>,
}

impl Supervisor {
    /// Announces a monitor, and makes ready what it needs. `lease_store` is a connection of its own, for
    /// the lease alone.
    pub(super) async fn start(
        store: Store,
        lease_store: Store,
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
        let now = Instant::now();
        let installation = store.schema_installation().await?;
        let recovery = Recovery {
            store: store.clone(),
            me: monitor,
            host: options.host.clone(),
            installation: installation.clone(),
        };
        let numbers = store.worker_reserve(Housekeeping::FIRST_NUMBERS).await?;
        let environment: Vec<_> = options
            .environment
            .iter()
            .filter_map(|name| Some((name.clone(), std::env::var(name).ok()?)))
            .collect();
        let (events, arrivals) = mpsc::unbounded_channel();
        let (host, domains) = (options.host.clone(), options.domains.clone());
        let claims = Database::new(store.clone(), Mailbox::new(events.clone(), Event::Catalog));
        let cron = Database::new(store.clone(), Mailbox::new(events.clone(), Event::Cron));
        let housekeeping = Mailbox::new(events.clone(), Event::Housekeeping);
        let housekeeping = Database::new(store.clone(), housekeeping);
        let lease = Database::new(store.clone(), Mailbox::new(events.clone(), Event::Lease));
        let plugins = Plugins::new(
            plugin_settings(monitor, &options, worker_user.as_ref(), &environment),
            Cache::at(here::plugin_cache_dir()),
            Database::new(store.clone(), Mailbox::new(events.clone(), Event::Plugins)),
            now,
        );
        Ok(Self {
            monitor,
            pages,
            environment,
            events,
            arrivals,
            claims: Claims::new(claims, host.clone(), domains.clone(), now),
            pools: BTreeMap::new(),
            workers: BTreeMap::new(),
            dead_workers: Vec::new(),
            tasks: Tasks::default(),
            look: true,
            outage: Outage::default(),
            wakeup: Wakeup::new(now),
            housekeeping: Housekeeping::new(
                housekeeping,
                domains.clone(),
                options.vacuum,
                numbers,
                now,
            ),
            lease: Lease::new(monitor, lease, lease_store, recovery, now),
            refusals: Refusals::default(),
            abort_requests: Poll::every(SECOND, now),
            stop_requests: Poll::every(SECOND, now),
            next_second: now,
            next_figures: now + Duration::from_secs(2),
            saving: false,
            taken_at: None,
            cron: Cron::new(cron, host, domains, now),
            plugins,
            phase: Phase::Working,
            interrupts: Interrupts::default(),
            left_behind: HashSet::new(),
            cgroup: delegated_cgroup(),
            worker_user,
            installation,
            workers_again: None,
            keeping: Keeping::default(),
            quiet_since: None,
            store,
            transfers: Arc::new(Semaphore::new(TRANSFERS)),
            options,
        })
    }

    /// The loop.
    pub(super) async fn run(&mut self) -> Result<(), MonitorError> {
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
        while !self.is_finished() {
            let wake = self.next_wake(Instant::now());
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
            matches!(tokio::time::timeout(REPORT_GRACE, end).await, Ok(Ok(())))
        };
        if !is_heard {
            return Err(self.leave_unsaid());
        }
        tracing::info!(monitor.id = %self.monitor, "monitor {} has ended", self.monitor);
        Ok(())
    }

    /// One thing happened: take note of it. What follows from it is done by [`Supervisor::act`].
    fn handle(&mut self, event: Event) {
        let now = Instant::now();
        match event {
            Event::Notified(Notification::Ready) => self.look = true,
            Event::Notified(Notification::Abort(_)) => self.abort_requests.want(now),
            Event::Notified(Notification::Catalog) => {
                self.plugins.database_changed(now);
                self.claims.reload(now);
            }
            Event::Notified(Notification::Worker) => self.stop_requests.want(now),
            Event::Notified(Notification::Schedules) => self.cron.reload(now),
            Event::Notified(Notification::Reconnected { may_notify }) => {
                self.wakeup.notifications(may_notify, now);
                self.look = true;
                self.abort_requests.want(now);
                self.stop_requests.want(now);
                self.cron.reload(now);
                self.claims.reload(now);
            }
            Event::Said(worker, message, descriptors) => self.said(worker, message, descriptors),
            Event::Garbled(worker, error) => self.garbled(worker, &error),
            Event::Hung(worker) => self.hung(worker),
            Event::Unsaid(worker, task, error) => self.unsaid(worker, task, &error),
            Event::Unpacked(ended, saved) => self.unpacked(*ended, saved),
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
            Event::Cycled(result) => self.cycled(result, now),
            Event::LinesDeleted(deleted, rows) => self.lines_deleted(deleted, rows),
            Event::Catalog(rows) => self.catalog_read(rows),
            Event::Aborts(requests) => self.aborts_arrived(requests),
            Event::Fetched(task, files) => self.fetched(task, files),
            Event::Stored(task, stored) => self.stored(task, stored),
            Event::Scheduled(worker, answer) => self.scheduled(worker, answer),
            Event::Cron(event) => {
                let news = self.cron.handle(event, now);
                self.database_news(news, now);
            }
            Event::StopRequests(requests) => self.stop_requested(requests),
            Event::Housekeeping(event) => {
                let news = self.housekeeping.handle(event, now);
                self.database_news(news, now);
            }
            Event::Lease(event) => self.lease_event(event, now),
            Event::SleepTold(told) => self.sleep_told(told, now),
            Event::WorkersSaved(saved, rows) => self.workers_saved(saved, rows),
            Event::Plugins(event) => {
                let is_working = self.phase == Phase::Working;
                let news = self.plugins.handle(event, now, is_working);
                self.plugins_news(news, now);
            }
            Event::Kept(kept) => self.kept(kept, now),
            Event::Refused(error) => self.database_failed(&error),
        }
    }

    /// Does everything that can be done now. Idempotent: whatever is not yet due stays.
    fn act(&mut self, now: Instant) {
        let is_working = self.phase == Phase::Working;
        self.look |= self.wakeup.is_due(self.backlog(), now);
        self.enforce_limits(now);
        self.enforce_usage(now);
        self.tell_sleep();
        if now >= self.next_second {
            self.next_second = now + SECOND;
            self.release_overdue(now);
            self.kill_orphans();
            self.reap_silent();
        }
        self.claims.tick(self.plugins.cache(), now);
        self.poll_abort_requests(now);
        self.poll_stop_requests(now);
        let may_ask = self.outage.may_ask(now);
        self.housekeeping.tick(is_working, may_ask, now);
        if is_working && may_ask {
            self.cron.tick(now);
        }
        let news = self.plugins.tick(now, is_working);
        self.plugins_news(news, now);
        self.keep_lease(now);
        self.tell_refusals(now);
        self.sample(now);
        self.feed(now);
        self.cycle(now);
        if self.phase != Phase::Working && self.workers.is_empty() {
            self.quiet_since.get_or_insert(now);
        }
    }

    /// When something is due next. Only what somebody will act upon then: a time that has passed and stays
    /// would make the loop spin. What waits for an answer of the database is woken by it.
    fn next_wake(&self, now: Instant) -> Instant {
        let is_working = self.phase == Phase::Working;
        let may_ask = self.outage.may_ask(now);
        let may_report = !self.tasks.is_in_flight() && may_ask && !self.saving;
        let end = match self.phase {
            Phase::Draining(deadline) | Phase::Forced(deadline) => Some(deadline),
            Phase::Working | Phase::Lost => None,
        };
        let when_working = [
            self.plugins.next_wake(),
            may_ask.then(|| self.cron.next_wake(now)).flatten(),
        ];
        [
            Some(self.next_second),
            self.wakeup.next_wake(is_working),
            self.outage.next_wake(now),
            self.claims.next_wake(),
            self.abort_requests.next_wake(),
            self.stop_requests.next_wake(),
            self.lease.next_wake(is_working),
            self.housekeeping.next_wake(is_working),
            may_report.then(|| self.next_mark(now)).flatten(),
            self.tasks.next_wake(now),
            self.next_limit(),
            self.next_usage(),
            end.filter(|at| *at > now),
        ]
        .into_iter()
        .chain(when_working.into_iter().filter(|_| is_working))
        .flatten()
        .min()
        .expect("there is always a next second")
        .max(now + Duration::from_micros(200))
    }

    /// The database has not done something: if it is away it is given a rest, if it refuses what this
    /// monitor writes that is logged.
    pub(super) fn database_failed(&mut self, error: &StoreError) {
        let now = Instant::now();
        if error.is_refusal() {
            self.refusals.note(error, Refused::Other, now);
        }
        self.outage.failed(error, now);
    }

    /// As [`Supervisor::database_failed`], about something without which the monitor cannot go on.
    fn database_stuck(&mut self, error: &StoreError, now: Instant) {
        self.database_failed(error);
        self.outage.back_off(now);
    }

    /// A report was refused.
    pub(super) fn report_refused(&mut self, error: &StoreError) {
        let now = Instant::now();
        self.refusals.note(error, Refused::Report, now);
        if self.refusals.is_general() {
            self.outage.back_off(now);
        }
    }

    /// The database has answered a cycle. If it was away, a cycle may have been committed without an answer.
    pub(super) fn database_answered(&mut self, now: Instant) {
        if self.outage.answered() {
            self.lease.reconcile_soon(now);
        }
    }

    /// Renews the lease, compares what is held, looks after the other monitors.
    fn keep_lease(&mut self, now: Instant) {
        let waiting = self.unreported();
        let trouble = || self.refusals.trouble(waiting);
        self.lease.renew(self.outage.is_away(), trouble, now);
        if self.phase == Phase::Working {
            self.lease.watch_others(now);
        }
        if !self.tasks.is_in_flight() {
            self.lease.reconcile(self.tasks.cycle_number(), now);
        }
    }

    fn lease_event(&mut self, event: lease::Event, now: Instant) {
        match self.lease.handle(event, now) {
            Some(lease::News::Renewed) => {
                let workers: Vec<WorkerId> = self.workers.keys().copied().collect();
                for worker in workers {
                    self.set_lease(worker);
                }
                if self.phase == Phase::Working {
                    self.lease.recover(now);
                }
            }
            Some(lease::News::Lost) => {
                tracing::error!(
                    "this monitor was declared lost while it was away: ending its workers"
                );
                // Its tasks have been given to others, or ended; nothing here may go on.
                self.phase = Phase::Lost;
            }
            Some(lease::News::Held(believed)) => self.compare_claims(believed, now),
            Some(lease::News::TasksReady) => self.look = true,
            Some(lease::News::DatabaseFailed(error)) => self.database_failed(&error),
            None => {}
        }
    }

    /// The database has said which claims it believes that this monitor holds.
    fn compare_claims(&mut self, believed: Vec<Claim>, now: Instant) {
        if self.tasks.compare(believed, Utc::now()) {
            self.lease.reconcile_soon(now);
        }
    }

    fn database_news(&mut self, news: Option<database::News>, now: Instant) {
        match news {
            Some(database::News::TasksReady) => self.look = true,
            Some(database::News::Failed(error)) => self.database_failed(&error),
            Some(database::News::Stuck(error)) => self.database_stuck(&error, now),
            None => {}
        }
    }

    fn plugins_news(&mut self, news: Option<plugins::News>, now: Instant) {
        match news {
            Some(plugins::News::CatalogChanged) => self.claims.reload(now),
            Some(plugins::News::DatabaseFailed(error)) => self.database_failed(&error),
            None => {}
        }
    }

    /// The catalog says what this host may run: what it lacks is obtained, what has changed takes over.
    fn catalog_read(&mut self, rows: claim::Event) {
        self.claims.answered();
        let rows = match rows {
            Ok(rows) => rows,
            Err(error) => return self.database_failed(&error),
        };
        self.plugins.obtain(&rows, Instant::now());
        let availability = |row: &CatalogRow| self.plugins.availability(row);
        self.look |= self.claims.update(rows, availability);
        self.release_paused();
        self.release_outdated();
        let domains = self.claims.catalog().domains();
        for domain in domains.keys() {
            self.pools.entry(domain.clone()).or_default();
        }
        for (domain, pool) in &mut self.pools {
            pool.offer(domains.get(domain));
        }
    }

    fn backlog(&self) -> Backlog {
        Backlog {
            is_any_busy: self.pools.values().any(Pool::is_busy),
            is_any_idle: self.pools.values().any(|pool| !pool.is_busy()),
        }
    }

    /// Tells the database whether whoever enqueues must notify this monitor.
    fn tell_sleep(&mut self) {
        if self.phase != Phase::Working {
            return;
        }
        if let Some(asleep) = self.wakeup.begin_to_tell(self.backlog()) {
            let (store, monitor) = (self.store.clone(), self.monitor);
            self.ask(
                async move { store.monitor_sleep(monitor, asleep).await },
                Event::SleepTold,
            );
        }
    }

    fn sleep_told(&mut self, told: Result<(), StoreError>, now: Instant) {
        match told {
            Ok(()) => self.wakeup.told(now),
            Err(error) => {
                self.wakeup.not_told();
                self.database_failed(&error);
            }
        }
    }

    /// Tells a worker how long it may go on. The lease counts only for a worker whose task others
    /// would repeat: killing hours of work because Postgres was away would protect nothing.
    pub(super) fn set_lease(&self, worker: WorkerId) {
        let Some(worker) = self.workers.get(&worker) else {
            return;
        };
        let repeatable = worker.handed.values().any(|(_, handed)| {
            let held = self.tasks.get(handed.task);
            held.is_some_and(|held| held.claimed.max_attempts > 1)
        });
        worker.page.set_lease(if repeatable {
            self.lease.until()
        } else {
            u64::MAX
        });
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
            match unsaid.write_in_time(self.pages.directory()) {
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
        self.refusals
            .wait(self.tasks.is_in_flight() || self.saving, now);
        let waiting = self.unreported();
        let all_reported = self.tasks.is_nothing_parked()
            && self.taken_at.is_some()
            && !self.refusals.is_general()
            && !self.tasks.is_saying_alone();
        for said in self.refusals.say(waiting, all_reported, now) {
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
                Phase::Forced(now + REPORT_GRACE)
            }
            Phase::Forced(deadline) => Phase::Forced(deadline),
            Phase::Lost => Phase::Lost,
        };
    }

    fn is_finished(&self) -> bool {
        if self.phase == Phase::Working || !self.workers.is_empty() {
            return false;
        }
        // A disk that does not answer must not keep this process from its end.
        self.is_settled() && !self.keeping.is_busy || self.is_unheard(Instant::now())
    }

    /// Whether the database has had its time to take what this monitor has to say. What it has not taken is
    /// kept on the disk, so that waiting for longer would save nothing.
    fn is_unheard(&self, now: Instant) -> bool {
        match self.phase {
            Phase::Working => false,
            Phase::Forced(deadline) => self.outage.is_away() || now >= deadline,
            Phase::Draining(_) | Phase::Lost => {
                let in_trouble = self.outage.is_away() || self.refusals.is_any();
                let limit = if !self.tasks.is_storing() || in_trouble {
                    REPORT_GRACE
                } else {
                    FILES_GRACE
                };
                let since = self.quiet_since.max(self.taken_at);
                self.quiet_since.is_some() && since.is_some_and(|since| now >= since + limit)
            }
        }
    }

    /// Whether everything has been said.
    fn is_settled(&self) -> bool {
        self.tasks.is_settled() && self.dead_workers.is_empty() && !self.saving
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
