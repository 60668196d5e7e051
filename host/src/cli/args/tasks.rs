//! What the commands about tasks take.

use super::values::{duration, field_and_path, integer_in, json, key, level, time};
use crate::model::{TaskId, duration::parse_duration, name::parse_name, task::TaskState};
use chrono::{DateTime, Utc};
use clap::Args;
use serde_json::Value;
use std::{path::PathBuf, time::Duration};

#[derive(Debug, Args)]
pub(crate) struct ScheduleArgs {
    /// The database
    pub(crate) db: String,
    /// The operation's name
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) input: InputArgs,
    /// The domain, for a name that exists in several
    #[arg(long)]
    pub(crate) domain: Option<String>,
    /// Run on this host only
    #[arg(long, value_parser = parse_name)]
    pub(crate) host: Option<String>,
    /// Notes that stay with the task; a JSON object
    #[arg(long, value_name = "JSON", value_parser = json)]
    pub(crate) metadata: Option<Value>,
    /// Higher runs first: a number from -32767 to 32767
    #[arg(long, default_value_t = 0, value_parser = integer_in::<i32>(-32_767..=32_767))]
    pub(crate) priority: i32,
    /// Not before this time (without an offset: UTC)
    #[arg(
        long,
        value_name = "TIME",
        allow_hyphen_values = true,
        value_parser = time,
        conflicts_with = "delay"
    )]
    pub(crate) at: Option<DateTime<Utc>>,
    /// Not before so long from now
    #[arg(
        long = "in",
        value_name = "DURATION",
        allow_hyphen_values = true,
        value_parser = parse_duration
    )]
    pub(crate) delay: Option<Duration>,
    /// While a task of this operation with this key exists (until it is deleted, by default a day after its
    /// end), answer that one; with another input it is refused
    #[arg(long, value_parser = key)]
    pub(crate) key: Option<String>,
    /// How often it may be tried; otherwise what the operation declares
    #[arg(long, value_name = "N", value_parser = integer_in::<u32>(1..=0x7fff_ffff))]
    pub(crate) max_attempts: Option<u32>,
    /// Wait for its end and print its output; exit 1 if it did not end `done`
    #[arg(long)]
    pub(crate) wait: bool,
    /// Wait no longer than this; the task goes on
    #[arg(
        long,
        value_name = "DURATION",
        allow_hyphen_values = true,
        value_parser = duration,
        requires = "wait"
    )]
    pub(crate) timeout: Option<Duration>,
}

// What `schedule` and `prepare` share. (A doc comment would become the description of both commands.)
#[derive(Debug, Args)]
pub(crate) struct InputArgs {
    /// The input: an object of fields, or any JSON for an operation that declares none
    // A negative number, as `-1e-7`, begins with a hyphen.
    #[arg(long, value_name = "JSON", value_parser = json, allow_hyphen_values = true)]
    pub(crate) input: Option<Value>,
    /// A file field of the input, read from a file; repeatable
    #[arg(long, value_name = "FIELD=PATH", value_parser = field_and_path)]
    pub(crate) input_file: Vec<(String, PathBuf)>,
    /// The input as bytes, read from a file (- for standard input)
    #[arg(long, value_name = "PATH", conflicts_with_all = ["input", "input_file"])]
    pub(crate) raw_input: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct ListTasksArgs {
    /// The database
    pub(crate) db: String,
    /// Only of this domain
    #[arg(long)]
    pub(crate) domain: Option<String>,
    /// Only in this state: queued, running, aborting, aborted, failed, done
    #[arg(long)]
    pub(crate) status: Option<TaskState>,
    /// Only of operations of this name
    #[arg(long)]
    pub(crate) operation: Option<String>,
    /// At most so many
    #[arg(long, default_value_t = 250, value_parser = integer_in::<i64>(0..=1 << 53))]
    pub(crate) limit: i64,
    /// Only before this task, for the next page
    #[arg(long, value_name = "ID", value_parser = integer_in::<i64>(0..=1 << 53))]
    pub(crate) before: Option<i64>,
    /// Also print where errors were made, the whole of their text, and the backtraces of panics
    #[arg(long)]
    pub(crate) tracebacks: bool,
    /// Also count log lines
    #[arg(long)]
    pub(crate) logcount: bool,
    /// One JSON document
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct TaskArgs {
    /// The database
    pub(crate) db: String,
    /// The task
    pub(crate) id: TaskId,
    /// One JSON document
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct GetArgs {
    /// The database
    pub(crate) db: String,
    /// The task
    pub(crate) id: TaskId,
    /// Only this field; of a file field its content as it is
    #[arg(long, value_name = "NAME")]
    pub(crate) field: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct LogTaskArgs {
    /// The database
    pub(crate) db: String,
    /// The task
    pub(crate) id: TaskId,
    /// Go on until the task has ended
    #[arg(long)]
    pub(crate) watch: bool,
    /// Only lines after this one
    #[arg(long, default_value_t = 0, value_name = "N", value_parser = integer_in::<i64>(0..=1 << 53))]
    pub(crate) fromid: i64,
    /// Only the last lines, so many of them (and, with --watch, those that follow)
    #[arg(
        long,
        value_name = "N",
        value_parser = integer_in::<i64>(0..=1 << 31),
        conflicts_with = "fromid"
    )]
    pub(crate) tail: Option<i64>,
    /// Only lines of at least this level: error, warn, info, debug, trace
    #[arg(long, value_parser = level)]
    pub(crate) level: Option<u8>,
    /// One JSON document
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct AbortTaskArgs {
    /// The database
    pub(crate) db: String,
    /// The task, or several
    #[arg(value_name = "ID", required = true)]
    pub(crate) ids: Vec<TaskId>,
    /// Why; shown with the task
    #[arg(long, value_name = "TEXT")]
    pub(crate) message: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct EndedTaskArgs {
    /// The database
    pub(crate) db: String,
    /// The task, or several
    #[arg(value_name = "ID", required = true)]
    pub(crate) ids: Vec<TaskId>,
}
