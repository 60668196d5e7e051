//! Workers and monitors: list.

use super::{
    args::{ListMonitorsArgs, ListWorkersArgs},
    exit::Result,
    format, output,
};
use crate::client::Client;

pub(super) async fn list_workers(args: ListWorkersArgs) -> Result<()> {
    let client = Client::connect(&args.db).await?;
    let rows = client.workers(args.domain.as_deref(), args.all).await?;
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
    rows.iter()
        .try_for_each(|row| output::line(&format::monitor(row)))
}
