//! Foreign code: looked at without running it ([`inspect`]), kept in a private copy ([`Cache`]),
//! described by a child that loads it ([`probe`]), loaded and run by workers alone ([`load`]).
//! [`examine`] is all that happens before one is believed.

mod cache;
mod elf;
mod error;
mod examine;
mod inspect;
mod invoke;
mod load;
mod offer;
mod permissions;
mod probe;
mod signature;
mod whole;

pub use cache::{Cache, Cached};
pub use error::PluginError;
pub use examine::{Examination, Examined, Verdict, child as examine_child, examine};
pub use inspect::{Inspection, OperationNote, PluginNote, inspect};
pub use invoke::{Captured, TaskContext, TaskData, invoke};
pub use load::{Loaded, load};
pub use probe::{child as probe_child, probe};
pub use signature::{TrustedKey, signature_beside};
