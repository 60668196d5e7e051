//! Foreign code: looked at without running it ([`inspect()`]), kept in a private copy ([`Cache`]),
//! loaded by a child to see what happens ([`probe()`]), loaded and run by workers alone ([`load()`]).
//! [`check()`] is the way in for a new file.

mod cache;
mod check;
mod elf;
mod error;
mod inspect;
mod invoke;
mod load;
mod note;
mod permissions;
mod probe;
mod probe_child;
mod source;

pub use cache::{Cache, Cached, Incoming};
pub use check::check;
pub use error::PluginError;
pub use inspect::{Inspection, OperationNote, PluginNote, inspect, inspect_content};
pub use invoke::{Captured, TaskContext, TaskData, invoke};
pub use load::{Loaded, load};
pub use probe::{PROBE_LIMIT, probe};
pub use probe_child::{load_only, supervise};
