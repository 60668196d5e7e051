//! What makes a test read like a shell transcript.

mod built;
mod database;
mod fake;
mod linked;
mod open_transaction;
mod own_server;
mod plugins;
mod proxy;
mod registered;
mod rework;
mod sdk;
mod sessions;
mod versions;
mod wait;

pub(crate) use built::all as build_all;
pub(crate) use database::{Database, ROLES, beside_cluster, psql};
pub(crate) use fake::{Fake, about, compile, patched};
pub(crate) use linked::linked;
pub(crate) use open_transaction::OpenTransaction;
pub(crate) use own_server::OwnServer;
pub(crate) use plugins::{
    copy_binary, hello, hello_with, misbehaving, misbehaving_aborts, report, standalone,
};
pub(crate) use proxy::Proxy;
pub(crate) use rework::{Monitor, Rework};
pub(crate) use sdk::{as_of_1_0, as_of_1_2};
pub(crate) use versions::{hello_version, place, with_texts};
pub(crate) use wait::{is_running, side_by_side, until, until_within};
