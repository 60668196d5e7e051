//! What the death of a worker means for the task that it ran and for its own row, from all that is known of it.

use super::life::{Life, Load, Stop};
use crate::{
    model::{TaskId, task::Cause, text::without_nul, worker::WorkerCause},
    monitor::fault::{Death, Exit, Fault},
    wire::{Crash, Failure, Limits, SelfEnd},
};
use std::time::{Duration, Instant};

/// How long a process may take to die of a panic: it prints a backtrace, and may dump its core.
const PANIC_TAKES: Duration = Duration::from_secs(5);

/// All that is known of a dead worker.
#[derive(Debug)]
pub(super) struct PostMortem<'a> {
    pub(super) exit: Exit,
    /// When it was reaped.
    pub(super) died: Instant,
    pub(super) life: Life,
    /// What its running task was told to end for.
    pub(super) stop: Option<&'a Stop>,
    pub(super) load: &'a Load,
    /// Whether it has been ready.
    pub(super) was_ready: bool,
    /// The name of its plugin.
    pub(super) plugin: &'a str,
    /// The last panic of its task, and when it was reported.
    pub(super) panic: Option<&'a (TaskId, Failure, Instant)>,
    /// What a task had changed in its process, in words.
    pub(super) left_behind: Option<&'a str>,
    /// The last line on stderr.
    pub(super) stderr_tail: Option<&'a str>,
    /// What its signal handler recorded.
    pub(super) crash: Option<&'a Crash>,
    /// The kernel has killed something in its cgroup for want of memory.
    pub(super) is_out_of_memory: bool,
    /// Why it has ended itself.
    pub(super) self_end: Option<SelfEnd>,
}

impl PostMortem<'_> {
    /// Why the monitor made it end, if it did. However it has died: its task had been told to end.
    fn killed(&self) -> Option<WorkerCause> {
        match self.life {
            Life::Killed(cause) => Some(cause),
            Life::Starting | Life::Ready | Life::Draining(..) => self
                .stop
                .filter(|stop| stop.deadline.is_some())
                .map(|stop| stop.cause),
        }
    }

    /// What its death means for a task that it ran under these limits.
    pub(super) fn fault(&self, task: TaskId, limits: Limits) -> Fault {
        Death {
            killed: self.killed(),
            because: self.stop.and_then(|stop| stop.reason.as_deref()),
            panic: self.fatal_panic(task),
            stderr_tail: self.stderr_tail,
            crash: self.crash,
            limits,
            out_of_memory: self.is_out_of_memory,
            self_end: self.self_end,
            ..Death::of(&self.exit)
        }
        .fault()
    }

    /// The panic that took the process with it, if one did. A panic that is not caught aborts the process (or
    /// the author's panic hook ends it), and soon; one that was caught long ago, or a death of another kind,
    /// has nothing to do with it.
    fn fatal_panic(&self, running: TaskId) -> Option<&Failure> {
        let (task, failure, reported) = self.panic?;
        let signal = self.exit.signal;
        let is_its_way = signal.is_none_or(|signal| signal == libc::SIGABRT);
        let is_soon = self.died.saturating_duration_since(*reported) < PANIC_TAKES;
        (*task == running && is_its_way && is_soon).then_some(failure)
    }

    /// Whether it has died before it was ready, and not because the monitor killed it.
    pub(super) fn did_not_start(&self) -> bool {
        !self.was_ready && self.killed().is_none()
    }

    /// What its row says: why it has ended, and the same in words. `fault`: what its death meant for the task
    /// that it ran.
    pub(super) fn row(&self, fault: Option<&Fault>) -> (WorkerCause, Option<String>) {
        let loading = (*self.load == Load::UnderWay).then_some(self.plugin);
        let fault = fault.and_then(|fault| Some((fault.cause?, fault.error.clone())));
        if let Some(cause) = self.killed() {
            let hung = || loading.map(|name| format!("{name} did not finish loading"));
            return (cause, fault.and_then(|(_, error)| error).or_else(hung));
        }
        if let Some((cause, error)) = fault {
            return (WorkerCause::Task(cause), error);
        }
        if let Life::Draining(cause, _) = self.life
            && self.exit.code == Some(0)
        {
            let because = match cause {
                WorkerCause::MadeRoom => Some("made room for a worker of another plugin"),
                _ => self.left_behind,
            };
            return (cause, because.map(str::to_owned));
        }
        let crashed = WorkerCause::Task(Cause::Crash);
        if let Load::Refused(reason) = self.load {
            return (crashed, Some(without_nul(reason.clone())));
        }
        if let Some(name) = loading {
            let error = format!("{name} {} while loading", self.exit.in_words());
            return (crashed, Some(error));
        }
        let fault = Death {
            crash: self.crash,
            had_handler: self.was_ready,
            self_end: self.self_end,
            ..Death::of(&self.exit)
        }
        .fault();
        (fault.cause.map_or(crashed, WorkerCause::Task), fault.error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TASK: TaskId = TaskId(7);

    /// A worker that was at work when its process ended in this way.
    fn at_work(exit: Exit) -> PostMortem<'static> {
        PostMortem {
            exit,
            died: Instant::now(),
            life: Life::Ready,
            stop: None,
            load: &Load::Done,
            was_ready: true,
            plugin: "libx.so",
            panic: None,
            left_behind: None,
            stderr_tail: None,
            crash: None,
            is_out_of_memory: false,
            self_end: None,
        }
    }

    fn words(row: &(WorkerCause, Option<String>)) -> (&'static str, &str) {
        (row.0.as_str(), row.1.as_deref().unwrap_or_default())
    }

    #[test]
    fn a_task_that_was_told_to_end_has_ended_for_that_however_its_worker_died() {
        let stop = Stop {
            cause: WorkerCause::Task(Cause::Timeout),
            reason: Some("ran longer than 1s".to_owned()),
            deadline: Some(Instant::now()),
        };
        let dead = PostMortem {
            stop: Some(&stop),
            ..at_work(Exit::example(Some(3), None))
        };
        let fault = dead.fault(TASK, Limits::default());
        assert_eq!(fault.cause, Some(Cause::Timeout));
        assert_eq!(fault.error.as_deref(), Some("ran longer than 1s"));
        assert_eq!(
            words(&dead.row(Some(&fault))),
            ("timeout", "ran longer than 1s")
        );
    }

    #[test]
    fn the_last_panic_counts_if_the_process_died_of_one_soon() {
        let died = Instant::now();
        let failure = Failure {
            kind: "panic".to_owned(),
            message: "twice".to_owned(),
            location: None,
            backtrace: None,
        };
        let cause = |panicked: TaskId, before: Duration, exit: Exit| {
            let panic = (panicked, failure.clone(), died);
            let dead = PostMortem {
                panic: Some(&panic),
                died: died + before,
                ..at_work(exit)
            };
            dead.fault(TASK, Limits::default()).cause
        };
        let aborted = Exit::example(None, Some(libc::SIGABRT));
        let soon = Duration::from_secs(1);
        assert_eq!(cause(TASK, soon, aborted), Some(Cause::Panic));
        assert_eq!(cause(TaskId(6), soon, aborted), Some(Cause::Crash));
        assert_eq!(cause(TASK, PANIC_TAKES, aborted), Some(Cause::Crash));
        let killed = Exit::example(None, Some(libc::SIGKILL));
        assert_eq!(cause(TASK, soon, killed), Some(Cause::Crash));
    }

    #[test]
    fn the_row_of_a_worker_tells_how_far_its_start_was() {
        let load = Load::UnderWay;
        let loading = PostMortem {
            life: Life::Starting,
            load: &load,
            was_ready: false,
            ..at_work(Exit::example(Some(1), None))
        };
        let row = loading.row(None);
        let expected = "libx.so ended the process (exit 1) while loading";
        assert_eq!(words(&row), ("crash", expected));
        assert!(loading.did_not_start());
        let late = PostMortem {
            life: Life::Killed(WorkerCause::StartTimeout),
            ..loading
        };
        let expected = ("start timeout", "libx.so did not finish loading");
        assert_eq!(words(&late.row(None)), expected);
        assert!(!late.did_not_start(), "it was counted when it was killed");
        let refused = Load::Refused("no\0 such symbol".to_owned());
        let refused = PostMortem {
            load: &refused,
            was_ready: false,
            ..at_work(Exit::example(Some(0), None))
        };
        assert_eq!(
            words(&refused.row(None)),
            ("crash", "no\u{fffd} such symbol")
        );
    }

    #[test]
    fn a_worker_that_was_told_to_go_and_went_is_no_crash() {
        let cause = WorkerCause::Leftovers;
        let dead = |code| PostMortem {
            life: Life::Draining(cause, Instant::now()),
            left_behind: Some("task 7 left a timer"),
            ..at_work(Exit::example(Some(code), None))
        };
        let row = dead(0).row(None);
        assert_eq!(words(&row), ("leftovers", "task 7 left a timer"));
        assert_eq!(dead(1).row(None).0.as_str(), "process exit");
        let room = PostMortem {
            life: Life::Draining(WorkerCause::MadeRoom, Instant::now()),
            ..at_work(Exit::example(Some(0), None))
        };
        let expected = ("idle", "made room for a worker of another plugin");
        assert_eq!(words(&room.row(None)), expected);
    }
}
