//! What has to be done now and then by some monitor, whatever tasks there are: delayed tasks are promoted,
//! old rows are removed, numbers for workers are reserved.

use super::{
    database::{Database, News},
    poll::Poll,
};
use crate::{
    model::WorkerId,
    periods::Periods,
    store::{Store, StoreError},
};
use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// After its start a monitor first removes what is old,
const VACUUM_SOON: Duration = Duration::from_secs(1);
/// and then this often, or as often as rows may grow old.
const VACUUM_EVERY: Duration = Duration::from_secs(600);
/// A delayed task that is due and was not promoted is being promoted by another monitor: it is tried again after
/// this.
const PROMOTE_AGAIN: Duration = Duration::from_millis(20);
/// With fewer numbers for workers in reserve than this, more are asked for,
const FEW_NUMBERS: usize = 8;
/// this many at a time.
const MORE_NUMBERS: i32 = 16;

/// An answer of the database.
#[derive(Debug)]
pub(super) enum Event {
    /// Delayed tasks have been looked through: how many are ready now, and how long until the next one is
    /// due.
    Promoted(Result<(i64, Option<Duration>), StoreError>),
    /// Old tasks and workers have been removed: how many of each.
    Vacuumed(Result<(i64, u64), StoreError>),
    /// Numbers for workers to come.
    Reserved(Result<Vec<WorkerId>, StoreError>),
}

/// The housekeeping of one monitor.
#[derive(Debug)]
pub(super) struct Housekeeping {
    database: Database<Event>,
    /// The domains whose old rows are removed; empty: all of them.
    domains: Vec<String>,
    /// The age at which rows are removed; `None`: never.
    vacuum_age: Option<Duration>,
    vacuum: Poll,
    promotion: Poll,
    reservation: Poll,
    /// Numbers for workers to come.
    numbers: VecDeque<WorkerId>,
}

impl Housekeeping {
    /// Of a monitor that has just been started, with its first numbers for workers.
    pub(super) fn new(
        database: Database<Event>,
        domains: Vec<String>,
        vacuum_age: Option<Duration>,
        numbers: Vec<WorkerId>,
        now: Instant,
    ) -> Self {
        let vacuum = vacuum_age.map_or_else(Poll::on_demand, |age| {
            Poll::every(VACUUM_EVERY.min(age.max(VACUUM_SOON)), now + VACUUM_SOON)
        });
        let mut promotion = Poll::on_demand();
        promotion.want(now);
        Self {
            database,
            domains,
            vacuum_age,
            vacuum,
            promotion,
            reservation: Poll::on_demand(),
            numbers: numbers.into(),
        }
    }

    /// How many numbers a monitor reserves when it is started.
    pub(super) const FIRST_NUMBERS: i32 = FEW_NUMBERS as i32;

    /// Asks what is due.
    pub(super) fn tick(&mut self, is_working: bool, may_ask: bool, now: Instant) {
        if is_working {
            self.promote(now);
            self.remove_old(now);
        }
        if self.numbers.len() < FEW_NUMBERS && may_ask {
            self.reserve(now);
        }
    }

    /// When [`Housekeeping::tick`] has something to do next.
    pub(super) fn next_wake(&self, is_working: bool) -> Option<Instant> {
        let times = [self.promotion.next_wake(), self.vacuum.next_wake()];
        times.into_iter().filter(|_| is_working).flatten().min()
    }

    /// A delayed task falls due at this time.
    pub(super) fn promote_at(&mut self, at: Instant) {
        self.promotion.want(at);
    }

    /// A number for a worker, if one is in reserve.
    pub(super) fn take_number(&mut self) -> Option<WorkerId> {
        self.numbers.pop_front()
    }

    /// The database has answered.
    pub(super) fn handle(&mut self, event: Event, now: Instant) -> Option<News> {
        match event {
            Event::Promoted(promoted) => self.promoted(promoted, now),
            Event::Vacuumed(vacuumed) => {
                self.vacuum.answered();
                match vacuumed {
                    Ok((0, 0)) => {}
                    Ok((tasks, workers)) => {
                        tracing::info!("vacuum: deleted {tasks} tasks and {workers} workers");
                    }
                    Err(error) => return Some(News::Failed(error)),
                }
                None
            }
            Event::Reserved(numbers) => {
                self.reservation.answered();
                match numbers {
                    Ok(numbers) => self.numbers.extend(numbers),
                    Err(error) => return Some(News::Stuck(error)),
                }
                None
            }
        }
    }

    /// Moves delayed tasks that have fallen due into the queue.
    fn promote(&mut self, now: Instant) {
        if self.promotion.begin(now) {
            self.database.ask(promote, Event::Promoted);
        }
    }

    fn promoted(
        &mut self,
        promoted: Result<(i64, Option<Duration>), StoreError>,
        now: Instant,
    ) -> Option<News> {
        self.promotion.answered();
        let (pause, news) = match promoted {
            Ok((count, next)) => (
                pause_after(count, next),
                (count > 0).then_some(News::TasksReady),
            ),
            Err(error) => (Periods::current().queue_look, Some(News::Failed(error))),
        };
        self.promotion.want(now + pause);
        news
    }

    /// Removes tasks and workers that ended long ago.
    fn remove_old(&mut self, now: Instant) {
        let Some(age) = self.vacuum_age else { return };
        if self.vacuum.begin(now) {
            let domains = self.domains.clone();
            self.database.ask(
                async move |store| remove_old(&store, &domains, age).await,
                Event::Vacuumed,
            );
        }
    }

    fn reserve(&mut self, now: Instant) {
        self.reservation.want(now);
        if self.reservation.begin(now) {
            self.database.ask(
                async |store| store.worker_reserve(MORE_NUMBERS).await,
                Event::Reserved,
            );
        }
    }
}

/// How long to wait for the next look at delayed tasks, after one that has promoted this many.
fn pause_after(count: i64, next: Option<Duration>) -> Duration {
    let least = if count > 0 {
        Duration::from_millis(1)
    } else {
        PROMOTE_AGAIN
    };
    let longest = Periods::current().queue_look;
    next.map_or(longest, |next| next.clamp(least, longest))
}

async fn promote(store: Store) -> Result<(i64, Option<Duration>), StoreError> {
    let promoted = store.cycle_promote().await;
    if promoted.is_ok()
        && let Err(error) = store.cycle_tidy().await
    {
        // The next promotion tries it again.
        tracing::debug!("could not tidy up: {error}");
    }
    promoted
}

async fn remove_old(
    store: &Store,
    domains: &[String],
    age: Duration,
) -> Result<(i64, u64), StoreError> {
    let domains: Vec<Option<&str>> = match domains {
        [] => vec![None],
        some => some.iter().map(|domain| Some(domain.as_str())).collect(),
    };
    let (mut tasks, mut workers) = (0, 0);
    for domain in domains {
        tasks += store.task_vacuum(domain, age, false).await?;
        workers += store.worker_vacuum(domain, age).await?;
    }
    Ok((tasks, workers))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_promotion_waits_for_the_next_task_and_never_for_more_than_a_second() {
        let ms = Duration::from_millis;
        assert_eq!(pause_after(0, None), ms(1000));
        assert_eq!(pause_after(3, Some(ms(300))), ms(300));
        assert_eq!(pause_after(3, Some(ms(0))), ms(1), "more are due: at once");
        assert_eq!(
            pause_after(0, Some(ms(0))),
            PROMOTE_AGAIN,
            "somebody else has it"
        );
        assert_eq!(pause_after(0, Some(ms(60_000))), ms(1000));
    }
}
