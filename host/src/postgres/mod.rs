//! An embedded cluster: made with the machine's own PostgreSQL, on a Unix socket only, started on
//! demand and stopped a little after its last user has gone. The command line and the client ask
//! for it when `DB` is `embedded`; nothing is ever downloaded.

mod binaries;
mod cluster;
mod error;
mod keeper;
mod program;
mod status;
mod user;

pub use cluster::{Cluster, Lease};
pub use error::Error;
pub use keeper::{allow_keeper, keeper};
pub use status::Status;
