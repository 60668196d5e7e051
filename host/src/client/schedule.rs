//! Queuing a task: its input is checked and completed before anything is written.

use super::{
    Client, Task,
    error::{ClientError, Result},
};
use crate::store::{FileContent, ScheduleRequest, Session};
use chrono::{DateTime, Utc};
use rework_plugin::finite::to_json;
use serde::Serialize;
use serde_json::Value;
use sqlx::PgConnection;
use std::{future::IntoFuture, pin::Pin, time::Duration};

/// A task about to be queued; `.await` queues it.
///
/// ```no_run
/// # async fn example(rework: rework::Client) -> Result<(), rework::client::ClientError> {
/// let task = rework
///     .schedule("add")
///     .domain("maths")
///     .input(serde_json::json!({"a": 1, "b": 2}))
///     .priority(5)
///     .await?;
/// println!("queued task {}", task.id());
/// # Ok(())
/// # }
/// ```
#[must_use = "nothing is queued until it is awaited"]
#[derive(Debug)]
pub struct Schedule<'t> {
    client: Client,
    request: ScheduleRequest,
    /// What could not be written as JSON, said when the task is queued.
    fault: Option<ClientError>,
    connection: Option<&'t mut PgConnection>,
}

impl Client {
    /// Begins to describe a task of the operation of this name.
    pub fn schedule(&self, operation: impl Into<String>) -> Schedule<'static> {
        Schedule {
            client: self.clone(),
            request: ScheduleRequest {
                operation: operation.into(),
                ..ScheduleRequest::default()
            },
            fault: None,
            connection: None,
        }
    }

    /// Queues many tasks at once, in this order: all of them, or none if one is refused. Several
    /// thousand in a call are fine; each goes its own way afterwards.
    ///
    /// ```no_run
    /// # async fn example(rework: rework::Client) -> Result<(), rework::client::ClientError> {
    /// let tasks = rework
    ///     .schedule_many((1..=1000).map(|n| rework.schedule("my_first_task").input(n)))
    ///     .await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn schedule_many(
        &self,
        tasks: impl IntoIterator<Item = Schedule<'static>>,
    ) -> Result<Vec<Task>> {
        let requests = tasks
            .into_iter()
            .map(|task| match task.fault {
                Some(fault) => Err(fault),
                None => Ok(task.request),
            })
            .collect::<Result<Vec<ScheduleRequest>>>()?;
        let queued = self.store().task_schedule_many(&requests).await?;
        Ok(queued
            .into_iter()
            .map(|queued| Task::queued(self.clone(), queued))
            .collect())
    }
}

impl<'t> Schedule<'t> {
    /// The input: an object of fields for an operation that declares them, any JSON for others.
    pub fn input(mut self, input: impl Serialize) -> Self {
        match to_json(&input) {
            Ok(input) => self.request.input = Some(input),
            Err(fault) => self.fault = Some(ClientError::Input(format!("the input {fault}"))),
        }
        self
    }

    /// The input as bytes, which reach the operation as they are.
    pub fn raw_input(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.request.input_raw = Some(bytes.into());
        self
    }

    /// The content of a file field of the input, without any encoding on its way.
    pub fn input_file(mut self, field: impl Into<String>, content: impl Into<Vec<u8>>) -> Self {
        self.request.files.push(FileContent {
            name: field.into(),
            content: content.into(),
        });
        self
    }

    /// The domain, for a name that exists in several.
    pub fn domain(mut self, domain: impl Into<String>) -> Self {
        self.request.domain = Some(domain.into());
        self
    }

    /// Pins the task to a host.
    pub fn host(mut self, host: impl Into<String>) -> Self {
        self.request.host = Some(host.into());
        self
    }

    /// Notes that stay with the task; an object.
    pub fn metadata(mut self, metadata: Value) -> Self {
        self.request.metadata = Some(metadata);
        self
    }

    /// Higher runs first; 0 if nothing is said.
    pub fn priority(mut self, priority: i32) -> Self {
        self.request.priority = priority;
        self
    }

    /// Not before this time.
    pub fn at(mut self, time: DateTime<Utc>) -> Self {
        self.request.at = Some(time);
        self
    }

    /// Not before so long from now.
    pub fn delay(mut self, delay: Duration) -> Self {
        self.request.delay_ms = Some(u64::try_from(delay.as_millis()).unwrap_or(u64::MAX));
        self
    }

    /// While a task of the operation with this key exists, waiting, running or ended, scheduling again
    /// answers that task; [`Task::is_new`] tells. With another input it is refused. The key is free again
    /// when the task is deleted, which `rework monitor --vacuum` does a day after its end, unless told
    /// otherwise.
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.request.key = Some(key.into());
        self
    }

    /// How often it may be tried; otherwise what the operation declares.
    pub fn max_attempts(mut self, attempts: u32) -> Self {
        self.request.max_attempts = Some(i32::try_from(attempts).unwrap_or(i32::MAX));
        self
    }

    /// Queues it within a transaction of the caller: it exists if and only if that commits.
    pub fn in_transaction<'c>(self, connection: &'c mut PgConnection) -> Schedule<'c> {
        let Schedule {
            client,
            request,
            fault,
            connection: _,
        } = self;
        Schedule {
            client,
            request,
            fault,
            connection: Some(connection),
        }
    }

    async fn send(self) -> Result<Task> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        let mut session = self.connection.map(Session::theirs);
        let queued = self
            .client
            .store()
            .task_queue(&self.request, session.as_mut())
            .await?;
        Ok(Task::queued(self.client, queued))
    }
}

impl<'t> IntoFuture for Schedule<'t> {
    type Output = Result<Task>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send + 't>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.send())
    }
}
