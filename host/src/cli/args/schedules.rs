//! What the commands about cron schedules take.

use super::{
    InputArgs,
    values::{catch_up, hours, integer_in, json, rule, zone},
};
use crate::model::{ScheduleId, name::parse_name, rule::CatchUp};
use clap::Args;
use serde_json::Value;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub(crate) struct PrepareArgs {
    /// The database
    pub(crate) db: String,
    /// The operation's name
    pub(crate) name: String,
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
    pub(crate) rule: String,
    #[command(flatten)]
    pub(crate) input: InputArgs,
    /// The domain, for a name that exists in several
    #[arg(long)]
    pub(crate) domain: Option<String>,
    /// Run its tasks on this host only
    #[arg(long, value_parser = parse_name)]
    pub(crate) host: Option<String>,
    /// Notes that stay with its tasks; a JSON object
    #[arg(long, value_name = "JSON", value_parser = json)]
    pub(crate) metadata: Option<Value>,
    /// The time zone of the rule and of moments in the input
    #[arg(long, value_name = "TZ", default_value = "UTC", value_parser = zone)]
    pub(crate) timezone: String,
    /// What becomes of runs that no monitor was there for
    #[arg(long, value_name = "skip|one|all", default_value = "skip", value_parser = catch_up)]
    pub(crate) catch_up: CatchUp,
    /// Allow a rule that fires every second
    #[arg(long)]
    pub(crate) every_second: bool,
}

#[derive(Debug, Args)]
pub(crate) struct UnprepareArgs {
    /// The database
    pub(crate) db: String,
    /// The schedule
    pub(crate) id: ScheduleId,
}

#[derive(Debug, Args)]
pub(crate) struct ListScheduledArgs {
    /// The database
    pub(crate) db: String,
    /// Only of this domain
    #[arg(long)]
    pub(crate) domain: Option<String>,
    /// One JSON document
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct PlanArgs {
    /// The database
    pub(crate) db: String,
    /// The domain
    pub(crate) domain: String,
    /// How far to look ahead
    #[arg(long, default_value_t = 1.0, value_parser = hours)]
    pub(crate) hours: f64,
    /// At most so many runs
    #[arg(long, default_value_t = 10_000, value_parser = integer_in::<usize>(0..=1 << 40))]
    pub(crate) limit: usize,
    /// One JSON document
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct TransferArgs {
    /// The database
    pub(crate) db: String,
    /// The file; - for standard output or input
    #[arg(long, default_value = "rework.sched")]
    pub(crate) path: PathBuf,
}
