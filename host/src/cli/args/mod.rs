//! The command tree: every command, and what each of them takes.

mod database;
mod monitor;
mod operate;
mod plugins;
mod read;
mod schedules;
mod tasks;
mod values;

pub(super) use database::{DoctorArgs, EmbeddedArgs, EmbeddedCommand};
pub(super) use monitor::{ListMonitorsArgs, ListWorkersArgs, MonitorArgs, WorkerArgs};
pub(super) use operate::{BenchArgs, PauseArgs, VacuumArgs};
pub(super) use plugins::{
    CheckArgs, ListOperationsArgs, ListPluginsArgs, RegisterArgs, RollbackArgs, UnregisterArgs,
    UnregisterHostArgs,
};
pub(super) use read::{completions, default_database, parse};
pub(super) use schedules::{ListScheduledArgs, PlanArgs, PrepareArgs, TransferArgs, UnprepareArgs};
pub(super) use tasks::{
    AbortTaskArgs, EndedTaskArgs, GetArgs, InputArgs, ListTasksArgs, LogTaskArgs, ScheduleArgs,
    TaskArgs,
};

use clap::{Parser, Subcommand};

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

/// The version, and which rules of time zones are followed.
fn long_version() -> String {
    format!(
        "{}\ntime zones: {}",
        env!("CARGO_PKG_VERSION"),
        crate::zones::version()
    )
}
