//! The only SQL of the host: one file per noun, methods named noun first (`task_enqueue`). Client and
//! monitor hold a [`Store`]; no other module sees a connection.

mod claim;
mod content;
mod cycle;
mod difference;
mod document;
mod drop_in;
mod enqueue;
mod error;
mod file;
mod health;
mod listen;
mod listing;
mod lock;
mod log;
mod monitor;
mod operation;
mod parameter;
mod passfile;
mod plugin;
mod pool;
mod sched;
mod schedule;
mod schema;
mod server;
mod service;
mod session;
mod silence;
mod task;
mod url;
mod version;
mod worker;

pub use claim::Claim;
pub use content::{Offer, PackedPlugin};
pub use cycle::{Claimed, Cycle, CycleResult, Ended, Fate, LogChunk, Mark, Scan};
pub use document::{Document, to_jsonb_text};
pub use drop_in::{DropInOutcome, DropInRow};
pub use enqueue::{Enqueue, Queued, RAW_IN_ROW};
pub use error::{Result, StoreError};
pub use file::{FileContent, FileInfo};
pub use health::{GoneHost, LaneHost, SLOW_LOAD, StartHealth, TaskWait, WaitingLane};
pub use listen::{Bell, Notification};
pub use listing::{TaskFilter, TaskRow};
pub use lock::Holder;
pub use log::LogRow;
pub use monitor::{Gone, MonitorRow, OtherMonitor};
pub use operation::{CatalogRow, OperationRow, Resolved, Retired};
pub use plugin::{Placement, Registered};
pub use pool::{ConnectOptions, Store};
pub use sched::{
    DatabaseClock, NewSchedule, SchedulePlan, SchedulePlans, ScheduleRow, ScheduledFire,
};
pub use schedule::ScheduleRequest;
pub use session::Session;
pub use task::{AttemptRow, BatchRow, InputRow, TaskDetail};
pub use version::{PluginRow, RollbackRow, VersionRow};
pub use worker::{WorkerRow, WorkerSave};
