//! Schedules: prepare, take back, list, look ahead, export, import.

use super::{
    args::{ListScheduledArgs, PlanArgs, PrepareArgs, TransferArgs, UnprepareArgs},
    exit::{Failure, Result},
    format, output,
    schedule::{check_given_once, read, read_at_most},
};
use crate::client::{Client, ScheduleFile};
use chrono::TimeDelta;
use std::{
    fs,
    io::Write,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
};

/// A file of schedules beyond this is none.
const LARGEST: u64 = 1 << 28;

pub(super) async fn prepare(args: PrepareArgs) -> Result<()> {
    check_given_once(args.input.as_ref(), &args.input_file)?;
    let client = Client::connect(&args.db).await?;
    let mut prepare = client
        .prepare(&args.name, &args.rule)
        .timezone(&args.timezone)
        .catch_up(args.catch_up);
    if let Some(input) = args.input {
        prepare = prepare.input(input);
    }
    for (field, path) in args.input_file {
        prepare = prepare.input_file(field, read(&path)?);
    }
    if let Some(path) = args.raw_input {
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
    output::line(&prepare.await?.to_string())
}

pub(super) async fn unprepare(args: UnprepareArgs) -> Result<()> {
    let client = Client::connect(&args.db).await?;
    let removed = client.unprepare(args.id).await?;
    output::line(&format!(
        "{} : removed {removed} prepared operation",
        args.id
    ))
}

pub(super) async fn list(args: ListScheduledArgs) -> Result<()> {
    let client = Client::connect(&args.db).await?;
    let rows = client.schedules(args.domain.as_deref()).await?;
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
    output::line(&format!("saved {} entries into {path}", file.len()))
}

/// Writes a file beside its place first: a disk that is full leaves the one that was there, which
/// keeps its owner and who may read it. What is no regular file (a pipe, a terminal), or lies where
/// nothing can be made, is written to as it is.
fn save(path: &Path, text: String) -> std::io::Result<()> {
    let existing = fs::metadata(path).ok();
    if existing
        .as_ref()
        .is_some_and(|existing| !existing.is_file())
    {
        return fs::write(path, text);
    }
    // Of what a link points to.
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let directory = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let made = tempfile::Builder::new()
        .permissions(fs::Permissions::from_mode(0o666))
        .tempfile_in(directory);
    let mut file = match made {
        Ok(file) => file,
        // Perhaps it can be written to; if not, that says why.
        Err(_) => return fs::write(path, text),
    };
    file.write_all(text.as_bytes())?;
    if let Some(existing) = existing {
        let (owner, group) = (Some(existing.uid()), Some(existing.gid()));
        if std::os::unix::fs::fchown(file.as_file(), owner, group).is_err() {
            return fs::write(path, text);
        }
        file.as_file().set_permissions(existing.permissions())?;
    }
    file.persist(&path)?;
    Ok(())
}

pub(super) async fn import(args: TransferArgs) -> Result<()> {
    let client = Client::connect(&args.db).await?;
    let path = args.path.display();
    let text = String::from_utf8(read_at_most(&args.path, LARGEST)?)
        .map_err(|_| Failure::new(format!("{path} is no text")))?;
    let file =
        ScheduleFile::parse(&text).map_err(|fault| Failure::new(format!("{path} {fault}")))?;
    let count = client.import_schedules(file).await?;
    output::line(&format!("loaded {count} entries from {path}"))
}
