//! How the database takes what this monitor writes: what is logged about refusals, and what is kept on the disk
//! while nothing is taken.

use super::Supervisor;
use crate::{
    monitor::{
        event::Event,
        options::MonitorError,
        refusals::{Message, Refused},
        shutdown::Reporting,
        unsaid::{Kept, Unsaid},
    },
    store::StoreError,
};
use std::time::Instant;

impl Supervisor {
    /// The database has not done something: if it is away it is given a rest, if it refuses what this
    /// monitor writes that is logged.
    pub(super) fn database_failed(&mut self, error: &StoreError, now: Instant) {
        if error.is_refusal() {
            self.refusals.note(error, Refused::Other, now);
        }
        self.outage.failed(error, now);
    }

    /// As [`Supervisor::database_failed`], about something without which the monitor cannot go on.
    pub(super) fn database_stuck(&mut self, error: &StoreError, now: Instant) {
        self.database_failed(error, now);
        self.outage.back_off(now);
    }

    /// A report was refused.
    pub(super) fn report_refused(&mut self, error: &StoreError, now: Instant) {
        self.refusals.note(error, Refused::Report, now);
        if self.refusals.is_general() {
            self.outage.back_off(now);
        }
    }

    /// The database has answered a cycle. If it was away, a cycle may have been committed without an answer.
    pub(super) fn database_answered(&mut self, now: Instant) {
        if self.outage.answered() {
            self.lease.reconcile_soon(now);
        }
    }

    /// Whether everything has been reported.
    pub(super) fn is_settled(&self) -> bool {
        self.tasks.is_settled() && self.workers.is_settled()
    }

    /// Whether the database has had its time to take what this monitor, which ends, has to report.
    pub(super) fn is_report_overdue(&self, now: Instant) -> bool {
        let reporting = Reporting {
            is_away: self.outage.is_away(),
            is_refused: self.refusals.is_any(),
            is_storing: self.tasks.is_storing(),
            taken_at: self.taken_at,
        };
        self.shutdown.is_report_overdue(reporting, now)
    }

    /// How many results wait to be reported.
    pub(super) fn unreported(&self) -> usize {
        self.tasks.unreported().count()
    }

    /// Logs which writes are refused, and when that is over.
    pub(super) fn log_refusals(&mut self, now: Instant) {
        let is_unanswered = self.tasks.is_in_flight() || self.workers.is_saving();
        self.refusals.wait(is_unanswered, now);
        let waiting = self.unreported();
        let all_reported = self.tasks.is_nothing_parked()
            && self.taken_at.is_some()
            && !self.refusals.is_general()
            && !self.tasks.is_saying_alone();
        for message in self.refusals.take_messages(waiting, all_reported, now) {
            match message {
                Message::Refused(line) => tracing::error!("{line}"),
                Message::Over(line) => tracing::info!("{line}"),
            }
        }
    }

    /// Keeps results on the disk while the database takes nothing. The disk may be slow or stuck, so another
    /// thread writes; the loop goes on.
    pub(super) fn keep_unsaid(&mut self, now: Instant) {
        let is_in_trouble = self.outage.is_away() || self.refusals.is_any();
        let unreported = self.tasks.unreported();
        let Some(keep) = self.keeping.begin(unreported, is_in_trouble, now) else {
            return;
        };
        let directory = self.pages.directory().to_owned();
        let unsaid = keep.is_write().then(|| self.all_unsaid());
        let keep = move || keep.carry_out(unsaid.as_ref(), &directory);
        self.ask(
            async move {
                let kept = tokio::task::spawn_blocking(keep).await;
                kept.expect("writing does not panic")
            },
            Event::Kept,
        );
    }

    /// The file has been written or removed (or not).
    pub(super) fn kept(&mut self, kept: Kept, now: Instant) {
        self.keeping.done(kept, self.pages.directory(), now);
    }

    /// All that the database has not taken, to be left to the host's next monitor.
    fn all_unsaid(&mut self) -> Unsaid {
        let unreported = self.tasks.all_unreported();
        Unsaid::new(self.installation.clone(), self.monitor, unreported)
    }

    /// Leaves what was not reported to the host's next monitor, with the claims and what tells that this one
    /// is gone.
    pub(super) fn leave_unsaid(&mut self) -> MonitorError {
        self.pages.leave();
        let unsaid = self.all_unsaid();
        let results = unsaid.ended.len();
        let rest = if unsaid.is_empty() {
            "the next monitor of this host clears up after it".to_owned()
        } else {
            match unsaid.write_in_time(self.pages.directory()) {
                Ok(path) => format!(
                    "that is kept in {}, and the next monitor of this host reports it",
                    path.display()
                ),
                Err(error) => format!(
                    "it could not be kept in {} either ({error}), so the next monitor counts these tasks \
                     as lost",
                    self.pages.directory().display()
                ),
            }
        };
        MonitorError::Unheard {
            monitor: self.monitor,
            results,
            rest,
        }
    }
}
