//! Dead workers: they are reaped, what they have sent and printed is read to the end, and then their tasks are
//! told. `post_mortem` decides what.

use super::{
    News, Workers, messages,
    worker::{Remains, Worker},
};
use crate::{model::WorkerId, monitor::fault::Exit};
use nix::unistd::Pid;
use std::time::Instant;

impl Workers {
    /// A child of this process has been reaped; false: it is no worker.
    pub(in crate::monitor) fn reaped(&mut self, exit: Exit, now: Instant) -> bool {
        let mut workers = self.workers.values_mut();
        let worker = workers.find(|worker| worker.live_pid() == Some(exit.pid));
        worker.map(|worker| worker.reaped(exit, now)).is_some()
    }

    /// The processes of workers that have not been reaped.
    pub(in crate::monitor) fn live_pids(&self) -> Vec<Pid> {
        let workers = self.workers.values();
        workers.filter_map(Worker::live_pid).collect()
    }

    /// Forgets the workers that are dead, of which nothing more can be expected.
    pub(in crate::monitor) fn bury(&mut self, now: Instant) -> Vec<News> {
        let is_over = |at: Option<Instant>| at.is_some_and(|at| now >= at);
        let over: Vec<WorkerId> = self
            .workers
            .values()
            .filter(|worker| is_over(worker.over_at()))
            .map(Worker::id)
            .collect();
        over.into_iter()
            .flat_map(|id| self.bury_one(id, now))
            .collect()
    }

    fn bury_one(&mut self, id: WorkerId, now: Instant) -> Vec<News> {
        let Some(worker) = self.workers.remove(&id) else {
            return Vec::new();
        };
        let (domain, plugin) = (worker.domain().to_owned(), worker.plugin().clone());
        let Some(remains) = worker.remains(now) else {
            return Vec::new();
        };
        let Remains {
            lines,
            closed,
            ended,
            revoked,
            start_failure,
            row,
        } = remains;
        if let Some(reason) = start_failure {
            self.start_failed(&domain, &plugin, &reason, now);
        }
        self.rows.push_dead(row);
        let mut news = vec![messages::printed(lines)];
        news.extend(closed.into_iter().map(News::OutputClosed));
        news.extend(revoked.into_iter().map(News::Revoked));
        let ended = ended.into_iter();
        news.extend(ended.map(|(task, fault, ran)| News::Ended { task, fault, ran }));
        // Perhaps there is work for a worker in its place.
        news.push(News::HasRoom);
        news
    }

    /// When there is a worker to [`Workers::bury`], if nothing happens before.
    pub(super) fn next_burial(&self) -> Option<Instant> {
        let workers = self.workers.values();
        workers.filter_map(Worker::over_at).min()
    }
}
