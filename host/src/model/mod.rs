//! The words of the system as plain types: no input or output happens here.
//! Everybody reads them; the state machine of a task is the one function [`task::next_state`].

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
pub mod number;
pub mod plugin;
pub mod rule;
pub mod task;
pub mod time;
pub mod word;
pub mod worker;

pub use ids::{MonitorId, OperationId, ScheduleId, TaskId, Token, WorkerId};
