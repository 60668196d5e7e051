//! The monitor of a host: claims tasks, runs workers, reports what became of both.
//!
//! One loop (`supervisor`): whatever happens is an `Event` (`event`), and after each one the
//! monitor does what now can be done. Notifications make it fast, the periodic looks make it right,
//! and both run the same code.

mod boottime;
mod claim;
mod cron;
mod database;
mod event;
mod fault;
mod housekeeping;
mod init;
mod lease;
mod mailbox;
mod options;
mod outage;
mod plugins;
mod poll;
mod recover;
mod refusals;
mod run;
mod shutdown;
mod supervisor;
mod tasks;
mod unsaid;
mod wakeup;
mod witness;
mod workers;

pub use init::stand_below_init;
pub use options::{MonitorError, Options};
pub use run::run;
pub use workers::{
    IdentityError, PoolOptions,
    process::{EXAMINER, WORKER},
};
