//! Write operations for `rework`: tasks of a database are run by functions of your own crate,
//! built as a shared library and loaded by worker processes.
//!
//! ```toml
//! [lib]
//! crate-type = ["cdylib", "rlib"]   # rlib: so that unit tests can call the operations
//!
//! [dependencies]
//! rework-plugin = "0.1"
//! ```
//!
//! ```
//! use rework_plugin::prelude::*;
//!
//! /// Doubles what it is given.
//! #[operation]
//! fn double(task: &mut Task) -> Result<()> {
//!     let number: i64 = task.input()?;
//!     println!("doubling {number}");
//!     task.save_output(&(2 * number))?;
//!     Ok(())
//! }
//!
//! /// Typed: arguments are named inputs, the return value is the output.
//! #[operation(domain = "maths", timeout = "3m", max_attempts = 3)]
//! fn add(a: i64, b: Option<i64>) -> Result<i64> {
//!     Ok(a + b.unwrap_or(0))
//! }
//!
//! rework_plugin::export!();
//! # fn main() {}
//! ```
//!
//! What an operation prints, what it logs with `log` or `tracing`, and what its children print is
//! kept with its task. A panic fails the task; a crash ends only its worker. [`testing`] runs an
//! operation in a unit test, without a host.

pub mod abi;
mod error;
#[doc(hidden)]
pub mod export;
#[doc(hidden)]
pub mod finite;
#[doc(hidden)]
pub mod input;
pub mod io;
mod logging;
#[doc(hidden)]
pub mod moment;
mod note;
mod panic;
mod spans;
pub mod spec;
mod task;
pub mod testing;

pub use error::{Error, Result};
pub use rework_plugin_macros::{Inputs, Outputs, operation};
pub use task::{CaptureGuard, Level, Schedule, Task};

/// Exports the operations of this crate. Stands once, at the crate root.
#[macro_export]
macro_rules! export {
    () => {
        const _: () = {
            #[used]
            #[unsafe(link_section = ".note.rework")]
            static NOTE: $crate::export::Note<{ $crate::export::padded(PARTS) }> =
                $crate::export::Note::new(1, PARTS);
            const PARTS: &[&str] = &[
                $crate::export::BUILD,
                ",\"crate\":\"",
                env!("CARGO_PKG_NAME"),
                "\",\"version\":\"",
                env!("CARGO_PKG_VERSION"),
                "\",\"panic\":\"",
                if cfg!(panic = "abort") {
                    "abort"
                } else {
                    "unwind"
                },
                "\"}",
            ];

            #[unsafe(export_name = "_1as_0lib_1header_0root_bmodule_bloader")]
            static ROOT_MODULE: $crate::export::LibHeader = $crate::export::root_module();
        };
    };
}

/// What an author needs: `use rework_plugin::prelude::*;`.
pub mod prelude {
    pub use crate::{
        Error, Level, Result, Task,
        io::{DateTime, File, Moment, Value},
        {Inputs, Outputs, operation},
    };
    pub use serde_json::json;
}
