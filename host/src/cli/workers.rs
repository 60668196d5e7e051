//! Workers and monitors: list, end.

use super::{
    args::{ListMonitorsArgs, ListWorkersArgs, WorkerArgs},
    exit::Result,
    format,
    operations::note_unknown,
    output,
};
use crate::{client::Client, model::WorkerId, store::WorkerRow};

pub(super) async fn list_workers(args: ListWorkersArgs) -> Result<()> {
    let client = Client::connect(&args.db).await?;
    let rows = client.workers(args.domain.as_deref(), args.all).await?;
    if rows.is_empty() {
        note_unknown(&client, args.domain.as_deref(), None).await?;
    }
    if args.json {
        return output::json(&rows);
    }
    rows.iter()
        .try_for_each(|row| output::line(&format::worker(row)))
}

pub(super) async fn list_monitors(args: ListMonitorsArgs) -> Result<()> {
    let client = Client::connect(&args.db).await?;
    let rows = client.monitors().await?;
    if args.json {
        return output::json(&rows);
    }
    let workers = client.workers(None, false).await?;
    rows.iter().try_for_each(|row| {
        let is_its = |worker: &&WorkerRow| worker.monitor == row.id && worker.state != "dead";
        let count = workers.iter().filter(is_its).count();
        output::line(&format::monitor(row, count))
    })
}

pub(super) async fn shutdown(args: WorkerArgs) -> Result<()> {
    let client = Client::connect(&args.db).await?;
    client.shutdown_worker(args.id).await?;
    asked(&client, args.id, "will end after its task").await
}

pub(super) async fn kill(args: WorkerArgs) -> Result<()> {
    let client = Client::connect(&args.db).await?;
    client.kill_worker(args.id).await?;
    asked(&client, args.id, "is being killed").await
}

/// Says what becomes of a worker, which its monitor does, if that is alive.
async fn asked(client: &Client, worker: WorkerId, becomes: &str) -> Result<()> {
    output::done(&match client.lost_monitor(worker).await? {
        Some(seen) => format!(
            "worker {worker} is taken for dead when a monitor runs: its own was last seen {}",
            crate::model::time::human(seen)
        ),
        None => format!("worker {worker} {becomes}"),
    })
}
