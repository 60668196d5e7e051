//! Pauses between starts of workers of a plugin that do not start: longer each time, and logged once.

use std::time::{Duration, Instant};

/// The pause after the first start that failed; it doubles with each further one,
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// this many times: up to 32 s.
const DOUBLINGS: u32 = 6;

/// The starts of one plugin's workers.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    /// Starts that failed since the last one that did not.
    failed: u32,
    /// After a start that failed: the next one happens then.
    next: Option<Instant>,
    /// Why the last start failed, if that has been logged.
    logged: Option<String>,
}

impl Backoff {
    /// A start has failed. Answers how long the next one waits, if the reason is another one than was answered
    /// before.
    pub(super) fn failed(&mut self, reason: &str, now: Instant) -> Option<Duration> {
        let pause = FIRST_PAUSE * 2_u32.pow(self.failed.min(DOUBLINGS));
        self.failed = self.failed.saturating_add(1);
        self.next = Some(now + pause);
        let is_news = self.logged.as_deref() != Some(reason);
        self.logged = Some(reason.to_owned());
        is_news.then_some(pause)
    }

    /// A start has succeeded. Answers whether the ones before had failed.
    pub(super) fn succeeded(&mut self) -> bool {
        self.next = None;
        self.logged = None;
        std::mem::take(&mut self.failed) > 0
    }

    /// Whether the last start failed.
    pub(super) fn is_failing(&self) -> bool {
        self.failed > 0
    }

    /// Whether a worker is to be started on trial, to see whether they start again.
    pub(super) fn is_trial_due(&self, now: Instant) -> bool {
        self.is_failing() && self.next.is_none_or(|at| now >= at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_that_fail_are_tried_again_more_and_more_seldom_and_logged_once() {
        let mut starts = Backoff::default();
        let start = Instant::now();
        assert!(!starts.is_failing() && !starts.is_trial_due(start));
        assert_eq!(starts.failed("no such library", start), Some(FIRST_PAUSE));
        assert!(starts.is_failing() && !starts.is_trial_due(start));
        assert!(starts.is_trial_due(start + FIRST_PAUSE));
        assert_eq!(starts.failed("no such library", start), None);
        assert!(!starts.is_trial_due(start + FIRST_PAUSE));
        assert!(starts.failed("another reason", start).is_some());
        for _ in 0..40 {
            starts.failed("another reason", start);
        }
        assert!(starts.is_trial_due(start + Duration::from_secs(32)));

        assert!(starts.succeeded(), "they had failed");
        assert!(!starts.succeeded(), "they had not");
        assert!(!starts.is_failing());
        assert!(starts.failed("another reason", start).is_some());
    }
}
