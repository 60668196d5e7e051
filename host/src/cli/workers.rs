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
    output::done(&match lost_monitor(&client, args.id).await? {
        Some(seen) => format!(
            "worker {} is taken for dead when a monitor runs: {seen}",
            args.id
        ),
        None => format!("worker {} will end after its task", args.id),
    })
}

/// Says when the monitor of a worker was last seen, if it is no longer alive.
async fn lost_monitor(client: &Client, worker: WorkerId) -> Result<Option<String>> {
    let workers = client.workers(None, true).await?;
    let worker = workers.iter().find(|row| row.id == worker.0);
    let monitors = client.monitors().await?;
    let lost = monitors
        .iter()
        .find(|monitor| monitor.stale && worker.is_some_and(|row| row.monitor == monitor.id));
    Ok(lost.map(|monitor| {
        let seen = crate::model::time::human(monitor.last_seen);
        format!("its monitor {} was last seen {seen}", monitor.id)
    }))
}

pub(super) async fn kill(args: WorkerArgs) -> Result<()> {
    let client = Client::connect(&args.db).await?;
    client.kill_worker(args.id).await?;
    output::done(&match lost_monitor(&client, args.id).await? {
        Some(seen) => format!(
            "worker {} is taken for dead when a monitor runs: {seen}",
            args.id
        ),
        None => format!("worker {} is being killed", args.id),
    })
}
