//! Queuing a task, and waiting for it.

use super::{
    args::{InputArgs, ScheduleArgs},
    exit::{Failure, Result},
    files::read,
    outage::{patiently, reporting},
    output,
};
use crate::{
    client::{Client, ClientError, Payload, Task},
    model::{TaskId, task::TaskState},
};

pub(super) async fn schedule(args: ScheduleArgs) -> Result<()> {
    check_given_once(&args.input)?;
    let client = Client::connect(&args.db).await?;
    let mut schedule = client.schedule(&args.name).priority(args.priority);
    if let Some(input) = args.input.input {
        schedule = schedule.input(input);
    }
    for (field, path) in args.input.input_file {
        schedule = schedule.input_file(field, read(&path)?);
    }
    if let Some(path) = args.input.raw_input {
        schedule = schedule.raw_input(read(&path)?);
    }
    if let Some(domain) = args.domain {
        schedule = schedule.domain(domain);
    }
    if let Some(host) = args.host {
        schedule = schedule.host(host);
    }
    if let Some(metadata) = args.metadata {
        schedule = schedule.metadata(metadata);
    }
    if let Some(time) = args.at {
        schedule = schedule.at(time);
    }
    if let Some(delay) = args.delay {
        schedule = schedule.delay(delay);
    }
    let has_key = args.key.is_some();
    if let Some(key) = args.key {
        schedule = schedule.key(key);
    }
    if let Some(attempts) = args.max_attempts {
        schedule = schedule.max_attempts(attempts);
    }
    let task = schedule.await?;
    let queued = if task.is_new() {
        format!("task {} is queued", task.id())
    } else {
        format!("task {} was known by its key", task.id())
    };
    if has_key && !task.is_new() {
        output::note(&queued);
    }
    // From here on the task exists, and every error says so.
    let with_task = |failure: Failure| failure.after(&queued);
    if task.is_new() {
        note_waits(&client, task.id()).await.map_err(with_task)?;
    }
    if !args.wait {
        return output::line(&task.id().to_string()).map_err(with_task);
    }
    let join = async {
        match args.timeout {
            Some(timeout) => task.join_timeout(timeout).await,
            None => task.join().await,
        }
    };
    let goes_on = format!("it goes on; see `rework show-task {} --json`", task.id());
    let joined = tokio::select! {
        joined = reporting(&client, join) => joined,
        _ = tokio::signal::ctrl_c() => {
            let interrupted = format!("interrupted while task {} was waited for", task.id());
            return Err(Failure::new(interrupted).hint(goes_on));
        }
    };
    match joined {
        Ok(TaskState::Done) => print_output(&task)
            .await
            .map_err(|failure| failure.after(&format!("task {} is done", task.id()))),
        Ok(state) => {
            let in_short = || format!("task {} {state}", task.id());
            let why = ended(&task, state).await;
            let why = why.map_err(|failure| failure.after(&in_short()))?;
            Err(Failure::new(why))
        }
        Err(error @ ClientError::Timeout { .. }) => Err(Failure::from(error).hint(goes_on)),
        Err(error) => Err(with_task(error.into())),
    }
}

/// Prints a note if the task waits for a host without a monitor while others have one.
async fn note_waits(client: &Client, task: TaskId) -> Result<()> {
    if let Some(waits) = client.waits_for_host(task).await? {
        output::note(&format!("note: task {task} waits for {waits}"));
    }
    Ok(())
}

/// How a task ended, in words: `task 7 failed: error: not an integer`.
async fn ended(task: &Task, state: TaskState) -> Result<String> {
    let why = patiently(async || task.error().await).await?;
    Ok(match why {
        Some(why) => format!("task {} {state}: {why}", task.id()),
        None => format!("task {} {state}", task.id()),
    })
}

/// Prints the output: JSON on one line, raw bytes as they are, nothing if there is none.
async fn print_output(task: &Task) -> Result<()> {
    print_payload(patiently(async || task.output_payload().await).await?)
}

pub(super) fn print_payload(payload: Payload) -> Result<()> {
    match payload {
        Payload::None => Ok(()),
        Payload::Fields(fields) => output::json_text(&fields.to_string()),
        Payload::Raw(content) => output::bytes(&content),
    }
}

/// Returns an error if a field is given both in the input and as a file.
pub(super) fn check_given_once(args: &InputArgs) -> Result<()> {
    let files = &args.input_file;
    let twice = files.iter().enumerate().find(|(place, (field, _))| {
        let in_input = args
            .input
            .as_ref()
            .is_some_and(|input| input.get(field).is_some());
        in_input || files[..*place].iter().any(|(other, _)| other == field)
    });
    match twice {
        Some((_, (field, _))) => Err(Failure::usage(format!("input `{field}` is given twice"))),
        None => Ok(()),
    }
}
