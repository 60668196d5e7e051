//! What makes a test read like a shell transcript.

mod database;
mod plugins;
mod rework;
mod versions;
mod wait;

pub(crate) use database::Database;
pub(crate) use plugins::{hello, misbehaving, report, standalone};
pub(crate) use rework::Rework;
pub(crate) use versions::{hello_version, patched, place};
pub(crate) use wait::until;
