//! Dead workers: collected, and their tasks told.

use super::{
    fault::Death,
    process,
    supervisor::Supervisor,
    tasks::{Ran, without_nul},
    worker::{Life, Worker},
};
use crate::{
    causes::chain,
    model::{TaskId, WorkerId, task::Cause, worker::WorkerCause},
    wire::{self, WireError},
};
use chrono::Utc;
use std::time::{Duration, Instant};

/// How long a process may take to die of a panic: it prints a backtrace, and may dump its core.
const PANIC_TAKES: Duration = Duration::from_secs(5);

impl Supervisor {
    /// A worker sent what cannot be read: whatever it still does, nobody would hear of it.
    pub(super) fn garbled(&mut self, id: WorkerId, error: &WireError) {
        let words = chain(error);
        self.unusable(id, format!("its worker sent what cannot be read: {words}"));
    }

    /// A worker spoke of what is not its own: so little is certain about what it runs that it ends.
    pub(super) fn misspoke(&mut self, id: WorkerId, what: &str) {
        self.unusable(id, format!("its worker spoke {what}"));
    }

    fn unusable(&mut self, id: WorkerId, why: String) {
        tracing::warn!(worker.id = %id, "worker {id}: {why}");
        let Some(worker) = self.workers.get_mut(&id) else {
            return;
        };
        worker.see_begun(Instant::now());
        let running = worker.running().map(|(_, handed)| handed.task);
        if let Some(task) = running {
            self.tasks.ask_to_end(task, Some(why));
        }
        worker.kill(WorkerCause::Task(Cause::Crash));
    }

    /// A worker closed its socket.
    pub(super) fn hung(&mut self, id: WorkerId) {
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.hung = true;
            self.reap_worker(id);
        }
    }

    /// Children have ended.
    pub(super) fn reap(&mut self) {
        let mut deaths = Vec::new();
        while let Some(exit) = process::reap() {
            self.plugins.reaped(exit.pid);
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
            self.kill_orphans();
        }
        for id in deaths {
            self.reap_worker(id);
        }
    }

    pub(super) fn kill_orphans(&self) {
        let known: Vec<_> = self
            .workers
            .values()
            .filter(|worker| worker.exit.is_none())
            .map(|worker| worker.pid)
            .collect();
        process::kill_orphans(&|pid| known.contains(&pid) || self.plugins.is_examiner(pid));
    }

    /// A worker is gone once its process has ended and all that it said has been heard; then its
    /// tasks are told.
    pub(super) fn reap_worker(&mut self, id: WorkerId) {
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
            self.tasks.close_lines(task);
        }

        worker.see_begun(Instant::now());
        let killed = match worker.life {
            Life::Killed(cause) => Some(cause),
            // However it has died: it had been asked to end.
            Life::Starting | Life::Ready | Life::Draining(_) => {
                worker.kill_at.map(|(_, cause)| cause)
            }
        };
        let crash = worker.crash();
        let mut fault = None;
        for (_, handed) in std::mem::take(&mut worker.handed).into_values() {
            if handed.begun.is_none() {
                self.wait_again(handed.task, handed.rank);
                continue;
            }
            let Some(held) = self.tasks.get(handed.task) else {
                continue;
            };
            let why = Death {
                killed,
                because: held.asked_because(),
                panic: fatal_panic(&worker, handed.task),
                last_words: worker.last_words(),
                crash: crash.as_ref(),
                limits: held.limits(),
                out_of_memory: worker.was_out_of_memory(),
                self_end: worker.page.self_end(),
                ..Death::of(&exit)
            }
            .fault();
            fault = why.cause.map(|cause| (cause, why.error.clone()));
            let ran = Ran {
                started: handed.begun.map(|(_, time)| time),
                peak_memory: Some(worker.peak_of_last(&exit) as i64),
                cpu_seconds: Some(worker.cpu_of_last(&exit)),
                worker: Some(id),
            };
            self.tasks.end(handed.task, why, ran, Utc::now());
        }
        let end = worker_end(&worker, &exit, killed, fault);
        if worker.started.is_none() && killed.is_none() {
            let reason = end.1.as_deref().unwrap_or("it ended");
            self.start_failed(&worker.domain, &worker.plugin, reason);
        }
        worker.shown_task = None;
        self.dead_workers.push(worker.save(Some(end)));
        // There is work for its successor, perhaps.
        self.look = true;
    }
}

/// The panic that took the process with it, if one did. A panic that is not caught aborts the
/// process (or the author's panic hook ends it), and soon; one that was caught long ago, or a death
/// of another kind, has nothing to do with it.
fn fatal_panic(worker: &Worker, running: TaskId) -> Option<&wire::Failure> {
    let (exit, died) = worker.exit?;
    let (task, failure, heard) = worker.panic.as_ref()?;
    let is_its_way = exit.signal.is_none_or(|signal| signal == libc::SIGABRT);
    let is_soon = died.saturating_duration_since(*heard) < PANIC_TAKES;
    (*task == running && is_its_way && is_soon).then_some(failure)
}

/// What a dead worker's row says.
fn worker_end(
    worker: &Worker,
    exit: &process::Exit,
    killed: Option<WorkerCause>,
    fault: Option<(Cause, Option<String>)>,
) -> (WorkerCause, Option<String>) {
    let loading = worker.is_loading.then_some(worker.plugin.name.as_str());
    if let Some(cause) = killed {
        let hung = || loading.map(|name| format!("{name} did not finish loading"));
        return (cause, fault.and_then(|(_, error)| error).or_else(hung));
    }
    if let Some((cause, error)) = fault {
        return (WorkerCause::Task(cause), error);
    }
    if let Life::Draining(cause) = worker.life
        && exit.code == Some(0)
    {
        let because = match cause {
            WorkerCause::MadeRoom => Some("made room for a worker of another plugin".to_owned()),
            _ => worker.left_behind.clone(),
        };
        return (cause, because);
    }
    if let Some(reason) = &worker.refused {
        return (
            WorkerCause::Task(Cause::Crash),
            Some(without_nul(reason.clone())),
        );
    }
    if let Some(name) = loading {
        let error = format!("{name} {} while loading", exit.in_words());
        return (WorkerCause::Task(Cause::Crash), Some(error));
    }
    let crash = worker.crash();
    let fault = Death {
        crash: crash.as_ref(),
        had_handler: worker.started.is_some(),
        self_end: worker.page.self_end(),
        ..Death::of(exit)
    }
    .fault();
    (
        WorkerCause::Task(fault.cause.unwrap_or(Cause::Crash)),
        fault.error,
    )
}
