//! Lost monitors: results that they had not reported are reported, their other tasks follow the delivery rule,
//! and their workers are recorded as dead.

use super::{
    boottime,
    unsaid::{Left, Unsaid, report_left},
    witness::Witness,
    workers::pages::{Abandoned, pages_dir},
};
use crate::{
    model::MonitorId,
    periods::Periods,
    store::{Gone, OtherMonitor, Result, Store},
};
use std::path::Path;

/// What a monitor needs to recover the tasks of lost monitors.
#[derive(Debug, Clone)]
pub(super) struct Recovery {
    pub(super) store: Store,
    pub(super) me: MonitorId,
    pub(super) host: String,
    /// The installation, as a file of what was left unsaid names it.
    pub(super) installation: String,
}

impl Recovery {
    /// Buries monitors that are certainly gone: those of this host whose lock is free, at once, and any
    /// that has been silent for its whole lease. Answers how many tasks they held.
    ///
    /// What was claimed and certainly not begun goes back to the queue: of a dead monitor on this host
    /// the shared pages tell; of another host nothing is known, so all that it held counts as begun.
    pub(super) async fn run(&self, witness: &mut Witness) -> Result<i64> {
        let others = self.store.monitor_others(self.me).await?;
        let looked = boottime::now();
        witness.look(&others, looked);
        // What was read counts for this long: a monitor that is suspended between reading and burying buries
        // nobody.
        let fresh = Periods::current().lease / 3;
        let (mut tasks, mut failed) = (0, None);
        for other in &others {
            let abandoned = (other.host == self.host)
                .then(|| Abandoned::find(&pages_dir(), Path::new(&other.pages)))
                .flatten();
            let is_silent = witness.is_silent(other, looked) && boottime::now() - looked < fresh;
            if abandoned.is_none() && !is_silent {
                continue;
            }
            match self.bury(other, abandoned).await {
                Ok(held) => tasks += held,
                // The other monitors are recovered all the same.
                Err(error) => failed = Some(error),
            }
        }
        // Results of monitors that another one has buried without them.
        for abandoned in Abandoned::with_results(&pages_dir(), Unsaid::is_in) {
            match self.report_orphaned(abandoned, &others).await {
                Ok(()) => {}
                Err(error) => failed = Some(error),
            }
        }
        match failed {
            Some(error) => Err(error),
            None => Ok(tasks),
        }
    }

    async fn bury(&self, lost: &OtherMonitor, abandoned: Option<Abandoned>) -> Result<i64> {
        let mut never_begun = Vec::new();
        let mut gone = Gone::Silent;
        let mut left = Left::Nothing;
        if let Some(abandoned) = &abandoned {
            left = report_left(&self.store, &self.installation, abandoned).await?;
            if left == Left::Waits {
                // Not before its results are reported, or its tasks would end as lost.
                return Ok(0);
            }
            // Only tasks of which a page proves it: a task in no page may have ended with its report unwritten.
            never_begun = abandoned.never_begun();
            gone = Gone::Unlocked;
        }
        let held = self.store.monitor_bury(lost, gone, &never_begun).await?;
        if let Some(held) = held {
            tracing::warn!(
                monitor.id = %lost.id,
                "monitor {} on host {} was lost; it held {held} task(s)",
                lost.id,
                lost.host
            );
        }
        if let Some(abandoned) = abandoned.filter(|_| left == Left::Nothing) {
            abandoned.remove();
        }
        Ok(held.unwrap_or(0))
    }

    /// Reports the results that a monitor without a row has left. A monitor that still has a row is buried first.
    async fn report_orphaned(&self, abandoned: Abandoned, others: &[OtherMonitor]) -> Result<()> {
        let name = abandoned.directory().file_name();
        let has_row = others
            .iter()
            .any(|other| other.host == self.host && Path::new(&other.pages).file_name() == name);
        if !has_row
            && Unsaid::is_for(&self.installation, abandoned.directory())
            && report_left(&self.store, &self.installation, &abandoned).await? == Left::Nothing
        {
            abandoned.remove();
        }
        Ok(())
    }
}
