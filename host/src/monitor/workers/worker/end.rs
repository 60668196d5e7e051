//! The end of a worker, and of the tasks that have to end with it.

use super::Worker;
use crate::{
    model::{TaskId, task::Cause, worker::WorkerCause},
    monitor::{
        fault::{Exit, Fault, Ran},
        workers::{
            cgroup::WorkerCgroup,
            deadlines::Times,
            life::{Life, Stop},
            output::TaskLine,
            post_mortem::PostMortem,
            process,
            slots::{Begun, Handed, Revoked},
        },
    },
    store::WorkerSave,
    wire::ToWorker,
};
use nix::unistd::Pid;
use std::time::{Duration, Instant};

/// How long a process may take to die of a fault: a crash reporter of its plugin may write down its
/// memory first. It has recovered from a fault before that.
const CRASH_TAKES: Duration = Duration::from_secs(10);

/// What became of a request to abort a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::monitor) enum Aborted {
    /// The task had not begun, and never will.
    BeforeBegin,
    /// The task runs, and is being ended.
    Ending,
    /// The task has just ended, and another one runs: its report is on its way.
    TooLate,
}

/// What a worker that is gone leaves.
#[derive(Debug)]
pub(in crate::monitor::workers) struct Remains {
    /// What was printed last.
    pub(in crate::monitor::workers) lines: Vec<TaskLine>,
    /// The ended tasks whose children may still have printed.
    pub(in crate::monitor::workers) closed: Vec<TaskId>,
    /// The tasks that have ended with it.
    pub(in crate::monitor::workers) ended: Vec<(TaskId, Fault, Ran)>,
    /// The tasks that had not begun.
    pub(in crate::monitor::workers) revoked: Vec<Revoked>,
    /// Why it did not start, if it did not.
    pub(in crate::monitor::workers) start_failure: Option<String>,
    /// Its last row.
    pub(in crate::monitor::workers) row: WorkerSave,
}

/// Its end, and the end of its tasks.
impl Worker {
    /// Ends the running task. The first reason stands. A task that asks `cancelled()` is told and given some
    /// time, others have nothing to gain from waiting.
    pub(in crate::monitor::workers) fn stop(
        &mut self,
        task: TaskId,
        cause: WorkerCause,
        reason: Option<String>,
        grace: Duration,
        now: Instant,
    ) {
        let Some(slot) = self.slots.get(task).map(|handed| handed.slot) else {
            return;
        };
        if self.stop.is_some() {
            return;
        }
        let page = self.slots.page();
        page.request_cancel(slot);
        let may_obey = page.asked_cancel(slot) && !grace.is_zero();
        self.stop = Some(Stop {
            cause,
            reason,
            deadline: may_obey.then(|| now + grace),
        });
        if !may_obey {
            self.kill(cause);
        }
    }

    /// Ends the running task, if there is one.
    pub(in crate::monitor::workers) fn stop_running(
        &mut self,
        cause: WorkerCause,
        grace: Duration,
        now: Instant,
    ) {
        if let Some(task) = self.running_task() {
            self.stop(task, cause, None, grace, now);
        }
    }

    /// Somebody wants one of its tasks aborted.
    pub(in crate::monitor::workers) fn abort(
        &mut self,
        task: TaskId,
        reason: Option<String>,
        grace: Duration,
        now: Instant,
    ) -> Aborted {
        self.slots.notice_begun(now);
        if self.revoke(task, now).is_some() {
            return Aborted::BeforeBegin;
        }
        let is_running = self.running_task() == Some(task) || self.slots.len() == 1;
        if !self.has(task) || !is_running {
            return Aborted::TooLate;
        }
        self.stop(task, WorkerCause::Task(Cause::Abort), reason, grace, now);
        Aborted::Ending
    }

    fn running_task(&self) -> Option<TaskId> {
        self.slots.running().map(|(handed, _)| handed.task)
    }

    /// It has sent what makes no sense, so little is certain about what it runs: it is killed, and its task
    /// ends for this reason.
    pub(in crate::monitor::workers) fn distrust(&mut self, reason: String, now: Instant) {
        let cause = WorkerCause::Task(Cause::Crash);
        self.slots.notice_begun(now);
        if self.running_task().is_some() {
            self.stop.get_or_insert(Stop {
                cause,
                reason: Some(reason),
                deadline: None,
            });
        }
        self.kill(cause);
    }

    /// Kills it with all that it has started; its death comes back from the kernel. If its task has been told
    /// to end already, the reason for that stays the cause.
    pub(in crate::monitor::workers) fn kill(&mut self, cause: WorkerCause) {
        if self.life.is_killed() || self.end.exit().is_some() {
            return;
        }
        let first = self.stop.as_ref().map(|stop| stop.cause);
        self.life = Life::Killed(first.unwrap_or(cause));
        if let Some(cgroup) = &self.cgroup {
            cgroup.kill();
        }
        process::kill_tree(self.pid);
    }

    /// Lets it end after what it has begun.
    pub(in crate::monitor::workers) fn drain(&mut self, cause: WorkerCause, now: Instant) {
        if self.life.is_wanted() {
            self.life = Life::Draining(cause, now);
            self.connection.send(ToWorker::Goodbye, Vec::new());
        }
    }

    /// Lets it end because a task has left it changed, in words.
    pub(in crate::monitor::workers) fn retire_for(&mut self, left: String, now: Instant) {
        self.left_behind = Some(left);
        self.drain(WorkerCause::Leftovers, now);
    }

    /// It has closed its socket.
    pub(in crate::monitor::workers) fn disconnected(&mut self) {
        self.end = self.end.disconnected();
    }

    /// Its process has been reaped.
    pub(in crate::monitor::workers) fn reaped(&mut self, exit: Exit, now: Instant) {
        self.end = self.end.reaped(exit, now);
    }

    /// Its process, unless that has been reaped: then the number may be another process's by now.
    pub(in crate::monitor::workers) fn live_pid(&self) -> Option<Pid> {
        self.end.exit().is_none().then_some(self.pid)
    }

    /// When nothing more can be expected of it; `None`: its process has not ended.
    pub(in crate::monitor::workers) fn over_at(&self) -> Option<Instant> {
        self.end.over_at()
    }

    /// What its deadlines depend on.
    pub(in crate::monitor::workers) fn times(&self) -> Times {
        let running = self.slots.running();
        Times {
            life: self.life,
            spawned: self.spawned,
            is_slow_load_logged: self.is_slow_load_logged,
            idle_since: self.slots.is_empty().then_some(self.idle_since),
            stop_deadline: self
                .stop
                .as_ref()
                .and_then(|stop| Some((stop.deadline?, stop.cause))),
            task_deadline: running
                .filter(|_| self.stop.is_none())
                .and_then(|(handed, begun)| {
                    let timeout = handed.terms.timeout?;
                    Some((handed.task, begun.noticed + timeout, timeout))
                }),
            is_reaped: self.end.exit().is_some(),
        }
    }

    /// It is gone: what it leaves. `None`: its process has not ended.
    pub(in crate::monitor::workers) fn remains(mut self, now: Instant) -> Option<Remains> {
        let (exit, died) = self.end.exit()?;
        let lines = self.outputs.read_rest();
        self.slots.notice_begun(now);
        let (begun, revoked) = self.slots.take_all();
        let crash = self
            .slots
            .page()
            .crash(now.saturating_duration_since(died) + CRASH_TAKES);
        let post_mortem = PostMortem {
            exit,
            died,
            life: self.life,
            stop: self.stop.as_ref(),
            load: &self.load,
            was_ready: self.row.is_started(),
            plugin: &self.plugin.name,
            panic: self.panic.as_ref(),
            left_behind: self.left_behind.as_deref(),
            stderr_tail: self.outputs.stderr_tail(),
            crash: crash.as_ref(),
            is_out_of_memory: self
                .cgroup
                .as_ref()
                .is_some_and(WorkerCgroup::was_out_of_memory),
            self_end: self.slots.page().self_end(),
        };
        let ended: Vec<_> = begun
            .into_iter()
            .filter_map(
                |Handed {
                     task, terms, begun, ..
                 }| {
                    let ran = self.ran(&exit, begun?);
                    Some((task, post_mortem.fault(task, terms.limits), ran))
                },
            )
            .collect();
        let last = ended.last().map(|(_, fault, _)| fault);
        let (cause, error) = post_mortem.row(last);
        let start_failure = post_mortem
            .did_not_start()
            .then(|| error.clone().unwrap_or_else(|| "it ended".to_owned()));
        let closed = self.outputs.left_to();
        let row = self.save(Some((cause, error)));
        Some(Remains {
            lines,
            closed,
            ended,
            revoked,
            start_failure,
            row,
        })
    }

    /// The run of a task that the process has died with.
    fn ran(&self, exit: &Exit, begun: Begun) -> Ran {
        Ran {
            started: Some(begun.time),
            peak_memory: Some(self.usage.peak_of_last(exit) as i64),
            cpu_seconds: Some(self.usage.cpu_of_last(exit)),
            worker: Some(self.id),
        }
    }
}
