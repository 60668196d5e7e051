//! Write operations for `rework`.

pub mod abi;
