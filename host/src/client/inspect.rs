//! Listings, which the command line and the web UI only format.

use super::{Client, Task, error::Result};
use crate::{
    model::{TaskId, log::LEVELS},
    store::{
        BatchRow, LogRow, MonitorRow, OperationRow, Retired, ScheduleRequest, TaskFilter, TaskRow,
        WorkerRow,
    },
};

impl Client {
    /// A handle of a task. No query is sent before the handle is used.
    pub fn task(&self, id: impl Into<TaskId>) -> Task {
        Task::new(self.clone(), id.into())
    }

    /// Every operation on every host; `domain` limits them to one domain.
    pub async fn operations(&self, domain: Option<&str>) -> Result<Vec<OperationRow>> {
        Ok(self.store().operation_list(domain).await?)
    }

    /// Whether any host has ever offered an operation with this name in this domain (`None`: in any).
    pub async fn knows_operation(
        &self,
        domain: Option<&str>,
        operation: Option<&str>,
    ) -> Result<bool> {
        Ok(self.store().operation_exists(domain, operation).await?)
    }

    /// The newest tasks that the filter lets through, the newest first.
    pub async fn tasks(&self, filter: &TaskFilter) -> Result<Vec<TaskRow>> {
        Ok(self.store().task_list(filter).await?)
    }

    /// The workers. Without `all`, workers that died more than a day ago are left out.
    pub async fn workers(&self, domain: Option<&str>, all: bool) -> Result<Vec<WorkerRow>> {
        Ok(self.store().worker_list(domain, all).await?)
    }

    /// The monitors that have not ended in order.
    pub async fn monitors(&self) -> Result<Vec<MonitorRow>> {
        Ok(self.store().monitor_list().await?)
    }

    /// At most `limit` log lines of a task after the line with number `after`.
    pub async fn log_lines(&self, task: TaskId, after: i64, limit: i64) -> Result<Vec<LogRow>> {
        Ok(self.store().log_lines(task, after, limit).await?)
    }

    /// The number of a task's last log line; 0 if it has none.
    pub async fn log_end(&self, task: TaskId) -> Result<i64> {
        Ok(self.store().log_end(task).await?)
    }

    /// The last log lines of a task, up to the line number `until`, of at least this level: at most `limit`
    /// of them.
    pub async fn log_tail(
        &self,
        task: TaskId,
        level: u8,
        until: i64,
        limit: i64,
    ) -> Result<Vec<LogRow>> {
        let levels: Vec<String> = LEVELS
            .into_iter()
            .take(usize::from(level) + 1)
            .map(str::to_owned)
            .collect();
        Ok(self.store().log_tail(task, &levels, until, limit).await?)
    }

    /// The deployments of an operation; `module` is an SQL `LIKE` pattern.
    pub async fn deployments(
        &self,
        operation: &str,
        domain: Option<&str>,
        module: Option<&str>,
        host: Option<&str>,
    ) -> Result<Vec<Retired>> {
        Ok(self
            .store()
            .operation_find(operation, domain, module, host)
            .await?)
    }

    /// Retires deployments; tasks, logs and schedules of their operations stay.
    pub async fn unregister(&self, deployments: &[Retired]) -> Result<()> {
        let ids: Vec<i32> = deployments.iter().map(|deployment| deployment.id).collect();
        Ok(self.store().operation_retire(&ids).await?)
    }

    /// Queues `count` tasks of an operation that takes no input; for the benchmark.
    pub(crate) async fn schedule_copies(
        &self,
        operation: &str,
        domain: &str,
        count: u32,
    ) -> Result<Vec<i64>> {
        let request = ScheduleRequest {
            operation: operation.to_owned(),
            domain: Some(domain.to_owned()),
            ..ScheduleRequest::default()
        };
        let operation = self.store().task_check(&request).await?;
        Ok(self
            .store()
            .task_enqueue_copies(operation.id, count)
            .await?)
    }

    /// How far a batch of tasks has come; for the benchmark.
    pub(crate) async fn batch(&self, tasks: &[i64]) -> Result<BatchRow> {
        Ok(self.store().task_batch(tasks).await?)
    }
}
