//! Foreign code: looked at without running it ([`inspect()`]), kept in a private copy ([`Cache`]),
//! loaded by a child to see what happens ([`probe()`]), loaded and run by workers alone ([`load()`]).
//! [`examine()`] is all that happens before a file is believed, [`check()`] the same without keeping it.

mod cache;
mod companions;
mod elf;
mod error;
mod examine;
mod inspect;
mod invoke;
mod load;
mod note;
mod offer;
mod permissions;
mod probe;
mod probe_child;
mod signature;
mod source;
mod stamp;
mod tree;
mod whole;

pub use cache::{Cache, Cached, Incoming, without_path};
pub use error::PluginError;
pub use examine::{
    Demands, Examination, Examined, LOAD_ENVIRONMENT, Verdict, check, child as examine_child,
    examine, load_environment,
};
pub use inspect::{Inspection, OperationNote, PluginNote, inspect, inspect_content};
pub use invoke::{Captured, TaskContext, TaskData, invoke};
pub use load::{Loaded, load};
pub use probe::{Confinement, PROBE, PROBE_LIMIT, environment_of, probe};
pub use probe_child::{load_only, supervise};
pub use signature::{TrustedKey, signature_beside, signature_path};
pub use stamp::FileStamp;
pub use tree::is_companion;
