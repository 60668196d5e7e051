//! What the measurements share: their figures, and how they connect.

use serde::{Deserialize, Serialize};
use sqlx::{PgPool, postgres::PgPoolOptions};
use std::time::Duration;

/// Any error: a measurement ends with the first one.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Opens a pool of at most so many connections.
pub async fn connect(url: &str, connections: u32) -> Result<PgPool, sqlx::Error> {
    PgPoolOptions::new()
        .max_connections(connections)
        .connect(url)
        .await
}

/// Tasks per second: of queueing a backlog, and of running it.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Backlog {
    pub enqueue_per_second: f64,
    pub run_per_second: f64,
}

impl Backlog {
    /// The figures of so many tasks.
    pub fn of(tasks: u32, enqueue: Duration, run: Duration) -> Self {
        let per_second = |took: Duration| f64::from(tasks) / took.as_secs_f64();
        Self {
            enqueue_per_second: per_second(enqueue),
            run_per_second: per_second(run),
        }
    }
}

/// From commit to the beginning of the operation, in milliseconds.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Latency {
    pub latency_ms_median: f64,
    pub latency_ms_p99: f64,
}

impl Latency {
    /// The figures of these samples.
    pub fn of(mut samples: Vec<Duration>) -> Self {
        samples.sort_unstable();
        let at = |share: f64| {
            let last = samples.len().saturating_sub(1);
            let place = (samples.len() as f64 * share) as usize;
            samples
                .get(place.min(last))
                .map_or(f64::NAN, |sample| sample.as_secs_f64() * 1000.0)
        };
        Self {
            latency_ms_median: at(0.5),
            latency_ms_p99: at(0.99),
        }
    }
}

/// The pause before a sample, from 40 to 120 ms, the same in every run: calls at regular times would meet
/// timers in step.
pub fn pause(number: u32) -> Duration {
    Duration::from_millis(u64::from(40 + number * 37 % 81))
}
