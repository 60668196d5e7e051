//! Wrapped identifiers, so that a worker's number is never taken for a task's.

use std::fmt;

/// The error for a text that is not an id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it must be a whole number")]
pub struct NotAnId;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(
            Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash,
            serde::Serialize, serde::Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl From<$inner> for $name {
            fn from(number: $inner) -> Self {
                Self(number)
            }
        }

        impl std::str::FromStr for $name {
            type Err = NotAnId;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map(Self).map_err(|_| NotAnId)
            }
        }
    };
}

id!(
    /// The id of a task; ids are never used twice.
    TaskId(i64)
);
id!(
    /// The id of a schedule: an operation and a cron rule.
    ScheduleId(i64)
);
id!(
    /// The id of an operation: a name in a domain.
    OperationId(i32)
);
id!(
    /// The id of a worker process, alive or dead.
    WorkerId(i64)
);
id!(
    /// The id of a monitor process; a restarted monitor has a new id.
    MonitorId(i64)
);
id!(
    /// The token of a claim: which monitor claimed the task, in which of its cycles. Every write about a
    /// claimed task carries the token, and does nothing if the task has another one by now.
    Token(i64)
);

impl Token {
    /// The bits of the cycle's number. An installation sees thousands of monitors, and a monitor runs
    /// billions of cycles.
    const CYCLE_BITS: u32 = 36;

    /// The token of the claims that a monitor makes in one cycle.
    pub fn new(monitor: MonitorId, cycle: u64) -> Self {
        debug_assert!(cycle < 1 << Self::CYCLE_BITS);
        Self((monitor.0 << Self::CYCLE_BITS) | cycle as i64)
    }

    /// The monitor that made the claim.
    pub fn monitor(self) -> MonitorId {
        MonitorId(self.0 >> Self::CYCLE_BITS)
    }

    /// The cycle in which the claim was made.
    pub fn cycle(self) -> i64 {
        self.0 & ((1 << Self::CYCLE_BITS) - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_of_different_monitors_and_cycles_differ() {
        let token = Token::new(MonitorId(3), 77);
        assert_eq!(token.cycle(), 77);
        assert_ne!(token, Token::new(MonitorId(4), 77));
        assert_ne!(token, Token::new(MonitorId(3), 78));
    }
}
