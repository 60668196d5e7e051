//! A database that does not answer, or that says that it will in a moment, is given a rest, which is
//! longer each time. Running tasks go on meanwhile.

use crate::{causes::chain, store::StoreError};
use std::time::{Duration, Instant};

/// The first rest; each one that follows without an answer is twice as long,
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// up to this.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// The rest after somebody else's lock has kept a row from being written: locks are short.
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// Whether the database can be asked.
#[derive(Debug)]
pub(super) struct Outage {
    /// Whether the connection was lost and there was no answer since.
    away: bool,
    /// The database is not asked before this time.
    retry_at: Option<Instant>,
    /// How long the next rest is.
    pause: Duration,
}

impl Default for Outage {
    fn default() -> Self {
        Self {
            away: false,
            retry_at: None,
            pause: FIRST_PAUSE,
        }
    }
}

impl Outage {
    /// A question has failed. A refusal of one thing holds up no other; everything else gives the database
    /// a rest. That it is away is logged once.
    pub(super) fn failed(&mut self, error: &StoreError, now: Instant) {
        if error.is_disconnect() && !self.away {
            self.away = true;
            tracing::warn!(
                "the database is away, running tasks go on: {}",
                chain(error)
            );
        }
        if error.is_disconnect() || error.is_passing() {
            self.back_off(now);
        }
    }

    /// Gives the database a rest, twice as long as the one before. A rest that has begun is not prolonged:
    /// several questions may fail meanwhile.
    pub(super) fn back_off(&mut self, now: Instant) {
        if !self.may_ask(now) {
            return;
        }
        self.retry_at = Some(now + self.pause);
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
    }

    /// The database has answered. True: it was away until now.
    pub(super) fn answered(&mut self) -> bool {
        self.retry_at = None;
        self.pause = FIRST_PAUSE;
        let was_away = std::mem::take(&mut self.away);
        if was_away {
            tracing::info!("the database is back");
        }
        was_away
    }

    /// Somebody has locked a row that has to be written: not again at once.
    pub(super) fn row_is_locked(&mut self, now: Instant) {
        self.retry_at = Some(now + LOCK_PAUSE);
    }

    /// Whether the database may be asked now.
    pub(super) fn may_ask(&self, now: Instant) -> bool {
        self.retry_at.is_none_or(|at| now >= at)
    }

    /// Whether the connection was lost and there was no answer since.
    pub(super) fn is_away(&self) -> bool {
        self.away
    }

    /// When the rest ends, if there is one.
    pub(super) fn next_wake(&self, now: Instant) -> Option<Instant> {
        self.retry_at.filter(|at| *at > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disconnect() -> StoreError {
        StoreError::Connect {
            place: "somewhere".to_owned(),
            reason: "nobody answers".to_owned(),
        }
    }

    #[test]
    fn each_rest_is_longer_until_there_is_an_answer() {
        let mut outage = Outage::default();
        let mut now = Instant::now();
        let mut pauses = Vec::new();
        for _ in 0..9 {
            outage.failed(&disconnect(), now);
            let wake = outage.next_wake(now).expect("a rest");
            pauses.push((wake - now).as_millis());
            now = wake;
            assert!(outage.may_ask(now));
        }
        assert_eq!(pauses, [50, 100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        assert!(outage.is_away());
        assert!(outage.answered(), "it was away");
        assert!(!outage.answered(), "said once");
        outage.failed(&disconnect(), now);
        assert_eq!(outage.next_wake(now), Some(now + FIRST_PAUSE));
    }

    #[test]
    fn several_failures_make_one_rest() {
        let mut outage = Outage::default();
        let now = Instant::now();
        for millisecond in 0..50 {
            outage.failed(&disconnect(), now + Duration::from_millis(millisecond));
        }
        assert_eq!(outage.next_wake(now), Some(now + FIRST_PAUSE));
        assert!(!outage.may_ask(now) && outage.may_ask(now + FIRST_PAUSE));
    }

    #[test]
    fn a_refusal_of_one_thing_holds_up_no_other() {
        let mut outage = Outage::default();
        let now = Instant::now();
        let refusal = StoreError::Refused {
            code: "RW004".to_owned(),
            message: "it has ended".to_owned(),
            hint: None,
        };
        outage.failed(&refusal, now);
        assert!(outage.may_ask(now) && !outage.is_away());
        outage.row_is_locked(now);
        assert!(!outage.may_ask(now));
        assert!(outage.may_ask(now + LOCK_PAUSE));
    }
}
