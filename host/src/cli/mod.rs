//! The command line: it parses, calls the client, and prints. Data goes to stdout, everything else to
//! stderr; `exit` defines the exit codes.

mod args;
mod bench;
mod check;
mod database;
mod doctor;
mod exit;
mod files;
mod format;
mod monitor;
mod operate;
mod operations;
mod outage;
mod output;
mod plugins;
mod schedule;
mod schedules;
mod tasks;
mod workers;

use args::Command;
use exit::{Failure, Result};
use std::{ffi::OsString, process::ExitCode};

/// Runs a command line and returns its exit code.
pub fn main(arguments: Vec<OsString>) -> ExitCode {
    let cli = match args::parse(arguments.clone()) {
        Ok(cli) => cli,
        Err(error) => return exit::usage(&error, &arguments),
    };
    match run(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

fn run(command: Command) -> Result<()> {
    if matches!(
        command,
        Command::RegisterOperations(_) | Command::CheckPlugin(_)
    ) {
        // A child process runs the plugin's code while the plugin is loaded. It has the same user, and
        // could otherwise read the database's URL from this process's memory and environment.
        let _ = nix::sys::prctl::set_dumpable(false);
    }
    match command {
        Command::InitDb { db } => block_on(database::init_db(&db)),
        Command::ResetDb { db, yes } => block_on(database::reset_db(&db, yes)),
        Command::Embedded { command } => database::embedded(&command),
        Command::RegisterOperations(args) => block_on(operations::register(args)),
        Command::CheckPlugin(args) => check::check(&args),
        Command::UnregisterOperation(args) => block_on(operations::unregister(args)),
        Command::UnregisterHost(args) => block_on(operations::unregister_host(args)),
        Command::ListOperations(args) => block_on(operations::list(args)),
        Command::Schedule(args) => block_on(schedule::schedule(args)),
        Command::Monitor(args) => monitor::monitor(args),
        Command::ListTasks(args) => block_on(tasks::list(args)),
        Command::ShowTask(args) => block_on(tasks::show(args)),
        Command::GetInput(args) => block_on(tasks::get(args, tasks::Side::Input)),
        Command::GetOutput(args) => block_on(tasks::get(args, tasks::Side::Output)),
        Command::LogTask(args) => block_on(tasks::log(args)),
        Command::AbortTask(args) => block_on(tasks::abort(args)),
        Command::RetryTask(args) => block_on(tasks::retry(args)),
        Command::DeleteTask(args) => block_on(tasks::delete(args)),
        Command::ListWorkers(args) => block_on(workers::list_workers(args)),
        Command::ListMonitors(args) => block_on(workers::list_monitors(args)),
        Command::ShutdownWorker(args) => block_on(workers::shutdown(args)),
        Command::KillWorker(args) => block_on(workers::kill(args)),
        Command::Prepare(args) => block_on(schedules::prepare(args)),
        Command::Unprepare(args) => block_on(schedules::unprepare(args)),
        Command::ListScheduled(args) => block_on(schedules::list(args)),
        Command::ScheduledPlan(args) => block_on(schedules::plan(args)),
        Command::ExportScheduled(args) => block_on(schedules::export(args)),
        Command::ImportScheduled(args) => block_on(schedules::import(args)),
        Command::Vacuum(args) => block_on(operate::vacuum(args)),
        Command::Pause(args) => block_on(operate::pause(args, true)),
        Command::Resume(args) => block_on(operate::pause(args, false)),
        Command::ListPlugins(args) => block_on(plugins::list(args)),
        Command::RollbackPlugin(args) => block_on(plugins::rollback(args)),
        Command::Doctor(args) => block_on(doctor::doctor(args)),
        Command::Bench(args) => bench::bench(args),
        Command::Completions { shell } => output::bytes(&args::completions(shell)),
    }
}

/// Runs the requests of one command on this thread.
fn block_on<T>(command: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(format!("could not start the event loop: {error}")))?;
    let result = runtime.block_on(command);
    // Does not wait for a client's watching task that is still running.
    runtime.shutdown_background();
    result
}
