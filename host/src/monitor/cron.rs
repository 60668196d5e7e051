//! Schedules fire here: every monitor plans those of its domains, and `Store::sched_fire` sees to it
//! that each run is queued once, however many monitors there are. Time is the database's clock, read
//! with the schedules and carried on by the monotonic one, so that a clock of this host that is wrong,
//! or set, does nothing. If the database's own clock goes back, what was done for times that lie ahead
//! again does not count.

use super::{
    database::{Database, News},
    poll::Poll,
};
use crate::{
    model::{
        ScheduleId,
        rule::{CatchUp, Rule},
    },
    periods::Periods,
    store::{DatabaseClock, SchedulePlan, SchedulePlans, ScheduledFire, StoreError},
};
use chrono::{DateTime, TimeDelta, Utc};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

/// A run that is this late counts as missed.
const LATE: TimeDelta = TimeDelta::seconds(15);
/// At most this many runs are queued at a time, so that the other work of the monitor goes on.
const AT_ONCE: usize = 2;

/// A schedule, and how far it has been dealt with.
#[derive(Debug)]
struct Planned {
    rule: Rule,
    /// Its rule, zone and policy as text, to see whether they have changed.
    definition: (String, String, String),
    catch_up: CatchUp,
    /// Runs up to this time have been dealt with.
    done_until: DateTime<Utc>,
    /// Why the last run queued no task, so that each reason is logged once.
    refused: Option<String>,
}

impl Planned {
    /// The run to queue next. Of those that were missed, the policy decides which.
    fn next(&self, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let next = self.rule.next_after(self.done_until)?;
        if next >= now - LATE {
            return Some(next);
        }
        match self.catch_up {
            CatchUp::All => Some(next),
            CatchUp::One => self.rule.last_until(now),
            CatchUp::Skip => self.rule.next_after(now - LATE),
        }
    }
}

/// The schedules of a monitor's domains, and which of their runs are due. Asks nobody.
#[derive(Debug)]
struct Plan {
    created: Instant,
    clock: Option<DatabaseClock>,
    /// When this monitor was started, by the database's clock.
    started: Option<DateTime<Utc>>,
    planned: BTreeMap<ScheduleId, Planned>,
    /// When each of them is due, the earliest first; those that are being queued are not here.
    due: BTreeSet<(DateTime<Utc>, ScheduleId)>,
    firing: usize,
}

impl Plan {
    fn new(now: Instant) -> Self {
        Self {
            created: now,
            clock: None,
            started: None,
            planned: BTreeMap::new(),
            due: BTreeSet::new(),
            firing: 0,
        }
    }

    /// When the next run is due, unless as many are being queued as may be at a time.
    fn next_wake(&self, now: Instant) -> Option<Instant> {
        let (time, _) = self.due.first().filter(|_| self.firing < AT_ONCE)?;
        let wait = (*time - self.clock?.at(now)).to_std().unwrap_or_default();
        Some(now + wait)
    }

    /// Takes over what the database says. A schedule that is new here, or changed, is followed from
    /// where it has got to; one that leaves missed runs out, from when this monitor came.
    fn update(&mut self, rows: Vec<SchedulePlan>, now: DateTime<Utc>) {
        let mut planned = BTreeMap::new();
        // The clock may have gone back since then.
        let started = self.started.map_or(now, |started| started.min(now));
        self.started = Some(started);
        for row in rows {
            let id = ScheduleId(row.id);
            let definition = (row.rule, row.timezone, row.catch_up);
            let got_to = row.last_run.map_or(row.since, |last| last.max(row.since));
            let known = self
                .planned
                .remove(&id)
                .filter(|known| known.definition == definition);
            let plan = match known {
                Some(mut known) => {
                    if known.rule.is_outdated()
                        && let Ok(rule) = Rule::parse(&known.definition.0, &known.definition.1)
                    {
                        known.rule = rule;
                    }
                    let is_ahead = known.done_until > now + LATE;
                    Planned {
                        done_until: match is_ahead {
                            true => got_to,
                            false => known.done_until.max(got_to),
                        },
                        ..known
                    }
                }
                None => match Rule::parse(&definition.0, &definition.1) {
                    Ok(rule) => {
                        let catch_up = definition.2.parse().unwrap_or_default();
                        let done_until = match catch_up {
                            CatchUp::Skip => got_to.max(started),
                            // Nobody was there for what lies between: of that, the last one.
                            CatchUp::One => rule
                                .last_until(started)
                                .map_or(got_to, |last| got_to.max(last - TimeDelta::seconds(1))),
                            CatchUp::All => got_to,
                        };
                        Planned {
                            rule,
                            definition,
                            catch_up,
                            done_until,
                            refused: None,
                        }
                    }
                    Err(error) => {
                        tracing::error!("schedule {id} does not fire: {error}");
                        continue;
                    }
                },
            };
            planned.insert(id, plan);
        }
        self.planned = planned;
        // What is being queued now comes back with an answer, and a second run of the same time
        // finds it done.
        self.due = self
            .planned
            .iter()
            .filter_map(|(id, plan)| Some((plan.next(now)?, *id)))
            .collect();
    }

    /// The schedules, and with them what the time is.
    fn arrived(&mut self, plans: SchedulePlans, now: Instant) {
        let Some(clock) = plans.clock else {
            // There are no schedules.
            self.planned.clear();
            self.due.clear();
            return;
        };
        self.clock = Some(clock);
        self.started.get_or_insert(clock.at(self.created));
        self.update(plans.rows, clock.at(now));
    }

    /// The next run that is due, if there may be one more at a time.
    fn take_due(&mut self, now: DateTime<Utc>) -> Option<(ScheduleId, DateTime<Utc>)> {
        while self.firing < AT_ONCE {
            let (time, id) = *self.due.first().filter(|(time, _)| *time <= now)?;
            self.due.pop_first();
            // It may have become late while nobody looked, as on a machine that was asleep.
            match self.planned.get(&id).and_then(|plan| plan.next(now)) {
                Some(next) if next != time => drop(self.due.insert((next, id))),
                Some(_) => {
                    self.firing += 1;
                    return Some((id, time));
                }
                None => {}
            }
        }
        None
    }

    /// A run has queued its task: what refused an earlier one is over.
    fn queued(&mut self, id: ScheduleId) {
        if let Some(plan) = self.planned.get_mut(&id) {
            plan.refused = None;
        }
    }

    /// A run's task was refused; logged once.
    fn refused(&mut self, id: ScheduleId, fault: String) {
        if let Some(plan) = self.planned.get_mut(&id)
            && plan.refused.as_ref() != Some(&fault)
        {
            tracing::error!("schedule {id} could not queue its task: {fault}");
            plan.refused = Some(fault);
        }
    }

    /// A run has been dealt with; what comes next?
    fn done(&mut self, id: ScheduleId, time: DateTime<Utc>, now: DateTime<Utc>) {
        if let Some(plan) = self.planned.get_mut(&id) {
            plan.done_until = plan.done_until.max(time);
            self.due.retain(|(_, other)| *other != id);
            self.due.extend(plan.next(now).map(|next| (next, id)));
        }
    }
}

/// An answer of the database.
#[derive(Debug)]
pub(super) enum Event {
    /// The schedules of the monitor's domains.
    Schedules(Result<SchedulePlans, StoreError>),
    /// A run of a schedule has been queued (or not).
    Fired(ScheduleId, DateTime<Utc>, Result<ScheduledFire, StoreError>),
}

/// Queues the tasks of schedules.
#[derive(Debug)]
pub(super) struct Cron {
    database: Database<Event>,
    host: String,
    domains: Vec<String>,
    plan: Plan,
    reload: Poll,
}

impl Cron {
    /// Of a monitor for this host and these domains (empty: every domain).
    pub(super) fn new(
        database: Database<Event>,
        host: String,
        domains: Vec<String>,
        now: Instant,
    ) -> Self {
        Self {
            database,
            host,
            domains,
            plan: Plan::new(now),
            reload: Poll::every(Periods::current().schedules_reload, now),
        }
    }

    /// Something about schedules has changed.
    pub(super) fn reload(&mut self, now: Instant) {
        self.reload.want(now);
    }

    /// Queues the tasks of the schedules that are due, and reads the schedules if that is due.
    pub(super) fn tick(&mut self, now: Instant) {
        if self.reload.begin(now) {
            let (host, domains) = (self.host.clone(), self.domains.clone());
            self.database.ask(
                async move |store| store.sched_plans(&host, &domains).await,
                Event::Schedules,
            );
        }
        let clock = self.plan.clock;
        while let Some((schedule, time)) = clock.and_then(|clock| self.plan.take_due(clock.at(now)))
        {
            self.database.ask(
                async move |store| store.sched_fire(schedule, time).await,
                move |fired| Event::Fired(schedule, time, fired),
            );
        }
    }

    /// When [`Cron::tick`] has something to do next.
    pub(super) fn next_wake(&self, now: Instant) -> Option<Instant> {
        let times = [self.plan.next_wake(now), self.reload.next_wake()];
        times.into_iter().flatten().min()
    }

    /// The database has answered.
    pub(super) fn handle(&mut self, event: Event, now: Instant) -> Option<News> {
        match event {
            Event::Schedules(plans) => {
                self.reload.answered();
                match plans {
                    Ok(plans) => self.plan.arrived(plans, now),
                    Err(error) => return Some(News::Failed(error)),
                }
                None
            }
            Event::Fired(schedule, time, fired) => self.fired(schedule, time, fired, now),
        }
    }

    fn fired(
        &mut self,
        schedule: ScheduleId,
        time: DateTime<Utc>,
        fired: Result<ScheduledFire, StoreError>,
        now: Instant,
    ) -> Option<News> {
        self.plan.firing -= 1;
        let mut news = None;
        match fired {
            Ok(ScheduledFire::Queued(task)) => {
                tracing::debug!(task.id = %task, "schedule {schedule} queued task {task}");
                self.plan.queued(schedule);
                news = Some(News::TasksReady);
            }
            Ok(ScheduledFire::Elsewhere) => {}
            Ok(ScheduledFire::Early) => {
                // The database's clock went back; the schedules come with what it says now.
                self.reload(now);
                return None;
            }
            Ok(ScheduledFire::Refused(fault)) => self.plan.refused(schedule, fault.to_string()),
            Err(error) => {
                self.plan.due.insert((time, schedule));
                return Some(News::Stuck(error));
            }
        }
        let now = self.plan.clock.map(|clock| clock.at(now));
        self.plan.done(schedule, time, now.unwrap_or(time));
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn at(text: &str) -> DateTime<Utc> {
        format!("2026-05-01T{text}Z").parse().unwrap()
    }

    fn row(catch_up: &str, last_run: Option<&str>) -> SchedulePlan {
        SchedulePlan {
            id: 1,
            rule: "0 * * * * *".to_owned(),
            timezone: "UTC".to_owned(),
            catch_up: catch_up.to_owned(),
            since: at("08:00:30"),
            last_run: last_run.map(at),
        }
    }

    /// What a monitor queues that starts at 09:00:30 and looks at 09:00:40, and at 09:02:01.
    fn runs(catch_up: &str, last_run: Option<&str>) -> Vec<String> {
        let mut plan = Plan::new(Instant::now());
        plan.started = Some(at("09:00:30"));
        plan.update(vec![row(catch_up, last_run)], at("09:00:40"));
        let mut runs = Vec::new();
        for now in [at("09:00:40"), at("09:02:01")] {
            while let Some((id, time)) = plan.take_due(now) {
                runs.push(time.format("%H:%M:%S").to_string());
                plan.firing -= 1;
                plan.done(id, time, now);
            }
        }
        runs
    }

    #[test]
    fn missed_runs_are_left_out_made_up_for_once_or_all() {
        assert_eq!(runs("skip", Some("08:55:00")), ["09:02:00"]);
        assert_eq!(runs("one", Some("08:55:00")), ["09:00:00", "09:02:00"]);
        assert_eq!(
            runs("all", Some("08:57:00")),
            ["08:58:00", "08:59:00", "09:00:00", "09:01:00", "09:02:00"]
        );
        assert_eq!(runs("all", None).len(), 62, "from when it was prepared");
    }

    #[test]
    fn of_what_was_missed_a_moment_ago_one_is_made_up_for_too() {
        let mut plan = Plan::new(Instant::now());
        plan.started = Some(at("09:00:31"));
        let often = SchedulePlan {
            rule: "*/2 * * * * *".to_owned(),
            ..row("one", Some("09:00:20"))
        };
        let now = at("09:00:33");
        plan.update(vec![often], now);
        let mut runs = Vec::new();
        while let Some((id, time)) = plan.take_due(now) {
            runs.push(time);
            plan.firing -= 1;
            plan.done(id, time, now);
        }
        assert_eq!(runs, [at("09:00:30"), at("09:00:32")]);
    }

    /// Every run that is queued at a time; `taken` of them somebody has queued before.
    fn fire(plan: &mut Plan, now: &str) -> Vec<String> {
        let mut runs = Vec::new();
        while let Some((id, time)) = plan.take_due(at(now)) {
            runs.push(time.format("%H:%M:%S").to_string());
            plan.firing -= 1;
            plan.done(id, time, at(now));
        }
        runs
    }

    #[test]
    fn a_clock_that_was_ahead_for_a_minute_silences_nothing() {
        for catch_up in ["skip", "one", "all"] {
            let mut plan = Plan::new(Instant::now());
            plan.started = Some(at("09:00:30"));
            plan.update(vec![row(catch_up, Some("09:00:00"))], at("09:00:40"));
            assert_eq!(fire(&mut plan, "09:01:00"), ["09:01:00"]);
            // Five hours ahead.
            plan.update(vec![row(catch_up, Some("09:01:00"))], at("14:01:30"));
            let ahead = fire(&mut plan, "14:02:00");
            assert_eq!(ahead.last().unwrap(), "14:02:00", "{catch_up}");
            // And back: the database says what it has fired for up to now.
            plan.update(vec![row(catch_up, Some("09:01:00"))], at("09:02:05"));
            assert_eq!(fire(&mut plan, "09:02:05"), ["09:02:00"], "{catch_up}");
            assert_eq!(fire(&mut plan, "09:02:59"), [""; 0]);
            assert_eq!(fire(&mut plan, "09:03:00"), ["09:03:00"], "{catch_up}");
        }
    }

    #[test]
    fn a_monitor_that_came_while_the_clock_was_ahead_goes_on_too() {
        let mut plan = Plan::new(Instant::now());
        plan.started = Some(at("14:00:30"));
        plan.update(vec![row("skip", Some("09:00:00"))], at("14:00:30"));
        plan.update(vec![row("skip", Some("09:00:00"))], at("09:01:30"));
        assert_eq!(fire(&mut plan, "09:02:00"), ["09:02:00"]);
    }

    #[test]
    fn a_clock_that_goes_on_by_hours_has_missed_runs() {
        let runs = |catch_up: &str| {
            let mut plan = Plan::new(Instant::now());
            plan.started = Some(at("09:00:30"));
            plan.update(vec![row(catch_up, Some("09:00:00"))], at("09:00:40"));
            assert_eq!(fire(&mut plan, "09:01:00"), ["09:01:00"]);
            plan.update(vec![row(catch_up, Some("09:01:00"))], at("11:00:30"));
            let runs = fire(&mut plan, "11:01:00");
            (runs.first().cloned().unwrap(), runs.len())
        };
        assert_eq!(runs("skip"), ("11:01:00".to_owned(), 1));
        assert_eq!(runs("one"), ("11:01:00".to_owned(), 1));
        assert_eq!(runs("all"), ("09:02:00".to_owned(), 120));
    }

    #[test]
    fn the_databases_clock_is_carried_on() {
        let read = Instant::now();
        let clock = DatabaseClock {
            read,
            said: at("09:00:00"),
        };
        assert_eq!(clock.at(read + Duration::from_secs(5)), at("09:00:05"));
        let mut plan = Plan::new(read);
        let plans = SchedulePlans {
            rows: vec![row("skip", None)],
            clock: Some(clock),
        };
        plan.arrived(plans, read);
        let wake = plan.next_wake(read).unwrap();
        assert_eq!(wake - read, Duration::from_secs(60));
    }

    #[test]
    fn a_schedule_that_is_read_again_is_not_fired_again() {
        let mut plan = Plan::new(Instant::now());
        plan.started = Some(at("09:00:30"));
        let now = at("09:01:00");
        plan.update(vec![row("skip", None)], now);
        assert_eq!(plan.take_due(now), Some((ScheduleId(1), at("09:01:00"))));
        plan.firing -= 1;
        plan.done(ScheduleId(1), at("09:01:00"), now);
        plan.update(vec![row("skip", None)], now);
        assert_eq!(plan.take_due(now), None);
    }
}
