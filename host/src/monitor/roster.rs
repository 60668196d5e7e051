//! The workers as the database knows them: their numbers, what they use, how they ended, and what
//! operators ask of them.

use super::{event::Event, process, supervisor::Supervisor};
use crate::{
    descendants::Processes,
    model::{WorkerId, worker::WorkerCause},
    store::{StoreError, WorkerSave},
};
use std::time::{Duration, Instant};

/// Rows of workers that the database has refused are written again after this.
const WORKERS_AGAIN: Duration = Duration::from_secs(2);

impl Supervisor {
    /// Asks which of our workers somebody wants to end.
    pub(super) fn poll_stop_requests(&mut self, now: Instant) {
        if !self.stop_requests.begin(now) {
            return;
        }
        if self.workers.is_empty() {
            return self.stop_requests.answered();
        }
        let (store, monitor) = (self.store.clone(), self.monitor);
        self.ask(
            async move { store.worker_asked(monitor).await },
            Event::StopRequests,
        );
    }

    pub(super) fn stop_requested(&mut self, asked: Result<Vec<(WorkerId, bool)>, StoreError>) {
        self.stop_requests.answered();
        let asked = match asked {
            Ok(asked) => asked,
            Err(error) => return self.database_failed(&error),
        };
        for (id, at_once) in asked {
            let Some(worker) = self.workers.get_mut(&id) else {
                continue;
            };
            let unbegun = worker.revoke_all();
            if at_once {
                worker.kill(WorkerCause::Killed);
            } else {
                worker.drain(WorkerCause::Shutdown);
            }
            for handed in unbegun {
                self.wait_again(handed.task, handed.rank);
            }
        }
    }

    /// Memory and processor time of each worker, written only where they changed.
    pub(super) fn sample(&mut self, now: Instant) {
        if now < self.next_figures {
            return;
        }
        self.next_figures = now + Duration::from_secs(2);
        let processes = Processes::look();
        for worker in self.workers.values_mut() {
            let below = processes.below(worker.pid);
            let Some(figures) = process::figures(worker.pid, &below) else {
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
        let is_put_off = self
            .workers_again
            .is_some_and(|again| Instant::now() < again);
        if self.saving || is_put_off {
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
        self.saving = true;
        let (store, host, monitor) = (self.store.clone(), self.options.host.clone(), self.monitor);
        self.ask(
            async move {
                let saved = store.worker_save(&host, monitor, &rows).await;
                (saved, rows)
            },
            |(saved, rows)| Event::WorkersSaved(saved, rows),
        );
    }

    pub(super) fn workers_saved(&mut self, saved: Result<(), StoreError>, rows: Vec<WorkerSave>) {
        self.saving = false;
        self.workers_again = None;
        let Err(error) = saved else { return };
        if !error.is_disconnect() && !error.is_bad_data() {
            // Reports about tasks, which wait for the rows of workers, must not wait for long.
            self.workers_again = Some(Instant::now() + WORKERS_AGAIN);
        }
        self.database_failed(&error);
        for mut row in rows {
            let is_superseded = self.dead_workers.iter().any(|dead| dead.id == row.id);
            if let Some(worker) = self.workers.get_mut(&row.id) {
                worker.dirty = true;
            } else if is_superseded {
                // It has died while this was being written, and that will be written.
            } else if !error.is_bad_data() {
                self.dead_workers.push(row);
            } else if row.error.take().is_some() {
                // Its last words cannot be stored; that it is dead can.
                self.dead_workers.push(row);
            }
        }
    }
}
