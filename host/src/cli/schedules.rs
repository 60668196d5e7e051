//! Schedules: prepare, unprepare, list, plan, export, import.

use super::{
    args::{ListScheduledArgs, PlanArgs, PrepareArgs, TransferArgs, UnprepareArgs},
    exit::{Failure, Result},
    files::{read, read_at_most, save},
    format,
    operations::note_unknown,
    output,
    schedule::check_given_once,
};
use crate::client::{Client, ScheduleFile};
use chrono::TimeDelta;
use std::path::Path;

/// The largest file of schedules in bytes; a larger one is something else.
const LARGEST: u64 = 1 << 28;

pub(super) async fn prepare(args: PrepareArgs) -> Result<()> {
    check_given_once(&args.input)?;
    let client = Client::connect(&args.db).await?;
    let mut prepare = client
        .prepare(&args.name, &args.rule)
        .timezone(&args.timezone)
        .catch_up(args.catch_up);
    if let Some(input) = args.input.input {
        prepare = prepare.input(input);
    }
    for (field, path) in args.input.input_file {
        prepare = prepare.input_file(field, read(&path)?);
    }
    if let Some(path) = args.input.raw_input {
        prepare = prepare.raw_input(read(&path)?);
    }
    if let Some(domain) = args.domain {
        prepare = prepare.domain(domain);
    }
    if let Some(host) = args.host {
        prepare = prepare.host(host);
    }
    if let Some(metadata) = args.metadata {
        prepare = prepare.metadata(metadata);
    }
    if args.every_second {
        prepare = prepare.every_second();
    }
    let notes = prepare.notes();
    let id = prepare.await?;
    for note in notes {
        output::note(&format!("note: {note}"));
    }
    // From here on the schedule exists, and every error says so.
    let with_schedule = |failure: Failure| failure.after(&format!("schedule {id} is prepared"));
    let waits = client.schedule_waits_for_host(id).await;
    if let Some(waits) = waits.map_err(|error| with_schedule(error.into()))? {
        output::note(&format!(
            "note: the tasks of schedule {id} wait for {waits}"
        ));
    }
    output::line(&id.to_string()).map_err(with_schedule)
}

pub(super) async fn unprepare(args: UnprepareArgs) -> Result<()> {
    let client = Client::connect(&args.db).await?;
    let removed = client.unprepare(args.id).await?;
    if removed == 0 {
        return Err(
            Failure::new(format!("no schedule {}", args.id)).hint("see `rework list-scheduled`")
        );
    }
    output::done(&format!(
        "{} : removed {removed} prepared operation",
        args.id
    ))
}

pub(super) async fn list(args: ListScheduledArgs) -> Result<()> {
    let client = Client::connect(&args.db).await?;
    let rows = client.schedules(args.domain.as_deref()).await?;
    if rows.is_empty() {
        note_unknown(&client, args.domain.as_deref(), None).await?;
    }
    if args.json {
        return output::json(&rows);
    }
    rows.iter()
        .try_for_each(|row| output::line(&format::schedule(row)))
}

pub(super) async fn plan(args: PlanArgs) -> Result<()> {
    let client = Client::connect(&args.db).await?;
    let milliseconds = (args.hours * 3_600_000.0).round();
    let within = TimeDelta::try_milliseconds(milliseconds as i64).unwrap_or(TimeDelta::MAX);
    let mut plan = client
        .scheduled_plan(&args.domain, within, args.limit.saturating_add(1))
        .await?;
    if plan.is_empty() {
        note_unknown(&client, Some(&args.domain), None).await?;
    }
    if plan.len() > args.limit {
        plan.truncate(args.limit);
        output::note(&format!(
            "only the first {} runs are shown: see --limit",
            args.limit
        ));
    }
    if args.json {
        return output::json(&plan);
    }
    plan.iter()
        .try_for_each(|run| output::line(&format::planned(run)))
}

pub(super) async fn export(args: TransferArgs) -> Result<()> {
    let client = Client::connect(&args.db).await?;
    let file = client.export_schedules().await?;
    let text = serde_json::to_string_pretty(&file).map_err(std::io::Error::other)?;
    if args.path == Path::new("-") {
        return output::json_text(&text);
    }
    let path = args.path.display();
    save(&args.path, text + "\n")
        .map_err(|error| Failure::new(format!("could not write {path}: {error}")))?;
    output::done(&format!("saved {} entries into {path}", file.len()))
}

pub(super) async fn import(args: TransferArgs) -> Result<()> {
    let client = Client::connect(&args.db).await?;
    let path = args.path.display();
    let text = String::from_utf8(read_at_most(&args.path, LARGEST)?)
        .map_err(|_| Failure::new(format!("{path} is no text")))?;
    let file =
        ScheduleFile::parse(&text).map_err(|fault| Failure::new(format!("{path} {fault}")))?;
    let count = client.import_schedules(file).await?;
    output::done(&format!("loaded {count} entries from {path}"))
}
