//! The terms of the system as plain types, without input or output. Every module uses them. The state
//! machine of a task is the one function [`task::next_state`].

pub mod base64_bytes;
pub mod base64_option;
pub mod difference;
pub mod duration;
mod field;
mod fields;
pub mod ids;
pub mod input;
pub mod log;
pub mod moment;
pub mod name;
pub mod number;
pub mod plugin;
pub mod rule;
pub mod task;
pub mod text;
pub mod time;
pub mod worker;

pub use ids::{MonitorId, OperationId, ScheduleId, TaskId, Token, WorkerId};
