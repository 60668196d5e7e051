//! Running the monitor of this host.

use super::{
    args::MonitorArgs,
    exit::{Failure, Result},
};
use crate::{
    client::{ClientError, Target},
    here,
    monitor::{self, Options, PoolOptions},
    telemetry,
};
use std::{
    path::{Path, PathBuf},
    time::Duration,
};

pub(super) fn monitor(args: MonitorArgs) -> Result<()> {
    if args.minworkers > args.maxworkers {
        return Err(Failure::usage(format!(
            "--minworkers {} is more than --maxworkers {}",
            args.minworkers, args.maxworkers
        )));
    }
    monitor::stand_below_init()
        .map_err(|error| Failure::new(format!("could not start below an init: {error}")))?;
    telemetry::init(args.debug);
    // An embedded server is started before this process becomes the subreaper of everything below it.
    let target = Target::resolve(&database(args.db)?)?;
    let plugin_dirs = args
        .plugin_dir
        .iter()
        .map(|directory| plugin_dir(directory))
        .collect::<Result<_>>()?;
    let options = Options {
        host: here::host_name(args.host.as_deref()).map_err(ClientError::from)?,
        domains: if args.all_domains {
            Vec::new()
        } else {
            args.domain
        },
        pool: PoolOptions {
            max_workers: args.maxworkers.into(),
            min_workers: args.minworkers.into(),
            max_runs: args.maxruns,
            max_mem: args.maxmem,
            start_timeout: Duration::from_secs(args.start_timeout),
            ..PoolOptions::default()
        },
        grace: args.grace,
        kill_grace: args.kill_grace,
        vacuum: (!args.vacuum.is_zero()).then_some(args.vacuum),
        environment: args.env,
        worker_user: args.worker_user,
        no_network: args.no_network,
        plugin_dirs,
        fetch_plugins: args.fetch_plugins,
        key: args.require_signature,
    };
    monitor::run(target.options().clone(), options)?;
    Ok(())
}

/// The given database or, for `-`, the first line of standard input, which no list of processes shows.
fn database(given: String) -> Result<String> {
    if given != "-" {
        return Ok(given);
    }
    let mut line = String::new();
    std::io::stdin()
        .read_line(&mut line)
        .map_err(|error| Failure::new(format!("could not read the database's URL: {error}")))?;
    match line.trim() {
        "" => Err(Failure::usage("DB is `-`, but standard input is empty")),
        database => Ok(database.to_owned()),
    }
}

/// The absolute path of a directory, so that paths of its files do not depend on how it was named. If the
/// last component is a link it is not resolved: the link may come to point elsewhere.
fn plugin_dir(directory: &Path) -> Result<PathBuf> {
    let unusable = |reason: String| {
        Failure::new(format!(
            "--plugin-dir {} cannot be used: {reason}",
            directory.display()
        ))
    };
    match one_name(directory) {
        Ok(named) if named.is_dir() => Ok(named),
        Ok(_) => Err(unusable("it is not a directory".to_owned())),
        Err(error) => Err(unusable(error.to_string())),
    }
}

/// The parent of the directory with links resolved, joined with the directory's own name.
fn one_name(directory: &Path) -> std::io::Result<PathBuf> {
    // Fails if the directory does not exist.
    let target = std::fs::canonicalize(directory)?;
    let absolute = std::path::absolute(directory)?;
    // A path that ends in `..` has no last name.
    let (Some(parent), Some(name)) = (absolute.parent(), absolute.file_name()) else {
        return Ok(target);
    };
    Ok(std::fs::canonicalize(parent)?.join(name))
}
