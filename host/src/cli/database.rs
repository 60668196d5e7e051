//! The database: creating, migrating and dropping the schema; and the embedded cluster.

use super::{
    args::{EmbeddedArgs, EmbeddedCommand, default_database},
    exit::{Failure, Result},
    output,
};
use crate::{
    client::{Client, ClientError, Target, cluster_of},
    model::duration::human,
    postgres::Cluster,
};
use std::io::{BufRead, Write};

pub(super) async fn init_db(db: &str) -> Result<()> {
    let client = Client::connect_any(Target::make(db)?).await?;
    let version = client.migrate().await?;
    output::done(&format!("schema rework is at version {version}"))
}

pub(super) async fn reset_db(db: &str, yes: bool) -> Result<()> {
    let client = Client::connect_any(Target::resolve(db)?).await?;
    if !yes {
        let question = format!(
            "really drop schema rework of {}, with all tasks and logs [y/n]? ",
            client.place()
        );
        if !confirmed(&question)? {
            return Err(Failure::new("nothing was dropped"));
        }
    }
    if client.drop_schema().await? {
        output::done("schema rework is gone; `rework init-db` makes it anew")
    } else {
        output::line("there was no schema rework; `rework init-db` makes it")
    }
}

/// Asks on stderr; every answer but `y`, `Y` and `yes` means no.
pub(super) fn confirmed(question: &str) -> Result<bool> {
    let mut stderr = std::io::stderr().lock();
    write!(stderr, "{question}")?;
    stderr.flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// The cluster that `--path` names, or else the one that REWORK_DB leads to, or else the default one.
fn cluster(args: &EmbeddedArgs) -> Result<Cluster> {
    if let Some(path) = &args.path {
        return Ok(Cluster::at(std::path::absolute(path)?));
    }
    let named = match default_database() {
        Some(database) => cluster_of(&database.to_string_lossy())?,
        None => None,
    };
    match named {
        Some(cluster) => Ok(cluster),
        None => Ok(Cluster::default_location().map_err(ClientError::from)?),
    }
}

pub(super) fn embedded(command: &EmbeddedCommand) -> Result<()> {
    match command {
        EmbeddedCommand::Status(args) => {
            let status = cluster(args)?.status().map_err(ClientError::from)?;
            output::line(&status.to_string())
        }
        EmbeddedCommand::Start(args) => {
            let cluster = cluster(args)?;
            let _lease = cluster.ensure_running().map_err(ClientError::from)?;
            cluster.keep().map_err(ClientError::from)?;
            let status = cluster.status().map_err(ClientError::from)?;
            output::done(&status.to_string())
        }
        EmbeddedCommand::Stop(args) => {
            let stopped = cluster(args)?.stop().map_err(ClientError::from)?;
            output::done(if stopped {
                "stopped"
            } else {
                "it was not running"
            })
        }
        EmbeddedCommand::Url(args) => {
            let cluster = cluster(args)?;
            let _lease = cluster.ensure_running().map_err(ClientError::from)?;
            output::line(&cluster.url())?;
            if !cluster.is_kept() {
                let path = match &args.path {
                    Some(path) => format!(" --path {}", path.display()),
                    None => String::new(),
                };
                output::note(&format!(
                    "note: its server stops {} after its last user has gone; `rework embedded \
                     start{path}` keeps it up until `rework embedded stop{path}`",
                    human(cluster.linger())
                ));
            }
            Ok(())
        }
    }
}
