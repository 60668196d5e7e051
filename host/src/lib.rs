//! Run tasks of independent code bases on several hosts, with Postgres and nothing else.
//!
//! | module | what it is for |
//! |---|---|
//! | [`client`] | an application: register plugins, schedule tasks, wait for them, read their output, abort them |
//! | [`testing`] | the tests of a plugin or of an application: a whole installation for the length of a test |
//!
//! [`Client`] is where an application begins. Everything else in this crate is the inside of the
//! program `rework`; ARCHITECTURE.md describes its modules.

#![expect(
    unreachable_pub,
    reason = "`pub` in a private module means: for the other modules of this crate"
)]

mod causes;
mod cli;
pub mod client;
mod descendants;
mod descriptors;
mod here;
mod model;
mod monitor;
mod periods;
mod plugin;
mod postgres;
mod proc;
mod program;
mod signals;
mod store;
mod telemetry;
pub mod testing;
mod wire;
mod worker;
mod zones;

pub use client::{Client, Task, TaskId, TaskState};

/// What the program `rework` and this project's own tests use of the inside. It is not an interface:
/// anything here may change in any version.
#[doc(hidden)]
#[allow(missing_docs, reason = "documented where it is defined")]
pub mod internals {
    pub mod program {
        pub use crate::program::main;
    }

    pub mod descendants {
        pub use crate::descendants::{Processes, kill_all, of};
    }
    pub mod here {
        pub use crate::here::zone;
    }
    pub mod model {
        pub use crate::model::{
            MonitorId, OperationId, TaskId, Token, WorkerId, moment, task, time,
        };
    }
    pub mod plugin {
        pub use crate::plugin::{Inspection, inspect_content};
    }
    pub mod postgres {
        pub use crate::postgres::{Cluster, Lease};
    }
    pub mod proc {
        pub use crate::proc::Stat;
    }
    pub mod store {
        pub use crate::store::{Cycle, Ended, Fate, Mark, Scan, Store};
    }
    pub mod wire {
        pub use crate::wire::{Finished, FromWorker, Payload, frame};
    }
    pub mod zones {
        pub use crate::zones::Zone;
    }
}

#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
