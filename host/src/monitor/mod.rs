//! The monitor of a host: claims tasks, runs workers, reports what became of both.
//!
//! One loop (`supervisor`): whatever happens is an `Event` (`event`), and after each one the
//! monitor does what now can be done. Notifications make it fast, the periodic looks make it right,
//! and both run the same code.

mod catalog;
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
mod heartbeat;
mod identity;
mod init;
mod limits;
mod lines;
mod mailbox;
mod output;
mod pages;
mod parked;
mod plugins;
mod pool;
mod process;
mod recover;
mod refusals;
mod report;
mod roster;
mod share;
mod staff;
mod supervisor;
mod unsaid;
mod upkeep;
mod usage;
mod witness;
mod worker;

pub use identity::IdentityError;
pub use init::stand_below_init;
pub use pool::PoolOptions;
pub use process::{EXAMINER, WORKER};
pub use supervisor::{MonitorError, Options, run};
