//! Scheduling in full: find the operation, check and complete the input, queue the task. The one
//! path of every caller that speaks Rust: clients, the command line, and tasks that queue others.

use super::{Enqueue, FileContent, Queued, Resolved, Result, Session, Store, StoreError};
use crate::{
    here,
    model::{OperationId, ScheduleId, TaskId, input, moment::Now},
};
use chrono::{DateTime, Datelike, TimeDelta, Utc};
use serde::Deserialize;
use serde_json::Value;
use std::collections::{HashMap, hash_map::Entry};

/// A task that somebody wants. Also what a running task says when it queues another one.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct ScheduleRequest {
    /// The operation's name.
    pub operation: String,
    /// Its domain, for a name that exists in several.
    pub domain: Option<String>,
    /// The host to pin the task to.
    pub host: Option<String>,
    /// Fields, or any JSON for an operation that declares none.
    pub input: Option<Value>,
    /// Bytes as given, instead.
    #[serde(skip)]
    pub input_raw: Option<Vec<u8>>,
    /// Contents of file fields.
    #[serde(skip)]
    pub files: Vec<FileContent>,
    /// The caller's notes.
    pub metadata: Option<Value>,
    /// Higher runs first.
    pub priority: i32,
    /// Not before.
    pub at: Option<DateTime<Utc>>,
    /// Not before so many milliseconds from now.
    pub delay_ms: Option<u64>,
    /// While a task of the operation with this key exists, it is that task.
    pub key: Option<String>,
    /// How often it may be tried; otherwise what the operation declares.
    pub max_attempts: Option<i32>,
    /// The schedule that queues it.
    #[serde(skip)]
    pub schedule: Option<ScheduleId>,
    /// When and where its moments are resolved; otherwise here and now.
    #[serde(skip)]
    pub now: Option<Now>,
}

impl ScheduleRequest {
    fn now(&self) -> Now {
        self.now.clone().unwrap_or_else(|| Now {
            time: Utc::now(),
            zone: here::zone(),
        })
    }

    pub(super) fn given(&self) -> input::Given {
        input::Given {
            fields: self.input.clone(),
            raw: self.input_raw.clone(),
            files: self
                .files
                .iter()
                .map(|file| (file.name.clone(), file.content.clone()))
                .collect(),
        }
    }
}

impl Store {
    /// Queues a task, within the caller's transaction if there is one.
    pub async fn task_schedule(
        &self,
        request: &ScheduleRequest,
        connection: Option<&mut Session<'_>>,
    ) -> Result<TaskId> {
        Ok(self.task_queue(request, connection).await?.id)
    }

    /// As [`Store::task_schedule`]; says also whether the task is new, or was known by its key.
    pub async fn task_queue(
        &self,
        request: &ScheduleRequest,
        connection: Option<&mut Session<'_>>,
    ) -> Result<Queued> {
        let operation = self.task_operation(request).await?;
        let task = checked(request, &operation)?;
        match connection {
            Some(connection) => self.task_enqueue_in(connection, operation.id, &task).await,
            None => self.task_enqueue(operation.id, &task).await,
        }
    }

    /// Queues many tasks, all or none, in this order.
    pub async fn task_schedule_many(&self, requests: &[ScheduleRequest]) -> Result<Vec<Queued>> {
        let mut operations = HashMap::new();
        let mut tasks = Vec::with_capacity(requests.len());
        for (place, request) in requests.iter().enumerate() {
            let of_place = |error: StoreError| {
                error.of_one(&format!("task {} of {}", place + 1, requests.len()))
            };
            let name = (&request.operation, &request.domain, &request.host);
            let operation = match operations.entry(name) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(vacant) => {
                    vacant.insert(self.task_operation(request).await.map_err(of_place)?)
                }
            };
            tasks.push((operation.id, checked(request, operation).map_err(of_place)?));
        }
        let mut transaction = self.pool.begin_limited().await?;
        let queued = self.task_enqueue_many_in(&mut transaction, &tasks).await?;
        transaction.commit().await?;
        Ok(queued)
    }

    /// Whether a task could be queued now; its operation.
    pub async fn task_check(&self, request: &ScheduleRequest) -> Result<Resolved> {
        let operation = self.task_operation(request).await?;
        checked(request, &operation)?;
        Ok(operation)
    }

    /// The lane that a task would wait in: its operation, the host it is pinned to, and the inputs that
    /// accept it.
    pub(super) async fn task_lane(
        &self,
        request: &ScheduleRequest,
    ) -> Result<(OperationId, Option<String>, Option<String>)> {
        let operation = self.task_operation(request).await?;
        let task = checked(request, &operation)?;
        Ok((operation.id, task.host, task.accepts))
    }

    async fn task_operation(&self, request: &ScheduleRequest) -> Result<Resolved> {
        self.operation_resolve(
            &request.operation,
            request.domain.as_deref(),
            request.host.as_deref(),
        )
        .await
    }
}

/// More than a year, and no whole number of days, so that any expression means something else then.
const LATER: TimeDelta = TimeDelta::seconds(400 * 86_400 + 3_723);

/// In bytes: what an index of Postgres takes, with room.
const LONGEST_KEY: usize = 1000;

/// A request as it is queued: its input checked and completed.
fn checked(request: &ScheduleRequest, operation: &Resolved) -> Result<Enqueue> {
    for (what, value) in [("input", &request.input), ("metadata", &request.metadata)] {
        if value.as_ref().is_some_and(input::has_nul) {
            return Err(refused(format!(
                "the {what} holds a NUL character, which Postgres cannot store"
            )));
        }
        if value.as_ref().is_some_and(|value| !input::is_flat(value)) {
            return Err(refused(format!(
                "the {what} is nested more than {} levels deep",
                input::DEEPEST
            )));
        }
    }
    match request.key.as_ref().map_or(1, String::len) {
        0 => {
            return Err(refused(
                "the key is empty: all tasks that have it would be one".to_owned(),
            ));
        }
        long if long > LONGEST_KEY => {
            return Err(refused(format!(
                "the key has {long} bytes, more than {LONGEST_KEY}"
            )));
        }
        _ => {}
    }
    if let Some(other) = request.metadata.as_ref().filter(|value| !value.is_object()) {
        let kind = rework_plugin::spec::kind(other);
        return Err(refused(format!("metadata must be an object, not {kind}")));
    }
    let complete_at = |now| {
        input::complete(&request.operation, &operation.inputs, &request.given(), now)
            .map_err(refused)
    };
    let accepted = complete_at(request.now())?;
    let mut relative = Vec::new();
    if request.key.is_some() {
        // What is another value at another time is a moment that is written as an expression.
        let later = Now {
            time: request.now().time + LATER,
            ..request.now()
        };
        let later = complete_at(later)
            .ok()
            .and_then(|later| later.complete.fields);
        relative = changed_fields(accepted.complete.fields.as_ref(), later.as_ref());
    }
    let complete = accepted.complete;
    Ok(Enqueue {
        operation_name: request.operation.clone(),
        host: request.host.clone(),
        input: complete.fields,
        input_raw: complete.raw,
        files: complete
            .files
            .into_iter()
            .map(|(name, content)| FileContent { name, content })
            .collect(),
        metadata: request.metadata.clone(),
        priority: request.priority,
        run_at: time_asked(request)?,
        delay_ms: delay_asked(request)?,
        key: request.key.clone(),
        relative,
        max_attempts: request.max_attempts.unwrap_or(operation.max_attempts),
        schedule: request.schedule,
        accepts: accepted
            .only_by
            .map(|version| operation.digests[version].clone()),
    })
}

/// Fields that differ between two objects.
fn changed_fields(one: Option<&Value>, other: Option<&Value>) -> Vec<String> {
    let (Some(Value::Object(one)), Some(Value::Object(other))) = (one, other) else {
        return Vec::new();
    };
    let changed = one
        .iter()
        .filter(|(name, value)| other.get(*name) != Some(value));
    changed.map(|(name, _)| name.clone()).collect()
}

/// When a task may run at the earliest; dates beyond what people mean are refused.
fn time_asked(request: &ScheduleRequest) -> Result<Option<DateTime<Utc>>> {
    match request.at {
        Some(time) if !(1..=9999).contains(&time.year()) => {
            Err(refused(format!("the year {} is too far away", time.year())))
        }
        asked => Ok(asked),
    }
}

/// How long a task has to wait, which the server's clock will measure; not longer than people mean.
fn delay_asked(request: &ScheduleRequest) -> Result<Option<i64>> {
    let Some(ms) = request.delay_ms else {
        return Ok(None);
    };
    let delay = i64::try_from(ms).ok().and_then(TimeDelta::try_milliseconds);
    match delay.and_then(|delay| Utc::now().checked_add_signed(delay)) {
        None => Err(refused("the delay is too long".to_owned())),
        Some(time) if time.year() > 9999 => {
            Err(refused(format!("the year {} is too far away", time.year())))
        }
        Some(_) => Ok(delay.map(|delay| delay.num_milliseconds())),
    }
}

pub(super) fn refused(message: String) -> StoreError {
    StoreError::Refused {
        code: "RW003".to_owned(),
        message,
        hint: None,
    }
}
