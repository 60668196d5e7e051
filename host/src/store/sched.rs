//! Schedules (operations with a cron rule), and the one place where they fire.

use super::{
    Document, Resolved, ScheduleRequest, Store, StoreError,
    error::Result,
    lock::{self, Deed},
    schedule::refused,
    session::Session,
};
use crate::model::{
    ScheduleId, TaskId, input,
    moment::Now,
    rule::{CatchUp, Rule},
};
use chrono::{DateTime, Utc};
use serde_json::Value;
use std::time::Instant;

/// Seconds before its time, by the database's clock, at which a run may be queued already (its task waits
/// for the time). A monitor extrapolates the database's clock, and may be ahead of it by so much.
const EARLIEST_SECONDS: f64 = 2.0;

/// A schedule to be inserted.
#[derive(Debug, Clone, Default)]
pub struct NewSchedule {
    /// The tasks that the schedule queues: the operation, its host, the input as given, and the metadata.
    pub request: ScheduleRequest,
    /// The cron rule, of five or six fields.
    pub rule: String,
    /// The name of the time zone that the rule is in.
    pub timezone: String,
    /// Whether missed runs are made up for.
    pub catch_up: CatchUp,
    /// Whether the rule may fire every second.
    pub every_second: bool,
    /// Whether the schedule begins as paused.
    pub paused: bool,
    /// The name of the schedule in an error, where several are inserted together.
    pub title: Option<String>,
}

/// What a monitor needs to know to compute when a schedule fires.
#[derive(Debug, Clone)]
pub struct SchedulePlan {
    pub id: i64,
    pub rule: String,
    pub timezone: String,
    /// Whether missed runs are made up for: `skip`, `one` or `all`.
    pub catch_up: String,
    /// Runs before this time are not made up for. Never ahead of the database's clock.
    pub since: DateTime<Utc>,
    /// The time of the last run that was queued. Never ahead of the database's clock.
    pub last_run: Option<DateTime<Utc>>,
}

/// The schedules of a monitor, and a reading of the database's clock.
#[derive(Debug, Clone, Default)]
pub struct SchedulePlans {
    pub rows: Vec<SchedulePlan>,
    /// The database's clock; `None` if there are no schedules.
    pub clock: Option<DatabaseClock>,
}

/// A reading of the database's clock, extrapolated by the monotonic clock of this host.
#[derive(Debug, Clone, Copy)]
pub struct DatabaseClock {
    /// When the reading arrived here; the extrapolated clock is therefore never ahead of the database's.
    pub read: Instant,
    /// The reading.
    pub said: DateTime<Utc>,
}

impl DatabaseClock {
    /// The time of the database's clock at another instant.
    pub fn at(&self, instant: Instant) -> DateTime<Utc> {
        match instant.checked_duration_since(self.read) {
            Some(since) => self.said + since,
            None => self.said - (self.read - instant),
        }
    }
}

/// A schedule.
#[derive(Debug, Clone)]
pub struct ScheduleRow {
    pub id: i64,
    pub operation: String,
    pub domain: String,
    /// The host that the schedule's tasks are pinned to.
    pub host: Option<String>,
    /// The metadata of its tasks.
    pub metadata: Option<Value>,
    /// The input as given: moments are expressions, files are text or base64.
    pub input: Option<Document>,
    /// The input as bytes, if it is not a document.
    pub input_raw: Option<Vec<u8>>,
    /// The cron rule, of five or six fields.
    pub rule: String,
    /// The name of the time zone that the rule is in.
    pub timezone: String,
    /// Whether missed runs are made up for: `skip`, `one` or `all`.
    pub catch_up: String,
    /// Whether the rule may fire every second.
    pub every_second: bool,
    /// Whether the schedule is paused.
    pub paused: bool,
    /// When the schedule was inserted or resumed: earlier runs are not made up for.
    pub since: DateTime<Utc>,
    /// The time of the last run. Never ahead of the database's clock.
    pub last_run: Option<DateTime<Utc>>,
    /// Times ahead of the database's clock for which the schedule has fired while that clock was wrong.
    pub fired_ahead: Vec<DateTime<Utc>>,
    /// Why the last run queued no task.
    pub error: Option<String>,
    /// The database's clock when the row was read.
    pub now: DateTime<Utc>,
}

/// The result of firing a schedule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ScheduledFire {
    Queued(TaskId),
    /// Another monitor has fired it, or the schedule is deleted or paused.
    Elsewhere,
    /// By the database's clock the time has not come yet.
    Early,
    /// The operation does not accept the input; the reason is stored with the schedule.
    Refused(String),
}

impl ScheduleRow {
    /// The task that the schedule queues at this time.
    pub(super) fn request(&self, time: DateTime<Utc>) -> Result<ScheduleRequest> {
        let rule =
            Rule::parse(&self.rule, &self.timezone).map_err(|error| refused(error.to_string()))?;
        Ok(ScheduleRequest {
            operation: self.operation.clone(),
            domain: Some(self.domain.clone()),
            host: self.host.clone(),
            input: self.input.clone().map(|document| document.0),
            input_raw: self.input_raw.clone(),
            metadata: self.metadata.clone(),
            at: Some(time),
            schedule: Some(ScheduleId(self.id)),
            now: Some(Now {
                time,
                zone: rule.zone().clone(),
            }),
            ..ScheduleRequest::default()
        })
    }
}

impl NewSchedule {
    /// Reads the rule and checks how often it fires.
    fn rule(&self) -> Result<Rule> {
        let rule =
            Rule::parse(&self.rule, &self.timezone).map_err(|error| refused(error.to_string()))?;
        if rule.fires_every_second() && !self.every_second {
            return Err(StoreError::Refused {
                code: "RW003".to_owned(),
                message: format!("`{}` fires every second", self.rule),
                hint: Some(
                    "if that is what you mean, say so: --every-second, or `\"every_second\": true` in a file"
                        .to_owned(),
                ),
            });
        }
        Ok(rule)
    }
}

impl Store {
    /// Inserts schedules, all or none. A schedule with the same operation, host, rule, zone, input and
    /// metadata as an existing one replaces it under its id. Each input is checked as if a task were queued
    /// now.
    pub async fn sched_prepare(&self, schedules: &[NewSchedule]) -> Result<Vec<ScheduleId>> {
        // All checks come before the transaction: it holds a connection, and the checks need another.
        let mut operations = Vec::new();
        for schedule in schedules {
            let operation = self.sched_check(schedule).await;
            operations.push(operation.map_err(|error| match &schedule.title {
                Some(title) => error.of_one(title),
                None => error,
            })?);
        }
        let mut transaction = self.pool.begin().await?;
        let mut ids = Vec::new();
        for (schedule, operation) in schedules.iter().zip(operations) {
            ids.push(
                self.sched_insert(&mut transaction, &operation, schedule)
                    .await?,
            );
        }
        sqlx::query!("select rework.tell('rework_sched', '')")
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
        Ok(ids)
    }

    /// Checks that a schedule could queue a task now, and returns its operation.
    async fn sched_check(&self, schedule: &NewSchedule) -> Result<Resolved> {
        let zone = schedule.rule()?.zone().clone();
        let mut request = schedule.request.clone();
        request.now.get_or_insert(Now {
            time: Utc::now(),
            zone,
        });
        self.task_check(&request).await
    }

    async fn sched_insert(
        &self,
        connection: &mut Session<'_>,
        operation: &Resolved,
        schedule: &NewSchedule,
    ) -> Result<ScheduleId> {
        let request = &schedule.request;
        let specs = operation.inputs.first().and_then(Option::as_ref);
        // Inputs that mean the same are stored in one form: files inline, an empty input as absent.
        let mut fields = request.input.clone().filter(|input| !input.is_null());
        let mut files = fields
            .as_mut()
            .map(|fields| input::take_files(specs, fields))
            .unwrap_or_default();
        files.extend(request.given().files);
        files.sort();
        let is_empty = |fields: &Value| fields.as_object().is_some_and(serde_json::Map::is_empty);
        let fields = fields.filter(|fields| specs.is_none() || !is_empty(fields));
        // A schedule's row holds one document, so files become part of it.
        let input = input::with_files(fields.as_ref(), &files);
        let words: Vec<&str> = schedule.rule.split_whitespace().collect();
        // The zone's name as the zone data spell it, so that `europe/paris` is the same schedule as
        // `Europe/Paris`.
        let zone = schedule.rule()?.zone().name().to_owned();
        let id = sqlx::query_scalar!(
            r#"insert into rework.sched as sched
                   (operation, host, rule, timezone, input, input_raw, metadata, catch_up, every_second, paused)
               values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
               on conflict (operation, rule, timezone, coalesce(host, ''),
                            md5(coalesce(input::text, '')), md5(coalesce(input_raw, '')),
                            md5(coalesce(metadata::text, '')))
               do update set since = case when sched.paused and not excluded.paused
                                          then clock_timestamp() else sched.since end,
                             catch_up = excluded.catch_up,
                             every_second = excluded.every_second, paused = excluded.paused, error = null
               returning id"#,
            operation.id.0,
            request.host.as_deref(),
            words.join(" "),
            zone,
            input.map(Document) as _,
            request.input_raw.as_deref(),
            request.metadata,
            schedule.catch_up.as_str(),
            schedule.every_second,
            schedule.paused
        )
        .fetch_one(connection)
        .await
        .map_err(|error| {
            let doing = || format!("could not prepare `{}`", request.operation);
            let deed = Deed {
                kind: lock::ROW,
                words: "prepares the same",
            };
            StoreError::from(error).of_lock(doing, Some(deed))
        })?;
        Ok(ScheduleId(id))
    }

    /// Deletes a schedule; tasks that it has queued stay. Returns how many schedules were deleted (0 or 1).
    pub async fn sched_unprepare(&self, schedule: ScheduleId) -> Result<u64> {
        let removed = sqlx::query_scalar!(
            r#"with removed as (delete from rework.sched where id = $1 returning id),
                    told as (select rework.tell('rework_sched', '') from removed)
               select count(*) as "count!" from removed left join told on true"#,
            schedule.0
        )
        .fetch_one(&self.pool)
        .await?;
        Ok(removed.cast_unsigned())
    }

    /// Pauses or resumes a schedule; `false`: there is no such schedule.
    pub async fn sched_pause(&self, schedule: ScheduleId, paused: bool) -> Result<bool> {
        let found = sqlx::query_scalar!(
            r#"with updated as (update rework.sched
                                  set paused = $2,
                                      since = case when paused and not $2 then clock_timestamp() else since end
                                where id = $1
                               returning id),
                    told as (select rework.tell('rework_sched', '') from updated)
               select count(*) as "count!" from updated left join told on true"#,
            schedule.0,
            paused
        )
        .fetch_one(&self.pool)
        .await?;
        Ok(found > 0)
    }

    /// Schedules of these domains (empty: of all), by id.
    pub async fn sched_list(&self, domains: &[String]) -> Result<Vec<ScheduleRow>> {
        let rows = sqlx::query_as!(
            ScheduleRow,
            r#"select s.id, o.name as operation, o.domain, s.host, s.metadata, s.input as "input: Document",
                      s.input_raw,
                      s.rule, s.timezone, s.catch_up, s.every_second, s.paused, s.since, s.error,
                      case when s.last_run <= c.now then s.last_run
                           else (select max(r.fire_time) from rework.sched_run r
                                  where r.sched = s.id and r.fire_time <= c.now) end as last_run,
                      array(select r.fire_time from rework.sched_run r
                             where r.sched = s.id and r.fire_time > c.now) as "fired_ahead!",
                      c.now as "now!"
                 from rework.sched s
                 join rework.operation o on o.id = s.operation
                cross join (select clock_timestamp() as now) c
                where cardinality($1::text[]) = 0 or o.domain = any($1)
                order by s.id"#,
            domains
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows)
    }

    /// The schedules of these domains (empty: of all) that are not paused, as a monitor needs them.
    pub async fn sched_plans(&self, host: &str, domains: &[String]) -> Result<SchedulePlans> {
        let rows = sqlx::query!(
            r#"select s.id, s.rule, s.timezone, s.catch_up, c.now as "now!",
                    -- What a wrong clock has written ahead does not keep a schedule from firing.
                    least(s.since, c.now) as "since!",
                    case when s.last_run <= c.now then s.last_run
                         else (select max(r.fire_time) from rework.sched_run r
                                where r.sched = s.id and r.fire_time <= c.now) end as last_run
               from rework.sched s
               join rework.operation o on o.id = s.operation
              cross join (select clock_timestamp() as now) c
              where not s.paused and (cardinality($1::text[]) = 0 or o.domain = any($1))
                and (exists (select from rework.deployment d
                              where d.operation = s.operation and d.retired is null
                                and d.host = $2 and (s.host is null or s.host = $2))
                     -- Nobody has it: that is to be found out, and shown.
                     or not exists (select from rework.deployment d
                                     where d.operation = s.operation and d.retired is null
                                       and (s.host is null or d.host = s.host)))"#,
            domains,
            host
        )
        .fetch_all(&self.pool)
        .await?;
        let read = Instant::now();
        Ok(SchedulePlans {
            clock: rows.first().map(|row| DatabaseClock {
                read,
                said: row.now,
            }),
            rows: rows
                .into_iter()
                .map(|row| SchedulePlan {
                    id: row.id,
                    rule: row.rule,
                    timezone: row.timezone,
                    catch_up: row.catch_up,
                    since: row.since,
                    last_run: row.last_run,
                })
                .collect(),
        })
    }

    /// Queues the task of a schedule for this time, unless that has been done. Monitors compete for the
    /// row's lock; the first one fires. The time must be later than the last run's, or, if that one lies
    /// ahead of the database's clock, must not have been fired for. A run is never queued before its time.
    pub async fn sched_fire(
        &self,
        schedule: ScheduleId,
        time: DateTime<Utc>,
    ) -> Result<ScheduledFire> {
        let mut transaction = self.pool.begin_limited().await?;
        let row = sqlx::query_as!(
            ScheduleRow,
            r#"with due as (
                   select id from rework.sched
                    where id = $1 and not paused
                      and (last_run is null or last_run < $2 or last_run > clock_timestamp())
                      and $2 <= clock_timestamp() + $3::float8 * interval '1 second'
                      for no key update
               ), recorded as (
                   insert into rework.sched_run (sched, fire_time)
                   select id, $2 from due
                       on conflict do nothing
                   returning sched
               ), forgotten as (
                   delete from rework.sched_run r using recorded
                    where r.sched = recorded.sched
                      and r.fire_time < (select o.fire_time from rework.sched_run o
                                          where o.sched = $1 order by o.fire_time desc offset 1000 limit 1)
               ), fired as (
                   update rework.sched s set last_run = $2, error = null
                     from recorded where s.id = recorded.sched
                   returning s.*
               )
               select f.id as "id!", o.name as operation, o.domain, f.host, f.metadata,
                      f.input as "input: Document", f.input_raw, f.rule as "rule!", f.timezone as "timezone!",
                      f.catch_up as "catch_up!", f.every_second as "every_second!",
                      f.paused as "paused!", f.since as "since!", f.last_run, f.error,
                      array[]::timestamptz[] as "fired_ahead!", clock_timestamp() as "now!"
                 from fired f
                 join rework.operation o on o.id = f.operation"#,
            schedule.0,
            time,
            EARLIEST_SECONDS
        )
        .fetch_optional(&mut *transaction)
        .await?;
        let Some(row) = row else {
            let is_early = sqlx::query_scalar!(
                r#"select $1::timestamptz > clock_timestamp() + $2::float8 * interval '1 second' as "is_early!""#,
                time,
                EARLIEST_SECONDS
            )
            .fetch_one(&mut *transaction)
            .await?;
            return Ok(match is_early {
                true => ScheduledFire::Early,
                false => ScheduledFire::Elsewhere,
            });
        };
        let queued = match row.request(time) {
            Ok(request) => self.task_schedule(&request, Some(&mut *transaction)).await,
            Err(error) => Err(error),
        };
        let fire = match queued {
            Ok(task) => ScheduledFire::Queued(task),
            // This refusal comes from our own checks and not from the server, so the transaction is still
            // usable.
            Err(StoreError::Refused { message, .. }) => {
                sqlx::query!(
                    "update rework.sched set error = $2 where id = $1",
                    schedule.0,
                    message
                )
                .execute(&mut *transaction)
                .await?;
                ScheduledFire::Refused(message)
            }
            Err(error) => return Err(error),
        };
        transaction.commit().await?;
        Ok(fire)
    }

    /// Why the operation would refuse the next task of a schedule; `None` if it would not.
    pub async fn sched_fault(&self, row: &ScheduleRow) -> Result<Option<String>> {
        let checked = match row.request(Utc::now()) {
            Ok(request) => self.task_check(&request).await.map(drop),
            Err(error) => Err(error),
        };
        match checked {
            Ok(()) => Ok(None),
            Err(StoreError::Refused { message, .. }) => Ok(Some(message)),
            Err(error) => Err(error),
        }
    }
}
