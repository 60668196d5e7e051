//! What the commands about plugins and their operations take.

use super::values::{duration, pattern, variable};
use crate::{model::name::parse_name, plugin::TrustedKey};
use clap::Args;
use std::{path::PathBuf, time::Duration};

#[derive(Debug, Args)]
pub(crate) struct RegisterArgs {
    /// The database
    pub(crate) db: String,
    /// The plugin, a .so file
    pub(crate) plugin: PathBuf,
    /// Only the operations of this domain
    #[arg(long)]
    pub(crate) domain: Option<String>,
    /// Register under this domain instead of the declared one
    #[arg(long, value_name = "NEW", value_parser = parse_name)]
    pub(crate) asdomain: Option<String>,
    /// For this host instead of this one
    #[arg(long, value_parser = parse_name)]
    pub(crate) host: Option<String>,
    /// Take over operations that the host has from another plugin
    #[arg(long)]
    pub(crate) replace: bool,
    /// Check everything, write nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Also store the plugin's bytes, for monitors with --fetch-plugins on other hosts
    #[arg(long, conflicts_with = "dry_run")]
    pub(crate) publish: bool,
    /// Refuse it unless PLUGIN.so.minisig is a signature by this key: a public key of minisign, or
    /// the file that holds it
    #[arg(long, value_name = "KEY", value_parser = TrustedKey::read)]
    pub(crate) require_signature: Option<TrustedKey>,
    #[command(flatten)]
    pub(crate) probe: ProbeArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ProbeArgs {
    /// How long loading the plugin may take, in a child that tries it
    #[arg(
        long,
        value_name = "DURATION",
        default_value = "10s",
        allow_hyphen_values = true,
        value_parser = duration
    )]
    pub(crate) probe_timeout: Duration,
    /// Pass this environment variable on to that child, as monitors do to their workers with the same
    /// option (LD_LIBRARY_PATH, for example); repeatable
    #[arg(long, value_name = "NAME", value_parser = variable)]
    pub(crate) env: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// The plugin, a .so file
    pub(crate) plugin: PathBuf,
    /// One JSON document
    #[arg(long)]
    pub(crate) json: bool,
    /// Refuse it unless PLUGIN.so.minisig is a signature by this key: a public key of minisign, or
    /// the file that holds it
    #[arg(long, value_name = "KEY", value_parser = TrustedKey::read)]
    pub(crate) require_signature: Option<TrustedKey>,
    #[command(flatten)]
    pub(crate) probe: ProbeArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ListPluginsArgs {
    /// The database
    pub(crate) db: String,
    /// One JSON document
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RollbackArgs {
    /// The database
    pub(crate) db: String,
    /// The domain
    pub(crate) domain: String,
    /// To the version with this hash (its beginning will do) instead of the one before
    #[arg(long, value_name = "HASH")]
    pub(crate) to: Option<String>,
    /// Only on this host, instead of all that have an earlier version
    #[arg(long, value_parser = parse_name)]
    pub(crate) host: Option<String>,
    /// One JSON document
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct UnregisterArgs {
    /// The database
    pub(crate) db: String,
    /// The operation's name
    pub(crate) name: String,
    /// Only in this domain
    #[arg(long)]
    pub(crate) domain: Option<String>,
    /// Only from modules like this (SQL LIKE: % stands for anything)
    #[arg(long, value_parser = pattern)]
    pub(crate) module: Option<String>,
    /// Only on this host
    #[arg(long, value_parser = parse_name)]
    pub(crate) host: Option<String>,
    /// Do not ask
    #[arg(long)]
    pub(crate) no_confirm: bool,
}

#[derive(Debug, Args)]
pub(crate) struct UnregisterHostArgs {
    /// The database
    pub(crate) db: String,
    /// The host
    #[arg(value_parser = parse_name)]
    pub(crate) host: String,
    /// Do not ask
    #[arg(long)]
    pub(crate) no_confirm: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ListOperationsArgs {
    /// The database
    pub(crate) db: String,
    /// Only of this domain
    #[arg(long)]
    pub(crate) domain: Option<String>,
    /// One JSON document
    #[arg(long)]
    pub(crate) json: bool,
}
