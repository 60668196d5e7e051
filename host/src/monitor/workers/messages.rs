//! The messages of workers: ready, finished, how far a task is, what else is to be queued; and their output.

use super::{News, Report, Workers, output::TaskLine, worker::Done};
use crate::{
    causes::chain,
    model::{TaskId, WorkerId, log::Printed, task::Cause, text::without_nul, worker::WorkerCause},
    monitor::fault::{Fault, Ran},
    store::StoreError,
    wire::{Finished, FromWorker, WireError},
};
use std::{
    os::fd::OwnedFd,
    sync::Arc,
    time::{Duration, Instant},
};

/// What tasks have printed. What a worker has printed between two tasks is nobody's.
pub(super) fn printed(lines: Vec<TaskLine>) -> News {
    let of_task = |(task, printed)| match (task, printed) {
        (Some(task), printed) => Some((task, printed)),
        (None, Printed::Line(line)) => {
            tracing::debug!("a worker has printed between two tasks: {}", line.4);
            None
        }
        (None, Printed::Unfinished(_)) => None,
    };
    News::Printed(lines.into_iter().filter_map(of_task).collect())
}

impl Workers {
    /// A worker has sent a message.
    pub(super) fn message(
        &mut self,
        id: WorkerId,
        message: FromWorker,
        descriptors: Vec<OwnedFd>,
        now: Instant,
    ) -> Vec<News> {
        let Some(worker) = self.workers.get_mut(&id) else {
            return Vec::new();
        };
        match message {
            FromWorker::Ready {
                resident_bytes,
                peak_resident_bytes,
                ..
            } => {
                let took = worker.ready(resident_bytes, peak_resident_bytes, now);
                tracing::debug!(worker.id = %id, "worker {id} is ready after {took:?}");
                let (domain, plugin) = (worker.domain().to_owned(), Arc::clone(worker.plugin()));
                self.has_started(&domain, &plugin, took);
            }
            FromWorker::Loading => worker.begin_load(),
            FromWorker::Loaded => worker.end_load(),
            FromWorker::Refused(reason) => worker.refuse_load(reason),
            FromWorker::Finished(finished) => {
                return self.finished(id, *finished, descriptors, now);
            }
            FromWorker::Panicking { task, failure } => {
                worker.panicking(TaskId(task), failure, now);
            }
            FromWorker::Progress {
                task,
                fraction,
                message,
            } => {
                let task = TaskId(task);
                // A thread that a task has left behind may still speak of it.
                let news = worker.progress(task, now).map(|started| News::Progress {
                    task,
                    worker: id,
                    started,
                    progress: (fraction.clamp(0.0, 1.0) as f32, without_nul(message)),
                });
                return news.into_iter().collect();
            }
            FromWorker::Schedule { task, .. } if !worker.has(TaskId(task)) => {
                let refusal = format!("task {task} has ended: nothing is queued for it");
                worker.answer(Err(refusal));
            }
            FromWorker::Schedule {
                request, raw_input, ..
            } => {
                let mut descriptors = descriptors;
                let raw_input = raw_input.map(|bytes| bytes.into_vec(&mut descriptors));
                return vec![News::Request {
                    worker: id,
                    request,
                    raw_input: raw_input.transpose(),
                }];
            }
            FromWorker::Pipes { task } if !worker.has(TaskId(task)) => {
                let what = format!("of children of task {task}, which it does not run");
                self.distrust(id, format!("its worker spoke {what}"), now);
            }
            FromWorker::Pipes { task } => {
                let mailbox = self.database.mailbox();
                if let Err(error) = worker.replace_pipes(descriptors, TaskId(task), mailbox) {
                    let why = chain(&error);
                    tracing::error!(worker.id = %id, "could not take over pipes of worker {id}: {why}");
                    worker.kill(WorkerCause::Task(Cause::Crash));
                }
            }
            FromWorker::LeftBehind { operation, left } => {
                worker.retire_for(format!("a task of `{operation}` left {left}"), now);
                let revoked = worker.revoke_all(now);
                self.log_leftovers(id, &operation, &left);
                return revoked.into_iter().map(News::Revoked).collect();
            }
            FromWorker::Goodbye => {}
        }
        Vec::new()
    }

    /// A worker has finished a task: its lines come first, then its end.
    fn finished(
        &mut self,
        id: WorkerId,
        finished: Finished,
        descriptors: Vec<OwnedFd>,
        now: Instant,
    ) -> Vec<News> {
        let Some(worker) = self.workers.get_mut(&id) else {
            return Vec::new();
        };
        let mut news = vec![printed(worker.read_all())];
        let done = worker.finish(&finished, &self.settings.pool, self.lease, now);
        let Some(done) = done else {
            let task = finished.task;
            let reason =
                format!("its worker spoke of the end of task {task}, which it does not run");
            self.distrust(id, reason, now);
            return news;
        };
        let Done {
            operation,
            stopped_for,
            revoked,
            goes_on,
        } = done;
        news.extend(revoked.into_iter().map(News::Revoked));
        let micros = finished.finished_us - finished.started_us;
        let took = Duration::from_micros(micros.max(0).cast_unsigned());
        let share = self.pool(&operation.domain).share(&operation.hash);
        share.took(took);
        if let Some(left) = &finished.left_behind {
            self.log_leftovers(id, &operation.name, left);
        }
        news.push(News::Finished(Box::new(Report {
            worker: id,
            finished,
            descriptors,
            stopped_for,
            goes_on,
        })));
        news
    }

    /// Logs what an operation leaves in its worker's process, once for each of its versions: its author should
    /// know.
    fn log_leftovers(&mut self, id: WorkerId, operation: &str, left: &str) {
        let Some(worker) = self.workers.get(&id) else {
            return;
        };
        let key = (worker.plugin().hash.clone(), operation.to_owned());
        if self.leftovers_logged.insert(key) {
            tracing::warn!(
                worker.id = %id,
                "operation `{operation}` of domain {} leaves its worker changed ({left}): that worker runs \
                 nothing more; what has to last belongs where the plugin is loaded",
                worker.domain()
            );
        }
    }

    /// A worker has sent what cannot be read: whatever it still does, nobody would learn of it.
    pub(super) fn protocol_error(
        &mut self,
        id: WorkerId,
        error: &WireError,
        now: Instant,
    ) -> Vec<News> {
        let reason = format!("its worker sent what cannot be read: {}", chain(error));
        self.distrust(id, reason, now);
        Vec::new()
    }

    /// So little is certain about what a worker runs that it ends.
    fn distrust(&mut self, id: WorkerId, reason: String, now: Instant) {
        tracing::warn!(worker.id = %id, "worker {id}: {reason}");
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.distrust(reason, now);
        }
    }

    /// A message could not be sent to a worker that lives. A task that it was about ends; a worker that waits
    /// for another message is killed, because it would wait for ever.
    pub(super) fn send_failed(
        &mut self,
        id: WorkerId,
        task: Option<TaskId>,
        error: &WireError,
        now: Instant,
    ) -> Vec<News> {
        let words = chain(error);
        let Some(worker) = self.workers.get_mut(&id) else {
            return Vec::new();
        };
        let revoked = task.and_then(|task| worker.revoke(task, now));
        let Some(revoked) = revoked else {
            tracing::error!(worker.id = %id, "a message could not be sent to worker {id}: {words}");
            worker.kill(WorkerCause::Task(Cause::Crash));
            return Vec::new();
        };
        let fault = format!("it could not be handed to a worker: {words}");
        vec![News::Ended {
            task: revoked.task,
            fault: Fault::of(Cause::Error, Some(fault)),
            ran: Ran::default(),
        }]
    }

    /// There is something to read in an output pipe.
    pub(super) fn readable(&mut self, id: WorkerId, pipe: u64) -> Vec<News> {
        let Some(worker) = self.workers.get_mut(&id) else {
            return Vec::new();
        };
        let printed = printed(worker.read_turn(pipe));
        let closed = worker.take_closed_pipes();
        std::iter::once(printed)
            .chain(closed.into_iter().map(News::OutputClosed))
            .collect()
    }

    /// Asks which workers somebody wants to end.
    pub(in crate::monitor) fn poll_stop_requests(&mut self, now: Instant) {
        if !self.stop_requests.begin(now) {
            return;
        }
        if self.workers.is_empty() {
            return self.stop_requests.answered();
        }
        let monitor = self.settings.monitor;
        self.database.ask(
            async move |store| store.worker_asked(monitor).await,
            super::Event::StopRequests,
        );
    }

    /// Somebody may want workers to end.
    pub(in crate::monitor) fn want_stop_requests(&mut self, now: Instant) {
        self.stop_requests.want(now);
    }

    /// Somebody wants these workers to end, at once or after what they have begun.
    pub(super) fn stop_requested(
        &mut self,
        requests: Result<Vec<(WorkerId, bool)>, StoreError>,
        now: Instant,
    ) -> Vec<News> {
        self.stop_requests.answered();
        let requests = match requests {
            Ok(requests) => requests,
            Err(error) => return vec![News::DatabaseFailed(error)],
        };
        let mut news = Vec::new();
        for (id, is_at_once) in requests {
            let Some(worker) = self.workers.get_mut(&id) else {
                continue;
            };
            news.extend(worker.revoke_all(now).into_iter().map(News::Revoked));
            if is_at_once {
                worker.kill(WorkerCause::Killed);
            } else {
                worker.drain(WorkerCause::Shutdown, now);
            }
        }
        news
    }
}
