//! What `pause`, `resume`, `vacuum` and `bench` take.

use super::values::integer_in;
use crate::model::ScheduleId;
use clap::Args;

#[derive(Debug, Args)]
pub(crate) struct PauseArgs {
    /// The database
    pub(crate) db: String,
    /// A whole domain; with --operation: the domain of the operation
    #[arg(long)]
    pub(crate) domain: Option<String>,
    /// An operation
    #[arg(long)]
    pub(crate) operation: Option<String>,
    /// A schedule
    #[arg(long, value_name = "ID", conflicts_with_all = ["domain", "operation"])]
    pub(crate) schedule: Option<ScheduleId>,
}

#[derive(Debug, Args)]
pub(crate) struct VacuumArgs {
    /// The database
    pub(crate) db: String,
    /// Delete dead workers; their tasks stay
    #[arg(long)]
    pub(crate) workers: bool,
    /// Delete ended tasks, with their logs and files
    #[arg(long)]
    pub(crate) tasks: bool,
    /// With --tasks: delete the queued ones instead, whatever their age
    #[arg(long)]
    pub(crate) queued: bool,
    /// Only of this domain
    #[arg(long)]
    pub(crate) domain: Option<String>,
    /// Only those that ended so many days ago
    #[arg(long, default_value_t = 0, value_parser = integer_in::<u32>(0..=36_525))]
    pub(crate) days: u32,
}

#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// The database
    pub(crate) db: String,
    /// How many tasks to run for the throughput
    #[arg(long, default_value_t = 20_000, value_parser = integer_in::<u32>(1..=i32::MAX.into()))]
    pub(crate) tasks: u32,
    /// How many tasks to run one by one for the latency
    #[arg(long, default_value_t = 200, value_parser = integer_in::<u32>(1..=i32::MAX.into()))]
    pub(crate) samples: u32,
    /// How many workers
    #[arg(long, default_value_t = 2, value_parser = integer_in::<u16>(1..=65_535))]
    pub(crate) workers: u16,
    /// The operation to run; it must be registered on this host and take no input
    #[arg(long, default_value = "noop")]
    pub(crate) operation: String,
    /// One JSON document
    #[arg(long)]
    pub(crate) json: bool,
}
