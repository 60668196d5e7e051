//! Schedules: storing, listing and deleting operations that are queued by a cron rule, and computing their
//! next runs.

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

/// A schedule that is about to be stored; `.await` stores it and returns its id. An existing schedule with
/// the same operation, host, rule, time zone, input and metadata is replaced, and keeps its id.
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
    /// An error of an earlier call on this builder, returned by `.await`.
    fault: Option<ClientError>,
}

impl Client {
    /// Begins a schedule of the operation with this name. `rule` is a cron rule of six fields, seconds
    /// first, or of five, which fires at second 0.
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

    /// Deletes a schedule; the tasks that it has queued stay. Returns how many schedules were deleted (0 or
    /// 1).
    pub async fn unprepare(&self, schedule: ScheduleId) -> Result<u64> {
        Ok(self.store().sched_unprepare(schedule).await?)
    }

    /// Pauses or resumes a schedule; `false`: there is no such schedule.
    pub async fn pause_schedule(&self, schedule: ScheduleId, paused: bool) -> Result<bool> {
        Ok(self.store().sched_pause(schedule, paused).await?)
    }

    /// The schedules of one domain (`None`: of all).
    pub async fn schedules(&self, domain: Option<&str>) -> Result<Vec<ScheduleReport>> {
        let domains: Vec<String> = domain.map(str::to_owned).into_iter().collect();
        let mut reports = Vec::new();
        for row in self.store().sched_list(&domains).await? {
            let error = self.store().sched_fault(&row).await?;
            reports.push(ScheduleReport::new(row, error));
        }
        Ok(reports)
    }

    /// The next runs of the schedules of a domain, in order of time: those within a duration, and at most
    /// `limit`.
    pub async fn scheduled_plan(
        &self,
        domain: &str,
        within: TimeDelta,
        limit: usize,
    ) -> Result<Vec<PlannedRun>> {
        let rows = self.store().sched_list(&[domain.to_owned()]).await?;
        // The clock by which the schedules fire.
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
        // The next run of each schedule. The earliest is taken out, and replaced by the following run of
        // its schedule.
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
    /// The input. It is checked now, and completed each time the schedule fires: moments stay expressions.
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

    /// The domain of the operation, if operations in several domains have its name.
    pub fn domain(mut self, domain: impl Into<String>) -> Self {
        self.schedule.request.domain = Some(domain.into());
        self
    }

    /// Pins the schedule's tasks to a host.
    pub fn host(mut self, host: impl Into<String>) -> Self {
        self.schedule.request.host = Some(host.into());
        self
    }

    /// Metadata of the schedule's tasks: a JSON object.
    pub fn metadata(mut self, metadata: Value) -> Self {
        self.schedule.request.metadata = Some(metadata);
        self
    }

    /// The time zone of the rule and of moments in the input; UTC by default.
    pub fn timezone(mut self, name: impl Into<String>) -> Self {
        self.schedule.timezone = name.into();
        self
    }

    /// Whether runs that no monitor was there to queue are made up for; by default they are not.
    pub fn catch_up(mut self, policy: CatchUp) -> Self {
        self.schedule.catch_up = policy;
        self
    }

    /// Remarks about parts of the rule that may be misunderstood, one line each.
    pub fn notes(&self) -> Vec<String> {
        let rule = Rule::parse(&self.schedule.rule, &self.schedule.timezone);
        rule.map_or_else(|_| Vec::new(), |rule| rule.notes().to_vec())
    }

    /// Allows the rule to fire every second.
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

/// The first run after `after` that has not been queued yet. While the database's clock was wrong, runs may
/// have been queued ahead of time.
fn next_run(row: &ScheduleRow, rule: &Rule, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
    let runs = std::iter::successors(rule.next_after(after), |last| rule.next_after(*last));
    let mut runs = runs.filter(|time| !row.fired_ahead.contains(time));
    runs.next()
}

/// A schedule, as `list-scheduled` shows it.
#[derive(Debug, Clone, Serialize)]
pub struct ScheduleReport {
    /// The id of the schedule.
    pub id: i64,
    /// The name of the operation.
    pub operation: String,
    /// The domain of the operation.
    pub domain: String,
    /// The host that the schedule's tasks are pinned to.
    pub host: Option<String>,
    /// The metadata of its tasks.
    pub metadata: Option<Value>,
    /// The input as given; raw bytes and files are shown by size and hash.
    pub input: Option<Value>,
    /// The cron rule.
    pub rule: String,
    /// The name of the time zone that the rule is in.
    pub timezone: String,
    /// Whether missed runs are made up for: `skip`, `one` or `all`.
    pub catch_up: String,
    /// Whether the schedule is paused.
    pub paused: bool,
    /// When the schedule fires next; `None` if it is paused.
    #[serde(serialize_with = "crate::model::time::serialize_option")]
    pub next_run: Option<DateTime<Utc>>,
    /// The time of its last run.
    #[serde(serialize_with = "crate::model::time::serialize_option")]
    pub last_run: Option<DateTime<Utc>>,
    /// Why its operation would refuse the next input; `None` if it would not.
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

/// A run of a schedule to come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PlannedRun {
    /// The time of the run.
    #[serde(serialize_with = "crate::model::time::serialize")]
    pub time: DateTime<Utc>,
    /// The name of the operation.
    pub operation: String,
    /// The domain of the operation.
    pub domain: String,
    /// The id of the schedule.
    pub schedule: i64,
}
