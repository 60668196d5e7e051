//! Periods that nobody configures and that a test would otherwise have to wait for, with their defaults.
//! Every process has one set of them for its whole life.
//!
//! **For tests only:** the binary reads other values from `REWORK_TEST_PERIODS`, a list of names and
//! milliseconds (`lease=1500,answer_patience=200`). What it cannot read, it refuses. A program that uses
//! the library always has the defaults.

use std::{env, sync::OnceLock, time::Duration};

/// The environment variable by which tests set other values.
pub const VARIABLE: &str = "REWORK_TEST_PERIODS";

static CURRENT: OnceLock<Periods> = OnceLock::new();

/// Why the environment variable was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeriodsError {
    /// An entry is not a name, an equals sign and a whole number above zero.
    #[error("{VARIABLE}: `{0}` is not a period and its milliseconds, as `lease=1500`")]
    Entry(String),
    /// There is no such period.
    #[error("{VARIABLE}: there is no period `{0}`, but {names}", names = NAMES.join(", "))]
    Unknown(String),
}

/// Makes the struct, its defaults and the way to set a field by its name from one table.
macro_rules! periods {
    ($($(#[$doc:meta])+ $name:ident = $milliseconds:literal ms,)+) => {
        /// The periods of this process.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct Periods {
            $($(#[$doc])+ pub $name: Duration,)+
        }

        const NAMES: &[&str] = &[$(stringify!($name)),+];

        impl Default for Periods {
            fn default() -> Self {
                Self { $($name: Duration::from_millis($milliseconds),)+ }
            }
        }

        impl Periods {
            fn by_name(&mut self, name: &str) -> Option<&mut Duration> {
                match name {
                    $(stringify!($name) => Some(&mut self.$name),)+
                    _ => None,
                }
            }
        }
    };
}

periods! {
    /// A monitor whose row has not changed for this long is lost, and others take over its tasks. Longer
    /// than a database takes to fail over, short enough for somebody who waits for a task. A monitor
    /// renews its lease after a third of it.
    lease = 15_000 ms,
    /// The longest wait for a connection: for one that is free, or for a server that starts. As long as
    /// people are willing to look at a command that says nothing.
    connection_wait = 10_000 ms,
    /// A command, and whatever queues a task, waits for a lock for this long: longer than our own
    /// transactions hold one, and not so long that a person wonders.
    lock_wait = 10_000 ms,
    /// An answer that takes longer is asked about on another connection. Nearly all answers take less,
    /// and a few seconds are what a lost connection may cost.
    answer_patience = 2_000 ms,
    /// The pause before the server is asked about the same answer again; it grows while the server is at
    /// work. Three looks have to agree that no answer will come.
    answer_again = 1_000 ms,
    /// While the server cannot be asked about an answer, the answer may still come for this long.
    answer_unreachable = 8_000 ms,
    /// A connection that listens and has heard nothing for this long has to prove that it would hear.
    listen_proof = 5_000 ms,
    /// The proof that a connection hears may take this long.
    listen_proof_limit = 3_000 ms,
    /// A monitor reads the schedules again after this. Notifications tell of changes at once; reading
    /// again makes up for a lost one.
    schedules_reload = 5_000 ms,
    /// A monitor looks at the queue after this, and for tasks that fall due. Notifications and the times of
    /// what is delayed tell it of nearly all before.
    queue_look = 1_000 ms,
    /// A report that has had no answer for this long is told of. A lock is the only reason that is left then,
    /// and locks that somebody has forgotten are not let go.
    report_unanswered = 10_000 ms,
    /// A worker that nobody needs stays idle for this long: starting another one costs more than its
    /// memory does.
    worker_linger = 5_000 ms,
    /// A write that the database refuses is tried again after this.
    refused_again = 2_000 ms,
    /// A refusal of the database that has not been repeated for this long is over: six tries of
    /// `refused_again`.
    refused_over = 12_000 ms,
    /// A plugin that could not be obtained is tried again after this.
    supply_again = 5_000 ms,
    /// A monitor looks for published plugins after this. Notifications tell of new ones at once.
    supply_look = 5_000 ms,
    /// The keeper of an embedded server that is kept up looks after this whether it still is.
    keeper_look = 2_000 ms,
}

impl Periods {
    /// The periods of this process.
    pub fn current() -> &'static Self {
        CURRENT.get_or_init(Self::default)
    }

    /// Takes those that the environment sets; called once, before anybody asks for them.
    pub fn take_from_environment() -> Result<(), PeriodsError> {
        if let Some(text) = env::var_os(VARIABLE) {
            let periods = Self::parse(&text.to_string_lossy())?;
            // A program that embeds the binary in itself may have asked already: it keeps what it has.
            let _ = CURRENT.set(periods);
        }
        Ok(())
    }

    fn parse(text: &str) -> Result<Self, PeriodsError> {
        let mut periods = Self::default();
        for entry in text.split(',').filter(|entry| !entry.is_empty()) {
            let fault = || PeriodsError::Entry(entry.to_owned());
            let (name, milliseconds) = entry.split_once('=').ok_or_else(fault)?;
            let milliseconds = milliseconds.parse().map_err(|_| fault())?;
            if milliseconds == 0 {
                return Err(fault());
            }
            let period = periods.by_name(name);
            *period.ok_or_else(|| PeriodsError::Unknown(name.to_owned()))? =
                Duration::from_millis(milliseconds);
        }
        Ok(periods)
    }

    /// The part of the lease that workers do not count on: their monitor may be late to renew it.
    pub fn lease_margin(&self) -> Duration {
        self.lease * 2 / 15
    }

    /// An observer that has not looked at the other monitors for this long knows nothing of them any more:
    /// it was suspended, or the database was away for the others as well.
    pub fn lease_gap(&self) -> Duration {
        self.lease * 2 / 3
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_set_some_and_the_others_keep_their_defaults() {
        let expected = Periods {
            lease: Duration::from_millis(1500),
            keeper_look: Duration::from_millis(1),
            ..Periods::default()
        };
        assert_eq!(Periods::parse("lease=1500,keeper_look=1"), Ok(expected));
        assert_eq!(Periods::parse(""), Ok(Periods::default()));
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        for entry in ["lease", "lease=", "lease=1s", "lease=-1", "lease=0"] {
            let error = Periods::parse(&format!("keeper_look=1,{entry}")).unwrap_err();
            assert_eq!(error, PeriodsError::Entry(entry.to_owned()));
        }
        let error = Periods::parse("rent=1").unwrap_err();
        assert!(
            error.to_string().contains("no period `rent`, but lease, "),
            "{error}"
        );
    }

    #[test]
    fn what_is_part_of_the_lease_is_as_documented() {
        let periods = Periods::default();
        assert_eq!(periods.lease_margin(), Duration::from_secs(2));
        assert_eq!(periods.lease_gap(), Duration::from_secs(10));
    }
}
