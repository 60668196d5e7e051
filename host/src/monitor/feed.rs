//! Tasks to workers and back: what is claimed is handed over, what ends is reported, and one
//! statement at a time carries both to the database.

use super::{
    claim::Appetite,
    event::Event,
    output::TaskLine,
    pool::{Census, Pool},
    process,
    report::{self, Fault, Held, Place},
    supervisor::{Phase, Supervisor},
    worker::{Life, Spawn, Worker},
};
use crate::{
    model::{TaskId, Token, WorkerId, task::Cause, worker::WorkerCause},
    store::{CatalogRow, Claimed, Cycle, CycleResult, Ended, Fate, FileContent, Mark, StoreError},
    wire::{Bytes, Capture, Finished, FromWorker, Payload, Run, ToWorker},
};
use chrono::Utc;
use std::{
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

/// A task that runs for longer than this no longer has others waiting behind it.
const TRAPPED_AFTER: Duration = Duration::from_millis(20);
/// A task that has begun is shown as running when it has not ended after this.
const MARK_AFTER: Duration = Duration::from_millis(2);
/// A claimed task that finds no worker here for so long goes back to the queue, for other hosts.
const OVERDUE: Duration = Duration::from_secs(1);

impl Supervisor {
    /// Hands waiting tasks to workers, spawns those that are missing, sends home those that are
    /// not needed.
    pub(super) fn feed(&mut self, now: Instant) {
        for worker in self.workers.values_mut() {
            worker.see_begun(now);
        }
        self.free_trapped(now);
        let draining = self.phase != Phase::Working;
        let domains: Vec<String> = self.pools.keys().cloned().collect();
        for domain in domains {
            if draining {
                self.release_waiting(&domain);
                continue;
            }
            self.retire_outdated(&domain);
            self.spawn_missing(&domain, now);
            self.hand_over(&domain, now);
            self.shrink(&domain, now);
        }
        if let Phase::Draining(deadline) = self.phase {
            self.end_workers(now >= deadline);
        }
    }

    pub(super) fn census(&self, domain: &str) -> Census {
        let mut census = Census::default();
        for worker in self
            .workers
            .values()
            .filter(|worker| worker.domain == domain)
        {
            match worker.life {
                Life::Starting => {
                    census.handed += worker.handed.len();
                    if worker.handed.is_empty() {
                        census.starting += 1;
                    } else {
                        census.busy += 1;
                    }
                }
                Life::Ready if worker.handed.is_empty() => census.idle += 1,
                Life::Ready => {
                    census.busy += 1;
                    census.handed += worker.handed.len();
                }
                Life::Draining(_) | Life::Killed(_) => {}
            }
        }
        census
    }

    /// Workers with other plugins than the domain now has end after what they have begun.
    fn retire_outdated(&mut self, domain: &str) {
        let wanted = self
            .catalog
            .domains()
            .get(domain)
            .map(|domain| domain.plugins.clone());
        let mut revoked = Vec::new();
        for worker in self
            .workers
            .values_mut()
            .filter(|worker| worker.domain == domain)
        {
            let outdated = wanted
                .as_ref()
                .is_none_or(|plugins| !std::sync::Arc::ptr_eq(plugins, &worker.plugins));
            if outdated && matches!(worker.life, Life::Starting | Life::Ready) {
                revoked.extend(worker.revoke_all());
                worker.drain(WorkerCause::Upgrade);
            }
        }
        for handed in revoked {
            self.wait_again(handed.task, handed.rank);
        }
    }

    fn spawn_missing(&mut self, domain: &str, now: Instant) {
        let Some(plugins) = self
            .catalog
            .domains()
            .get(domain)
            .map(|domain| domain.plugins.clone())
        else {
            return;
        };
        let pool = &self.pools[domain];
        if pool.spawn_not_before.is_some_and(|time| now < time) {
            return;
        }
        let missing = pool.to_spawn(self.census(domain), &self.options.pool);
        for _ in 0..missing {
            let Some(id) = self.worker_ids.pop_front() else {
                break;
            };
            let spawn = Spawn {
                id,
                domain,
                plugins: &plugins,
                pages: self.pages.directory(),
                environment: &self.environment,
                events: &self.events,
            };
            match Worker::spawn(&spawn) {
                Ok(worker) => {
                    tracing::debug!(worker.id = %id, "spawned worker {id} of domain {domain}");
                    self.workers.insert(id, worker);
                }
                Err(error) => {
                    tracing::error!("could not start a worker of domain {domain}: {error}");
                    self.pool(domain).failed_to_start(now);
                    break;
                }
            }
        }
    }

    pub(super) fn pool(&mut self, domain: &str) -> &mut Pool {
        self.pools.entry(domain.to_owned()).or_default()
    }

    fn hand_over(&mut self, domain: &str, _now: Instant) {
        while self.pools[domain].waiting() > 0 {
            let window = self.pools[domain].window() as usize;
            // One that idles; one that is about to be ready; one that has room.
            let candidate = self
                .workers
                .values()
                .filter(|worker| worker.domain == domain)
                .filter(|worker| match worker.life {
                    Life::Starting => worker.handed.is_empty(),
                    Life::Ready => {
                        worker.handed.len() < window
                            && (worker.handed.is_empty()
                                || worker.running().is_none_or(|(_, task)| {
                                    task.begun
                                        .is_none_or(|(at, _)| at.elapsed() < TRAPPED_AFTER)
                                }))
                    }
                    Life::Draining(_) | Life::Killed(_) => false,
                })
                .min_by_key(|worker| (!worker.is_ready(), worker.handed.len()))
                .map(|worker| worker.id);
            let Some(worker) = candidate else { return };
            let Some((rank, task)) = self.pool(domain).pop() else {
                return;
            };
            self.hand_task(worker, task, rank);
        }
    }

    fn hand_task(&mut self, worker: WorkerId, task: TaskId, rank: i16) {
        let Some(held) = self.tasks.get_mut(&task) else {
            return;
        };
        let worker = self.workers.get_mut(&worker).expect("the candidate lives");
        let Some(slot) = worker.hand(task, rank) else {
            let domain = worker.domain.clone();
            self.pool(&domain).push(rank, task, Instant::now());
            return;
        };
        held.place = Place::Handed(worker.id);
        worker.send(ToWorker::Run(Box::new(run_message(slot, held))));
    }

    /// Tasks behind one that turns out to be slow are taken back, for other workers.
    fn free_trapped(&mut self, now: Instant) {
        let mut revoked = Vec::new();
        for worker in self.workers.values_mut() {
            let slow = worker.running().is_some_and(|(_, task)| {
                task.begun
                    .is_some_and(|(at, _)| now.duration_since(at) > TRAPPED_AFTER)
            });
            if slow && worker.handed.len() > 1 {
                revoked.extend(worker.revoke_all());
            }
        }
        for handed in revoked {
            self.wait_again(handed.task, handed.rank);
        }
    }

    /// A task that was handed over and has not begun waits for another worker.
    pub(super) fn wait_again(&mut self, task: TaskId, rank: i16) {
        let Some(held) = self.tasks.get_mut(&task) else {
            return;
        };
        held.place = Place::Waiting;
        let domain = held.operation.domain.clone();
        self.pool(&domain).push(rank, task, Instant::now());
    }

    /// Gives back what waits here: nobody will run it.
    fn release_waiting(&mut self, domain: &str) {
        for (_, task) in self.pool(domain).drain() {
            self.release(task);
        }
    }

    /// Gives a task back to the queue, as if nobody had claimed it.
    pub(super) fn release(&mut self, task: TaskId) {
        if let Some(held) = self.tasks.get_mut(&task) {
            held.place = Place::Ending;
            self.outbox.end(held.release());
        }
    }

    /// Tasks that no worker here had time for are given back.
    pub(super) fn release_overdue(&mut self, now: Instant) {
        let overdue: Vec<(String, Vec<(i16, TaskId)>)> = self
            .pools
            .iter()
            .map(|(domain, pool)| (domain.clone(), pool.overdue(OVERDUE, now)))
            .collect();
        for (domain, tasks) in overdue {
            for (rank, task) in tasks {
                self.pool(&domain).remove(rank, task);
                self.release(task);
            }
        }
    }

    fn shrink(&mut self, domain: &str, now: Instant) {
        let census = self.census(domain);
        let linger = self.options.pool.linger;
        let pool = &self.pools[domain];
        if !pool.is_surplus(census, &self.options.pool)
            || pool
                .last_shrink
                .is_some_and(|last| now.duration_since(last) < Duration::from_secs(1))
        {
            return;
        }
        let surplus = self
            .workers
            .values_mut()
            .filter(|worker| {
                worker.domain == domain && worker.is_ready() && worker.handed.is_empty()
            })
            .find(|worker| now.duration_since(worker.idle_since) >= linger);
        if let Some(worker) = surplus {
            worker.drain(WorkerCause::Idle);
            self.pool(domain).last_shrink = Some(now);
        }
    }

    /// Interrupted: workers with nothing begun end now, the others at the deadline.
    fn end_workers(&mut self, now: bool) {
        let mut unbegun = Vec::new();
        for worker in self.workers.values_mut() {
            unbegun.extend(worker.revoke_all());
            if now || worker.running().is_none() && worker.handed.is_empty() {
                worker.kill(WorkerCause::MonitorExit);
            }
        }
        for handed in unbegun {
            self.release(handed.task);
        }
    }

    /// Starts a cycle, if there is something to say or to claim and none is under way.
    pub(super) fn cycle(&mut self, now: Instant) {
        if self.in_flight.is_some() || self.upkeep.is_backing_off(now) {
            return;
        }
        self.mark_running(now);
        self.save_workers();
        if self.upkeep.saving {
            // The workers first: whoever sees a task running finds the worker that runs it.
            return;
        }
        let appetites = self.appetites();
        let wants = self.look && !appetites.is_empty();
        if self.outbox.is_empty() && self.lines.is_empty() && !wants {
            return;
        }
        self.cycle_number += 1;
        let (ended, marks, finished_cycles) = self.outbox.take();
        let scans = if wants {
            self.positions.scans(&appetites, now)
        } else {
            Vec::new()
        };
        if wants {
            self.look = false;
        }
        let cycle = Cycle {
            monitor: self.monitor,
            number: self.cycle_number,
            ended,
            marks,
            logs: self.lines.take(),
            finished_cycles,
            scans,
        };
        self.in_flight = Some(cycle.clone());
        let store = self.store.clone();
        self.ask(async move { store.cycle(&cycle).await }, Event::Cycled);
    }

    fn appetites(&self) -> Vec<Appetite> {
        if self.phase != Phase::Working {
            return Vec::new();
        }
        self.catalog
            .domains()
            .iter()
            .enumerate()
            .filter_map(|(number, (name, domain))| {
                let pool = self.pools.get(name)?;
                if pool.spawn_not_before.is_some() && self.census(name).alive() == 0 {
                    return None;
                }
                let quota = pool.appetite(self.census(name), &self.options.pool);
                (quota > 0 && !domain.lanes.is_empty()).then(|| Appetite {
                    pool: number as i32,
                    quota: quota as i32,
                    lanes: domain.lanes.clone(),
                })
            })
            .collect()
    }

    /// Tasks that have run for a moment are shown as running.
    fn mark_running(&mut self, now: Instant) {
        for worker in self.workers.values_mut() {
            let Some((_, handed)) = worker.running() else {
                continue;
            };
            let Some((begun, started)) = handed.begun else {
                continue;
            };
            let Some(held) = self.tasks.get_mut(&handed.task) else {
                continue;
            };
            if held.marked || now.duration_since(begun) < MARK_AFTER {
                continue;
            }
            held.marked = true;
            worker.shown_task = Some(handed.task);
            worker.dirty = true;
            let mark = Mark {
                task: handed.task,
                token: held.token,
                started,
                worker: worker.id,
                plugin_operation: held.operation.plugin_operation,
                progress: None,
                progress_message: None,
            };
            self.outbox.marks.insert(handed.task, mark);
        }
    }

    /// When a task that has begun is to be shown as running.
    pub(super) fn next_mark(&self) -> Option<Instant> {
        self.workers
            .values()
            .flat_map(|worker| worker.handed.values())
            .filter(|(_, handed)| {
                self.tasks
                    .get(&handed.task)
                    .is_some_and(|held| !held.marked)
            })
            .map(|(_, handed)| match handed.begun {
                Some((begun, _)) => begun + MARK_AFTER,
                // The page has to be looked at.
                None => Instant::now() + MARK_AFTER,
            })
            .min()
    }

    /// A cycle came back.
    pub(super) fn cycled(&mut self, result: Result<CycleResult, StoreError>) {
        let cycle = self.in_flight.take().expect("a cycle was in flight");
        let now = Instant::now();
        match result {
            Ok(result) => {
                self.upkeep.found();
                let token = Token::new(cycle.monitor, cycle.number);
                self.positions.learn(&result.claimed, now);
                let waiting = self.settle(cycle.ended, &result);
                self.outbox.put_back(waiting, Vec::new(), Vec::new());
                // More where that came from, or a backlog that went to others in between.
                let quota: i64 = cycle
                    .scans
                    .iter()
                    .map(|scan| (scan.pool, i64::from(scan.quota)))
                    .collect::<std::collections::BTreeMap<_, _>>()
                    .into_values()
                    .sum();
                let full = !cycle.scans.is_empty() && result.claimed.len() as i64 >= quota;
                if !cycle.scans.is_empty() {
                    self.upkeep.looked(full, !result.claimed.is_empty(), now);
                }
                self.look |= full || self.upkeep.is_busy();
                for claimed in result.claimed {
                    self.claimed(claimed, token);
                }
            }
            Err(error) if error.is_disconnect() => {
                self.upkeep.lost(&error);
                self.look = true;
                self.outbox
                    .put_back(cycle.ended, cycle.marks, cycle.finished_cycles);
                self.lines.put_back(cycle.logs);
            }
            Err(error) => {
                // Something in it cannot be stored. Nothing may be lost, so say each thing alone.
                let text = chain(&error);
                tracing::error!("the database refused a report: {text}");
                self.upkeep.lost(&error);
                self.look = true;
                self.refused_cycle(cycle, &text);
            }
        }
    }

    /// A cycle that cannot be stored: what its tasks made is replaced by a plain failure, so that
    /// they end and the others go on.
    fn refused_cycle(&mut self, cycle: Cycle, text: &str) {
        let ended = cycle
            .ended
            .into_iter()
            .map(|ended| match ended.fate {
                Fate::End(_) if ended.output.is_some() || ended.output_raw.is_some() => Ended {
                    output: None,
                    output_raw: None,
                    output_encoding: None,
                    fate: Fate::End(Cause::BadOutput.outcome()),
                    cause: Some(Cause::BadOutput),
                    error: Some(format!("the output cannot be stored: {text}")),
                    ..ended
                },
                _ => ended,
            })
            .collect();
        self.outbox
            .put_back(ended, cycle.marks, cycle.finished_cycles);
    }

    /// What a cycle wrote is forgotten here; what it had to leave out is returned.
    fn settle(&mut self, ended: Vec<Ended>, result: &CycleResult) -> Vec<Ended> {
        let written: std::collections::HashSet<TaskId> = result
            .reported
            .iter()
            .chain(&result.moved)
            .copied()
            .collect();
        let mut waiting = Vec::new();
        for one in ended {
            if written.contains(&one.task) {
                self.outbox.close(one.token);
                if let Some(held) = self.tasks.get(&one.task)
                    && held.token == one.token
                {
                    self.tasks.remove(&one.task);
                }
            } else {
                waiting.push(one);
            }
        }
        waiting
    }

    /// A task is ours.
    fn claimed(&mut self, claimed: Claimed, token: Token) {
        self.outbox.open(token);
        let task = claimed.task;
        let Some(operation) = self.catalog.operation(claimed.operation).cloned() else {
            // The catalog changed while the claim was under way.
            let held = held(claimed, token, std::sync::Arc::new(unknown_operation()));
            self.outbox.end(held.release());
            self.tasks.insert(
                task,
                Held {
                    place: Place::Ending,
                    ..held
                },
            );
            return;
        };
        self.lines.open(task, claimed.attempt, claimed.log_lines);
        let fetch = claimed.has_files;
        let rank = claimed.rank;
        let domain = operation.domain.clone();
        self.tasks.insert(task, held(claimed, token, operation));
        if fetch {
            let store = self.store.clone();
            self.ask(
                async move { fetch_files(&store, task).await },
                move |files| Event::Fetched(task, files),
            );
        } else {
            let held = self.tasks.get_mut(&task).expect("just inserted");
            held.place = Place::Waiting;
            self.pool(&domain).push(rank, task, Instant::now());
        }
    }

    /// The contents beside a task's row have arrived.
    pub(super) fn fetched(&mut self, task: TaskId, files: Result<Vec<FileContent>, StoreError>) {
        let Some(held) = self.tasks.get_mut(&task) else {
            return;
        };
        if held.place != Place::Fetching {
            return;
        }
        match files {
            Ok(files) => {
                let rank = held.claimed.rank;
                for file in files {
                    if file.name.is_empty() {
                        held.claimed.input_raw = Some(file.content);
                    } else {
                        held.files.push((file.name, file.content));
                    }
                }
                self.wait_again(task, rank);
            }
            Err(error) => {
                self.upkeep.lost(&error);
                self.release(task);
            }
        }
    }

    /// A worker says something.
    pub(super) fn said(&mut self, id: WorkerId, message: FromWorker, descriptors: Vec<OwnedFd>) {
        let Some(worker) = self.workers.get_mut(&id) else {
            return;
        };
        match message {
            FromWorker::Ready { resident_bytes, .. } => {
                worker.started = Some(Utc::now());
                worker.memory = Some(resident_bytes);
                worker.dirty = true;
                worker.idle_since = Instant::now();
                let took = worker.spawned.elapsed();
                if worker.life == Life::Starting {
                    worker.life = Life::Ready;
                }
                tracing::debug!(worker.id = %id, "worker {id} is ready after {took:?}");
                let domain = worker.domain.clone();
                self.pool(&domain).started();
            }
            FromWorker::Refused(reason) => worker.refused = Some(reason),
            FromWorker::Finished(finished) => self.finished(id, *finished, descriptors),
            FromWorker::Panicking { slot, failure } => {
                let task = worker.handed.values().find(|(taken, _)| *taken == slot);
                worker.panic = task.map(|(_, handed)| (handed.task, failure));
            }
            FromWorker::Progress {
                slot,
                fraction,
                message,
            } => {
                worker.see_begun(Instant::now());
                let Some((_, handed)) = worker.handed.values().find(|(taken, _)| *taken == slot)
                else {
                    return;
                };
                let started = handed.begun.map_or_else(Utc::now, |(_, time)| time);
                let Some(held) = self.tasks.get_mut(&handed.task) else {
                    return;
                };
                if held.place == Place::Ending {
                    return;
                }
                held.marked = true;
                worker.dirty |= worker.shown_task != Some(handed.task);
                worker.shown_task = Some(handed.task);
                let mark = Mark {
                    task: handed.task,
                    token: held.token,
                    started,
                    worker: id,
                    plugin_operation: held.operation.plugin_operation,
                    progress: Some(fraction.clamp(0.0, 1.0) as f32),
                    progress_message: Some(report::without_nul(message)),
                };
                self.outbox.marks.insert(handed.task, mark);
            }
            FromWorker::Schedule { request, .. } => self.schedule_for(id, request),
            FromWorker::Pipes { task } => {
                let events = self.events.clone();
                if let Err(error) = worker.replace_pipes(descriptors, TaskId(task), &events) {
                    tracing::error!(worker.id = %id, "could not take over pipes: {error}");
                    worker.kill(WorkerCause::Task(Cause::Crash));
                }
            }
            FromWorker::Goodbye => {}
        }
    }

    /// A worker has finished a task: its lines first, then its end.
    fn finished(&mut self, id: WorkerId, finished: Finished, mut descriptors: Vec<OwnedFd>) {
        let mut lines = Vec::new();
        let worker = self.workers.get_mut(&id).expect("the caller looked");
        worker.read_all(&mut lines);
        let Some(handed) = worker.take_back(finished.slot) else {
            tracing::warn!(worker.id = %id, "worker {id} finished what it was not given");
            return;
        };
        worker.runs += 1;
        worker.panic = None;
        // Asked to end, and it did so by itself.
        let ended_for = worker.kill_at.take().map(|(_, cause)| cause.task_cause());
        if worker.shown_task == Some(handed.task) {
            worker.shown_task = None;
            worker.dirty = true;
        }
        let options = &self.options.pool;
        if options.max_runs > 0 && worker.runs >= options.max_runs {
            worker.drain(WorkerCause::MaxRuns);
        }
        let max_mem = options.max_mem << 20;
        if max_mem > 0 && finished.resident_bytes > max_mem {
            worker.drain(WorkerCause::MaxMem);
        }
        let revoked = if matches!(worker.life, Life::Draining(_)) {
            worker.revoke_all()
        } else {
            Vec::new()
        };
        let lingering = worker.has_pipe_of(handed.task);
        let domain = worker.domain.clone();
        for handed in revoked {
            self.wait_again(handed.task, handed.rank);
        }
        self.keep_lines(lines);
        let micros = (finished.finished_us - finished.started_us)
            .max(0)
            .cast_unsigned();
        self.pool(&domain).took(Duration::from_micros(micros));
        // There is room again.
        self.look |= self.upkeep.is_busy();
        let Some(held) = self.tasks.get_mut(&handed.task) else {
            return;
        };
        held.place = Place::Ending;
        let mut ended = held.finished(&finished, id);
        if let Some(cause) = ended_for {
            ended.fate = Fate::End(cause.outcome());
            ended.cause = Some(cause);
            ended.error = held.killed_because.clone();
        }
        let files = match report::saved(finished.output, finished.files, &mut descriptors) {
            Ok(saved) => {
                ended.output = saved.fields;
                ended.output_raw = saved.raw;
                ended.output_encoding = saved.encoding;
                saved.files
            }
            Err(fault) if ended.cause.is_none() => {
                let bad = held.end(Fault::of(Cause::BadOutput, Some(fault)), ended.finished);
                ended = Ended { fate: bad.fate, cause: bad.cause, error: bad.error, ..ended };
                Vec::new()
            }
            // It failed anyway, and says why.
            Err(_) => Vec::new(),
        };
        if !lingering {
            self.lines.close(handed.task);
        }
        if files.is_empty() {
            self.outbox.end(ended);
        } else {
            self.upkeep.storing.insert(handed.task, (ended, files));
            self.store_files(handed.task);
        }
    }

    /// Writes the contents beside a task's output; its end is reported after that.
    pub(super) fn store_files(&mut self, task: TaskId) {
        let Some((_, files)) = self.upkeep.storing.get(&task) else {
            return;
        };
        let (store, files) = (self.store.clone(), files.clone());
        self.ask(
            async move {
                loop {
                    match store.file_save_output(task, &files).await {
                        // A finished result is never dropped because the database was away.
                        Err(error) if error.is_disconnect() => {
                            tokio::time::sleep(Duration::from_millis(500)).await;
                        }
                        result => return result,
                    }
                }
            },
            move |stored| Event::Stored(task, stored),
        );
    }

    /// The contents beside an output are stored; now its end.
    pub(super) fn stored(&mut self, task: TaskId, stored: Result<(), StoreError>) {
        let Some((mut ended, _)) = self.upkeep.storing.remove(&task) else {
            return;
        };
        if let Err(error) = stored {
            ended.cause = Some(Cause::BadOutput);
            ended.fate = Fate::End(Cause::BadOutput.outcome());
            ended.error = Some(format!("the output cannot be stored: {}", chain(&error)));
        }
        self.outbox.end(ended);
    }

    /// There is something to read.
    pub(super) fn readable(&mut self, id: WorkerId, pipe: u64) {
        let Some(worker) = self.workers.get_mut(&id) else {
            return;
        };
        let mut lines = Vec::new();
        worker.read(pipe, &mut lines);
        let orphaned = worker.drop_closed_pipes();
        self.keep_lines(lines);
        for task in orphaned {
            self.lines.close(task);
        }
    }

    fn keep_lines(&mut self, lines: Vec<TaskLine>) {
        for (task, line) in lines {
            match task {
                Some(task) => self.lines.keep(task, line),
                None => tracing::debug!("a worker said between two tasks: {}", line.4),
            }
        }
    }

    /// A worker closed its socket.
    pub(super) fn hung(&mut self, id: WorkerId) {
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.hung = true;
            self.bury(id);
        }
    }

    /// Children have ended.
    pub(super) fn reap(&mut self) {
        let mut deaths = Vec::new();
        while let Some(exit) = process::reap() {
            let worker = self
                .workers
                .values_mut()
                .find(|worker| worker.pid == exit.pid);
            if let Some(worker) = worker {
                worker.exit = Some((exit, Instant::now()));
                deaths.push(worker.id);
            }
        }
        if !deaths.is_empty() {
            // What they left behind has come to us.
            self.kill_strays();
        }
        for id in deaths {
            self.bury(id);
        }
    }

    pub(super) fn kill_strays(&self) {
        let known: Vec<_> = self
            .workers
            .values()
            .filter(|worker| worker.exit.is_none())
            .map(|worker| worker.pid)
            .collect();
        process::kill_strays(&|pid| known.contains(&pid));
    }

    /// A worker is gone once its process has ended and all that it said has been heard; then its
    /// tasks are told.
    pub(super) fn bury(&mut self, id: WorkerId) {
        let worker = &self.workers[&id];
        let Some((exit, since)) = worker.exit else {
            return;
        };
        if !worker.hung && since.elapsed() < Duration::from_millis(500) {
            return;
        }
        let mut worker = self.workers.remove(&id).expect("looked up above");
        let mut lines = Vec::new();
        worker.read_all(&mut lines);
        for pipe in worker.pipes.values_mut() {
            pipe.finish(&mut lines);
        }
        self.keep_lines(lines);
        let left: Vec<TaskId> = worker
            .pipes
            .values()
            .filter_map(|pipe| pipe.left_to())
            .collect();
        for task in left {
            self.lines.close(task);
        }

        worker.see_begun(Instant::now());
        let killed = match worker.life {
            Life::Killed(cause) => Some(cause),
            Life::Starting | Life::Ready | Life::Draining(_) => None,
        };
        let mut fault = None;
        for (_, handed) in std::mem::take(&mut worker.handed).into_values() {
            if handed.begun.is_none() {
                self.wait_again(handed.task, handed.rank);
                continue;
            }
            let Some(held) = self.tasks.get_mut(&handed.task) else {
                continue;
            };
            held.place = Place::Ending;
            let panic = worker
                .panic
                .as_ref()
                .filter(|(task, _)| *task == handed.task);
            let why = report::of_death(
                &exit,
                killed,
                held.killed_because.clone(),
                panic.map(|(_, failure)| failure),
                self.lines.last_words(handed.task),
            );
            fault = why.cause.map(|cause| (cause, why.error.clone()));
            let ended = held.end(why, Utc::now());
            self.outbox.end(Ended {
                started: handed.begun.map(|(_, time)| time),
                peak_memory: Some(exit.peak_memory as i64),
                cpu_seconds: Some(exit.cpu.as_secs_f64()),
                worker: Some(id),
                ..ended
            });
            self.lines.close(handed.task);
        }
        let end = worker_end(&worker, &exit, killed, fault);
        if worker.started.is_none() && killed.is_none() {
            let domain = worker.domain.clone();
            tracing::error!(
                worker.id = %id,
                "worker {id} of domain {domain} did not start: {}",
                end.1.as_deref().unwrap_or("it ended")
            );
            self.pool(&domain).failed_to_start(Instant::now());
        }
        worker.shown_task = None;
        self.dead_workers.push(worker.save(Some(end)));
        // There is work for its successor, perhaps.
        self.look = true;
    }
}

/// What a dead worker's row says.
fn worker_end(
    worker: &Worker,
    exit: &process::Exit,
    killed: Option<WorkerCause>,
    fault: Option<(Cause, Option<String>)>,
) -> (WorkerCause, Option<String>) {
    if let Some(cause) = killed {
        return (cause, fault.and_then(|(_, error)| error));
    }
    if let Some((cause, error)) = fault {
        return (WorkerCause::Task(cause), error);
    }
    if let Life::Draining(cause) = worker.life
        && exit.code == Some(0)
    {
        return (cause, None);
    }
    if let Some(reason) = &worker.refused {
        return (
            WorkerCause::Task(Cause::Crash),
            Some(report::without_nul(reason.clone())),
        );
    }
    let fault = report::of_death(exit, None, None, None, None);
    (
        WorkerCause::Task(fault.cause.unwrap_or(Cause::Crash)),
        fault.error,
    )
}

fn held(claimed: Claimed, token: Token, operation: std::sync::Arc<CatalogRow>) -> Held {
    Held {
        claimed,
        files: Vec::new(),
        operation,
        token,
        place: Place::Fetching,
        marked: false,
        abort: None,
        killed_because: None,
    }
}

/// Stands for an operation that has left the catalog; its task is only given back.
fn unknown_operation() -> CatalogRow {
    CatalogRow {
        operation: crate::model::OperationId(0),
        lanes: Vec::new(),
        name: String::new(),
        domain: String::new(),
        declared_domain: String::new(),
        plugin_operation: 0,
        hash: String::new(),
        path: String::new(),
        timeout_ms: None,
        backoff_ms: None,
        memory_bytes: None,
        outputs: None,
        capture: String::new(),
        log_level: None,
        paused: false,
    }
}

fn run_message(slot: u32, held: &Held) -> Run {
    let claimed = &held.claimed;
    let operation = &held.operation;
    let input = match claimed.input_encoding.as_deref() {
        Some("raw") => Payload::Raw(Bytes::Inline(claimed.input_raw.clone().unwrap_or_default())),
        Some(_) => Payload::Fields(Bytes::Inline(
            claimed.input.clone().unwrap_or_default().into_bytes(),
        )),
        None => Payload::None,
    };
    let level = operation.log_level.as_deref().unwrap_or("info");
    Run {
        slot,
        task: claimed.task.0,
        attempt: claimed.attempt.cast_unsigned(),
        plugin: operation.hash.clone(),
        operation: operation.name.clone(),
        declared_domain: operation.declared_domain.clone(),
        domain: operation.domain.clone(),
        metadata: claimed
            .metadata
            .as_ref()
            .map_or_else(|| "{}".to_owned(), ToString::to_string),
        input,
        files: held
            .files
            .iter()
            .map(|(name, content)| (name.clone(), Bytes::Inline(content.clone())))
            .collect(),
        log_level: crate::model::log::level_number(level).unwrap_or(3),
        capture: match operation.capture.as_str() {
            "logs" => Capture::Logs,
            "manual" => Capture::Manual,
            "none" => Capture::None,
            _ => Capture::All,
        },
    }
}

async fn fetch_files(
    store: &crate::store::Store,
    task: TaskId,
) -> Result<Vec<FileContent>, StoreError> {
    let mut files = Vec::new();
    for info in store.file_list(task, "input").await? {
        if let Some(content) = store.file_read(task, "input", &info.name).await? {
            files.push(FileContent {
                name: info.name,
                content,
            });
        }
    }
    Ok(files)
}

/// An error with its causes, in one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
