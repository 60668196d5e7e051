//! The monitor's own life: its lease, what its claims cover, and monitors that were lost.

use super::{
    event::Event,
    recover::Recovery,
    supervisor::{Phase, Supervisor},
    witness::Witness,
};
use crate::{
    model::{TaskId, Token, WorkerId, duration::human},
    periods::Periods,
    store::{Ended, Fate, StoreError},
};
use chrono::Utc;
use std::time::{Duration, Instant};

/// Where nobody may notify, the queue is looked at so often.
pub(super) const LOOK_OFTEN: Duration = Duration::from_millis(100);

/// The lease of a monitor that has just announced itself.
pub(super) fn first_lease() -> u64 {
    nanos(boottime() + workers_lease())
}

/// How long a renewal lets workers go on: a little less than what others wait for.
fn workers_lease() -> Duration {
    let periods = Periods::current();
    periods.lease - periods.lease_margin()
}

impl Supervisor {
    pub(super) fn heartbeat(&mut self, now: Instant) {
        if self.upkeep.renewing || now < self.upkeep.next_heartbeat {
            return;
        }
        self.upkeep.renewing = true;
        self.upkeep.next_heartbeat = now + Periods::current().lease / 3;
        let (store, lease, monitor) = (self.store.clone(), self.lease.clone(), self.monitor);
        let is_away = self.upkeep.is_away();
        let trouble = self.upkeep.refusals.trouble(self.unreported());
        let renewal = async move {
            let renew = async {
                if is_away {
                    // Another server may have taken over.
                    lease.find_server(&store).await?;
                }
                lease.monitor_renew(monitor, trouble.as_deref()).await
            };
            match tokio::time::timeout(Periods::current().lease / 3, renew).await {
                Ok(renewed) => renewed,
                Err(_) => Err(StoreError::Connect {
                    place: lease.place(),
                    reason: "the lease could not be renewed in time".to_owned(),
                }),
            }
        };
        // From before it is sent, on the clock that goes on while a machine sleeps.
        let sent = nanos(boottime());
        self.ask(renewal, move |renewed| Event::Renewed(sent, renewed));
    }

    /// Our lease was renewed (or not). What workers believe of it ends earlier than what others
    /// do, and counts from before the renewal was sent.
    pub(super) fn renewed(&mut self, sent: u64, renewed: Result<bool, StoreError>) {
        self.upkeep.renewing = false;
        match renewed {
            Ok(true) => {
                self.upkeep.lease_until = sent + nanos(workers_lease());
                let workers: Vec<WorkerId> = self.workers.keys().copied().collect();
                for worker in workers {
                    self.set_lease(worker);
                }
                self.recover();
            }
            Ok(false) => {
                tracing::error!(
                    "this monitor was declared lost while it was away: ending its workers"
                );
                // Its tasks have been given to others, or ended; nothing here may go on.
                self.phase = Phase::Lost;
            }
            Err(error) => self.upkeep.lost(&error),
        }
    }

    /// Tells a worker how long it may go on. The lease counts only for a worker whose task others
    /// would repeat: killing hours of work because Postgres was away would protect nothing.
    pub(super) fn set_lease(&self, worker: WorkerId) {
        let Some(worker) = self.workers.get(&worker) else {
            return;
        };
        let repeatable = worker.handed.values().any(|(_, handed)| {
            let held = self.tasks.get(&handed.task);
            held.is_some_and(|held| held.claimed.max_attempts > 1)
        });
        worker.page.set_lease(if repeatable {
            self.upkeep.lease_until
        } else {
            u64::MAX
        });
    }

    /// Looks after the other monitors.
    fn recover(&mut self) {
        if self.phase != Phase::Working || self.recovering {
            return;
        }
        self.recovering = true;
        let recovery = Recovery {
            store: self.store.clone(),
            me: self.monitor,
            host: self.options.host.clone(),
            installation: self.installation.clone(),
        };
        let mut witness = std::mem::take(&mut self.witness);
        self.ask(
            async move {
                let recovered = recovery.run(&mut witness).await;
                (witness, recovered)
            },
            |(witness, recovered)| Event::Recovered(witness, recovered),
        );
    }

    pub(super) fn recovered(&mut self, witness: Witness, recovered: Result<i64, StoreError>) {
        self.recovering = false;
        let next = witness.next_verdict(boottime());
        self.next_verdict = next.map(|next| Instant::now() + next);
        self.witness = witness;
        match recovered {
            Ok(tasks) => self.look |= tasks > 0,
            Err(error) => self.upkeep.lost(&error),
        }
    }

    /// Looks at the others at the moment when one of them has been silent for its lease, if our own
    /// renewals are taken: what we cannot do may be what they cannot do either.
    pub(super) fn watch_others(&mut self, now: Instant) {
        if self.next_verdict.is_none_or(|verdict| now < verdict) {
            return;
        }
        self.next_verdict = None;
        if nanos(boottime()) < self.upkeep.lease_until {
            self.recover();
        }
    }

    /// A server answers whether functions notify in everybody's transactions.
    pub(super) fn told_who_notifies(&mut self, may_notify: bool) {
        self.often = (!may_notify).then(Instant::now);
        if !may_notify {
            tracing::info!(
                "the server allows prepared transactions, which cannot notify: the queue is looked at \
                 every {}",
                human(LOOK_OFTEN)
            );
        }
    }

    /// Where nobody may notify (see `rework.tell` in the migrations), the queue is looked at often.
    pub(super) fn look_often(&mut self, now: Instant) {
        if self.often.is_some_and(|next| now >= next) {
            self.often = Some(now + LOOK_OFTEN);
            self.look = true;
        }
    }

    /// Compares what we hold with what the database believes that we hold: a claim may have been
    /// committed without our hearing of it.
    pub(super) fn reconcile(&mut self, now: Instant) {
        if now < self.upkeep.next_reconcile || self.in_flight.is_some() {
            return;
        }
        self.upkeep.next_reconcile = now + Duration::from_secs(30);
        let (store, monitor) = (self.store.clone(), self.monitor);
        // Claims of later cycles are not looked at: they are being made.
        let newest = self.cycle_number as i64;
        self.ask(
            async move {
                let held = store.claim_held(monitor).await?;
                Ok(held
                    .into_iter()
                    .filter(|(_, token)| token.cycle() <= newest)
                    .collect())
            },
            Event::Held,
        );
    }

    pub(super) fn held_arrived(&mut self, held: Result<Vec<(TaskId, Token)>, StoreError>) {
        let held = match held {
            Ok(held) => held,
            Err(error) => return self.upkeep.lost(&error),
        };
        for (task, token) in held {
            let ours = self
                .tasks
                .get(&task)
                .is_some_and(|held| held.token == token);
            let is_said = self.outbox.ended.contains_key(&task)
                || self.outbox.parked.ended.contains_key(&task);
            if ours || is_said {
                continue;
            }
            tracing::warn!(task.id = %task, "task {task} was claimed unnoticed: back to the queue");
            self.outbox.open(token);
            self.outbox
                .end(Ended::new(task, token, Fate::Release, Utc::now()));
        }
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// The time since the machine was started, its sleep included.
pub(super) fn boottime() -> Duration {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME)
        .expect("every Linux has CLOCK_BOOTTIME");
    Duration::from(now)
}
