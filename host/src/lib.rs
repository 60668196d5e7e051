//! Run tasks of independent code bases on several hosts, with Postgres and nothing else.
//!
//! An application talks to it through [`Client`]. The other modules are the parts of the `rework`
//! binary, and this is their map:
//!
//! | module | what it is |
//! |---|---|
//! | [`model`] | plain types: ids, the states of a task, causes, durations; no I/O |
//! | [`store`] | the only SQL |
//! | [`plugin`] | foreign code: inspected, cached, probed, loaded, invoked |
//! | [`wire`] | what monitor and worker say to each other |
//! | [`client`] | register, schedule, inspect, wait, abort |
//! | [`monitor`] | claims tasks, runs workers, reports |
//! | [`worker`] | loads plugins, runs one task at a time |
//! | [`periods`] | fixed periods, which tests shorten |
//! | [`postgres`] | an embedded cluster |
//! | [`cli`] | the command line |
//! | [`testing`] | a whole installation for the length of a test |
//! | [`program`] | which of these a process is, by its arguments |

pub mod causes;
pub mod cli;
pub mod client;
pub mod descendants;
pub mod descriptors;
pub mod here;
pub mod model;
pub mod monitor;
pub mod periods;
pub mod plugin;
pub mod postgres;
pub mod program;
pub mod signals;
pub mod store;
pub mod telemetry;
pub mod testing;
pub mod wire;
pub mod worker;
pub mod zones;

pub use client::{Client, Task};

#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
