//! How the workers of each domain are kept.

use crate::periods::Periods;
use std::time::Duration;

/// How the workers of each domain are kept.
#[derive(Debug, Clone)]
pub struct PoolOptions {
    /// Never more workers than this, over all plugins of the domain.
    pub max_workers: usize,
    /// Never fewer, likewise.
    pub min_workers: usize,
    /// A worker ends after this many tasks; 0: never.
    pub max_runs: u64,
    /// A worker whose resident memory has grown beyond this many MB ends after its task; 0: never.
    pub max_mem: u64,
    /// How long a worker may take to be ready.
    pub start_timeout: Duration,
    /// How long a surplus worker idles before it ends.
    pub linger: Duration,
}

impl Default for PoolOptions {
    fn default() -> Self {
        Self {
            max_workers: 2,
            min_workers: 1,
            max_runs: 0,
            max_mem: 0,
            start_timeout: Duration::from_secs(30),
            linger: Periods::current().worker_linger,
        }
    }
}
