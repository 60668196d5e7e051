//! How a monitor ends: it is interrupted, drains, and waits for the database to take what it has to report, but
//! not for ever.

use std::time::{Duration, Instant};

/// When a monitor is told to end and its workers are gone, the database has this long to take what became
/// of the tasks, counted from the last report that it took.
pub(super) const REPORT_GRACE: Duration = Duration::from_secs(5);
/// For contents of files, which are large, it has this long, if it takes them at all.
const FILES_GRACE: Duration = Duration::from_secs(60);

/// How far the end of a monitor is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// It is at work.
    Working,
    /// It was interrupted; running tasks may go on until then.
    Draining(Instant),
    /// It was interrupted again and ends at once. What is not reported until then is left to the next monitor.
    Forced(Instant),
    /// Other monitors have declared it lost.
    Lost,
}

/// Who has told a monitor to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Interrupt {
    /// A signal to the monitor itself.
    Own,
    /// A signal to the init above it, passed on.
    Relayed,
}

/// How often a monitor was told to end. Where there is an init above it, the two may each receive the same
/// signal, or only one of them does.
#[derive(Debug, Default)]
struct Interrupts {
    own: u32,
    relayed: u32,
    /// How many orders have been obeyed.
    obeyed: u32,
}

impl Interrupts {
    /// Counts an interrupt. Whether it is another order than those that have been obeyed; now it is.
    fn is_another(&mut self, interrupt: Interrupt) -> bool {
        match interrupt {
            Interrupt::Own => self.own += 1,
            Interrupt::Relayed => self.relayed += 1,
        }
        let given = self.own.max(self.relayed);
        let is_another = given > self.obeyed;
        self.obeyed = given;
        is_another
    }
}

/// How reporting goes while a monitor ends.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Reporting {
    /// Whether the database cannot be reached.
    pub(super) is_away: bool,
    /// Whether the database refuses writes.
    pub(super) is_refused: bool,
    /// Whether contents beside outputs are being written.
    pub(super) is_storing: bool,
    /// When a report was last taken.
    pub(super) taken_at: Option<Instant>,
}

/// The end of a monitor.
#[derive(Debug)]
pub(super) struct Shutdown {
    phase: Phase,
    interrupts: Interrupts,
    /// Since when the monitor has no worker any more, and only reports.
    only_reports_since: Option<Instant>,
}

impl Default for Shutdown {
    fn default() -> Self {
        Self {
            phase: Phase::Working,
            interrupts: Interrupts::default(),
            only_reports_since: None,
        }
    }
}

impl Shutdown {
    /// How far it is.
    pub(super) fn phase(&self) -> Phase {
        self.phase
    }

    /// Whether nobody has told the monitor to end.
    pub(super) fn is_working(&self) -> bool {
        self.phase == Phase::Working
    }

    /// Somebody tells the monitor to end. `grace`: how long running tasks may go on after the first order.
    pub(super) fn interrupted(&mut self, interrupt: Interrupt, grace: Duration, now: Instant) {
        if !self.interrupts.is_another(interrupt) {
            return;
        }
        self.phase = match self.phase {
            Phase::Working => {
                tracing::info!("interrupted: no more claims, ending the workers");
                Phase::Draining(now + grace)
            }
            Phase::Draining(_) => {
                tracing::info!("interrupted again: killing what is left");
                Phase::Forced(now + REPORT_GRACE)
            }
            Phase::Forced(deadline) => Phase::Forced(deadline),
            Phase::Lost => Phase::Lost,
        };
    }

    /// Other monitors have declared this one lost: its tasks have been given to others, or ended, and nothing
    /// here may go on.
    pub(super) fn lost(&mut self) {
        self.phase = Phase::Lost;
    }

    /// There are no workers.
    pub(super) fn no_workers(&mut self, now: Instant) {
        if !self.is_working() {
            self.only_reports_since.get_or_insert(now);
        }
    }

    /// When the phase has to be looked at again.
    pub(super) fn next_wake(&self, now: Instant) -> Option<Instant> {
        match self.phase {
            Phase::Draining(deadline) | Phase::Forced(deadline) => {
                Some(deadline).filter(|at| *at > now)
            }
            Phase::Working | Phase::Lost => None,
        }
    }

    /// Whether the database has had its time to take what this monitor has to report. What it has not taken is
    /// kept on the disk, so waiting for longer would save nothing.
    pub(super) fn is_report_overdue(&self, reporting: Reporting, now: Instant) -> bool {
        match self.phase {
            Phase::Working => false,
            Phase::Forced(deadline) => reporting.is_away || now >= deadline,
            Phase::Draining(_) | Phase::Lost => {
                let in_trouble = reporting.is_away || reporting.is_refused;
                let limit = if !reporting.is_storing || in_trouble {
                    REPORT_GRACE
                } else {
                    FILES_GRACE
                };
                self.only_reports_since.is_some_and(|since| {
                    let since = reporting.taken_at.map_or(since, |taken| taken.max(since));
                    now >= since + limit
                })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(30);

    #[test]
    fn an_order_that_comes_twice_counts_once() {
        let start = Instant::now();
        let mut shutdown = Shutdown::default();
        shutdown.interrupted(Interrupt::Own, GRACE, start);
        let draining = Phase::Draining(start + GRACE);
        assert_eq!(shutdown.phase(), draining);
        shutdown.interrupted(Interrupt::Relayed, GRACE, start);
        assert_eq!(shutdown.phase(), draining, "the same order, by the init");
        shutdown.interrupted(Interrupt::Relayed, GRACE, start);
        let forced = Phase::Forced(start + REPORT_GRACE);
        assert_eq!(shutdown.phase(), forced);
        shutdown.interrupted(Interrupt::Own, GRACE, start + GRACE);
        assert_eq!(shutdown.phase(), forced);
    }

    #[test]
    fn the_database_has_its_time_from_the_last_report_that_it_took() {
        let start = Instant::now();
        let mut shutdown = Shutdown::default();
        let late = start + 2 * FILES_GRACE;
        shutdown.no_workers(start);
        assert!(
            !shutdown.is_report_overdue(Reporting::default(), late),
            "it works"
        );
        shutdown.interrupted(Interrupt::Own, GRACE, start);
        assert!(
            !shutdown.is_report_overdue(Reporting::default(), late),
            "workers run"
        );
        shutdown.no_workers(start);
        let overdue_after = |reporting, after| shutdown.is_report_overdue(reporting, start + after);
        let mut reporting = Reporting::default();
        assert!(overdue_after(reporting, REPORT_GRACE));
        reporting.taken_at = Some(start + REPORT_GRACE / 2);
        assert!(!overdue_after(reporting, REPORT_GRACE));
        reporting = Reporting {
            is_storing: true,
            ..Reporting::default()
        };
        assert!(!overdue_after(reporting, REPORT_GRACE), "files take longer");
        assert!(overdue_after(reporting, FILES_GRACE));
        reporting.is_refused = true;
        assert!(overdue_after(reporting, REPORT_GRACE));
    }

    #[test]
    fn who_interrupts_twice_does_not_wait_for_a_database_that_is_away() {
        let start = Instant::now();
        let mut shutdown = Shutdown::default();
        shutdown.interrupted(Interrupt::Own, GRACE, start);
        shutdown.interrupted(Interrupt::Own, GRACE, start);
        let mut reporting = Reporting::default();
        assert!(!shutdown.is_report_overdue(reporting, start));
        reporting.is_away = true;
        assert!(shutdown.is_report_overdue(reporting, start));
    }
}
