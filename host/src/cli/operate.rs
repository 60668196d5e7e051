//! What operators do to a running system: vacuum, pause, resume.

use super::{
    args::{PauseArgs, VacuumArgs},
    exit::{Failure, Result},
    operations::refuse_unknown,
    output,
};
use crate::client::{Client, Paused};
use std::time::Duration;

pub(super) async fn vacuum(args: VacuumArgs) -> Result<()> {
    if args.workers == args.tasks {
        return Err(Failure::usage(
            "say what to delete: either --workers or --tasks",
        ));
    }
    if args.queued && args.workers {
        return Err(Failure::usage("--queued goes with --tasks"));
    }
    let client = Client::connect(&args.db).await?;
    let domain = args.domain.as_deref();
    refuse_unknown(&client, domain).await?;
    let age = Duration::from_secs(u64::from(args.days) * 86_400);
    if args.workers {
        let deleted = client.vacuum_workers(domain, age).await?;
        return output::done(&format!("deleted {deleted} workers"));
    }
    let deleted = if args.queued {
        client.vacuum_queued(domain).await?
    } else {
        client.vacuum_tasks(domain, age).await?
    };
    output::done(&format!("deleted {deleted} tasks"))
}

pub(super) async fn pause(args: PauseArgs, paused: bool) -> Result<()> {
    let client = Client::connect(&args.db).await?;
    let (now, what) = (if paused { "paused" } else { "resumed" }, named(&args));
    match (&args.operation, &args.domain, args.schedule) {
        (None, None, None) => {
            let command = if paused { "pause" } else { "resume" };
            return Err(Failure::usage(format!(
                "say what to {command}: --domain, --operation or --schedule"
            )));
        }
        (_, _, Some(schedule)) => {
            if !client.pause_schedule(schedule, paused).await? {
                return Err(Failure::new(format!("no schedule {schedule}"))
                    .hint("see `rework list-scheduled`"));
            }
        }
        (Some(operation), domain, None) => {
            client
                .pause_operation(operation, domain.as_deref(), paused)
                .await?;
        }
        (None, Some(domain), None) => {
            if !client.pause_domain(domain, paused).await? {
                return Err(
                    Failure::new(format!("no operation is in domain `{domain}`"))
                        .hint("see `rework list-operations`"),
                );
            }
        }
    }
    let printed = print(&client).await;
    printed.map_err(|failure| failure.after(&format!("{what} is {now}")))
}

/// The domain or operation that the arguments name, in words.
fn named(args: &PauseArgs) -> String {
    match (&args.operation, &args.domain, args.schedule) {
        (_, _, Some(schedule)) => format!("schedule {schedule}"),
        (Some(operation), _, None) => format!("operation `{operation}`"),
        (None, domain, None) => format!("domain {}", domain.as_deref().unwrap_or_default()),
    }
}

/// Prints every paused domain and operation.
async fn print(client: &Client) -> Result<()> {
    let mut lines: Vec<String> = client.paused().await?.iter().map(line).collect();
    let schedules = client.schedules(None).await?;
    lines.extend(
        schedules
            .iter()
            .filter(|row| row.paused)
            .map(|row| format!("schedule {} (`{}` {})", row.id, row.operation, row.domain)),
    );
    if lines.is_empty() {
        return output::line("nothing is paused");
    }
    lines
        .iter()
        .try_for_each(|line| output::line(&format!("paused: {line}")))
}

fn line(paused: &Paused) -> String {
    match &paused.operation {
        Some(operation) => format!("operation `{operation}` {}", paused.domain),
        None => format!("domain {}", paused.domain),
    }
}
