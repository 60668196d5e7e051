//! Functional tests of plugins and of applications: a database of its own, plugins built and
//! registered, a monitor with real workers, for the length of a scope.
//!
//! ```no_run
//! // tests/jobs.rs
//! rework::testing::enable!();
//!
//! # mod example {
//! use std::time::Duration;
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! // in a #[tokio::test]
//! let rework = rework::testing::installation()
//!     .plugin_crate(env!("CARGO_MANIFEST_DIR"))
//!     .workers(2)
//!     .start()
//!     .await?;
//! let task = rework.schedule("my_first_task").input("hello").await?;
//! task.join_timeout(Duration::from_secs(10)).await?;
//! assert_eq!(task.output::<String>().await?.as_deref(), Some("hellohello"));
//! # Ok(())
//! # }
//! # }
//! # fn main() {}
//! ```
//!
//! Everything is real: monitor and workers are processes of the test binary itself, which
//! [`enable!`](crate::testing::enable) turns into `rework` where it is started as one. The server is
//! an embedded PostgreSQL in `/tmp/rework-testing-UID` (or `$REWORK_TEST_CLUSTER`), shared by all
//! tests and stopped a little after the last one; each installation has a database, a host name and
//! a state directory of its own, which are removed at its end.

mod children;
mod hook;
mod installation;

pub use crate::__testing_enable as enable;
#[doc(hidden)]
pub use hook::become_rework;
pub use installation::{Builder, Installation, TestingError, installation};
