//! The real binary against a real Postgres: an embedded cluster for all tests, a database for each.
//! A file per step of a task's life, and one per thing that can go wrong.
#![allow(
    clippy::disallowed_methods,
    reason = "tests run the binary, and look into the database behind its back"
)]

mod harness;

mod abi;
mod abort;
mod claim;
mod cli;
mod crash;
mod doctor;
mod drop_in;
mod embedded;
mod fork;
mod init;
mod inspect;
mod isolation;
mod kill;
mod layers;
mod leftovers;
mod limits;
mod mutate;
mod operate;
mod pool;
mod prepare;
mod publish;
mod refuse;
mod register;
mod replace;
mod report;
mod run;
mod schedule;
mod secrets;
mod signals;
mod states;
mod version;
mod wait;
