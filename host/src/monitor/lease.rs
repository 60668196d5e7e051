//! The monitor's own life: its lease, what its claims cover, and monitors that were lost.

use super::{
    boottime::{self, nanos},
    database::Database,
    poll::Poll,
    recover::Recovery,
    witness::Witness,
};
use crate::{
    model::MonitorId,
    periods::Periods,
    store::{Claim, Store, StoreError},
};
use std::time::{Duration, Instant};

/// What this monitor holds is compared with what the database believes this often. A claim that was
/// committed without an answer is rare, and its task waits for this.
const RECONCILE_EVERY: Duration = Duration::from_secs(30);

/// How long a renewal lets workers go on: less than what others wait for, so that workers stop before others
/// begin.
fn workers_lease() -> Duration {
    let periods = Periods::current();
    periods.lease - periods.lease_margin()
}

/// An answer of the database.
#[derive(Debug)]
pub(super) enum Event {
    /// Whether the lease was renewed, as asked at this time of the boot clock, in nanoseconds; false:
    /// somebody has declared this monitor lost.
    Renewed(u64, Result<bool, StoreError>),
    /// What this monitor's claims cover according to the database.
    Held(Result<Vec<Claim>, StoreError>),
    /// Lost monitors have been looked for: what was seen, and how many tasks were taken from them.
    Recovered(Witness, Result<i64, StoreError>),
}

/// What the supervisor has to know.
#[derive(Debug)]
pub(super) enum News {
    /// The lease is renewed.
    Renewed,
    /// Others have declared this monitor lost.
    Lost,
    /// What the database believes that this monitor holds.
    Held(Vec<Claim>),
    /// There are tasks in the queue that a lost monitor held.
    TasksReady,
    /// The database has not done something.
    DatabaseFailed(StoreError),
}

/// The lease of this monitor, and its view of the others.
#[derive(Debug)]
pub(super) struct Lease {
    monitor: MonitorId,
    database: Database<Event>,
    /// A connection of its own: a renewal must not wait for anything else that is asked of the database.
    lease_store: Store,
    /// The end of the lease as workers know it, in nanoseconds of the boot clock.
    until: u64,
    renewal: Poll,
    reconciliation: Poll,
    /// Looks for lost monitors.
    recovery: Recovery,
    recovering: Poll,
    /// What is known of the other monitors. While they are looked at, that look has it.
    witness: Witness,
    /// When one of the others may turn out to be silent for good.
    next_verdict: Option<Instant>,
}

impl Lease {
    /// Of a monitor that has just announced itself.
    pub(super) fn new(
        monitor: MonitorId,
        database: Database<Event>,
        lease_store: Store,
        recovery: Recovery,
        now: Instant,
    ) -> Self {
        Self {
            monitor,
            database,
            lease_store,
            until: nanos(boottime::now() + workers_lease()),
            renewal: Poll::every(Periods::current().lease / 3, now),
            reconciliation: Poll::every(RECONCILE_EVERY, now + RECONCILE_EVERY),
            recovery,
            recovering: Poll::on_demand(),
            witness: Witness::default(),
            next_verdict: None,
        }
    }

    /// The end of the lease as workers know it, in nanoseconds of the boot clock.
    pub(super) fn until(&self) -> u64 {
        self.until
    }

    /// Renews the lease if that is due, and lets the monitor's row tell its trouble with the database.
    /// While the database is away another server may have taken over: it is looked for.
    pub(super) fn renew(
        &mut self,
        is_away: bool,
        trouble: impl FnOnce() -> Option<String>,
        now: Instant,
    ) {
        if !self.renewal.begin(now) {
            return;
        }
        let (lease, monitor, trouble) = (self.lease_store.clone(), self.monitor, trouble());
        // From before it is sent.
        let sent = nanos(boottime::now());
        self.database.ask(
            async move |store| {
                let renew = async {
                    if is_away {
                        lease.find_server(&store).await?;
                    }
                    lease.monitor_renew(monitor, trouble.as_deref()).await
                };
                let renewed = tokio::time::timeout(Periods::current().lease / 3, renew).await;
                renewed.unwrap_or_else(|_| {
                    Err(StoreError::Connect {
                        place: lease.place(),
                        reason: "the lease could not be renewed in time".to_owned(),
                    })
                })
            },
            move |renewed| Event::Renewed(sent, renewed),
        );
    }

    /// Asks what the database believes that this monitor holds, if that is due. Claims of cycles after the
    /// newest one that has been answered are not looked at: they are being made.
    pub(super) fn reconcile(&mut self, newest_cycle: u64, now: Instant) {
        if !self.reconciliation.begin(now) {
            return;
        }
        let monitor = self.monitor;
        self.database.ask(
            async move |store| {
                let mut held = store.claim_held(monitor).await?;
                held.retain(|claim| claim.token.cycle() <= newest_cycle.cast_signed());
                Ok(held)
            },
            Event::Held,
        );
    }

    /// A cycle may have been committed without an answer: what is held is compared soon.
    pub(super) fn reconcile_soon(&mut self, now: Instant) {
        self.reconciliation.want(now);
    }

    /// Looks at the other monitors at the moment when one of them has been silent for its lease, if this
    /// monitor's own renewals are taken: what it cannot do may be what they cannot do either.
    pub(super) fn watch_others(&mut self, now: Instant) {
        if self
            .next_verdict
            .take_if(|verdict| now >= *verdict)
            .is_some()
            && nanos(boottime::now()) < self.until
        {
            self.recover(now);
        }
    }

    /// Looks for lost monitors.
    pub(super) fn recover(&mut self, now: Instant) {
        if self.recovering.is_in_flight() {
            return;
        }
        self.recovering.want(now);
        self.recovering.begin(now);
        let recovery = self.recovery.clone();
        let mut witness = std::mem::take(&mut self.witness);
        self.database.ask(
            async move |_| {
                let recovered = recovery.run(&mut witness).await;
                (witness, recovered)
            },
            |(witness, recovered)| Event::Recovered(witness, recovered),
        );
    }

    /// When something of this is due next.
    pub(super) fn next_wake(&self, is_working: bool) -> Option<Instant> {
        let verdict = self
            .next_verdict
            .filter(|_| is_working && !self.recovering.is_in_flight());
        [self.renewal.next_wake(), verdict]
            .into_iter()
            .flatten()
            .min()
    }

    /// The database has answered.
    pub(super) fn handle(&mut self, event: Event, now: Instant) -> Option<News> {
        match event {
            Event::Renewed(sent, renewed) => Some(self.renewed(sent, renewed)),
            Event::Held(held) => {
                self.reconciliation.answered();
                Some(held.map_or_else(News::DatabaseFailed, News::Held))
            }
            Event::Recovered(witness, recovered) => {
                self.recovering.answered();
                let next = witness.next_verdict(boottime::now());
                self.next_verdict = next.map(|next| now + next);
                self.witness = witness;
                match recovered {
                    Ok(0) => None,
                    Ok(_) => Some(News::TasksReady),
                    Err(error) => Some(News::DatabaseFailed(error)),
                }
            }
        }
    }

    /// What workers believe of the lease ends earlier than what others do, and counts from before the
    /// renewal was sent.
    fn renewed(&mut self, sent: u64, renewed: Result<bool, StoreError>) -> News {
        self.renewal.answered();
        match renewed {
            Ok(true) => {
                self.until = sent + nanos(workers_lease());
                News::Renewed
            }
            Ok(false) => News::Lost,
            Err(error) => News::DatabaseFailed(error),
        }
    }
}
