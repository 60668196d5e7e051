//! Whether other monitors live, as one of them sees it: a monitor whose row has not changed for its whole
//! lease is gone. Only changes count, on the observer's own clock; no two clocks are ever compared, so
//! that setting one (the server's, a host's) buries nobody.

use crate::{model::MonitorId, periods::Periods, store::OtherMonitor};
use std::{collections::BTreeMap, time::Duration};

/// What one monitor has seen of the others.
#[derive(Debug, Default)]
pub(super) struct Witness {
    seen: BTreeMap<MonitorId, Sighting>,
    /// When the rows of the others were last read.
    looked: Option<Duration>,
}

#[derive(Debug)]
struct Sighting {
    sign: String,
    since: Duration,
    lease: Duration,
}

impl Witness {
    /// Takes note of every other monitor at this time of `CLOCK_BOOTTIME`.
    pub(super) fn look(&mut self, others: &[OtherMonitor], now: Duration) {
        let has_gap = self
            .looked
            .is_none_or(|last| now.saturating_sub(last) > Periods::current().lease_gap());
        if has_gap {
            self.seen.clear();
        }
        self.looked = Some(now);
        self.seen
            .retain(|id, _| others.iter().any(|other| other.id == *id));
        for other in others {
            let known = self.seen.get(&other.id);
            if known.is_none_or(|known| known.sign != other.sign) {
                let sighting = Sighting {
                    sign: other.sign.clone(),
                    since: now,
                    lease: other.lease,
                };
                self.seen.insert(other.id, sighting);
            }
        }
    }

    /// Whether a monitor has been silent for its whole lease.
    pub(super) fn is_silent(&self, other: &OtherMonitor, now: Duration) -> bool {
        self.seen
            .get(&other.id)
            .is_some_and(|seen| now.saturating_sub(seen.since) >= seen.lease)
    }

    /// How long from now until the next of them may count as silent.
    pub(super) fn next_verdict(&self, now: Duration) -> Option<Duration> {
        let verdicts = self.seen.values().map(|seen| seen.since + seen.lease);
        // A time that has passed was acted upon, or is tried again with the next renewal.
        let next = verdicts.filter(|verdict| *verdict > now).min()?;
        Some(next - now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(15);

    fn other(sign: &str) -> OtherMonitor {
        OtherMonitor {
            id: MonitorId(7),
            host: "elsewhere".to_owned(),
            pages: String::new(),
            sign: sign.to_owned(),
            lease: LEASE,
        }
    }

    /// Looks at these seconds, each time with this sign; whether it is silent in the end.
    fn silent_after(looks: &[(u64, &str)]) -> bool {
        let mut witness = Witness::default();
        let mut is_silent = false;
        for (second, sign) in looks {
            let now = Duration::from_secs(1000 + second);
            witness.look(&[other(sign)], now);
            is_silent = witness.is_silent(&other(sign), now);
        }
        is_silent
    }

    #[test]
    fn a_row_that_does_not_change_for_the_whole_lease_is_that_of_a_dead_monitor() {
        assert!(!silent_after(&[(0, "a"), (5, "a"), (10, "a"), (14, "a")]));
        assert!(silent_after(&[(0, "a"), (5, "a"), (10, "a"), (15, "a")]));
    }

    #[test]
    fn any_change_is_a_sign_of_life() {
        assert!(!silent_after(&[(0, "b"), (8, "a"), (15, "a"), (22, "a")]));
    }

    #[test]
    fn an_observer_that_was_suspended_begins_anew() {
        assert!(!silent_after(&[(0, "a"), (9, "a"), (3600, "a")]));
        assert!(silent_after(&[
            (0, "a"),
            (3600, "a"),
            (3608, "a"),
            (3615, "a")
        ]));
    }

    #[test]
    fn the_next_verdict_is_when_the_lease_ends() {
        let mut witness = Witness::default();
        let now = Duration::from_secs(1000);
        witness.look(&[other("a")], now);
        assert_eq!(witness.next_verdict(now), Some(LEASE));
        assert_eq!(witness.next_verdict(now + LEASE), None);
    }
}
