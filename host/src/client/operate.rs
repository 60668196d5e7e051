//! What operators do to a running system: pause and resume, end workers, remove what is old.

use super::{Client, error::Result};
use crate::model::{OperationId, WorkerId};
use std::time::Duration;

/// Something whose tasks wait.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Paused {
    /// The domain.
    pub domain: String,
    /// The operation; none: the whole domain.
    pub operation: Option<String>,
}

impl Client {
    /// Lets the tasks of a domain wait, or run again; false: no operation is in this domain.
    pub async fn pause_domain(&self, domain: &str, paused: bool) -> Result<bool> {
        Ok(self.store().domain_pause(domain, paused).await?)
    }

    /// Lets the tasks of an operation wait, or run again. Running ones go on.
    pub async fn pause_operation(
        &self,
        operation: &str,
        domain: Option<&str>,
        paused: bool,
    ) -> Result<()> {
        let store = self.store();
        let id = match self.paused_operation(operation, domain).await? {
            // Perhaps one that no host offers at the moment, so that it is not resolved.
            Some(id) if !paused => id,
            _ => store.operation_resolve(operation, domain, None).await?.id,
        };
        Ok(store.operation_pause(id, paused).await?)
    }

    /// The one paused operation of this name, if there is just one.
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

    /// What is paused.
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

    /// Asks for the end of a worker after its task; its monitor sees to it.
    pub async fn shutdown_worker(&self, worker: WorkerId) -> Result<()> {
        Ok(self.store().worker_ask(worker, false).await?)
    }

    /// Asks for the end of a worker at once; the task that it runs is aborted.
    pub async fn kill_worker(&self, worker: WorkerId) -> Result<()> {
        Ok(self.store().worker_ask(worker, true).await?)
    }

    /// Removes the dead workers that ended before `age` ago; their tasks stay. Answers how many.
    pub async fn vacuum_workers(&self, domain: Option<&str>, age: Duration) -> Result<u64> {
        Ok(self.store().worker_vacuum(domain, age).await?)
    }

    /// Removes the tasks that ended before `age` ago, with their logs and files; answers how many.
    pub async fn vacuum_tasks(&self, domain: Option<&str>, age: Duration) -> Result<i64> {
        Ok(self.store().task_vacuum(domain, age, false).await?)
    }

    /// Removes the tasks that wait and that nobody has claimed; answers how many.
    pub async fn vacuum_queued(&self, domain: Option<&str>) -> Result<i64> {
        Ok(self
            .store()
            .task_vacuum(domain, Duration::ZERO, true)
            .await?)
    }
}
