//! What operators do to a running system: pause and resume, end workers, delete old tasks and workers.

use super::{Client, error::Result};
use crate::model::{OperationId, WorkerId};
use chrono::{DateTime, Utc};
use std::time::Duration;

/// A paused domain or operation.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Paused {
    /// The name of the domain.
    pub domain: String,
    /// The name of the operation; `None`: the whole domain is paused.
    pub operation: Option<String>,
}

impl Client {
    /// Pauses or resumes a domain; `false`: the domain has no operation.
    pub async fn pause_domain(&self, domain: &str, paused: bool) -> Result<bool> {
        Ok(self.store().domain_pause(domain, paused).await?)
    }

    /// Pauses or resumes an operation. Running tasks go on.
    pub async fn pause_operation(
        &self,
        operation: &str,
        domain: Option<&str>,
        paused: bool,
    ) -> Result<()> {
        let store = self.store();
        let id = match self.paused_operation(operation, domain).await? {
            // A paused operation is found even if no host offers it at the moment.
            Some(id) if !paused => id,
            _ => store.operation_resolve(operation, domain, None).await?.id,
        };
        Ok(store.operation_pause(id, paused).await?)
    }

    /// The id of the paused operation with this name, if there is exactly one.
    async fn paused_operation(
        &self,
        name: &str,
        domain: Option<&str>,
    ) -> Result<Option<OperationId>> {
        let rows = self.store().paused_list().await?;
        let mut fitting = rows
            .into_iter()
            .filter(|row| domain.is_none_or(|domain| domain == row.domain))
            .filter_map(|row| row.operation)
            .filter(|(_, paused)| paused == name)
            .map(|(id, _)| id);
        Ok(fitting.next().filter(|_| fitting.next().is_none()))
    }

    /// Every paused domain and operation.
    pub async fn paused(&self) -> Result<Vec<Paused>> {
        let rows = self.store().paused_list().await?;
        Ok(rows
            .into_iter()
            .map(|row| Paused {
                domain: row.domain,
                operation: row.operation.map(|(_, name)| name),
            })
            .collect())
    }

    /// Asks a worker to end after its task; its monitor carries it out.
    pub async fn shutdown_worker(&self, worker: WorkerId) -> Result<()> {
        Ok(self.store().worker_ask(worker, false).await?)
    }

    /// Asks to kill a worker; the task that it runs is aborted.
    pub async fn kill_worker(&self, worker: WorkerId) -> Result<()> {
        Ok(self.store().worker_ask(worker, true).await?)
    }

    /// When the monitor of a worker was last seen, if it is no longer alive.
    pub(crate) async fn lost_monitor(&self, worker: WorkerId) -> Result<Option<DateTime<Utc>>> {
        Ok(self.store().worker_lost_monitor(worker).await?)
    }

    /// Deletes workers that died more than `age` ago; their tasks stay. Returns how many were deleted.
    pub async fn vacuum_workers(&self, domain: Option<&str>, age: Duration) -> Result<u64> {
        Ok(self.store().worker_vacuum(domain, age).await?)
    }

    /// Deletes tasks that ended more than `age` ago, with their logs and files. Returns how many were
    /// deleted.
    pub async fn vacuum_tasks(&self, domain: Option<&str>, age: Duration) -> Result<i64> {
        Ok(self.store().task_vacuum(domain, age, false).await?)
    }

    /// Deletes queued tasks that no monitor has claimed. Returns how many were deleted.
    pub async fn vacuum_queued(&self, domain: Option<&str>) -> Result<i64> {
        Ok(self
            .store()
            .task_vacuum(domain, Duration::ZERO, true)
            .await?)
    }
}
