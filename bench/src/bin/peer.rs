//! The fastest in-process peer, `graphile_worker`, with the settings of its own benchmark: what it does with
//! a backlog of jobs that do nothing, and how long a job takes from commit to its handler.
//!
//! It runs handlers in the process that talks to Postgres, and deletes a job that has ended.

use clap::{Parser, Subcommand};
use graphile_worker::{
    IntoTaskHandlerResult, JobSpec, LocalQueueConfig, RawJobSpec, TaskHandler, WorkerContext,
    WorkerContextExt, WorkerOptions,
};
use rework_measure::{Failure, Latency, connect};
use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};
use tokio::sync::mpsc;

/// How many connections the worker may open, as in the peer's own benchmark.
const CONNECTIONS: u32 = 100;

#[derive(Parser)]
struct Arguments {
    /// The URL of an empty database.
    database: String,
    #[command(subcommand)]
    measure: Measure,
}

#[derive(Subcommand)]
enum Measure {
    /// Jobs per second of a backlog, and jobs per second while it is queued in one call.
    Backlog {
        #[arg(long, default_value_t = 20_000)]
        jobs: u32,
    },
    /// From before the job is sent to when its handler begins, in an idle system.
    Latency {
        #[arg(long, default_value_t = 200)]
        samples: u32,
    },
}

#[derive(Serialize, Deserialize)]
struct Noop {
    number: u32,
}

/// Counts the jobs that have run, and tells when one begins.
#[derive(Clone, Debug)]
struct Probe {
    ran: Arc<AtomicU64>,
    begins: mpsc::UnboundedSender<Instant>,
}

impl TaskHandler for Noop {
    const IDENTIFIER: &'static str = "noop";

    async fn run(self, context: WorkerContext) -> impl IntoTaskHandlerResult {
        if let Some(probe) = context.get_ext::<Probe>() {
            let _ = probe.begins.send(Instant::now());
            probe.ran.fetch_add(1, Relaxed);
        }
        Ok::<(), String>(())
    }
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let arguments = Arguments::parse();
    let pool = connect(&arguments.database, CONNECTIONS).await?;
    let shown = match arguments.measure {
        Measure::Backlog { jobs } => serde_json::to_string(&backlog(pool, jobs).await?)?,
        Measure::Latency { samples } => serde_json::to_string(&latency(pool, samples).await?)?,
    };
    println!("{shown}");
    Ok(())
}

async fn backlog(pool: PgPool, count: u32) -> Result<rework_measure::Backlog, Failure> {
    let options = options(&pool)
        .concurrency(500)
        .poll_interval(Duration::from_millis(5))
        .complete_job_batch_delay(Duration::from_millis(5))
        .local_queue(LocalQueueConfig::default().with_size(5000));
    let (probe, _begins) = probe();
    let worker = Arc::new(options.add_extension(probe.clone()).init().await?);
    let jobs: Vec<RawJobSpec> = (0..count)
        .map(|number| {
            Ok(RawJobSpec {
                identifier: Noop::IDENTIFIER.to_owned(),
                payload: serde_json::to_value(Noop { number })?,
                spec: JobSpec::default(),
            })
        })
        .collect::<Result<_, serde_json::Error>>()?;
    let began = Instant::now();
    worker.create_utils().add_raw_jobs(&jobs).await?;
    let enqueue = began.elapsed();
    let began = Instant::now();
    let running = tokio::spawn({
        let worker = Arc::clone(&worker);
        async move { worker.run().await }
    });
    while probe.ran.load(Relaxed) < u64::from(count) {
        if running.is_finished() {
            return Err("the worker has ended before its jobs".into());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let run = began.elapsed();
    worker.request_shutdown();
    running.await??;
    Ok(rework_measure::Backlog::of(count, enqueue, run))
}

async fn latency(pool: PgPool, samples: u32) -> Result<Latency, Failure> {
    let (probe, mut begins) = probe();
    let worker = Arc::new(
        options(&pool)
            .concurrency(4)
            .add_extension(probe)
            .init()
            .await?,
    );
    let utils = worker.create_utils();
    let running = tokio::spawn({
        let worker = Arc::clone(&worker);
        async move { worker.run().await }
    });
    let mut waits = Vec::new();
    for number in 0..samples {
        tokio::time::sleep(rework_measure::pause(number)).await;
        let sent = Instant::now();
        utils.add_job(Noop { number }, JobSpec::default()).await?;
        let begun = begins.recv().await.ok_or("the worker has ended")?;
        waits.push(begun.saturating_duration_since(sent));
    }
    worker.request_shutdown();
    running.await??;
    Ok(Latency::of(waits))
}

fn options(pool: &PgPool) -> WorkerOptions {
    WorkerOptions::default()
        .pg_pool(pool.clone())
        .schema("graphile_worker")
        .define_job::<Noop>()
}

fn probe() -> (Probe, mpsc::UnboundedReceiver<Instant>) {
    let (begins, receiver) = mpsc::unbounded_channel();
    let ran = Arc::default();
    (Probe { ran, begins }, receiver)
}
