//! A question that is asked of the database again and again: at most one of its kind is under way, and
//! whoever wants an answer sooner says so, also while an answer is still to come.

use std::time::{Duration, Instant};

/// When one question is asked next.
#[derive(Debug)]
pub(super) struct Poll {
    /// When it is to be asked; `None`: not before somebody wants it.
    due: Option<Instant>,
    /// Whether it has been asked and not been answered.
    in_flight: bool,
    /// How long after it was asked it is asked again; `None`: only when somebody wants it.
    again: Option<Duration>,
}

impl Poll {
    /// Asked at `first`, and then once in each period.
    pub(super) fn every(period: Duration, first: Instant) -> Self {
        Self {
            due: Some(first),
            in_flight: false,
            again: Some(period),
        }
    }

    /// Asked only when somebody wants it.
    pub(super) fn on_demand() -> Self {
        Self {
            due: None,
            in_flight: false,
            again: None,
        }
    }

    /// Wants it asked at this time, or earlier.
    pub(super) fn want(&mut self, at: Instant) {
        self.due = Some(self.due.map_or(at, |due| due.min(at)));
    }

    /// Whether it is to be asked now. If so it counts as asked: the caller asks.
    pub(super) fn begin(&mut self, now: Instant) -> bool {
        if self.in_flight || self.due.is_none_or(|due| now < due) {
            return false;
        }
        self.in_flight = true;
        self.due = self.again.map(|period| now + period);
        true
    }

    /// The answer has arrived, or there was nothing to ask after all.
    pub(super) fn answered(&mut self) {
        self.in_flight = false;
    }

    /// Whether an answer is awaited.
    pub(super) fn is_in_flight(&self) -> bool {
        self.in_flight
    }

    /// When [`Poll::begin`] will say yes, if nothing changes. While an answer is awaited nothing is due: the
    /// answer itself wakes the loop.
    pub(super) fn next_wake(&self) -> Option<Instant> {
        self.due.filter(|_| !self.in_flight)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn it_is_asked_once_in_each_period_and_one_at_a_time() {
        let start = Instant::now();
        let mut poll = Poll::every(SECOND, start);
        assert!(poll.begin(start));
        assert!(!poll.begin(start + 5 * SECOND), "the answer is awaited");
        assert_eq!(poll.next_wake(), None, "the loop does not spin meanwhile");
        poll.answered();
        assert_eq!(poll.next_wake(), Some(start + SECOND));
        assert!(!poll.begin(start + SECOND / 2));
        assert!(poll.begin(start + SECOND));
    }

    #[test]
    fn what_is_wanted_while_an_answer_is_awaited_is_asked_again_after_it() {
        let start = Instant::now();
        let mut poll = Poll::on_demand();
        assert!(!poll.begin(start) && poll.next_wake().is_none());
        poll.want(start);
        assert!(poll.begin(start));
        poll.want(start);
        assert!(!poll.begin(start));
        poll.answered();
        assert!(
            poll.begin(start),
            "the first answer may be older than the wish"
        );
        poll.answered();
        assert!(!poll.begin(start + SECOND), "both wishes are met");
    }

    #[test]
    fn the_earliest_wish_counts() {
        let start = Instant::now();
        let mut poll = Poll::every(SECOND, start + 9 * SECOND);
        poll.want(start + 3 * SECOND);
        poll.want(start + 5 * SECOND);
        assert_eq!(poll.next_wake(), Some(start + 3 * SECOND));
    }
}
