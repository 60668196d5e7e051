//! What makes a test read like a shell transcript.

mod database;
mod fake;
mod linked;
mod open_transaction;
mod plugins;
mod proxy;
mod rework;
mod sdk;
mod versions;
mod wait;

pub(crate) use database::{Database, ROLES};
pub(crate) use fake::{Fake, about, compile, patched};
pub(crate) use linked::linked;
pub(crate) use open_transaction::OpenTransaction;
pub(crate) use plugins::{hello, hello_with, misbehaving, misbehaving_aborts, report, standalone};
pub(crate) use proxy::Proxy;
pub(crate) use rework::{Monitor, Rework};
pub(crate) use sdk::{as_of_1_0, as_of_1_2};
pub(crate) use versions::{hello_version, place, with_texts};
pub(crate) use wait::{until, until_within};
