//! When to look into the queue, and what Postgres is told about that.
//!
//! Whoever enqueues wakes a monitor that sleeps. Unconditional notifications would serialise commits, so a
//! monitor with a backlog says that it is awake, and is not notified. A wake-up can be lost while "I sleep"
//! and "there is something" pass each other: so the monitor looks when it is told that Postgres knows, once
//! more a moment later, and then in each period. Notifications make it fast, these looks make it right.

use crate::{model::duration::human, periods::Periods};
use std::time::{Duration, Instant};

/// After "I sleep" was taken, and after a look that has found something, two more looks follow: for what was
/// committed meanwhile, and for what took longer to commit.
const LOOKS_AFTER: [Duration; 2] = [Duration::from_millis(3), Duration::from_millis(50)];
/// While one domain has a backlog, nobody is notified for the others: these are looked at this often.
const LOOK_WHILE_AWAKE: Duration = Duration::from_millis(50);
/// Where not everybody may notify, the queue is looked at this often.
const LOOK_WITHOUT_NOTIFICATIONS: Duration = Duration::from_millis(100);

/// Which domains have a backlog.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Backlog {
    /// There is a domain with more tasks than its workers can take.
    pub(super) is_any_busy: bool,
    /// There is a domain without.
    pub(super) is_any_idle: bool,
}

/// When the queue is looked into next, and what Postgres believes.
#[derive(Debug)]
pub(super) struct Wakeup {
    /// Whether the next cycle is to look.
    is_wanted: bool,
    /// The periodic look.
    next: Instant,
    /// The looks that follow a fruitful one, or falling asleep.
    after: [Option<Instant>; 2],
    /// The next look where not everybody may notify, or as long as that is unknown; `None`: everybody
    /// notifies.
    without_notifications: Option<Instant>,
    /// Whether the log tells already that nobody notifies.
    is_logged: bool,
    /// Whether Postgres believes that this monitor sleeps, and has to be notified.
    is_asleep: bool,
    /// Whether Postgres is being told.
    is_announcing: bool,
}

impl Wakeup {
    /// A monitor that begins: it looks at once, and Postgres believes that it is awake.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            is_wanted: true,
            next: now,
            after: [None; 2],
            without_notifications: Some(now),
            is_logged: false,
            is_asleep: false,
            is_announcing: false,
        }
    }

    /// A server has answered whether everybody who enqueues notifies: where transactions can be prepared,
    /// functions do not, for a prepared transaction must not have notified.
    pub(super) fn notifications(&mut self, may_notify: bool, now: Instant) {
        self.without_notifications = (!may_notify).then_some(now);
        let was_announced = std::mem::replace(&mut self.is_logged, !may_notify);
        if !may_notify && !was_announced {
            tracing::info!(
                "the server allows prepared transactions, which cannot notify: the queue is looked at \
                 every {}",
                human(LOOK_WITHOUT_NOTIFICATIONS)
            );
        }
    }

    /// There may be something in the queue: the next cycle looks.
    pub(super) fn want(&mut self) {
        self.is_wanted = true;
    }

    /// Whether the cycle that begins is to look; then it does.
    pub(super) fn take_wanted(&mut self) -> bool {
        std::mem::take(&mut self.is_wanted)
    }

    /// Wants a look if the time for one has come.
    pub(super) fn tick(&mut self, backlog: Backlog, now: Instant) {
        self.is_wanted |= self.is_due(backlog, now);
    }

    /// Whether a look is due now; it counts as begun.
    fn is_due(&mut self, backlog: Backlog, now: Instant) -> bool {
        let mut is_due = false;
        for look in &mut self.after {
            is_due |= look.take_if(|at| now >= *at).is_some();
        }
        let every = if backlog.is_any_busy && backlog.is_any_idle {
            LOOK_WHILE_AWAKE
        } else {
            Periods::current().queue_look
        };
        if now >= self.next {
            self.next = now + every;
            is_due = true;
        }
        self.next = self.next.min(now + every);
        if let Some(at) = &mut self.without_notifications
            && now >= *at
        {
            *at = now + LOOK_WITHOUT_NOTIFICATIONS;
            is_due = true;
        }
        is_due
    }

    /// A look has left nothing behind: it has found all that there was, or nothing. After one that found
    /// something the queue is looked into again soon, unless everybody notifies this monitor; the second of
    /// those looks is not repeated if it finds nothing.
    pub(super) fn looked(&mut self, found: bool, now: Instant) {
        let is_notified = self.is_asleep && self.without_notifications.is_none();
        if found && !is_notified {
            self.look_soon(now);
        }
    }

    /// There may be something to find at this time.
    pub(super) fn look_at(&mut self, at: Instant) {
        let [_, last] = &mut self.after;
        *last = Some(last.map_or(at, |planned| planned.min(at)));
    }

    fn look_soon(&mut self, now: Instant) {
        self.after = LOOKS_AFTER.map(|pause| Some(now + pause));
    }

    /// What Postgres has to be told now: true that this monitor sleeps, false that it is awake.
    pub(super) fn begin_announcement(&mut self, backlog: Backlog) -> Option<bool> {
        let is_asleep = !backlog.is_any_busy;
        if self.is_announcing || is_asleep == self.is_asleep {
            return None;
        }
        self.is_announcing = true;
        self.is_asleep = is_asleep;
        Some(is_asleep)
    }

    /// Postgres knows now: the queue has to be looked into at once, and again soon, for what was enqueued
    /// by somebody who did not know yet.
    pub(super) fn announced(&mut self, now: Instant) {
        self.is_announcing = false;
        self.next = now;
        self.look_soon(now);
    }

    /// Postgres may know or not: it is told again.
    pub(super) fn announcement_failed(&mut self) {
        self.is_announcing = false;
        self.is_asleep = !self.is_asleep;
    }

    /// When the next look is due. One that is not working any more looks no further than it has begun to.
    pub(super) fn next_wake(&self, is_working: bool) -> Option<Instant> {
        let periodic = [Some(self.next), self.without_notifications];
        let periodic = periodic.into_iter().filter(|_| is_working);
        periodic.chain(self.after).flatten().min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const IDLE: Backlog = Backlog {
        is_any_busy: false,
        is_any_idle: true,
    };
    const BUSY: Backlog = Backlog {
        is_any_busy: true,
        is_any_idle: false,
    };
    const BOTH: Backlog = Backlog {
        is_any_busy: true,
        is_any_idle: true,
    };

    /// A monitor that begins, and a server where everybody notifies.
    fn notified(start: Instant) -> Wakeup {
        let mut wakeup = Wakeup::new(start);
        wakeup.notifications(true, start);
        wakeup
    }

    /// The milliseconds from the start at which it looks, until a time, as a loop that sleeps between.
    fn looks(
        wakeup: &mut Wakeup,
        backlog: Backlog,
        start: Instant,
        from: u32,
        to: u32,
    ) -> Vec<u32> {
        let mut looks = Vec::new();
        let mut now = start + MS * from;
        while now <= start + MS * to {
            if wakeup.is_due(backlog, now) {
                looks.push(u32::try_from((now - start).as_millis()).unwrap());
            }
            let wake = wakeup.next_wake(true).expect("there is always a next look");
            now = wake.max(now + MS);
        }
        looks
    }

    #[test]
    fn a_wake_up_that_is_lost_while_falling_asleep_costs_a_moment() {
        let start = Instant::now();
        let mut wakeup = notified(start);
        assert_eq!(looks(&mut wakeup, BUSY, start, 0, 10), [0]);
        assert_eq!(
            wakeup.begin_announcement(BUSY),
            None,
            "it is believed to be awake"
        );
        assert_eq!(wakeup.begin_announcement(IDLE), Some(true));
        assert_eq!(wakeup.begin_announcement(IDLE), None, "it is being told");
        // Somebody enqueues now and notifies nobody. Postgres takes "I sleep" after 20 ms.
        wakeup.announced(start + MS * 20);
        let seen = looks(&mut wakeup, IDLE, start, 20, 2500);
        assert_eq!(
            seen,
            [20, 23, 70, 1020, 2020],
            "at once, soon, and then each second"
        );
    }

    #[test]
    fn what_postgres_was_not_told_is_told_again() {
        let mut wakeup = notified(Instant::now());
        assert_eq!(wakeup.begin_announcement(IDLE), Some(true));
        wakeup.announcement_failed();
        assert_eq!(wakeup.begin_announcement(IDLE), Some(true));
        wakeup.announced(Instant::now());
        assert_eq!(wakeup.begin_announcement(IDLE), None);
        assert_eq!(wakeup.begin_announcement(BUSY), Some(false));
    }

    #[test]
    fn idle_domains_are_looked_at_often_while_another_one_has_a_backlog() {
        let start = Instant::now();
        let mut wakeup = notified(start);
        assert_eq!(looks(&mut wakeup, IDLE, start, 0, 400), [0]);
        let seen = looks(&mut wakeup, BOTH, start, 400, 600);
        assert_eq!(seen, [450, 500, 550, 600]);
    }

    #[test]
    fn where_not_everybody_may_notify_it_looks_ten_times_a_second() {
        let start = Instant::now();
        let mut wakeup = Wakeup::new(start);
        assert_eq!(
            looks(&mut wakeup, IDLE, start, 0, 150),
            [0, 100],
            "as long as that is unknown too"
        );
        wakeup.notifications(false, start + MS * 150);
        assert_eq!(looks(&mut wakeup, IDLE, start, 150, 350), [150, 250, 350]);
        wakeup.notifications(true, start + MS * 350);
        assert_eq!(looks(&mut wakeup, IDLE, start, 350, 900), [0_u32; 0]);
    }

    #[test]
    fn who_is_notified_looks_once() {
        let start = Instant::now();
        let mut wakeup = notified(start);
        assert_eq!(looks(&mut wakeup, IDLE, start, 0, 10), [0]);
        wakeup.begin_announcement(IDLE);
        wakeup.announced(start + MS * 10);
        assert_eq!(looks(&mut wakeup, IDLE, start, 10, 100), [10, 13, 60]);
        wakeup.looked(true, start + MS * 100);
        assert_eq!(looks(&mut wakeup, IDLE, start, 100, 900), [0_u32; 0]);
    }

    #[test]
    fn a_look_that_has_found_something_is_followed_by_two_more() {
        let start = Instant::now();
        let mut wakeup = notified(start);
        assert_eq!(looks(&mut wakeup, IDLE, start, 0, 10), [0]);
        wakeup.looked(true, start + MS * 10);
        assert!(wakeup.is_due(IDLE, start + MS * 13));
        wakeup.looked(false, start + MS * 14);
        assert_eq!(looks(&mut wakeup, IDLE, start, 15, 500), [60]);
        wakeup.look_at(start + MS * 700);
        assert_eq!(looks(&mut wakeup, IDLE, start, 500, 900), [700]);
        assert_eq!(wakeup.next_wake(false), None);
    }
}
