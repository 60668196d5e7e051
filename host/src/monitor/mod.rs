//! The monitor of a host: claims tasks, runs workers, reports what became of both.
//!
//! One loop (`supervisor`): whatever happens is an `Event` (`event`), and after each one the
//! monitor does what now can be done. Notifications make it fast, the periodic looks make it right,
//! and both run the same code.

mod boottime;
mod cgroup;
mod claim;
mod cron;
mod cycle;
mod database;
mod death;
mod event;
mod fault;
mod feed;
mod hear;
mod housekeeping;
mod identity;
mod init;
mod lease;
mod limits;
mod mailbox;
mod outage;
mod output;
mod pages;
mod plugins;
mod poll;
mod pool;
mod process;
mod recover;
mod refusals;
mod roster;
mod run;
mod share;
mod staff;
mod supervisor;
mod tasks;
mod unsaid;
mod usage;
mod wakeup;
mod witness;
mod worker;

pub use identity::IdentityError;
pub use init::stand_below_init;
pub use pool::PoolOptions;
pub use process::{EXAMINER, WORKER};
pub use run::{MonitorError, Options, run};
