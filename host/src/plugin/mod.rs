//! Foreign code: looked at without running it ([`inspect`]), kept in a private copy ([`Cache`]),
//! described by a child that loads it ([`probe`]), loaded and run by workers alone ([`load`]).

mod cache;
mod elf;
mod error;
mod inspect;
mod invoke;
mod load;
mod permissions;
mod probe;

pub use cache::{Cache, Cached};
pub use error::PluginError;
pub use inspect::{Inspection, OperationNote, PluginNote, inspect};
pub use invoke::{Captured, TaskContext, TaskData, invoke};
pub use load::{Loaded, load};
pub use probe::{child as probe_child, probe};
