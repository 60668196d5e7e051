//! Foreign code: read without running it ([`Inspection`]), copied to a private cache ([`Cache`]), loaded by
//! a child process as a trial ([`probe()`]), and loaded and run by workers alone ([`load()`]).
//! [`examine()`] does all that has to precede the use of a file; [`check()`] does the same without keeping
//! the copy.

mod being_written;
mod cache;
mod companions;
mod elf;
mod error;
mod examine;
mod inspect;
mod invoke;
mod load;
mod note;
mod permissions;
mod probe;
mod probe_child;
mod registration;
mod signature;
mod source;
mod stamp;
mod tree;

pub use cache::{Cache, Incoming, without_path};
pub use error::PluginError;
pub use examine::{
    Demands, Examination, Examined, LOAD_ENVIRONMENT, Verdict, check, child as examine_child,
    examine, load_environment,
};
pub use inspect::{Inspection, OperationNote, inspect_content};
pub use invoke::{Captured, TaskContext, TaskData, invoke};
pub use load::{Loaded, load};
pub use probe::{Confinement, PROBE, PROBE_LIMIT, environment_of, probe};
pub use probe_child::{load_only, supervise};
pub use signature::{TrustedKey, signature_path};
pub use stamp::FileStamp;
pub use tree::is_companion;
