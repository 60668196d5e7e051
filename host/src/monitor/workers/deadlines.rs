//! When something is due of a worker: it takes too long to start or to go, its task runs for too long, or has had
//! its time to end by itself. One list of deadlines tells both what to do now and when to look again.

use super::life::Life;
use crate::{
    model::{TaskId, worker::WorkerCause},
    store::SLOW_LOAD,
};
use std::time::{Duration, Instant};

/// A worker that was told to end and has no task may take this long to go.
const GOODBYE_LIMIT: Duration = Duration::from_secs(5);

/// What deadlines depend on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    pub(super) life: Life,
    pub(super) spawned: Instant,
    pub(super) is_slow_load_logged: bool,
    /// Since when the worker has had no task; `None`: it has one.
    pub(super) idle_since: Option<Instant>,
    /// When the running task, which was told to end, has had its time, and what the worker then dies of.
    pub(super) stop_deadline: Option<(Instant, WorkerCause)>,
    /// The running task, when it has run for too long, and how long that is; `None`: there is no such limit,
    /// or the task is being ended.
    pub(super) task_deadline: Option<(TaskId, Instant, Duration)>,
    /// Whether the process has ended.
    pub(super) is_reaped: bool,
}

/// What is to be done when a deadline has passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    /// The worker is not ready in time: it is killed, and counts as a start that failed.
    StartTimeout,
    /// The log is to tell that the worker is still loading.
    SlowLoad,
    /// The task that was told to end has not: its worker is killed.
    StopTimeout(WorkerCause),
    /// The worker has nothing to do and does not go: it is killed.
    GoodbyeTimeout(WorkerCause),
    /// The task has run for longer than this: it is told to end.
    TaskTimeout(TaskId, Duration),
}

/// The deadlines of a worker. One that has been killed or has died has none.
pub(super) fn deadlines(
    times: &Times,
    start_timeout: Duration,
) -> impl Iterator<Item = (Instant, Due)> {
    let is_starting = times.life == Life::Starting;
    let start = is_starting.then(|| (times.spawned + start_timeout, Due::StartTimeout));
    let slow_load = (is_starting && !times.is_slow_load_logged)
        .then(|| (times.spawned + SLOW_LOAD, Due::SlowLoad));
    let stop = times
        .stop_deadline
        .map(|(at, cause)| (at, Due::StopTimeout(cause)));
    let goodbye = match (times.life, times.idle_since) {
        (Life::Draining(cause, told), Some(idle)) => {
            Some((told.max(idle) + GOODBYE_LIMIT, Due::GoodbyeTimeout(cause)))
        }
        _ => None,
    };
    let task = times
        .task_deadline
        .map(|(task, at, limit)| (at, Due::TaskTimeout(task, limit)));
    let is_over = times.life.is_killed() || times.is_reaped;
    [start, slow_load, stop, goodbye, task]
        .into_iter()
        .flatten()
        .filter(move |_| !is_over)
}

/// The deadlines that have passed, in the order in which they are acted upon.
pub(super) fn due(times: &Times, start_timeout: Duration, now: Instant) -> Vec<Due> {
    deadlines(times, start_timeout)
        .filter(|(at, _)| now >= *at)
        .map(|(_, due)| due)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::task::Cause;

    const SECOND: Duration = Duration::from_secs(1);
    const START: Duration = Duration::from_secs(30);

    fn times(life: Life, spawned: Instant) -> Times {
        Times {
            life,
            spawned,
            is_slow_load_logged: false,
            idle_since: Some(spawned),
            stop_deadline: None,
            task_deadline: None,
            is_reaped: false,
        }
    }

    fn next(times: &Times) -> Option<Instant> {
        deadlines(times, START).map(|(at, _)| at).min()
    }

    #[test]
    fn a_start_that_takes_long_is_told_once_and_then_ended() {
        let start = Instant::now();
        let mut times = times(Life::Starting, start);
        assert_eq!(due(&times, START, start), []);
        assert_eq!(due(&times, START, start + SLOW_LOAD), [Due::SlowLoad]);
        times.is_slow_load_logged = true;
        assert_eq!(due(&times, START, start + SLOW_LOAD), []);
        assert_eq!(next(&times), Some(start + START));
        assert_eq!(due(&times, START, start + START), [Due::StartTimeout]);
        times.life = Life::Ready;
        assert_eq!(next(&times), None, "a worker that idles wakes nobody");
    }

    #[test]
    fn a_task_has_its_timeout_and_then_its_grace() {
        let start = Instant::now();
        let task = TaskId(7);
        let mut times = Times {
            idle_since: None,
            task_deadline: Some((task, start + SECOND, SECOND)),
            ..times(Life::Ready, start)
        };
        assert_eq!(due(&times, START, start + SECOND / 2), []);
        let timeout = Due::TaskTimeout(task, SECOND);
        assert_eq!(due(&times, START, start + SECOND), [timeout]);
        times.task_deadline = None;
        let cause = WorkerCause::Task(Cause::Timeout);
        times.stop_deadline = Some((start + 3 * SECOND, cause));
        assert_eq!(due(&times, START, start + 2 * SECOND), []);
        assert_eq!(next(&times), Some(start + 3 * SECOND));
        let stop = Due::StopTimeout(cause);
        assert_eq!(due(&times, START, start + 3 * SECOND), [stop]);
    }

    #[test]
    fn a_worker_that_was_told_to_end_goes_soon_after_its_last_task() {
        let start = Instant::now();
        let cause = WorkerCause::Upgrade;
        let mut times = Times {
            idle_since: None,
            ..times(Life::Draining(cause, start), start)
        };
        assert_eq!(next(&times), None, "its task may take long");
        times.idle_since = Some(start + SECOND);
        let goodbye = start + SECOND + GOODBYE_LIMIT;
        assert_eq!(next(&times), Some(goodbye));
        assert_eq!(due(&times, START, goodbye), [Due::GoodbyeTimeout(cause)]);
    }

    #[test]
    fn what_was_killed_is_not_killed_again() {
        let start = Instant::now();
        let mut times = Times {
            stop_deadline: Some((start, WorkerCause::Killed)),
            ..times(Life::Killed(WorkerCause::Killed), start)
        };
        assert_eq!((next(&times), due(&times, START, start)), (None, vec![]));
        times.life = Life::Ready;
        times.is_reaped = true;
        assert_eq!((next(&times), due(&times, START, start)), (None, vec![]));
    }
}
