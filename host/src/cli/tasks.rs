//! Tasks: list, show, read, follow, abort.

use super::{
    args::{AbortTaskArgs, EndedTaskArgs, GetArgs, ListTasksArgs, LogTaskArgs, TaskArgs},
    exit::{Failure, Result},
    format,
    operations::note_unknown,
    outage::perhaps_patiently,
    output,
    schedule::print_payload,
};
use crate::{
    client::{Client, ClientError, Payload, Task, TaskReport},
    model::{TaskId, log, task::TaskState},
    store::{AttemptRow, FileInfo, LogRow, TaskFilter, TaskRow},
};
use anstyle::AnsiColor;
use serde_json::{Value, json};
use std::time::Duration;

pub(super) async fn list(args: ListTasksArgs) -> Result<()> {
    let client = Client::connect(&args.db).await?;
    let filter = TaskFilter {
        domain: args.domain,
        operation: args.operation,
        state: args.status,
        before: args.before,
        limit: args.limit,
        log_count: args.logcount,
        backtraces: args.tracebacks,
    };
    let rows = client.tasks(&filter).await?;
    if rows.is_empty() {
        let (domain, operation) = (filter.domain.as_deref(), filter.operation.as_deref());
        note_unknown(&client, domain, operation).await?;
    }
    if args.json {
        return output::json(&rows);
    }
    for row in &rows {
        output::line(&format::task(row))?;
        if filter.backtraces {
            traceback(row)?;
        }
    }
    Ok(())
}

/// Prints what a task's line leaves out of its error: the rest of the message, its location, and the
/// backtrace of a panic.
fn traceback(row: &TaskRow) -> Result<()> {
    let error = row.error.as_deref().unwrap_or_default();
    for line in error.lines().skip(1) {
        output::line(format!("    {line}").trim_end())?;
    }
    if let Some(location) = &row.location {
        output::line(&format!("  at {location}"))?;
    }
    row.backtrace.iter().try_for_each(|text| output::line(text))
}

pub(super) async fn show(args: TaskArgs) -> Result<()> {
    let client = Client::connect(&args.db).await?;
    let report = client.task(args.id).report().await?;
    let document = document(&report);
    if args.json {
        return output::json(&document);
    }
    output::line(&format::task(&report.row))?;
    let Value::Object(fields) = document else {
        return Ok(());
    };
    let said = [
        "id",
        "operation",
        "domain",
        "state",
        "queued",
        "started",
        "finished",
    ];
    for (name, value) in fields {
        let empty = match name.as_str() {
            // The first line shows the only attempt.
            "attempts" => report.attempts.is_empty(),
            _ => value.is_null() || value.as_array().is_some_and(Vec::is_empty),
        };
        if said.contains(&name.as_str()) || empty {
            continue;
        }
        let text = match (name.as_str(), value) {
            ("run_at", _) => format!("[{}]", crate::model::time::human(report.row.run_at)),
            ("peak_memory_mb", Value::Number(mb)) => {
                format!("{:.1}", mb.as_f64().unwrap_or_default())
            }
            // One line for each attempt.
            ("attempts", _) => attempts(&report).iter().fold(String::new(), |text, row| {
                text + "\n" + &format::attempt(row)
            }),
            ("last_lines", Value::Array(_)) => format!("\n{}", report.last_lines.join("\n")),
            ("input" | "output", value) => format::excerpt(
                &value.to_string(),
                &format!("rework get-{name} {}", args.id),
            ),
            ("waits", Value::String(what)) => format!("for {what}"),
            (_, Value::String(text)) => text,
            (_, other) => other.to_string(),
        };
        let mut lines = text.lines();
        let first = format!("  {name}: {}", lines.next().unwrap_or_default());
        output::line(first.trim_end())?;
        for more in lines {
            output::line(&format!("    {more}"))?;
        }
    }
    Ok(())
}

/// Everything that is known about a task, as one JSON object.
fn document(report: &TaskReport) -> Value {
    let mut document = serde_json::to_value(&report.row).expect("rows are plain JSON");
    let Value::Object(fields) = &mut document else {
        unreachable!("a row is an object")
    };
    let detail = &report.detail;
    let progress = detail
        .progress
        // Stored in single precision, so rounded to six decimals.
        .map(|fraction| (f64::from(fraction) * 1e6).round() / 1e6)
        .map(|fraction| json!({ "fraction": fraction, "message": detail.progress_message }));
    let (input, input_encoding) = shown(&report.input, &report.input_files);
    let (output, output_encoding) = shown(&report.output, &report.output_files);
    fields.extend([
        ("input".to_owned(), input),
        ("input_encoding".to_owned(), input_encoding),
        ("output".to_owned(), output),
        ("output_encoding".to_owned(), output_encoding),
        ("progress".to_owned(), json!(progress)),
        ("location".to_owned(), json!(detail.location)),
        ("backtrace".to_owned(), json!(detail.backtrace)),
        ("exit_code".to_owned(), json!(detail.exit_code)),
        ("signal".to_owned(), json!(detail.signal)),
        (
            "peak_memory_mb".to_owned(),
            json!(detail.peak_memory.map(|bytes| bytes as f64 / 1048576.0)),
        ),
        ("cpu_seconds".to_owned(), json!(detail.cpu_seconds)),
        ("plugin_hash".to_owned(), json!(detail.plugin_hash)),
        ("attempts".to_owned(), json!(attempts(report))),
        ("last_lines".to_owned(), json!(report.last_lines)),
        ("waits".to_owned(), json!(report.waits)),
    ]);
    document
}

/// Every attempt: the earlier ones, and the last, whose data is in the task's row.
fn attempts(report: &TaskReport) -> Vec<AttemptRow> {
    let row = &report.row;
    let last = row.started.map(|started| AttemptRow {
        attempt: row.attempt,
        state: row.state.clone(),
        cause: row.cause.clone(),
        error: row.error.clone(),
        worker: row.worker,
        started: Some(started),
        finished: row.finished,
    });
    report.attempts.iter().cloned().chain(last).collect()
}

/// A payload and its files for a listing: raw bytes and files by size and hash.
fn shown(payload: &Payload, files: &[FileInfo]) -> (Value, Value) {
    match payload {
        Payload::None => (Value::Null, Value::Null),
        Payload::Raw(content) => {
            let sha256 = crate::model::input::sha256(content);
            (
                json!({ "bytes": content.len(), "sha256": sha256 }),
                json!("raw"),
            )
        }
        Payload::Fields(fields) => {
            let mut fields = fields.clone();
            if let Value::Object(object) = &mut fields {
                for file in files.iter().filter(|file| !file.name.is_empty()) {
                    let shown = json!({ "bytes": file.size, "sha256": file.sha256 });
                    object.insert(file.name.clone(), shown);
                }
            }
            (fields, json!("fields"))
        }
    }
}

/// The input or the output of a task.
#[derive(Debug, Clone, Copy)]
pub(super) enum Side {
    Input,
    Output,
}

pub(super) async fn get(args: GetArgs, side: Side) -> Result<()> {
    let client = Client::connect(&args.db).await?;
    let task = client.task(args.id);
    let payload = match side {
        Side::Input => task.input_payload().await?,
        Side::Output => task.output_payload().await?,
    };
    let Some(field) = args.field else {
        return match payload {
            Payload::None => Err(nothing_there(&task, side).await?),
            payload => print_payload(payload),
        };
    };
    let content = match side {
        Side::Input => task.input_file(&field).await,
        Side::Output => task.output_file(&field).await,
    };
    match content {
        Ok(content) => output::bytes(&content),
        // The field is no file, but a field like any other.
        Err(error @ ClientError::UnknownField { .. }) => match payload {
            Payload::Fields(Value::Object(mut fields)) if fields.contains_key(&field) => {
                print_payload(Payload::Fields(fields.remove(&field).unwrap_or_default()))
            }
            _ => Err(error.into()),
        },
        Err(error) => Err(error.into()),
    }
}

/// Why there is nothing to print: scripts distinguish this from an empty output.
async fn nothing_there(task: &Task, side: Side) -> Result<Failure> {
    let id = task.id();
    Ok(match side {
        Side::Input => Failure::new(format!("task {id} has no input")),
        Side::Output => match task.state().await? {
            TaskState::Done => Failure::new(format!("task {id} has no output: it saved none")),
            state if state.is_terminal() => {
                Failure::new(format!("task {id} has no output: it {}", ended_as(state)))
                    .hint(format!("`rework log-task {id}` tells why"))
            }
            state => Failure::new(format!("task {id} has no output yet: it is {state}"))
                .hint(format!("`rework log-task {id} --watch` ends with the task")),
        },
    })
}

fn ended_as(state: TaskState) -> String {
    match state {
        TaskState::Failed => "failed".to_owned(),
        other => format!("was {other}"),
    }
}

pub(super) async fn log(args: LogTaskArgs) -> Result<()> {
    let client = Client::connect(&args.db).await?;
    let task = client.task(args.id);
    let mut after = args.fromid;
    let mut collected = Vec::new();
    if let Some(count) = args.tail {
        // The end of the log is read first, so that no line between the two queries is left out.
        after = client.log_end(args.id).await?;
        let level = args.level.unwrap_or(log::TRACE);
        for row in client.log_tail(args.id, level, after, count).await? {
            if args.json {
                collected.push(row);
            } else {
                output::line(&format::log_line(&row))?;
            }
        }
    }
    loop {
        // The state is read first: the lines of a task are written before its end, or with it.
        let state = perhaps_patiently(args.watch, async || task.state().await).await?;
        loop {
            let rows = perhaps_patiently(args.watch, async || {
                client.log_lines(args.id, after, 1000).await
            })
            .await?;
            let Some(last) = rows.last() else { break };
            after = last.id;
            for row in rows.into_iter().filter(|row| is_wanted(row, args.level)) {
                if args.json {
                    collected.push(row);
                } else {
                    output::line(&format::log_line(&row))?;
                }
            }
        }
        if !args.watch || state.is_terminal() {
            if args.json {
                return output::json(&collected);
            }
            return print_error(&task, state, args.watch).await;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn is_wanted(row: &LogRow, level: Option<u8>) -> bool {
    level.is_none_or(|level| log::level_number(&row.level).unwrap_or(3) <= level)
}

/// Prints the error of a failed task, after its log.
async fn print_error(task: &Task, state: TaskState, is_patient: bool) -> Result<()> {
    if !matches!(state, TaskState::Failed | TaskState::Aborted) {
        return Ok(());
    }
    let report = perhaps_patiently(is_patient, async || task.report().await).await?;
    if let Some(error) = perhaps_patiently(is_patient, async || task.error().await).await? {
        output::line(&output::coloured(&error, AnsiColor::Red))?;
    }
    if let Some(location) = &report.detail.location {
        output::line(&format!("  at {location}"))?;
    }
    if let Some(backtrace) = &report.detail.backtrace {
        output::line(backtrace)?;
    }
    Ok(())
}

pub(super) async fn abort(args: AbortTaskArgs) -> Result<()> {
    let client = Client::connect(&args.db).await?;
    each(&args.ids, async |id| {
        match client.task(id).abort(args.message.as_deref()).await? {
            TaskState::Aborted => Ok(format!("task {id} is aborted")),
            TaskState::Aborting => Ok(match client.task(id).lost_monitor().await? {
                Some(seen) => format!(
                    "task {id} is aborting: its monitor was last seen {}, so it ends when a monitor runs",
                    crate::model::time::human(seen)
                ),
                None => format!("task {id} is aborting: its worker is being killed"),
            }),
            state => Err(Failure::new(format!("task {id} is {state}"))),
        }
    })
    .await
}

pub(super) async fn retry(args: EndedTaskArgs) -> Result<()> {
    let client = Client::connect(&args.db).await?;
    each(&args.ids, async |id| {
        let attempt = client.task(id).retry().await?;
        Ok(format!("task {id} is queued again, attempt {attempt}"))
    })
    .await
}

pub(super) async fn delete(args: EndedTaskArgs) -> Result<()> {
    let client = Client::connect(&args.db).await?;
    each(&args.ids, async |id| {
        client.task(id).delete().await?;
        Ok(format!("task {id} is deleted, with its log"))
    })
    .await
}

/// Applies an action to each of these tasks, and prints its result. An error of one task does not keep the
/// others from it.
async fn each(ids: &[TaskId], mut act: impl AsyncFnMut(TaskId) -> Result<String>) -> Result<()> {
    let mut refused: Option<Failure> = None;
    let mut unprinted: Option<Failure> = None;
    for id in ids {
        match act(*id).await {
            Ok(done) => match &unprinted {
                None => unprinted = output::done(&done).err(),
                // What was done is said at least here, where the output takes nothing more.
                Some(_) => output::note(&done),
            },
            Err(failure) => {
                if let Some(before) = refused.replace(failure) {
                    // The exit code is that of the last error.
                    let _ = before.report();
                }
            }
        }
    }
    match (refused, unprinted) {
        (Some(refused), Some(unprinted)) => {
            let _ = unprinted.report();
            Err(refused)
        }
        (refused, unprinted) => refused.or(unprinted).map_or(Ok(()), Err),
    }
}
