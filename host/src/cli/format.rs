//! The lines of the listings for people.

use super::output::{coloured, state};
use crate::{
    client::{PlannedRun, ScheduleReport},
    model::{plugin::short_hash, time::human},
    store::{AttemptRow, LogRow, MonitorRow, OperationRow, PluginRow, TaskRow, WorkerRow},
};
use anstyle::AnsiColor;
use chrono::{DateTime, Utc};
use serde_json::Value;

/// An operation on one line: ``ID `NAME` DOMAIN path(PATH) host(HOST)``.
pub(super) fn operation(row: &OperationRow) -> String {
    let name = coloured(&row.name, AnsiColor::Green);
    let paused = if row.paused { " [paused]" } else { "" };
    let OperationRow {
        id,
        domain,
        path,
        host,
        ..
    } = row;
    format!("{id} `{name}` {domain} path({path}) host({host}){paused}")
}

/// A version of a plugin on one line: `HASH NAME VERSION domain(D) host(H) path(P) [since] → [until] N
/// tasks current`, or `refused REASON host(H) [since]`.
pub(super) fn plugin(row: &PluginRow) -> String {
    let PluginRow { host, path, .. } = row;
    if let Some(reason) = &row.refused {
        let word = coloured("refused", AnsiColor::Red);
        return format!("{word} {reason} host({host}) {}", times(&[Some(row.since)]));
    }
    let hash = short_hash(row.hash.as_deref().unwrap_or_default());
    let name = row.name.as_deref().unwrap_or_default();
    let version = row.version.as_deref().unwrap_or_default();
    let domain = row.domain.as_deref().unwrap_or_default();
    let mut text = format!(
        "{hash} {name} {version} domain({domain}) host({host}) path({path}) {} {} tasks",
        times(&[Some(row.since), row.until]),
        row.tasks
    );
    if row.published {
        text += " published";
    }
    if row.current {
        text += &format!(" {}", coloured("current", AnsiColor::Green));
    }
    text
}

/// A task on one line: `ID NAME STATE domain=D [queued] → [started] → [finished] cause`.
pub(super) fn task(row: &TaskRow) -> String {
    let TaskRow {
        id,
        operation,
        domain,
        ..
    } = row;
    let mut text = format!("{id} {operation} {} domain={domain}", state(&row.state));
    if let Some(lines) = row.log_lines {
        text += &format!(" [{lines} log lines]");
    }
    text += &format!(" {}", times(&[Some(row.queued), row.started, row.finished]));
    if let Some(cause) = why(row.cause.as_deref(), row.error.as_deref()) {
        text += &format!(" {}", coloured(&cause, AnsiColor::Red));
    }
    text
}

/// An attempt on one line: `ATTEMPT STATE TIMES CAUSE`.
pub(super) fn attempt(row: &AttemptRow) -> String {
    let times = times(&[row.started, row.finished]);
    let mut text = format!("{} {} {times}", row.attempt, state(&row.state));
    if let Some(cause) = why(row.cause.as_deref(), row.error.as_deref()) {
        text += &format!(" {}", coloured(&cause, AnsiColor::Red));
    }
    text
}

/// The beginning of a message that is too long for a listing; `show-task` prints all of it.
fn shortened(message: &str) -> String {
    const LONGEST: usize = 500;
    match message.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &message[..end]),
        None => message.to_owned(),
    }
}

/// Cause and message on one line: `cause: error`.
pub(super) fn why(cause: Option<&str>, error: Option<&str>) -> Option<String> {
    let cause = cause?;
    Some(
        match error.map(|error| error.lines().next().unwrap_or_default()) {
            Some(error) if !error.is_empty() => format!("{cause}: {}", shortened(error)),
            _ => cause.to_owned(),
        },
    )
}

/// The beginning of a long text, and the command that prints all of it.
pub(super) fn excerpt(text: &str, command: &str) -> String {
    const LONGEST: usize = 2000;
    if text.len() <= LONGEST {
        return text.to_owned();
    }
    let start = &text[..text.floor_char_boundary(LONGEST)];
    format!("{start} … ({} bytes; `{command}` prints all)", text.len())
}

fn times(times: &[Option<DateTime<Utc>>]) -> String {
    let known: Vec<String> = times
        .iter()
        .flatten()
        .map(|time| format!("[{}]", human(*time)))
        .collect();
    known.join(" → ")
}

/// A log line: `stdout:INFO: 2018-11-28 16:08:27: I am running`.
pub(super) fn log_line(row: &LogRow) -> String {
    let source = match (&row.target, row.stream.as_str()) {
        (Some(target), "log") => target,
        (_, stream) => stream,
    };
    let level = row.level.to_uppercase();
    let level = match level.as_str() {
        "ERROR" => coloured(&level, AnsiColor::Red),
        "WARN" => coloured(&level, AnsiColor::Yellow),
        "INFO" => coloured(&level, AnsiColor::Green),
        "DEBUG" => coloured(&level, AnsiColor::Blue),
        _ => coloured(&level, AnsiColor::BrightBlack),
    };
    format!(
        "{source}:{level}: {}: {}",
        row.time.format("%Y-%m-%d %H:%M:%S"),
        // Further lines of the same record are indented.
        row.line.trim_end_matches('\n').replace('\n', "\n    ")
    )
}

/// A worker on one line: `ID PID@HOST N Mb [running (idle)] [created] → [started] → [finished] CAUSE`.
pub(super) fn worker(row: &WorkerRow) -> String {
    let pid = row
        .pid
        .map_or_else(|| "?".to_owned(), |pid| pid.to_string());
    let memory = row.memory_mb.unwrap_or_default().round();
    let doing = match (row.state.as_str(), row.task) {
        ("running", Some(task)) => state("running") + &format!(" #{task}"),
        ("idle", _) => state("running") + " (idle)",
        (other, _) => state(other),
    };
    let WorkerRow {
        id, host, domain, ..
    } = row;
    let mut text = format!(
        "{id} {pid}@{host} {memory} Mb [{doing}] {}",
        times(&[Some(row.created), row.started, row.finished])
    );
    if domain != "default" {
        text += &format!(" domain={domain}");
    }
    if let (Some(plugin), Some(seconds)) = (&row.plugin, row.loading_seconds) {
        text += &format!(" loading {plugin} for {seconds:.0} s");
    }
    if let Some(cause) = why(row.cause.as_deref(), row.error.as_deref()) {
        text += &format!(" {}", coloured(&cause, AnsiColor::Red));
    }
    text
}

/// A schedule on one line: ``ID `NAME` DOMAIN `HOST` `META` "RULE"``.
pub(super) fn schedule(row: &ScheduleReport) -> String {
    let name = coloured(&row.operation, AnsiColor::Green);
    let host = row.host.as_deref().unwrap_or("no host");
    let meta = row
        .metadata
        .as_ref()
        .map_or_else(|| "no meta".to_owned(), Value::to_string);
    let mut text = format!(
        "{} `{name}` {} `{host}` `{meta}` \"{}\"",
        row.id, row.domain, row.rule
    );
    if row.timezone != "UTC" {
        text += &format!(" {}", row.timezone);
    }
    if row.paused {
        text += " [paused]";
    }
    if let Some(error) = &row.error {
        text += &format!(
            " {}",
            coloured(&format!("refused: {error}"), AnsiColor::Red)
        );
    }
    text
}

/// A planned run on one line: `TIME NAME`.
pub(super) fn planned(run: &PlannedRun) -> String {
    format!("{} {}", human(run.time), run.operation)
}

/// A monitor on one line: `ID LASTSEEN DOMAIN options(k=v, …) host(HOST) pid(PID) workers(N)`.
pub(super) fn monitor(row: &MonitorRow, workers: usize) -> String {
    let options = match &row.options {
        Value::Object(options) => options
            .iter()
            .map(|(name, value)| match value {
                Value::String(text) => format!("{name}={text}"),
                other => format!("{name}={other}"),
            })
            .collect::<Vec<_>>(),
        _ => Vec::new(),
    };
    let domains = if row.domains.is_empty() {
        "(all)".to_owned()
    } else {
        row.domains.join(",")
    };
    let mut text = format!(
        "{} {} {domains} options({}) host({}) pid({}) workers({workers})",
        row.id,
        human(row.last_seen),
        options.join(", "),
        row.host,
        row.pid
    );
    if row.stale {
        text += &format!(" {}", coloured("stale", AnsiColor::Red));
    }
    text
}
