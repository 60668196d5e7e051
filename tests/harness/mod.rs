//! What makes a test read like a shell transcript.

mod database;
mod plugins;
mod rework;
mod wait;

pub(crate) use database::Database;
pub(crate) use plugins::{hello, misbehaving, report, standalone};
pub(crate) use rework::{Monitor, Rework};
pub(crate) use wait::until;
