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
mod clocks;
mod connections;
mod crash;
mod doctor;
mod drop_in;
mod embedded;
mod fork;
mod init;
mod inputs;
mod inspect;
mod isolation;
mod keys;
mod kill;
mod layers;
mod leftovers;
mod libraries;
mod limits;
mod mutate;
mod numbers;
mod operate;
mod output;
mod plugins;
mod pool;
mod prepare;
mod prepared;
mod publish;
mod refuse;
mod register;
mod replace;
mod report;
mod run;
mod schedule;
mod secrets;
mod share;
mod signals;
mod state_dir;
mod states;
mod version;
mod wait;
mod waiting;
mod writes;
