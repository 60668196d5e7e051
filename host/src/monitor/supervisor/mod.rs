//! The loop: wait for an event, handle it, then do what can be done now.
//!
//! The supervisor has an owner for each part of what a monitor does, and is the only one that sees two of them:
//! it passes each its events and the time, and what they tell to the others. Its own methods that do so are
//! grouped by what they are about: `workers` (tasks and workers), `cycle` (the statement that claims and
//! reports), `transfers` (what goes to the database beside it), `reports` (how the database takes all that).

mod cycle;
mod listen;
mod reports;
mod start;
mod transfers;
mod workers;

use super::{
    claim::{self, Claims},
    cron::Cron,
    database,
    event::Event,
    housekeeping::Housekeeping,
    lease::{self, Lease},
    options::{MonitorError, Options},
    outage::Outage,
    plugins::{self, Plugins},
    poll::Poll,
    refusals::Refusals,
    shutdown::{Phase, REPORT_GRACE, Shutdown},
    tasks::Tasks,
    unsaid::Keeping,
    wakeup::Wakeup,
    workers::{Workers, pages::Pages, process},
};
use crate::{
    model::MonitorId,
    store::{CatalogRow, Claim, Notification, Store, StoreError},
};
use chrono::Utc;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::{Semaphore, mpsc};

/// How often it is looked for tasks that have waited for too long, and for what dead workers have left.
const SECOND: Duration = Duration::from_secs(1);
/// At most this many events are handled before what follows from them is done.
const BATCH: usize = 256;

/// All that a monitor knows.
#[derive(Debug)]
pub(super) struct Supervisor {
    store: Store,
    /// Contents of files go through few connections at a time.
    transfers: Arc<Semaphore>,
    options: Options,
    monitor: MonitorId,
    /// Which installation this is; see `unsaid`.
    installation: String,
    pages: Pages,
    events: mpsc::UnboundedSender<Event>,
    arrivals: mpsc::UnboundedReceiver<Event>,
    claims: Claims,
    workers: Workers,
    tasks: Tasks,
    plugins: Plugins,
    cron: Cron,
    lease: Lease,
    housekeeping: Housekeeping,
    wakeup: Wakeup,
    outage: Outage,
    /// Writes that the database refuses.
    refusals: Refusals,
    keeping: Keeping,
    /// Asks which of this monitor's tasks somebody wants to end.
    abort_requests: Poll,
    /// When that is done next which is done every [`SECOND`].
    next_second: Instant,
    /// When a report was last taken.
    taken_at: Option<Instant>,
    shutdown: Shutdown,
}

impl Supervisor {
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
        if self.options.worker_user.is_none() && nix::unistd::geteuid().is_root() {
            tracing::info!(
                "workers run as root: a plugin may do anything here; --worker-user prevents that"
            );
        }
        listen::signals(&self.events)?;
        listen::notifications(self.store.clone(), self.events.clone());
        while !self.is_finished(Instant::now()) {
            let wake = self.next_wake(Instant::now());
            let event = tokio::select! {
                event = self.arrivals.recv() => event,
                () = tokio::time::sleep_until(wake.into()) => None,
            };
            if let Some(event) = event {
                self.handle(event);
            }
            // What else has happened in the meantime is one batch.
            for _ in 0..BATCH {
                let Ok(event) = self.arrivals.try_recv() else {
                    break;
                };
                self.handle(event);
            }
            self.act(Instant::now());
        }
        process::leave_nothing();
        if self.shutdown.phase() == Phase::Lost {
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

    /// Takes note of an event. What follows from it is done by [`Supervisor::act`].
    fn handle(&mut self, event: Event) {
        let now = Instant::now();
        match event {
            Event::Notified(Notification::Ready) => self.wakeup.want(),
            Event::Notified(Notification::Abort(_)) => self.abort_requests.want(now),
            Event::Notified(Notification::Catalog) => {
                self.plugins.database_changed(now);
                self.claims.reload(now);
            }
            Event::Notified(Notification::Worker) => self.workers.want_stop_requests(now),
            Event::Notified(Notification::Schedules) => self.cron.reload(now),
            Event::Notified(Notification::Reconnected { may_notify }) => {
                self.wakeup.notifications(may_notify, now);
                self.wakeup.want();
                self.abort_requests.want(now);
                self.workers.want_stop_requests(now);
                self.cron.reload(now);
                self.claims.reload(now);
            }
            Event::Workers(event) => {
                let news = self.workers.handle(event, now);
                self.workers_news(news, now);
            }
            Event::Unpacked(ended, saved) => self.unpacked(*ended, saved),
            Event::Child => self.reap(now),
            Event::Interrupted(interrupt) => {
                let grace = self.options.grace;
                self.shutdown.interrupted(interrupt, grace, now);
            }
            Event::Cycled(result) => self.cycled(result, now),
            Event::LinesDeleted(deleted, rows) => self.lines_deleted(deleted, rows, now),
            Event::Catalog(rows) => self.catalog_read(rows, now),
            Event::Aborts(requests) => self.abort_requested(requests, now),
            Event::Fetched(task, files) => self.fetched(task, files, now),
            Event::Stored(task, stored) => self.stored(task, stored),
            Event::Enqueued(worker, answer) => self.enqueued(worker, answer),
            Event::Cron(event) => {
                let news = self.cron.handle(event, now);
                self.database_news(news, now);
            }
            Event::Housekeeping(event) => {
                let news = self.housekeeping.handle(event, now);
                self.database_news(news, now);
            }
            Event::Lease(event) => self.lease_event(event, now),
            Event::SleepAnnounced(result) => self.sleep_announced(result, now),
            Event::Plugins(event) => {
                let is_working = self.shutdown.is_working();
                let news = self.plugins.handle(event, now, is_working);
                self.plugins_news(news, now);
            }
            Event::Kept(kept) => self.kept(kept, now),
            Event::Refused(error) => self.database_failed(&error, now),
        }
    }

    /// Does everything that can be done now. Idempotent: whatever is not yet due stays.
    fn act(&mut self, now: Instant) {
        let is_working = self.shutdown.is_working();
        self.wakeup.tick(self.workers.backlog(), now);
        self.workers.enforce_limits(now);
        self.workers.enforce_usage(now);
        let news = self.workers.bury(now);
        self.workers_news(news, now);
        self.announce_sleep();
        if now >= self.next_second {
            self.next_second = now + SECOND;
            self.release_overdue(now);
            self.kill_orphans();
        }
        self.claims.tick(self.plugins.cache(), now);
        self.poll_abort_requests(now);
        self.workers.poll_stop_requests(now);
        let may_ask = self.outage.may_ask(now);
        self.housekeeping.tick(is_working, may_ask, now);
        if is_working && may_ask {
            self.cron.tick(now);
        }
        let news = self.plugins.tick(now, is_working);
        self.plugins_news(news, now);
        self.keep_lease(now);
        self.log_refusals(now);
        self.keep_unsaid(now);
        self.workers.sample(now);
        self.feed(now);
        self.cycle(now);
        if self.workers.is_empty() {
            self.shutdown.no_workers(now);
        }
    }

    /// When something is due next. Only what somebody will act upon then: a time that has passed and stays
    /// would make the loop spin. What waits for an answer of the database is woken by it.
    fn next_wake(&self, now: Instant) -> Instant {
        let is_working = self.shutdown.is_working();
        let may_ask = self.outage.may_ask(now);
        let may_report = !self.tasks.is_in_flight() && may_ask && !self.workers.is_saving();
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
            self.workers.next_wake(),
            self.lease.next_wake(is_working),
            self.housekeeping.next_wake(is_working),
            may_report.then(|| self.workers.next_show(now)).flatten(),
            self.tasks.next_wake(now),
            self.shutdown.next_wake(now),
        ]
        .into_iter()
        .chain(when_working.into_iter().filter(|_| is_working))
        .flatten()
        .min()
        .expect("there is always a next second")
        .max(now + Duration::from_micros(200))
    }

    /// Renews the lease, compares what is held, looks after the other monitors.
    fn keep_lease(&mut self, now: Instant) {
        let waiting = self.unreported();
        let trouble = || self.refusals.trouble(waiting);
        self.lease.renew(self.outage.is_away(), trouble, now);
        if self.shutdown.is_working() {
            self.lease.watch_others(now);
        }
        if !self.tasks.is_in_flight() {
            self.lease.reconcile(self.tasks.cycle_number(), now);
        }
    }

    fn lease_event(&mut self, event: lease::Event, now: Instant) {
        match self.lease.handle(event, now) {
            Some(lease::News::Renewed) => {
                self.workers.set_lease(self.lease.until());
                if self.shutdown.is_working() {
                    self.lease.recover(now);
                }
            }
            Some(lease::News::Lost) => {
                tracing::error!(
                    "this monitor was declared lost while it was away: ending its workers"
                );
                self.shutdown.lost();
            }
            Some(lease::News::Held(believed)) => self.compare_claims(believed, now),
            Some(lease::News::TasksReady) => self.wakeup.want(),
            Some(lease::News::DatabaseFailed(error)) => self.database_failed(&error, now),
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
            Some(database::News::TasksReady) => self.wakeup.want(),
            Some(database::News::Failed(error)) => self.database_failed(&error, now),
            Some(database::News::Stuck(error)) => self.database_stuck(&error, now),
            None => {}
        }
    }

    fn plugins_news(&mut self, news: Option<plugins::News>, now: Instant) {
        match news {
            Some(plugins::News::CatalogChanged) => self.claims.reload(now),
            Some(plugins::News::DatabaseFailed(error)) => self.database_failed(&error, now),
            None => {}
        }
    }

    /// The catalog was read: plugins that this host lacks are obtained, and versions that have changed take over.
    fn catalog_read(&mut self, rows: claim::Event, now: Instant) {
        self.claims.answered();
        let rows = match rows {
            Ok(rows) => rows,
            Err(error) => return self.database_failed(&error, now),
        };
        self.plugins.obtain(&rows, now);
        let availability = |row: &CatalogRow| self.plugins.availability(row);
        if self.claims.update(rows, availability) {
            self.wakeup.want();
        }
        self.release_paused(now);
        self.release_outdated();
        self.workers.offer(self.claims.catalog().domains());
    }

    /// Tells the database whether whoever enqueues must notify this monitor.
    fn announce_sleep(&mut self) {
        if !self.shutdown.is_working() {
            return;
        }
        if let Some(asleep) = self.wakeup.begin_announcement(self.workers.backlog()) {
            let (store, monitor) = (self.store.clone(), self.monitor);
            self.ask(
                async move { store.monitor_sleep(monitor, asleep).await },
                Event::SleepAnnounced,
            );
        }
    }

    fn sleep_announced(&mut self, result: Result<(), StoreError>, now: Instant) {
        match result {
            Ok(()) => self.wakeup.announced(now),
            Err(error) => {
                self.wakeup.announcement_failed();
                self.database_failed(&error, now);
            }
        }
    }

    fn is_finished(&self, now: Instant) -> bool {
        if self.shutdown.is_working() || !self.workers.is_empty() {
            return false;
        }
        // A disk that does not answer must not keep this process from its end.
        self.is_settled() && !self.keeping.is_busy() || self.is_report_overdue(now)
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
