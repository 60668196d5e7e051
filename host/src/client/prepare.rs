//! Schedules: preparing an operation to be queued by a rule, looking ahead, taking it back.

use super::{
    Client,
    error::{ClientError, Result},
};
use crate::{
    model::{
        ScheduleId, input,
        rule::{CatchUp, Rule},
    },
    store::{FileContent, NewSchedule, ScheduleRequest, ScheduleRow},
};
use chrono::{DateTime, TimeDelta, Utc};
use rework_plugin::finite::to_json;
use serde::Serialize;
use serde_json::Value;
use std::{collections::BTreeSet, future::IntoFuture, pin::Pin};

/// A schedule about to be written; `.await` writes it and answers its id. One that is identical in
/// operation, host, rule, time zone and input is replaced.
///
/// ```no_run
/// # async fn example(rework: rework::Client) -> Result<(), rework::client::ClientError> {
/// let schedule = rework
///     .prepare("import", "0 30 6 * * *")
///     .timezone("Europe/Paris")
///     .input(serde_json::json!({"horizon": "(shifted (today) #:days 7)"}))
///     .await?;
/// rework.unprepare(schedule).await?;
/// # Ok(())
/// # }
/// ```
#[must_use = "nothing is prepared until it is awaited"]
#[derive(Debug)]
pub struct Prepare {
    client: Client,
    schedule: NewSchedule,
    /// What could not be written as JSON, said when the schedule is written.
    fault: Option<ClientError>,
}

impl Client {
    /// Begins to describe a schedule of the operation of this name. The rule is cron with seconds
    /// first; without them (five fields) it means second 0.
    pub fn prepare(&self, operation: impl Into<String>, rule: impl Into<String>) -> Prepare {
        Prepare {
            client: self.clone(),
            schedule: NewSchedule {
                request: ScheduleRequest {
                    operation: operation.into(),
                    ..ScheduleRequest::default()
                },
                rule: rule.into(),
                timezone: "UTC".to_owned(),
                ..NewSchedule::default()
            },
            fault: None,
        }
    }

    /// Removes a schedule; the tasks that it queued stay. Answers how many there were.
    pub async fn unprepare(&self, schedule: ScheduleId) -> Result<u64> {
        Ok(self.store().sched_unprepare(schedule).await?)
    }

    /// Lets a schedule wait, or run again; false: there is no such schedule.
    pub async fn pause_schedule(&self, schedule: ScheduleId, paused: bool) -> Result<bool> {
        Ok(self.store().sched_pause(schedule, paused).await?)
    }

    /// Every schedule, of one domain or of all.
    pub async fn schedules(&self, domain: Option<&str>) -> Result<Vec<ScheduleReport>> {
        let domains: Vec<String> = domain.map(str::to_owned).into_iter().collect();
        let mut reports = Vec::new();
        for row in self.store().sched_list(&domains).await? {
            let error = self.store().sched_fault(&row).await?;
            reports.push(ScheduleReport::new(row, error));
        }
        Ok(reports)
    }

    /// What the schedules of a domain will queue within a time, in order: the first `limit` runs.
    pub async fn scheduled_plan(
        &self,
        domain: &str,
        within: TimeDelta,
        limit: usize,
    ) -> Result<Vec<PlannedRun>> {
        let rows = self.store().sched_list(&[domain.to_owned()]).await?;
        // The clock by which they fire.
        let now = rows.first().map_or_else(Utc::now, |row| row.now);
        let until = now
            .checked_add_signed(within)
            .unwrap_or(DateTime::<Utc>::MAX_UTC);
        let schedules: Vec<(ScheduleRow, Rule)> = rows
            .into_iter()
            .filter(|row| !row.paused)
            .filter_map(|row| {
                let rule = Rule::parse(&row.rule, &row.timezone).ok()?;
                Some((row, rule))
            })
            .collect();
        // The next run of each; the earliest is taken and makes room for the one after it.
        let mut next: BTreeSet<(DateTime<Utc>, usize)> = schedules
            .iter()
            .enumerate()
            .filter_map(|(place, (row, rule))| Some((next_run(row, rule, now)?, place)))
            .collect();
        let mut plan = Vec::new();
        while plan.len() < limit
            && let Some((time, place)) = next.pop_first()
            && time <= until
        {
            let (row, rule) = &schedules[place];
            next.extend(next_run(row, rule, time).map(|after| (after, place)));
            plan.push(PlannedRun {
                time,
                operation: row.operation.clone(),
                domain: row.domain.clone(),
                schedule: row.id,
            });
        }
        Ok(plan)
    }
}

impl Prepare {
    /// The input, checked now and completed each time it fires: moments stay expressions.
    pub fn input(mut self, input: impl Serialize) -> Self {
        match to_json(&input) {
            Ok(input) => self.schedule.request.input = Some(input),
            Err(fault) => self.fault = Some(ClientError::Input(format!("the input {fault}"))),
        }
        self
    }

    /// The input as bytes.
    pub fn raw_input(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.schedule.request.input_raw = Some(bytes.into());
        self
    }

    /// The content of a file field of the input.
    pub fn input_file(mut self, field: impl Into<String>, content: impl Into<Vec<u8>>) -> Self {
        self.schedule.request.files.push(FileContent {
            name: field.into(),
            content: content.into(),
        });
        self
    }

    /// The domain, for a name that exists in several.
    pub fn domain(mut self, domain: impl Into<String>) -> Self {
        self.schedule.request.domain = Some(domain.into());
        self
    }

    /// Pins its tasks to a host.
    pub fn host(mut self, host: impl Into<String>) -> Self {
        self.schedule.request.host = Some(host.into());
        self
    }

    /// Notes for its tasks; an object.
    pub fn metadata(mut self, metadata: Value) -> Self {
        self.schedule.request.metadata = Some(metadata);
        self
    }

    /// The time zone of the rule and of the moments; UTC if nothing is said.
    pub fn timezone(mut self, name: impl Into<String>) -> Self {
        self.schedule.timezone = name.into();
        self
    }

    /// What becomes of runs that no monitor was there for; left out if nothing is said.
    pub fn catch_up(mut self, policy: CatchUp) -> Self {
        self.schedule.catch_up = policy;
        self
    }

    /// What in the rule may be taken for something else, a line each.
    pub fn notes(&self) -> Vec<String> {
        let rule = Rule::parse(&self.schedule.rule, &self.schedule.timezone);
        rule.map_or_else(|_| Vec::new(), |rule| rule.notes().to_vec())
    }

    /// It may fire every second.
    pub fn every_second(mut self) -> Self {
        self.schedule.every_second = true;
        self
    }

    async fn send(self) -> Result<ScheduleId> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        let ids = self.client.store().sched_prepare(&[self.schedule]).await?;
        Ok(*ids.first().expect("one in, one out"))
    }
}

impl IntoFuture for Prepare {
    type Output = Result<ScheduleId>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.send())
    }
}

/// The first run after a time that has not been queued, as some were while a clock was wrong.
fn next_run(row: &ScheduleRow, rule: &Rule, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
    let runs = std::iter::successors(rule.next_after(after), |last| rule.next_after(*last));
    let mut runs = runs.filter(|time| !row.fired_ahead.contains(time));
    runs.next()
}

/// A schedule, as `list-scheduled` shows it.
#[derive(Debug, Clone, Serialize)]
pub struct ScheduleReport {
    /// The schedule.
    pub id: i64,
    /// The operation's name.
    pub operation: String,
    /// The operation's domain.
    pub domain: String,
    /// The host its tasks are pinned to.
    pub host: Option<String>,
    /// Notes for its tasks.
    pub metadata: Option<Value>,
    /// The input as given; bytes and files by their size and hash.
    pub input: Option<Value>,
    /// Cron.
    pub rule: String,
    /// The zone in which it is meant.
    pub timezone: String,
    /// `skip`, `one` or `all`.
    pub catch_up: String,
    /// Whether it only waits.
    pub paused: bool,
    /// When it fires next, unless it is paused.
    #[serde(serialize_with = "crate::model::time::serialize_option")]
    pub next_run: Option<DateTime<Utc>>,
    /// The time for which it fired last.
    #[serde(serialize_with = "crate::model::time::serialize_option")]
    pub last_run: Option<DateTime<Utc>>,
    /// Why its operation would not accept the next input.
    pub error: Option<String>,
    /// Why its last run queued no task.
    pub last_error: Option<String>,
}

impl ScheduleReport {
    fn new(row: ScheduleRow, error: Option<String>) -> Self {
        let rule = Rule::parse(&row.rule, &row.timezone).ok();
        let next_run = rule
            .filter(|_| !row.paused)
            .and_then(|rule| next_run(&row, &rule, row.now));
        let bytes = row.input_raw.as_deref().map(input::placeholder);
        Self {
            id: row.id,
            operation: row.operation,
            domain: row.domain,
            host: row.host,
            metadata: row.metadata,
            input: bytes.or(row
                .input
                .map(|document| input::without_contents(document.0))),
            rule: row.rule,
            timezone: row.timezone,
            catch_up: row.catch_up,
            paused: row.paused,
            next_run,
            last_run: row.last_run,
            error,
            last_error: row.error,
        }
    }
}

/// A task that a schedule will queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PlannedRun {
    /// When.
    #[serde(serialize_with = "crate::model::time::serialize")]
    pub time: DateTime<Utc>,
    /// The operation's name.
    pub operation: String,
    /// The operation's domain.
    pub domain: String,
    /// The schedule.
    pub schedule: i64,
}
