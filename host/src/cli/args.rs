//! The command tree, and the rule by which `REWORK_DB` stands in for a missing `DB`.

use crate::model::{
    ScheduleId, TaskId, WorkerId,
    duration::parse_duration,
    name::parse_name,
    number::check_numbers,
    rule::{CatchUp, Rule, RuleError, parse_zone},
    task::TaskState,
};
use crate::plugin::TrustedKey;
use chrono::{DateTime, Utc};
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, error::ErrorKind};
use serde_json::Value;
use std::{
    env,
    ffi::{OsStr, OsString},
    ops::RangeInclusive,
    path::PathBuf,
    time::Duration,
};

/// Run tasks of independent code bases on several hosts, with Postgres and nothing else.
///
/// DB is a postgres:// URL, an alias of section [dburi] in rework.cfg, `embedded`, or
/// `embedded:/some/dir`. With REWORK_DB in the environment it may be left out.
///
/// Exit codes: 0 done; 1 the command could not do it; 2 the command line is wrong.
#[derive(Debug, Parser)]
#[command(
    name = "rework",
    version,
    long_version = long_version(),
    propagate_version = true,
    max_term_width = 100
)]
pub(super) struct Cli {
    #[command(subcommand)]
    pub(super) command: Command,
}

/// Every command, in the order in which a newcomer meets them.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make or migrate the schema `rework`; never drops anything
    InitDb {
        /// The database
        db: String,
    },
    /// Drop the schema `rework` with all that is in it, after asking
    ResetDb {
        /// The database
        db: String,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
    /// Look at an embedded cluster, keep it up, or stop it
    Embedded {
        #[command(subcommand)]
        command: EmbeddedCommand,
    },
    /// Register the operations of a plugin for a host
    RegisterOperations(RegisterArgs),
    /// Show what a plugin offers, or why it is refused; needs no database
    CheckPlugin(CheckArgs),
    /// Withdraw an operation from a host; its tasks and logs stay
    UnregisterOperation(UnregisterArgs),
    /// Withdraw all operations from a host that is gone; tasks and logs stay. Exit code 1: nothing is
    /// registered for it
    UnregisterHost(UnregisterHostArgs),
    /// List operations and the hosts that offer them
    ListOperations(ListOperationsArgs),
    /// Queue a task
    Schedule(ScheduleArgs),
    /// Claim and run tasks on this host, until ctrl-c
    Monitor(MonitorArgs),
    /// List tasks, the newest first
    ListTasks(ListTasksArgs),
    /// Show everything known about one task
    ShowTask(TaskArgs),
    /// Print the input of a task
    GetInput(GetArgs),
    /// Print the output of a task
    GetOutput(GetArgs),
    /// Print what a task printed and logged
    LogTask(LogTaskArgs),
    /// End a task: a queued one at once, a running one by killing its worker
    AbortTask(AbortTaskArgs),
    /// Queue an ended task once more, under its id
    RetryTask(EndedTaskArgs),
    /// Remove a task with its log, unless it is running
    DeleteTask(EndedTaskArgs),
    /// List workers
    ListWorkers(ListWorkersArgs),
    /// List monitors that have not ended in order
    ListMonitors(ListMonitorsArgs),
    /// Let a worker end after its task
    ShutdownWorker(WorkerArgs),
    /// Kill a worker; the task that it runs is aborted
    KillWorker(WorkerArgs),
    /// Queue an operation whenever a cron rule says so
    Prepare(PrepareArgs),
    /// Remove a schedule; what it has queued stays
    Unprepare(UnprepareArgs),
    /// List schedules
    ListScheduled(ListScheduledArgs),
    /// Show what the schedules of a domain will queue
    ScheduledPlan(PlanArgs),
    /// Save every schedule into a file
    ExportScheduled(TransferArgs),
    /// Load schedules from a file: all, or none if one of them is refused
    ImportScheduled(TransferArgs),
    /// Delete ended tasks or dead workers
    Vacuum(VacuumArgs),
    /// Let the tasks of a domain or an operation wait; running ones go on
    Pause(PauseArgs),
    /// Let them run again
    Resume(PauseArgs),
    /// List versions of plugins by domain and host, and files that are refused
    ListPlugins(ListPluginsArgs),
    /// Point a domain back to an earlier version of its plugin, without the file
    RollbackPlugin(RollbackArgs),
    /// Check the whole installation, with what to do about each problem
    Doctor(DoctorArgs),
    /// Measure throughput and latency of this installation
    Bench(BenchArgs),
    /// Print a completion script
    Completions {
        /// For which shell
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum EmbeddedCommand {
    /// Whether it runs, which version, where
    Status(EmbeddedArgs),
    /// Start it, making it if needed, and keep it up without users, until `stop`
    Start(EmbeddedArgs),
    /// Stop it
    Stop(EmbeddedArgs),
    /// Print a URL for other clients, making the cluster and starting it if needed; its server stops
    /// a little after its last user has gone, unless it was started with `start`
    Url(EmbeddedArgs),
}

#[derive(Debug, Args)]
pub(super) struct EmbeddedArgs {
    /// Its directory; without it the cluster that REWORK_DB leads to, or else the default one
    #[arg(long, value_name = "DIR")]
    pub(super) path: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct RegisterArgs {
    /// The database
    pub(super) db: String,
    /// The plugin, a .so file
    pub(super) plugin: PathBuf,
    /// Only the operations of this domain
    #[arg(long)]
    pub(super) domain: Option<String>,
    /// Register under this domain instead of the declared one
    #[arg(long, value_name = "NEW", value_parser = parse_name)]
    pub(super) asdomain: Option<String>,
    /// For this host instead of this one
    #[arg(long, value_parser = parse_name)]
    pub(super) host: Option<String>,
    /// Take over operations that the host has from another plugin
    #[arg(long)]
    pub(super) replace: bool,
    /// Check everything, write nothing
    #[arg(long)]
    pub(super) dry_run: bool,
    /// Also store the plugin's bytes, for monitors with --fetch-plugins on other hosts
    #[arg(long, conflicts_with = "dry_run")]
    pub(super) publish: bool,
    /// Refuse it unless PLUGIN.so.minisig is a signature by this key: a public key of minisign, or
    /// the file that holds it
    #[arg(long, value_name = "KEY", value_parser = TrustedKey::read)]
    pub(super) require_signature: Option<TrustedKey>,
    #[command(flatten)]
    pub(super) probe: ProbeArgs,
}

#[derive(Debug, Args)]
pub(super) struct ProbeArgs {
    /// How long loading the plugin may take, in a child that tries it
    #[arg(
        long,
        value_name = "DURATION",
        default_value = "10s",
        allow_hyphen_values = true,
        value_parser = duration
    )]
    pub(super) probe_timeout: Duration,
    /// Pass this environment variable on to that child, as monitors do to their workers with the same
    /// option (LD_LIBRARY_PATH, for example); repeatable
    #[arg(long, value_name = "NAME", value_parser = variable)]
    pub(super) env: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct ListPluginsArgs {
    /// The database
    pub(super) db: String,
    /// One JSON document
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(super) struct RollbackArgs {
    /// The database
    pub(super) db: String,
    /// The domain
    pub(super) domain: String,
    /// To the version with this hash (its beginning will do) instead of the one before
    #[arg(long, value_name = "HASH")]
    pub(super) to: Option<String>,
    /// Only on this host, instead of all that have an earlier version
    #[arg(long, value_parser = parse_name)]
    pub(super) host: Option<String>,
    /// One JSON document
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(super) struct DoctorArgs {
    /// The database
    pub(super) db: String,
    /// One JSON document
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    /// The plugin, a .so file
    pub(super) plugin: PathBuf,
    /// One JSON document
    #[arg(long)]
    pub(super) json: bool,
    /// Refuse it unless PLUGIN.so.minisig is a signature by this key: a public key of minisign, or
    /// the file that holds it
    #[arg(long, value_name = "KEY", value_parser = TrustedKey::read)]
    pub(super) require_signature: Option<TrustedKey>,
    #[command(flatten)]
    pub(super) probe: ProbeArgs,
}

#[derive(Debug, Args)]
pub(super) struct UnregisterArgs {
    /// The database
    pub(super) db: String,
    /// The operation's name
    pub(super) name: String,
    /// Only in this domain
    #[arg(long)]
    pub(super) domain: Option<String>,
    /// Only from modules like this (SQL LIKE: % stands for anything)
    #[arg(long, value_parser = pattern)]
    pub(super) module: Option<String>,
    /// Only on this host
    #[arg(long, value_parser = parse_name)]
    pub(super) host: Option<String>,
    /// Do not ask
    #[arg(long)]
    pub(super) no_confirm: bool,
}

#[derive(Debug, Args)]
pub(super) struct UnregisterHostArgs {
    /// The database
    pub(super) db: String,
    /// The host
    #[arg(value_parser = parse_name)]
    pub(super) host: String,
    /// Do not ask
    #[arg(long)]
    pub(super) no_confirm: bool,
}

#[derive(Debug, Args)]
pub(super) struct ListOperationsArgs {
    /// The database
    pub(super) db: String,
    /// Only of this domain
    #[arg(long)]
    pub(super) domain: Option<String>,
    /// One JSON document
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(super) struct ScheduleArgs {
    /// The database
    pub(super) db: String,
    /// The operation's name
    pub(super) name: String,
    #[command(flatten)]
    pub(super) input: InputArgs,
    /// The domain, for a name that exists in several
    #[arg(long)]
    pub(super) domain: Option<String>,
    /// Run on this host only
    #[arg(long, value_parser = parse_name)]
    pub(super) host: Option<String>,
    /// Notes that stay with the task; a JSON object
    #[arg(long, value_name = "JSON", value_parser = json)]
    pub(super) metadata: Option<Value>,
    /// Higher runs first: a number from -32767 to 32767
    #[arg(long, default_value_t = 0, value_parser = integer_in::<i32>(-32_767..=32_767))]
    pub(super) priority: i32,
    /// Not before this time (without an offset: UTC)
    #[arg(
        long,
        value_name = "TIME",
        allow_hyphen_values = true,
        value_parser = time,
        conflicts_with = "delay"
    )]
    pub(super) at: Option<DateTime<Utc>>,
    /// Not before so long from now
    #[arg(
        long = "in",
        value_name = "DURATION",
        allow_hyphen_values = true,
        value_parser = parse_duration
    )]
    pub(super) delay: Option<Duration>,
    /// While a task of this operation with this key exists (until it is deleted, by default a day after its
    /// end), answer that one; with another input it is refused
    #[arg(long, value_parser = key)]
    pub(super) key: Option<String>,
    /// How often it may be tried; otherwise what the operation declares
    #[arg(long, value_name = "N", value_parser = integer_in::<u32>(1..=0x7fff_ffff))]
    pub(super) max_attempts: Option<u32>,
    /// Wait for its end and print its output; exit 1 if it did not end `done`
    #[arg(long)]
    pub(super) wait: bool,
    /// Wait no longer than this; the task goes on
    #[arg(
        long,
        value_name = "DURATION",
        allow_hyphen_values = true,
        value_parser = duration,
        requires = "wait"
    )]
    pub(super) timeout: Option<Duration>,
}

// What `schedule` and `prepare` share. (A doc comment would become the description of both commands.)
#[derive(Debug, Args)]
pub(super) struct InputArgs {
    /// The input: an object of fields, or any JSON for an operation that declares none
    // A negative number, as `-1e-7`, begins with a hyphen.
    #[arg(long, value_name = "JSON", value_parser = json, allow_hyphen_values = true)]
    pub(super) input: Option<Value>,
    /// A file field of the input, read from a file; repeatable
    #[arg(long, value_name = "FIELD=PATH", value_parser = field_and_path)]
    pub(super) input_file: Vec<(String, PathBuf)>,
    /// The input as bytes, read from a file (- for standard input)
    #[arg(long, value_name = "PATH", conflicts_with_all = ["input", "input_file"])]
    pub(super) raw_input: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct MonitorArgs {
    /// The database; `-`: what standard input says in its first line
    pub(super) db: String,
    /// Claim tasks of this domain; repeatable
    #[arg(
        long,
        default_value = "default",
        conflicts_with = "all_domains",
        value_parser = parse_name
    )]
    pub(super) domain: Vec<String>,
    /// Claim tasks of every domain that this host has plugins for
    #[arg(long)]
    pub(super) all_domains: bool,
    /// The host to work for, instead of this one
    #[arg(long, value_parser = parse_name)]
    pub(super) host: Option<String>,
    /// Pass this environment variable on to workers, and to the children that try out plugins;
    /// repeatable
    #[arg(long, value_name = "NAME", value_parser = variable)]
    pub(super) env: Vec<String>,
    /// Run workers as this user; the monitor has to be root
    #[arg(long, value_name = "NAME")]
    pub(super) worker_user: Option<String>,
    /// Deny TCP connections to plugins, by Landlock (Linux 6.7); not UDP, not Unix sockets
    #[arg(long)]
    pub(super) no_network: bool,
    /// Register DIR/*.so, and DIR/<domain>/*.so under that domain, when they appear or change, and
    /// retire what vanishes; repeatable
    #[arg(long, value_name = "DIR")]
    pub(super) plugin_dir: Vec<PathBuf>,
    /// Run what other hosts have published for these domains
    #[arg(long)]
    pub(super) fetch_plugins: bool,
    /// Refuse files of --plugin-dir and fetched plugins unless they are signed by this key: a public
    /// key of minisign, or the file that holds it
    #[arg(long, value_name = "KEY", value_parser = TrustedKey::read)]
    pub(super) require_signature: Option<TrustedKey>,
    /// Never more workers per domain than this, over all of its plugins
    #[arg(long, default_value_t = 2, value_parser = integer_in::<u16>(1..=65_535))]
    pub(super) maxworkers: u16,
    /// Never fewer
    #[arg(long, default_value_t = 1, value_parser = integer_in::<u16>(0..=65_535))]
    pub(super) minworkers: u16,
    /// A worker ends after so many tasks; 0: never
    #[arg(long, default_value_t = 0, value_parser = integer_in::<u64>(0..=i64::MAX))]
    pub(super) maxruns: u64,
    /// A worker that has grown beyond so many MB ends after its task; 0: never
    #[arg(long, default_value_t = 0, value_name = "MB", value_parser = integer_in::<u64>(0..=1 << 40))]
    pub(super) maxmem: u64,
    /// A worker that is not ready after so many seconds is killed
    #[arg(
        long,
        default_value_t = 30,
        value_name = "SECONDS",
        value_parser = integer_in::<u64>(1..=86_400)
    )]
    pub(super) start_timeout: u64,
    /// Delete tasks and workers that ended so long ago; 0s: never
    #[arg(
        long,
        default_value = "P1D",
        allow_hyphen_values = true,
        value_parser = duration,
        value_name = "DURATION"
    )]
    pub(super) vacuum: Duration,
    /// How long running tasks may go on after ctrl-c
    #[arg(
        long,
        default_value = "0s",
        allow_hyphen_values = true,
        value_parser = duration,
        value_name = "DURATION"
    )]
    pub(super) grace: Duration,
    /// How long a task that asks `cancelled()` may take to end before it is killed
    #[arg(
        long,
        default_value = "3s",
        allow_hyphen_values = true,
        value_parser = duration,
        value_name = "DURATION"
    )]
    pub(super) kill_grace: Duration,
    /// Log more
    #[arg(long)]
    pub(super) debug: bool,
}

#[derive(Debug, Args)]
pub(super) struct ListTasksArgs {
    /// The database
    pub(super) db: String,
    /// Only of this domain
    #[arg(long)]
    pub(super) domain: Option<String>,
    /// Only in this state: queued, running, aborting, aborted, failed, done
    #[arg(long)]
    pub(super) status: Option<TaskState>,
    /// Only of operations of this name
    #[arg(long)]
    pub(super) operation: Option<String>,
    /// At most so many
    #[arg(long, default_value_t = 250, value_parser = integer_in::<i64>(0..=1 << 53))]
    pub(super) limit: i64,
    /// Only before this task, for the next page
    #[arg(long, value_name = "ID", value_parser = integer_in::<i64>(0..=1 << 53))]
    pub(super) before: Option<i64>,
    /// Also print where errors were made, the whole of their text, and the backtraces of panics
    #[arg(long)]
    pub(super) tracebacks: bool,
    /// Also count log lines
    #[arg(long)]
    pub(super) logcount: bool,
    /// One JSON document
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(super) struct TaskArgs {
    /// The database
    pub(super) db: String,
    /// The task
    pub(super) id: TaskId,
    /// One JSON document
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(super) struct GetArgs {
    /// The database
    pub(super) db: String,
    /// The task
    pub(super) id: TaskId,
    /// Only this field; of a file field its content as it is
    #[arg(long, value_name = "NAME")]
    pub(super) field: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct LogTaskArgs {
    /// The database
    pub(super) db: String,
    /// The task
    pub(super) id: TaskId,
    /// Go on until the task has ended
    #[arg(long)]
    pub(super) watch: bool,
    /// Only lines after this one
    #[arg(long, default_value_t = 0, value_name = "N", value_parser = integer_in::<i64>(0..=1 << 53))]
    pub(super) fromid: i64,
    /// Only the last lines, so many of them (and, with --watch, those that follow)
    #[arg(
        long,
        value_name = "N",
        value_parser = integer_in::<i64>(0..=1 << 31),
        conflicts_with = "fromid"
    )]
    pub(super) tail: Option<i64>,
    /// Only lines of at least this level: error, warn, info, debug, trace
    #[arg(long, value_parser = level)]
    pub(super) level: Option<u8>,
    /// One JSON document
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(super) struct AbortTaskArgs {
    /// The database
    pub(super) db: String,
    /// The task, or several
    #[arg(value_name = "ID", required = true)]
    pub(super) ids: Vec<TaskId>,
    /// Why; shown with the task
    #[arg(long, value_name = "TEXT")]
    pub(super) message: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct ListWorkersArgs {
    /// The database
    pub(super) db: String,
    /// Only of this domain
    #[arg(long)]
    pub(super) domain: Option<String>,
    /// Also those that died more than a day ago
    #[arg(long)]
    pub(super) all: bool,
    /// One JSON document
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(super) struct ListMonitorsArgs {
    /// The database
    pub(super) db: String,
    /// One JSON document
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(super) struct EndedTaskArgs {
    /// The database
    pub(super) db: String,
    /// The task, or several
    #[arg(value_name = "ID", required = true)]
    pub(super) ids: Vec<TaskId>,
}

#[derive(Debug, Args)]
pub(super) struct WorkerArgs {
    /// The database
    pub(super) db: String,
    /// The worker
    pub(super) id: WorkerId,
}

#[derive(Debug, Args)]
pub(super) struct PrepareArgs {
    /// The database
    pub(super) db: String,
    /// The operation's name
    pub(super) name: String,
    /// Cron: second, minute, hour, day of the month, month, day of the week; or without the second
    ///
    /// A field is `*`, or a list of values, ranges (`8-17`), ranges with a step (`8-17/3`) and steps over
    /// all of the field (`*/15`), which must divide it. Months and days of the week have names (`jan`,
    /// `mon`); 0 and 7 are Sunday. Days of the month: `L` the last, `LW` the last working day, `15W` the
    /// working day nearest to the 15th. Days of the week: `5#2` the second Friday of a month, `5L` the
    /// last. `?` in a field of days is `*`. A day of the month beside a day of the week: either of them is
    /// enough; with `+` before the day of the week (`13 * +fri`) both must fit.
    ///
    /// Where clocks are changed: hours and minutes that are values, lists or ranges are fixed times. Each
    /// fires once on its day: right after the change if clocks skip it, the first time if they show it
    /// twice. With `*` or `*/15` in the hours or minutes the rule fires whenever clocks show such a time:
    /// also with a fixed hour (`0 */30 2 * * *`) not in one that they skip.
    #[arg(long, allow_hyphen_values = true, value_parser = rule)]
    pub(super) rule: String,
    #[command(flatten)]
    pub(super) input: InputArgs,
    /// The domain, for a name that exists in several
    #[arg(long)]
    pub(super) domain: Option<String>,
    /// Run its tasks on this host only
    #[arg(long, value_parser = parse_name)]
    pub(super) host: Option<String>,
    /// Notes that stay with its tasks; a JSON object
    #[arg(long, value_name = "JSON", value_parser = json)]
    pub(super) metadata: Option<Value>,
    /// The time zone of the rule and of moments in the input
    #[arg(long, value_name = "TZ", default_value = "UTC", value_parser = zone)]
    pub(super) timezone: String,
    /// What becomes of runs that no monitor was there for
    #[arg(long, value_name = "skip|one|all", default_value = "skip", value_parser = catch_up)]
    pub(super) catch_up: CatchUp,
    /// Allow a rule that fires every second
    #[arg(long)]
    pub(super) every_second: bool,
}

#[derive(Debug, Args)]
pub(super) struct UnprepareArgs {
    /// The database
    pub(super) db: String,
    /// The schedule
    pub(super) id: ScheduleId,
}

#[derive(Debug, Args)]
pub(super) struct ListScheduledArgs {
    /// The database
    pub(super) db: String,
    /// Only of this domain
    #[arg(long)]
    pub(super) domain: Option<String>,
    /// One JSON document
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(super) struct PlanArgs {
    /// The database
    pub(super) db: String,
    /// The domain
    pub(super) domain: String,
    /// How far to look ahead
    #[arg(long, default_value_t = 1.0, value_parser = hours)]
    pub(super) hours: f64,
    /// At most so many runs
    #[arg(long, default_value_t = 10_000, value_parser = integer_in::<usize>(0..=1 << 40))]
    pub(super) limit: usize,
    /// One JSON document
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(super) struct TransferArgs {
    /// The database
    pub(super) db: String,
    /// The file; - for standard output or input
    #[arg(long, default_value = "rework.sched")]
    pub(super) path: PathBuf,
}

#[derive(Debug, Args)]
pub(super) struct VacuumArgs {
    /// The database
    pub(super) db: String,
    /// Delete dead workers; their tasks stay
    #[arg(long)]
    pub(super) workers: bool,
    /// Delete ended tasks, with their logs and files
    #[arg(long)]
    pub(super) tasks: bool,
    /// With --tasks: delete the queued ones instead, whatever their age
    #[arg(long)]
    pub(super) queued: bool,
    /// Only of this domain
    #[arg(long)]
    pub(super) domain: Option<String>,
    /// Only those that ended so many days ago
    #[arg(long, default_value_t = 0, value_parser = integer_in::<u32>(0..=36_525))]
    pub(super) days: u32,
}

#[derive(Debug, Args)]
pub(super) struct PauseArgs {
    /// The database
    pub(super) db: String,
    /// A whole domain; with --operation: the domain of the operation
    #[arg(long)]
    pub(super) domain: Option<String>,
    /// An operation
    #[arg(long)]
    pub(super) operation: Option<String>,
    /// A schedule
    #[arg(long, value_name = "ID", conflicts_with_all = ["domain", "operation"])]
    pub(super) schedule: Option<ScheduleId>,
}

#[derive(Debug, Args)]
pub(super) struct BenchArgs {
    /// The database
    pub(super) db: String,
    /// How many tasks to run for the throughput
    #[arg(long, default_value_t = 20_000, value_parser = integer_in::<u32>(1..=i32::MAX.into()))]
    pub(super) tasks: u32,
    /// How many tasks to run one by one for the latency
    #[arg(long, default_value_t = 200, value_parser = integer_in::<u32>(1..=i32::MAX.into()))]
    pub(super) samples: u32,
    /// How many workers
    #[arg(long, default_value_t = 2, value_parser = integer_in::<u16>(1..=65_535))]
    pub(super) workers: u16,
    /// The operation to run; it must be registered on this host and take no input
    #[arg(long, default_value = "noop")]
    pub(super) operation: String,
    /// One JSON document
    #[arg(long)]
    pub(super) json: bool,
}

/// Parses a command line. If an argument is missing and `REWORK_DB` is set, it is `DB`.
pub(super) fn parse(arguments: Vec<OsString>) -> Result<Cli, clap::Error> {
    let database = env::var_os("REWORK_DB").filter(|database| !database.is_empty());
    let first = match read(&arguments) {
        Ok(cli) => match &database {
            // Of `abort-task 1 2` both are tasks.
            Some(database) if cli.command.takes_task_for_database() => {
                let mut completed = arguments;
                completed.insert(2, database.clone());
                return read(&completed);
            }
            _ => return Ok(cli),
        },
        Err(error) => error,
    };
    // A database was given: something else is missing.
    let has_database = arguments
        .get(2)
        .is_some_and(|argument| names_database(argument));
    // A path that is not UTF-8 has been taken for the database.
    let is_path = first.kind() == ErrorKind::InvalidUtf8;
    if let Some(database) = database
        && (first.kind() == ErrorKind::MissingRequiredArgument || is_path)
        && arguments.len() >= 2
        && !NEED_NO_DATABASE.iter().any(|name| arguments[1] == *name)
        && !has_database
    {
        let mut completed = arguments;
        completed.insert(2, database);
        return read(&completed).map_err(|error| match error.kind() {
            _ if is_path => first,
            _ => error,
        });
    }
    Err(first)
}

/// Reads a command line. `-3` is a value, which the option then refuses if it has to be positive.
fn read(arguments: &[OsString]) -> Result<Cli, clap::Error> {
    Cli::from_arg_matches(&command().try_get_matches_from(arguments)?)
}

/// The command tree, with what the derived one leaves out.
fn command() -> clap::Command {
    Cli::command().mut_subcommands(|command| {
        with_exit_codes(command.allow_negative_numbers(true)).mut_subcommands(with_exit_codes)
    })
}

/// Says at the end of a command's help what its exit codes mean.
fn with_exit_codes(command: clap::Command) -> clap::Command {
    let [done, failed] = match command.get_name() {
        "schedule" => [
            "queued, or with --wait: it ended `done`",
            "refused, or with --wait: it did not end `done`, or not in time",
        ],
        "monitor" => [
            "it has ended in order, as it was told to",
            "it could not start, or could not go on",
        ],
        "doctor" => ["all is well", "there is a problem"],
        "check-plugin" => ["it can be registered", "it is refused"],
        "get-input" => ["printed", "there is no such task, or it has none"],
        "get-output" => ["printed", "there is no such task, or it has none (yet)"],
        "abort-task" | "retry-task" | "delete-task" => [
            "done, for each of the tasks",
            "not done, for one of them at least: no such task, or in the wrong state",
        ],
        "unprepare" => ["removed", "there is no such schedule"],
        "unregister-operation" => [
            "withdrawn, or there was nothing to withdraw",
            "the command could not do it",
        ],
        _ => ["done", "the command could not do it"],
    };
    command.after_help(format!(
        "Exit codes: 0 {done}; 1 {failed}; 2 the command line is wrong"
    ))
}

impl Command {
    /// Whether what stands where the database should is a task, and so are all that follow.
    fn takes_task_for_database(&self) -> bool {
        let db = match self {
            Self::AbortTask(args) => &args.db,
            Self::RetryTask(args) | Self::DeleteTask(args) => &args.db,
            _ => return false,
        };
        !db.is_empty() && db.bytes().all(|byte| byte.is_ascii_digit())
    }
}

/// Commands that know no `DB`.
const NEED_NO_DATABASE: [&str; 3] = ["check-plugin", "completions", "embedded"];

/// Whether an argument can only be a `DB`.
fn names_database(argument: &OsStr) -> bool {
    let text = argument.to_string_lossy();
    let schemes = ["postgres://", "postgresql://", "embedded:"];
    schemes.iter().any(|scheme| text.starts_with(scheme))
}

/// The version, and which rules of time zones are followed.
fn long_version() -> String {
    format!(
        "{}\ntime zones: {}",
        env!("CARGO_PKG_VERSION"),
        crate::zones::version()
    )
}

pub(super) fn completions(shell: clap_complete::Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command(), "rework", &mut script);
    script
}

/// The name of an environment variable.
fn variable(text: &str) -> Result<String, String> {
    if text.is_empty() || text.contains('=') {
        return Err("it must be the name of a variable; its value is the monitor's own".to_owned());
    }
    Ok(text.to_owned())
}

fn key(text: &str) -> Result<String, &'static str> {
    if text.is_empty() {
        return Err("it is empty: all tasks that have it would be one");
    }
    Ok(text.to_owned())
}

fn json(text: &str) -> Result<Value, String> {
    // Before it is read: what reading changes is not seen afterwards.
    check_numbers(text).map_err(|fault| fault.to_string())?;
    serde_json::from_str(text).map_err(|error| format!("it is not JSON: {error}"))
}

fn rule(text: &str) -> Result<String, RuleError> {
    Rule::parse(text, "UTC").map(|_| text.to_owned())
}

fn zone(text: &str) -> Result<String, RuleError> {
    parse_zone(text).map(|_| text.to_owned())
}

fn catch_up(text: &str) -> Result<CatchUp, String> {
    text.parse()
}

/// A duration that clocks and databases can compute with.
fn duration(text: &str) -> Result<Duration, String> {
    match parse_duration(text) {
        Ok(duration) if duration > Duration::from_secs(36_525 * 86_400) => {
            Err("it must be at most a hundred years".to_owned())
        }
        Ok(duration) => Ok(duration),
        Err(error) => Err(error.to_string()),
    }
}

/// A whole number of a range.
fn integer_in<N: TryFrom<i64>>(
    range: RangeInclusive<i64>,
) -> impl Fn(&str) -> Result<N, String> + Clone + Send + Sync {
    move |text| {
        let number = text
            .trim()
            .parse()
            .ok()
            .filter(|number| range.contains(number));
        number
            .and_then(|number| N::try_from(number).ok())
            .ok_or_else(|| {
                let (least, most) = (range.start(), range.end());
                match *most {
                    i64::MAX => format!("it must be a whole number, at least {least}"),
                    _ => format!("it must be a whole number from {least} to {most}"),
                }
            })
    }
}

/// A pattern of SQL `LIKE`.
fn pattern(text: &str) -> Result<String, String> {
    let trailing = text.len() - text.trim_end_matches('\\').len();
    if trailing % 2 == 1 {
        return Err("it must not end with a single backslash".to_owned());
    }
    Ok(text.to_owned())
}

fn hours(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(hours) if hours > 0.0 && hours <= 24.0 * 366.0 => Ok(hours),
        _ => Err("it must be a number of hours, more than 0 and at most a year".to_owned()),
    }
}

fn time(text: &str) -> Result<DateTime<Utc>, crate::model::time::NotATime> {
    crate::model::time::parse(text)
}

fn level(text: &str) -> Result<u8, String> {
    match crate::model::log::level_number(text) {
        Some(level) if level > 0 => Ok(level),
        _ => Err("levels are: error, warn, info, debug, trace".to_owned()),
    }
}

fn field_and_path(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((field, path)) if !field.is_empty() && !path.is_empty() => {
            Ok((field.to_owned(), PathBuf::from(path)))
        }
        _ => Err("write FIELD=PATH".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_tree_is_sound() {
        command().debug_assert();
    }

    #[test]
    fn every_help_names_exit_codes() {
        fn check(command: &clap::Command) {
            for one in command.get_subcommands() {
                let help = one.clone().render_help().to_string();
                assert!(help.contains("Exit codes: 0 "), "{help}");
                check(one);
            }
        }
        check(&command());
        let help = command().render_long_help().to_string();
        assert!(help.contains("Exit codes: 0 "), "{help}");
    }
}
