//! What the commands about the database take: the embedded cluster, `doctor`.

use clap::{Args, Subcommand};
use std::path::PathBuf;

#[derive(Debug, Subcommand)]
pub(crate) enum EmbeddedCommand {
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
pub(crate) struct EmbeddedArgs {
    /// Its directory; without it the cluster that REWORK_DB leads to, or else the default one
    #[arg(long, value_name = "DIR")]
    pub(crate) path: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// The database
    pub(crate) db: String,
    /// One JSON document
    #[arg(long)]
    pub(crate) json: bool,
}
