//! The periodic parts: each looks at the world, does what is due, and may be run at any time.
//! Notifications make the monitor fast; what is here makes it right.

use super::{
    event::Event,
    process, recover,
    report::{Fault, Place},
    supervisor::{Phase, Supervisor},
    worker::Life,
};
use crate::{
    model::{TaskId, Token, WorkerId, duration::human, task::Cause, worker::WorkerCause},
    plugin::Cache,
    store::{CatalogRow, Ended, Fate, FileContent, ScheduleRequest, StoreError},
    wire::{PluginFile, ToWorker},
};
use chrono::{DateTime, Utc};
use std::{
    collections::HashMap,
    path::Path,
    time::{Duration, Instant},
};

/// After falling asleep the monitor looks again so long after, for a wake-up can be lost while
/// "I sleep" and "there is something" pass each other.
const SECOND_LOOKS: [Duration; 2] = [Duration::from_millis(3), Duration::from_millis(50)];
/// And then so often.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Three full claims in a row: there is a backlog, nobody needs to wake us.
const BUSY_AFTER: u32 = 3;
/// How long a monitor may be silent before others take its tasks.
const LEASE: Duration = Duration::from_secs(15);
/// Workers believe the lease to end so much earlier.
const LEASE_MARGIN: Duration = Duration::from_secs(2);

/// What is due when, and what the database has been told.
#[derive(Debug)]
pub(super) struct Upkeep {
    second_look: Option<Instant>,
    third_look: Option<Instant>,
    next_look: Instant,
    next_second: Instant,
    next_heartbeat: Instant,
    next_figures: Instant,
    next_reconcile: Instant,
    next_promotion: Instant,
    full_looks: u32,
    /// What the database believes: whoever enqueues must wake us.
    asleep: bool,
    saying_sleep: bool,
    aborts_due: bool,
    asking_aborts: bool,
    asking_catalog: bool,
    catalog_due: bool,
    promoting: bool,
    renewing: bool,
    recovering: bool,
    reserving: bool,
    /// Workers are being written down.
    pub(super) saving: bool,
    /// Outputs whose contents are being written beside their rows.
    pub(super) storing: HashMap<TaskId, (Ended, Vec<FileContent>)>,
    /// The database is away: not before then.
    retry_at: Option<Instant>,
    retry_pause: Duration,
    away: bool,
    /// The end of our lease, on the clock that goes on while a machine sleeps.
    lease_until: u64,
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
            full_looks: 0,
            asleep: false,
            saying_sleep: false,
            aborts_due: false,
            asking_aborts: false,
            asking_catalog: false,
            catalog_due: false,
            promoting: false,
            renewing: false,
            recovering: false,
            reserving: false,
            saving: false,
            storing: HashMap::new(),
            retry_at: None,
            retry_pause: Duration::from_millis(50),
            away: false,
            lease_until: boottime() + nanos(LEASE - LEASE_MARGIN),
        }
    }

    /// Somebody may want one of our tasks to end.
    pub(super) fn aborts_due(&mut self) {
        self.aborts_due = true;
    }

    /// The database did not answer: said once, tried again with growing pauses.
    pub(super) fn lost(&mut self, error: &StoreError) {
        if error.is_disconnect() && !self.away {
            self.away = true;
            tracing::warn!(
                "the database is away, running tasks go on: {}",
                super::feed::chain(error)
            );
        } else if !error.is_disconnect() {
            tracing::error!("{}", super::feed::chain(error));
        }
        self.retry_at = Some(Instant::now() + self.retry_pause);
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

    /// Whether the database is given a rest.
    pub(super) fn is_backing_off(&self, now: Instant) -> bool {
        self.retry_at.is_some_and(|at| now < at)
    }

    /// Learns from a look at the queue whether there is a backlog.
    pub(super) fn looked(&mut self, full: bool, found: bool, now: Instant) {
        self.full_looks = if full { self.full_looks + 1 } else { 0 };
        if found || self.second_look.is_none() && self.third_look.is_none() {
            self.second_look = found.then(|| now + SECOND_LOOKS[0]);
            self.third_look = found.then(|| now + SECOND_LOOKS[1]);
        }
        self.next_look = now + LOOK_EVERY;
    }

    /// Whether there is a backlog, so that every bit of room is worth a look.
    pub(super) fn is_busy(&self) -> bool {
        self.full_looks >= BUSY_AFTER
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
        if now >= upkeep.next_look {
            upkeep.next_look = now + LOOK_EVERY;
            self.look = true;
        }
        self.enforce_limits(now);
        self.say_sleep();
        if now >= self.upkeep.next_second {
            self.upkeep.next_second = now + Duration::from_secs(1);
            self.upkeep.aborts_due = true;
            self.refresh_catalog();
            self.release_overdue(now);
            self.kill_strays();
            self.bury_silent();
        }
        if self.upkeep.catalog_due {
            self.refresh_catalog();
        }
        self.ask_aborts();
        self.promote(now);
        self.heartbeat(now);
        self.reconcile(now);
        self.sample(now);
        self.reserve_ids();
    }

    /// When something is due next.
    pub(super) fn next_wake(&self) -> Instant {
        let upkeep = &self.upkeep;
        let deadlines = [
            upkeep.second_look,
            upkeep.third_look,
            upkeep.retry_at,
            self.next_mark(),
            self.next_limit(),
        ];
        let draining = match self.phase {
            Phase::Draining(deadline) if deadline > Instant::now() => Some(deadline),
            Phase::Draining(_) | Phase::Working => None,
        };
        let front = if self.look {
            self.positions.next_front()
        } else {
            None
        };
        [
            upkeep.next_look,
            upkeep.next_second,
            upkeep.next_heartbeat,
            upkeep.next_promotion,
        ]
        .into_iter()
        .chain(deadlines.into_iter().flatten())
        .chain(draining)
        .chain(front)
        .min()
        .expect("there is always a next second")
        .max(Instant::now() + Duration::from_micros(200))
    }

    /// Tasks that have run for too long, workers that take too long to start, and those that were
    /// given a last chance to end by themselves.
    fn enforce_limits(&mut self, now: Instant) {
        for worker in self.workers.values_mut() {
            if worker.life == Life::Starting
                && now.duration_since(worker.spawned) > self.options.pool.start_timeout
            {
                tracing::error!(worker.id = %worker.id, "worker {} was not ready in time", worker.id);
                worker.kill(WorkerCause::StartTimeout);
                continue;
            }
            if let Some((at, cause)) = worker.kill_at
                && now >= at
            {
                worker.kill(cause);
                continue;
            }
            let Some((slot, handed)) = worker.running() else {
                continue;
            };
            let Some((begun, _)) = handed.begun else {
                continue;
            };
            let Some(held) = self.tasks.get_mut(&handed.task) else {
                continue;
            };
            let limit = held
                .operation
                .timeout_ms
                .map(|ms| Duration::from_millis(ms.max(0).cast_unsigned()));
            if let Some(limit) = limit
                && now.duration_since(begun) >= limit
                && held.killed_because.is_none()
            {
                held.killed_because = Some(format!("ran longer than {}", human(limit)));
                end_task(
                    worker,
                    slot,
                    self.options.kill_grace,
                    WorkerCause::Task(Cause::Timeout),
                    now,
                );
            }
        }
    }

    fn next_limit(&self) -> Option<Instant> {
        let now = Instant::now();
        self.workers
            .values()
            .filter_map(|worker| {
                let starting = (worker.life == Life::Starting)
                    .then(|| worker.spawned + self.options.pool.start_timeout);
                let timeout = worker.running().and_then(|(_, handed)| {
                    let limit = self.tasks.get(&handed.task)?.operation.timeout_ms?;
                    Some(handed.begun?.0 + Duration::from_millis(limit.max(0).cast_unsigned()))
                });
                let dying = worker.exit.map(|_| now + Duration::from_millis(50));
                [starting, timeout, worker.kill_at.map(|(at, _)| at), dying]
                    .into_iter()
                    .flatten()
                    .min()
            })
            .min()
    }

    /// Dead workers whose socket somebody keeps open are not waited for.
    fn bury_silent(&mut self) {
        let dead: Vec<WorkerId> = self
            .workers
            .values()
            .filter(|worker| worker.exit.is_some())
            .map(|worker| worker.id)
            .collect();
        for id in dead {
            self.bury(id);
        }
    }

    // ------------------------------------------------------------------------------- the catalog

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
        self.ask(
            async move { store.operation_catalog(&host, &domains).await },
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
        let cache = &self.cache;
        for refusal in self
            .catalog
            .update(rows, |hash, path| admit(cache, hash, path))
        {
            tracing::error!("{refusal}");
        }
        let domains: Vec<String> = self.catalog.domains().keys().cloned().collect();
        for domain in domains {
            self.pool(&domain);
        }
        self.look |= before != lanes_of(self);
    }

    // --------------------------------------------------------------------------------- the queue

    /// Tells the database whether whoever enqueues must wake us. Unconditional notifications would
    /// serialise commits, so while there is a backlog we say that we are awake.
    fn say_sleep(&mut self) {
        let asleep = !self.upkeep.is_busy();
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
                if promoted.is_ok() {
                    store.cycle_truncate().await?;
                }
                promoted
            },
            Event::Promoted,
        );
    }

    pub(super) fn promoted(&mut self, promoted: Result<(i64, Option<DateTime<Utc>>), StoreError>) {
        self.upkeep.promoting = false;
        let now = Instant::now();
        let mut pause = LOOK_EVERY;
        match promoted {
            Ok((count, next)) => {
                self.look |= count > 0;
                if let Some(next) = next {
                    let wait = (next - Utc::now())
                        .to_std()
                        .unwrap_or(Duration::from_millis(1));
                    pause = pause.min(wait);
                }
            }
            Err(error) => self.upkeep.lost(&error),
        }
        self.upkeep.next_promotion = now + pause;
    }

    // -------------------------------------------------------------------------------------- ends

    fn ask_aborts(&mut self) {
        if !self.upkeep.aborts_due || self.upkeep.asking_aborts {
            return;
        }
        self.upkeep.aborts_due = false;
        let tasks: Vec<TaskId> = self.tasks.keys().copied().collect();
        if tasks.is_empty() {
            return;
        }
        self.upkeep.asking_aborts = true;
        let store = self.store.clone();
        self.ask(
            async move { store.claim_aborts(&tasks).await },
            Event::Aborts,
        );
    }

    /// Somebody wants these tasks to end: at once where they have not begun, else with their
    /// worker.
    pub(super) fn aborts_arrived(
        &mut self,
        requests: Result<Vec<(TaskId, Option<String>)>, StoreError>,
    ) {
        self.upkeep.asking_aborts = false;
        let requests = match requests {
            Ok(requests) => requests,
            Err(error) => return self.upkeep.lost(&error),
        };
        let now = Instant::now();
        for (task, message) in requests {
            let Some(held) = self.tasks.get_mut(&task) else {
                continue;
            };
            if held.abort.is_some() {
                continue;
            }
            held.abort = Some(message.clone());
            match held.place {
                Place::Ending => {}
                Place::Fetching => self.abort_unbegun(task),
                Place::Waiting => {
                    let (domain, rank) = (held.operation.domain.clone(), held.claimed.rank);
                    self.pool(&domain).remove(rank, task);
                    self.abort_unbegun(task);
                }
                Place::Handed(id) => {
                    let Some(worker) = self.workers.get_mut(&id) else {
                        continue;
                    };
                    let Some(slot) = worker.slot_of(task) else {
                        continue;
                    };
                    if worker.revoke(slot).is_some() {
                        self.abort_unbegun(task);
                    } else if worker
                        .running()
                        .is_some_and(|(_, handed)| handed.task == task)
                        || worker.handed.len() == 1
                    {
                        held.killed_because = message;
                        let cause = WorkerCause::Task(Cause::Abort);
                        end_task(worker, slot, self.options.kill_grace, cause, now);
                    } else {
                        // It has ended a moment ago, and a later one runs: its report is on its way.
                        held.abort = None;
                    }
                }
            }
        }
    }

    fn abort_unbegun(&mut self, task: TaskId) {
        let Some(held) = self.tasks.get_mut(&task) else {
            return;
        };
        held.place = Place::Ending;
        let error = held.abort.clone().flatten();
        let fault = Fault {
            cause: Some(Cause::Abort),
            error,
            ..Fault::default()
        };
        let ended = held.end(fault, Utc::now());
        self.outbox.end(ended);
        self.lines.close(task);
    }

    // --------------------------------------------------------------------- the monitor's own life

    fn heartbeat(&mut self, now: Instant) {
        if self.upkeep.renewing || now < self.upkeep.next_heartbeat {
            return;
        }
        self.upkeep.renewing = true;
        self.upkeep.next_heartbeat = now + LEASE / 3;
        let (store, monitor) = (self.store.clone(), self.monitor);
        let renewal = async move {
            match tokio::time::timeout(LEASE / 3, store.monitor_renew(monitor)).await {
                Ok(renewed) => renewed,
                Err(_) => Err(StoreError::Connect {
                    place: store.place(),
                    reason: "the lease could not be renewed in time".to_owned(),
                    source: None,
                }),
            }
        };
        self.ask(renewal, move |renewed| Event::Renewed(now, renewed));
        self.upkeep.lease_until = self.upkeep.lease_until.max(1);
    }

    /// Our lease was renewed (or not). What workers believe of it ends earlier than what others
    /// do, and counts from before the renewal was sent.
    pub(super) fn renewed(&mut self, sent: Instant, renewed: Result<bool, StoreError>) {
        self.upkeep.renewing = false;
        match renewed {
            Ok(true) => {
                let age = nanos(sent.elapsed());
                self.upkeep.lease_until = boottime() + nanos(LEASE - LEASE_MARGIN) - age;
                for worker in self.workers.values() {
                    worker
                        .page
                        .set_lease(lease_for(worker, &self.tasks, self.upkeep.lease_until));
                }
                self.recover();
            }
            Ok(false) => {
                tracing::error!(
                    "this monitor was declared lost while it was away: ending its workers"
                );
                // Its tasks have been given to others, or ended; nothing here may go on.
                self.phase = Phase::Draining(Instant::now());
            }
            Err(error) => self.upkeep.lost(&error),
        }
    }

    fn recover(&mut self) {
        if self.upkeep.recovering || self.phase != Phase::Working {
            return;
        }
        self.upkeep.recovering = true;
        let (store, monitor, host) = (self.store.clone(), self.monitor, self.options.host.clone());
        self.ask(
            async move { recover::recover(&store, monitor, &host).await },
            Event::Recovered,
        );
        self.upkeep.recovering = false;
    }

    /// Compares what we hold with what the database believes that we hold: a claim may have been
    /// committed without our hearing of it.
    fn reconcile(&mut self, now: Instant) {
        if now < self.upkeep.next_reconcile || self.in_flight.is_some() {
            return;
        }
        self.upkeep.next_reconcile = now + Duration::from_secs(30);
        let (store, monitor) = (self.store.clone(), self.monitor);
        // Claims of later cycles are not looked at: they are being made.
        let newest = self.cycle_number as i64;
        self.ask(
            async move {
                let held = store.claim_held(monitor).await?;
                Ok(held
                    .into_iter()
                    .filter(|(_, token)| token.cycle() <= newest)
                    .collect())
            },
            Event::Held,
        );
    }

    pub(super) fn held_arrived(&mut self, held: Result<Vec<(TaskId, Token)>, StoreError>) {
        let held = match held {
            Ok(held) => held,
            Err(error) => return self.upkeep.lost(&error),
        };
        for (task, token) in held {
            let ours = self
                .tasks
                .get(&task)
                .is_some_and(|held| held.token == token);
            if ours || self.outbox.ended.contains_key(&task) {
                continue;
            }
            tracing::warn!(task.id = %task, "task {task} was claimed unnoticed: back to the queue");
            self.outbox.open(token);
            self.outbox.end(Ended {
                task,
                token,
                fate: Fate::Release,
                cause: None,
                error: None,
                location: None,
                backtrace: None,
                exit_code: None,
                signal: None,
                started: None,
                finished: Utc::now(),
                output: None,
                output_raw: None,
                output_encoding: None,
                peak_memory: None,
                cpu_seconds: None,
                worker: None,
                plugin_operation: 0,
                progress: None,
                progress_message: None,
            });
        }
    }

    // ----------------------------------------------------------------------------------- workers

    /// Memory and processor time of each worker, written only where they changed.
    fn sample(&mut self, now: Instant) {
        if now < self.upkeep.next_figures {
            return;
        }
        self.upkeep.next_figures = now + Duration::from_secs(2);
        for worker in self.workers.values_mut() {
            let Some(figures) = process::figures(worker.pid) else {
                continue;
            };
            let percent = worker.cpu_sample.map(|(at, seconds)| {
                let elapsed = now.duration_since(at).as_secs_f64();
                ((figures.cpu_seconds - seconds).max(0.0) / elapsed * 1000.0).round() / 10.0
            });
            worker.cpu_sample = Some((now, figures.cpu_seconds));
            let memory = Some(figures.resident_bytes);
            if worker.started.is_some()
                && (worker.memory != memory || worker.cpu_percent != percent)
            {
                worker.memory = memory;
                worker.cpu_percent = percent;
                worker.dirty = true;
            }
        }
    }

    /// Writes what is new about workers, in one statement.
    pub(super) fn save_workers(&mut self) {
        if self.upkeep.saving {
            return;
        }
        let mut rows = std::mem::take(&mut self.dead_workers);
        rows.extend(
            self.workers
                .values_mut()
                .filter(|worker| worker.dirty)
                .map(|worker| worker.save(None)),
        );
        if rows.is_empty() {
            return;
        }
        self.upkeep.saving = true;
        let (store, host, monitor) = (self.store.clone(), self.options.host.clone(), self.monitor);
        self.ask(
            async move {
                let saved = store.worker_save(&host, monitor, &rows).await;
                (saved, rows)
            },
            |(saved, rows)| Event::WorkersSaved(saved, rows),
        );
    }

    pub(super) fn workers_saved(
        &mut self,
        saved: Result<(), StoreError>,
        rows: Vec<crate::store::WorkerSave>,
    ) {
        self.upkeep.saving = false;
        if let Err(error) = saved {
            self.upkeep.lost(&error);
            for row in rows {
                match self.workers.get_mut(&row.id) {
                    Some(worker) => worker.dirty = true,
                    None => self.dead_workers.push(row),
                }
            }
        }
    }

    fn reserve_ids(&mut self) {
        if self.upkeep.reserving || self.worker_ids.len() >= 8 {
            return;
        }
        self.upkeep.reserving = true;
        let store = self.store.clone();
        self.ask(
            async move { store.worker_reserve(16).await },
            Event::Reserved,
        );
    }

    pub(super) fn reserved(&mut self, ids: Result<Vec<WorkerId>, StoreError>) {
        self.upkeep.reserving = false;
        match ids {
            Ok(ids) => self.worker_ids.extend(ids),
            Err(error) => self.upkeep.lost(&error),
        }
    }

    // ----------------------------------------------------------------- a task asks for another one

    pub(super) fn schedule_for(&mut self, id: WorkerId, request: String) {
        let store = self.store.clone();
        self.ask(
            async move {
                let request = serde_json::from_str::<ScheduleRequest>(&request)
                    .map_err(|error| format!("the request cannot be read: {error}"))?;
                match store.task_schedule(&request, None).await {
                    Ok(task) => Ok(task.0),
                    Err(error) => Err(super::feed::chain(&error)),
                }
            },
            move |answer| Event::Scheduled(id, answer),
        );
    }

    pub(super) fn scheduled(&mut self, id: WorkerId, answer: Result<i64, String>) {
        if let Some(worker) = self.workers.get(&id) {
            worker.send(ToWorker::Scheduled(answer));
        }
        self.look = true;
    }
}

/// Ends a running task: a task that asks `cancelled()` is told and given some time, others have
/// nothing to gain from waiting.
fn end_task(
    worker: &mut super::worker::Worker,
    slot: u32,
    grace: Duration,
    cause: WorkerCause,
    now: Instant,
) {
    worker.page.request_cancel(slot);
    if worker.page.asked_cancel(slot) && !grace.is_zero() {
        worker.kill_at.get_or_insert((now + grace, cause));
    } else {
        worker.kill(cause);
    }
}

fn lanes_of(supervisor: &Supervisor) -> Vec<i32> {
    supervisor
        .catalog
        .domains()
        .values()
        .flat_map(|domain| domain.lanes.iter().copied())
        .collect()
}

/// The cached copy of a registered plugin: made when it was registered, or now from its file, if
/// that is still the file that was registered.
fn admit(cache: &Cache, hash: &str, path: &Path) -> Result<PluginFile, String> {
    if let Some(path) = cache.find(hash) {
        return Ok(PluginFile {
            hash: hash.to_owned(),
            path,
        });
    }
    let cached = cache.admit(path).map_err(|error| error.to_string())?;
    if cached.hash != hash {
        return Err(format!(
            "{} changed since it was registered; run rework register-operations",
            path.display()
        ));
    }
    Ok(PluginFile {
        hash: cached.hash,
        path: cached.path,
    })
}

/// The lease counts only for a worker whose task others would repeat: killing hours of work because
/// Postgres was away would protect nothing.
pub(super) fn lease_for(
    worker: &super::worker::Worker,
    tasks: &HashMap<TaskId, super::report::Held>,
    until: u64,
) -> u64 {
    let repeatable = worker.handed.values().any(|(_, handed)| {
        tasks
            .get(&handed.task)
            .is_some_and(|held| held.claimed.max_attempts > 1)
    });
    if repeatable { until } else { u64::MAX }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// The clock that goes on while a machine sleeps, in nanoseconds.
fn boottime() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME)
        .expect("every Linux has CLOCK_BOOTTIME");
    now.tv_sec().cast_unsigned() * 1_000_000_000 + now.tv_nsec().cast_unsigned()
}
