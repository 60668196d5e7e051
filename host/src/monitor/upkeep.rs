//! The periodic parts: each looks at the world, does what is due, and may be run at any time.
//! Notifications make the monitor fast; what is here makes it right.

use super::{
    event::Event,
    heartbeat,
    pool::Pool,
    refusals::{Refusals, Refused},
    supervisor::{Phase, Supervisor},
};
use crate::{
    model::TaskId,
    periods::Periods,
    store::{CatalogRow, Ended, FileContent, StoreError},
};
use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

/// After falling asleep the monitor looks again so long after, for a wake-up can be lost while
/// "I sleep" and "there is something" pass each other.
const SECOND_LOOKS: [Duration; 2] = [Duration::from_millis(3), Duration::from_millis(50)];
/// While one domain has a backlog nobody is told to wake us, so the queues of the others are looked
/// into so often.
const LOOK_WHILE_AWAKE: Duration = Duration::from_millis(50);
/// After its start a monitor first removes what is old, and then so often.
const VACUUM_SOON: Duration = Duration::from_secs(1);
const VACUUM_EVERY: Duration = Duration::from_secs(600);

/// What is due when, and what the database has been told.
#[derive(Debug)]
pub(super) struct Upkeep {
    second_look: Option<Instant>,
    third_look: Option<Instant>,
    pub(super) next_look: Instant,
    next_second: Instant,
    pub(super) next_heartbeat: Instant,
    pub(super) next_figures: Instant,
    pub(super) next_reconcile: Instant,
    next_promotion: Instant,
    /// What the database believes: whoever enqueues must wake us.
    asleep: bool,
    saying_sleep: bool,
    pub(super) aborts_due: bool,
    pub(super) asking_aborts: bool,
    pub(super) asked_due: bool,
    pub(super) asking_asked: bool,
    next_vacuum: Instant,
    vacuuming: bool,
    asking_catalog: bool,
    catalog_due: bool,
    promoting: bool,
    pub(super) renewing: bool,
    pub(super) reserving: bool,
    /// Workers are being written down.
    pub(super) saving: bool,
    /// Outputs whose contents are being written beside their rows.
    pub(super) storing: HashMap<TaskId, (Ended, Arc<Vec<FileContent>>)>,
    /// Writes that the database refuses.
    pub(super) refusals: Refusals,
    /// When a report was last taken.
    pub(super) taken_at: Option<Instant>,
    /// The database is given a rest until then: it is away, has refused a claim, or somebody has locked a
    /// row that a report needs.
    pub(super) retry_at: Option<Instant>,
    retry_pause: Duration,
    away: bool,
    /// The end of our lease, on the clock that goes on while a machine sleeps.
    pub(super) lease_until: u64,
}

impl Upkeep {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            second_look: None,
            third_look: None,
            next_look: now,
            next_second: now,
            next_heartbeat: now,
            next_figures: now + Duration::from_secs(2),
            next_reconcile: now + Duration::from_secs(30),
            next_promotion: now,
            asleep: false,
            saying_sleep: false,
            aborts_due: false,
            asking_aborts: false,
            asked_due: false,
            asking_asked: false,
            next_vacuum: now + VACUUM_SOON,
            vacuuming: false,
            asking_catalog: false,
            catalog_due: false,
            promoting: false,
            renewing: false,
            reserving: false,
            saving: false,
            storing: HashMap::new(),
            refusals: Refusals::default(),
            taken_at: None,
            retry_at: None,
            retry_pause: Duration::from_millis(50),
            away: false,
            lease_until: heartbeat::first_lease(),
        }
    }

    /// Somebody may want one of our tasks to end.
    pub(super) fn aborts_due(&mut self) {
        self.aborts_due = true;
    }

    /// Somebody may want one of our workers to end.
    pub(super) fn asked_due(&mut self) {
        self.asked_due = true;
    }

    /// The database did not answer, which is said once, or refused something. While it is away, or says
    /// that it will do it in a moment, it is given a rest; a refusal of one thing holds up no other.
    pub(super) fn lost(&mut self, error: &StoreError) {
        if error.is_disconnect() && !self.away {
            self.away = true;
            tracing::warn!(
                "the database is away, running tasks go on: {}",
                super::report::chain(error)
            );
        }
        if error.is_refusal() {
            self.refusals.note(error, Refused::Other, Instant::now());
        }
        if error.is_disconnect() || error.is_passing() {
            self.back_off(Instant::now());
        }
    }

    /// A report was refused.
    pub(super) fn report_refused(&mut self, error: &StoreError) {
        self.refusals.note(error, Refused::Report, Instant::now());
        if self.refusals.is_general() {
            self.back_off(Instant::now());
        }
    }

    /// Gives the database a rest, longer each time. A rest that has begun is not prolonged: several
    /// questions may fail meanwhile.
    pub(super) fn back_off(&mut self, now: Instant) {
        if self.is_backing_off(now) {
            return;
        }
        self.retry_at = Some(now + self.retry_pause);
        self.retry_pause = (self.retry_pause * 2).min(Duration::from_secs(5));
    }

    /// The database answers.
    pub(super) fn found(&mut self) {
        if self.away {
            self.away = false;
            // A cycle may have been committed without our hearing of it.
            self.next_reconcile = Instant::now();
            tracing::info!("the database is back");
        }
        self.retry_at = None;
        self.retry_pause = Duration::from_millis(50);
    }

    /// Somebody has locked a row of ours: not again at once.
    pub(super) fn breathe(&mut self, now: Instant) {
        self.retry_at = Some(now + Duration::from_millis(20));
    }

    /// Whether the database is given a rest.
    pub(super) fn is_backing_off(&self, now: Instant) -> bool {
        self.retry_at.is_some_and(|at| now < at)
    }

    /// A look at a queue has found all that there was: something, or nothing. It is looked at once more
    /// soon, for what came while it was.
    pub(super) fn looked(&mut self, found: bool, now: Instant) {
        if found || self.second_look.is_none() && self.third_look.is_none() {
            self.second_look = found.then(|| now + SECOND_LOOKS[0]);
            self.third_look = found.then(|| now + SECOND_LOOKS[1]);
        }
    }

    /// There may be something to find then.
    pub(super) fn look_at(&mut self, at: Instant) {
        self.third_look = Some(self.third_look.map_or(at, |planned| planned.min(at)));
    }

    /// Delayed tasks fall due after this.
    pub(super) fn promote_at(&mut self, at: Instant) {
        self.next_promotion = self.next_promotion.min(at);
    }

    /// Whether the database does not answer.
    pub(super) fn is_away(&self) -> bool {
        self.away
    }
}

impl Supervisor {
    /// Does what is due.
    pub(super) fn tick(&mut self, now: Instant) {
        let upkeep = &mut self.upkeep;
        for look in [&mut upkeep.second_look, &mut upkeep.third_look] {
            if look.is_some_and(|at| now >= at) {
                *look = None;
                self.look = true;
            }
        }
        let is_any_busy = self.pools.values().any(Pool::is_busy);
        let is_any_idle = self.pools.values().any(|pool| !pool.is_busy());
        let look_every = if is_any_busy && is_any_idle {
            LOOK_WHILE_AWAKE
        } else {
            Periods::current().queue_look
        };
        if now >= upkeep.next_look {
            upkeep.next_look = now + look_every;
            self.look = true;
        }
        upkeep.next_look = upkeep.next_look.min(now + look_every);
        self.enforce_limits(now);
        self.enforce_usage(now);
        self.say_sleep();
        if now >= self.upkeep.next_second {
            self.upkeep.next_second = now + Duration::from_secs(1);
            self.upkeep.aborts_due = true;
            self.upkeep.asked_due = true;
            self.refresh_catalog();
            self.release_overdue(now);
            self.kill_strays();
            self.bury_silent();
        }
        if self.upkeep.catalog_due {
            self.refresh_catalog();
        }
        self.ask_aborts();
        self.ask_asked();
        self.promote(now);
        self.fire(now);
        self.vacuum(now);
        self.tend_plugins(now);
        self.heartbeat(now);
        self.watch_others(now);
        self.look_often(now);
        self.tell_refusals(now);
        self.reconcile(now);
        self.sample(now);
        self.reserve_ids();
    }

    /// When something is due next.
    pub(super) fn next_wake(&self) -> Instant {
        // Only what somebody will act upon then: a deadline that has passed and stays would make
        // the loop spin. What waits for an answer of the database is woken by it.
        let now = Instant::now();
        let upkeep = &self.upkeep;
        let is_working = self.phase == Phase::Working;
        let end = match self.phase {
            Phase::Draining(deadline) | Phase::Forced(deadline) => Some(deadline),
            Phase::Working | Phase::Lost => None,
        };
        [
            Some(upkeep.next_second),
            is_working.then_some(upkeep.next_look),
            upkeep.second_look,
            upkeep.third_look,
            upkeep.retry_at.filter(|at| *at > now),
            (!upkeep.renewing).then_some(upkeep.next_heartbeat),
            (is_working && !upkeep.promoting).then_some(upkeep.next_promotion),
            self.next_mark().filter(|_| {
                self.in_flight.is_none() && !upkeep.is_backing_off(now) && !upkeep.saving
            }),
            self.outbox.parked.next_try().filter(|at| *at > now),
            self.next_verdict.filter(|_| is_working && !self.recovering),
            self.often.filter(|_| is_working),
            self.lines.next_wake().filter(|at| *at > now),
            self.next_limit(),
            self.next_usage(),
            self.next_fire(now),
            is_working.then(|| self.drop_in.next_wake()).flatten(),
            is_working.then(|| self.supply.next_wake()).flatten(),
            end.filter(|at| *at > now),
        ]
        .into_iter()
        .flatten()
        .min()
        .expect("there is always a next second")
        .max(now + Duration::from_micros(200))
    }

    /// Asks what this host may run.
    pub(super) fn refresh_catalog(&mut self) {
        if self.upkeep.asking_catalog {
            self.upkeep.catalog_due = true;
            return;
        }
        self.upkeep.asking_catalog = true;
        self.upkeep.catalog_due = false;
        let (store, host) = (self.store.clone(), self.options.host.clone());
        let domains = self.options.domains.clone();
        let cache = self.cache.clone();
        self.ask(
            async move {
                let rows = store.operation_catalog(&host, &domains).await?;
                // The cache reads a copy that it has not seen yet, which is not for the loop.
                let reading = tokio::task::spawn_blocking(move || {
                    for row in &rows {
                        cache.find(&row.hash);
                    }
                    rows
                });
                Ok(reading.await.expect("looking for a copy does not panic"))
            },
            Event::Catalog,
        );
    }

    pub(super) fn catalog_arrived(&mut self, rows: Result<Vec<CatalogRow>, StoreError>) {
        self.upkeep.asking_catalog = false;
        let rows = match rows {
            Ok(rows) => rows,
            Err(error) => return self.upkeep.lost(&error),
        };
        let before: Vec<i32> = lanes_of(self);
        self.obtain_missing(&rows);
        let (cache, supply) = (&self.cache, &self.supply);
        let availability = |row: &CatalogRow| supply.availability(cache, row);
        for refusal in self.catalog.update(rows, availability) {
            tracing::error!("a registered plugin cannot be used: {refusal}");
        }
        self.release_paused();
        self.release_outdated();
        for domain in self.catalog.domains().keys() {
            self.pools.entry(domain.clone()).or_default();
        }
        for (domain, pool) in &mut self.pools {
            pool.offer(self.catalog.domains().get(domain));
        }
        self.look |= before != lanes_of(self);
    }

    /// Tells the database whether whoever enqueues must wake us. Unconditional notifications would
    /// serialise commits, so while there is a backlog we say that we are awake.
    fn say_sleep(&mut self) {
        let asleep = !self.pools.values().any(Pool::is_busy);
        if self.upkeep.saying_sleep || asleep == self.upkeep.asleep || self.phase != Phase::Working
        {
            return;
        }
        self.upkeep.saying_sleep = true;
        self.upkeep.asleep = asleep;
        let (store, monitor) = (self.store.clone(), self.monitor);
        self.ask(
            async move { store.monitor_sleep(monitor, asleep).await },
            Event::SleepSaid,
        );
    }

    pub(super) fn sleep_said(&mut self, said: Result<(), StoreError>) {
        self.upkeep.saying_sleep = false;
        let now = Instant::now();
        match said {
            Ok(()) => {
                self.look = true;
                self.upkeep.second_look = Some(now + SECOND_LOOKS[0]);
                self.upkeep.third_look = Some(now + SECOND_LOOKS[1]);
            }
            Err(error) => {
                // Unknown; say it again.
                self.upkeep.asleep = !self.upkeep.asleep;
                self.upkeep.lost(&error);
            }
        }
    }

    /// Moves delayed tasks that have fallen due into the queue.
    fn promote(&mut self, now: Instant) {
        if self.upkeep.promoting || now < self.upkeep.next_promotion || self.phase != Phase::Working
        {
            return;
        }
        self.upkeep.promoting = true;
        let store = self.store.clone();
        self.ask(
            async move {
                let promoted = store.cycle_promote().await;
                if promoted.is_ok()
                    && let Err(error) = store.cycle_tidy().await
                {
                    // Next time.
                    tracing::debug!("could not tidy up: {error}");
                }
                promoted
            },
            Event::Promoted,
        );
    }

    pub(super) fn promoted(&mut self, promoted: Result<(i64, Option<Duration>), StoreError>) {
        self.upkeep.promoting = false;
        let mut pause = Periods::current().queue_look;
        match promoted {
            Ok((count, next)) => {
                self.look |= count > 0;
                // What is due already and was not taken is in the hands of another monitor.
                let least = Duration::from_millis(if count > 0 { 1 } else { 20 });
                pause = next.map_or(pause, |next| next.clamp(least, pause));
            }
            Err(error) => self.upkeep.lost(&error),
        }
        self.upkeep.next_promotion = Instant::now() + pause;
    }

    /// Removes tasks and workers of our domains that ended long ago.
    fn vacuum(&mut self, now: Instant) {
        let Some(age) = self.options.vacuum else {
            return;
        };
        if self.upkeep.vacuuming || now < self.upkeep.next_vacuum || self.phase != Phase::Working {
            return;
        }
        self.upkeep.vacuuming = true;
        self.upkeep.next_vacuum = now + VACUUM_EVERY.min(age.max(VACUUM_SOON));
        let (store, domains) = (self.store.clone(), self.options.domains.clone());
        self.ask(
            async move {
                let domains: Vec<Option<&str>> = match domains.as_slice() {
                    [] => vec![None],
                    some => some.iter().map(|domain| Some(domain.as_str())).collect(),
                };
                let (mut tasks, mut workers) = (0, 0);
                for domain in domains {
                    tasks += store.task_vacuum(domain, age, false).await?;
                    workers += store.worker_vacuum(domain, age).await?;
                }
                Ok((tasks, workers))
            },
            Event::Vacuumed,
        );
    }

    pub(super) fn vacuumed(&mut self, vacuumed: Result<(i64, u64), StoreError>) {
        self.upkeep.vacuuming = false;
        match vacuumed {
            Ok((0, 0)) => {}
            Ok((tasks, workers)) => {
                tracing::info!("vacuum: deleted {tasks} tasks and {workers} workers");
            }
            Err(error) => self.upkeep.lost(&error),
        }
    }
}

fn lanes_of(supervisor: &Supervisor) -> Vec<i32> {
    supervisor
        .catalog
        .domains()
        .values()
        .flat_map(|domain| domain.values())
        .flat_map(|offer| offer.lanes.iter().copied())
        .collect()
}
