//! A worker: the process that loads one plugin of a domain and runs one task at a time, as its parent, a
//! monitor, tells it. It has no database, no credentials, and no async runtime.

mod capture;
mod context;
mod control;
mod crash;
mod environment;
mod floating;
mod forked;
mod leftovers;
mod limits;
mod memory;
mod memory_trim;
mod network;
mod run;
mod session;

pub use network::give_up as give_up_network;
pub use session::main;
