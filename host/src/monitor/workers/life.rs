//! How far a worker is: what it does with its life, how its plugin was loaded, what it was told to stop for,
//! and how its process has ended.

use crate::{
    model::worker::WorkerCause,
    monitor::fault::{Exit, Fault},
};
use std::time::{Duration, Instant};

/// A dead worker whose socket somebody keeps open is not heard for longer than this after its death.
const SOCKET_PATIENCE: Duration = Duration::from_millis(500);

/// What a worker is doing with its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Life {
    /// Loading its plugin.
    Starting,
    /// Runs what it is handed.
    Ready,
    /// Ends after what it has begun, because it was told so at that time.
    Draining(WorkerCause, Instant),
    /// Killed by the monitor; only its death is awaited.
    Killed(WorkerCause),
}

impl Life {
    /// Whether it is starting or ready: nobody has told it to end.
    pub(super) fn is_wanted(self) -> bool {
        matches!(self, Self::Starting | Self::Ready)
    }

    /// Whether it has been killed.
    pub(super) fn is_killed(self) -> bool {
        matches!(self, Self::Killed(_))
    }
}

/// How far the loading of the plugin is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Load {
    /// It has not begun.
    Awaited,
    /// The plugin is being loaded, which may end the process.
    UnderWay,
    /// The plugin is loaded.
    Done,
    /// The plugin cannot be used, for this reason.
    Refused(String),
}

/// The reason for which the running task has to end. The first one stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stop {
    /// What the worker dies of, if it has to.
    pub(super) cause: WorkerCause,
    /// The same in words, if there are any.
    pub(super) reason: Option<String>,
    /// The task was told, and may end by itself until then; `None`: its worker was killed at once.
    pub(super) deadline: Option<Instant>,
}

impl Stop {
    /// What the task ends with that ended by itself after it was told to; `None`: it was not told, and
    /// ended before its worker was killed.
    pub(super) fn obeyed(self) -> Option<Fault> {
        self.deadline?;
        Some(Fault::of(self.cause.task_cause(), self.reason))
    }
}

/// How far the end of the process is. The process ends and its socket is closed in either order.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum End {
    /// The process runs, and its socket is open.
    NotYet,
    /// The socket has been closed; the process has not been reaped.
    Disconnected,
    /// The process has been reaped at this time; what it has sent may not all have been read.
    Reaped(Exit, Instant),
    /// The process has been reaped at this time, and all that it has sent was read.
    Complete(Exit, Instant),
}

impl End {
    /// The socket has been closed.
    pub(super) fn disconnected(self) -> Self {
        match self {
            Self::NotYet | Self::Disconnected => Self::Disconnected,
            Self::Reaped(exit, at) | Self::Complete(exit, at) => Self::Complete(exit, at),
        }
    }

    /// The process has been reaped.
    pub(super) fn reaped(self, exit: Exit, now: Instant) -> Self {
        match self {
            Self::NotYet => Self::Reaped(exit, now),
            Self::Disconnected => Self::Complete(exit, now),
            Self::Reaped(..) | Self::Complete(..) => self,
        }
    }

    /// How the process has ended and when, if it has.
    pub(super) fn exit(self) -> Option<(Exit, Instant)> {
        match self {
            Self::NotYet | Self::Disconnected => None,
            Self::Reaped(exit, at) | Self::Complete(exit, at) => Some((exit, at)),
        }
    }

    /// When nothing more can be expected of the worker; `None`: its process has not ended.
    pub(super) fn over_at(self) -> Option<Instant> {
        match self {
            Self::NotYet | Self::Disconnected => None,
            Self::Reaped(_, at) => Some(at + SOCKET_PATIENCE),
            Self::Complete(_, at) => Some(at),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::task::Cause;

    #[test]
    fn a_worker_is_over_when_it_was_reaped_and_heard_in_either_order() {
        let now = Instant::now();
        let reaped = End::NotYet.reaped(Exit::example(Some(0), None), now);
        assert_eq!(reaped.over_at(), Some(now + SOCKET_PATIENCE));
        assert_eq!(reaped.disconnected().over_at(), Some(now));
        let later = now + Duration::from_secs(1);
        let disconnected = End::NotYet.disconnected();
        assert_eq!(disconnected.over_at(), None, "its process may live");
        let complete = disconnected.reaped(Exit::example(Some(0), None), later);
        assert_eq!(complete.over_at(), Some(later));
        assert_eq!(complete.reaped(Exit::example(None, Some(9)), now), complete);
    }

    #[test]
    fn a_task_that_was_told_to_end_and_does_has_ended_for_that() {
        let stop = |deadline| Stop {
            cause: WorkerCause::Task(Cause::Timeout),
            reason: Some("ran longer than 1s".to_owned()),
            deadline,
        };
        let fault = stop(Some(Instant::now())).obeyed().expect("it was told");
        assert_eq!(fault.cause, Some(Cause::Timeout));
        assert_eq!(fault.error.as_deref(), Some("ran longer than 1s"));
        assert!(
            stop(None).obeyed().is_none(),
            "it was quicker than the kill"
        );
    }
}
