//! Measures this installation: tasks per second, also with idle domains beside the busy one, and the time
//! from commit to the operation's first line.

use super::{
    args::BenchArgs,
    block_on,
    exit::{Failure, Result},
    output,
};
use crate::{
    client::{Client, ClientError},
    here,
    model::TaskId,
    store::OperationRow,
};
use serde::Serialize;
use std::{
    io::Write,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};
use tokio::signal::unix::{SignalKind, signal};

/// The results of a benchmark.
#[derive(Debug, Serialize)]
struct Figures {
    tasks: u32,
    workers: u16,
    enqueue_per_second: f64,
    run_per_second: f64,
    /// `None`: the plugin's file no longer exists, so it cannot be registered for other domains.
    run_per_second_among_domains: Option<f64>,
    latency_ms_median: f64,
    latency_ms_p99: f64,
    ready_ms: f64,
    worker_memory_mb: f64,
}

/// How many idle domains the monitor has that is compared with a monitor of a single domain.
const IDLE_DOMAINS: u32 = 9;

/// The benchmark's own monitor, which is ended with it.
struct Monitor(Child);

impl Monitor {
    #[expect(
        clippy::disallowed_methods,
        reason = "the bench runs a whole monitor of its own"
    )]
    fn start(args: &BenchArgs, domains: &[String]) -> Result<Self> {
        let workers = args.workers.to_string();
        let failed = |error| Failure::new(format!("could not start a monitor: {error}"));
        let mut child = Command::new("/proc/self/exe")
            .args(["monitor", "-"])
            .args(domains.iter().flat_map(|domain| ["--domain", domain]))
            .args(["--minworkers", &workers, "--maxworkers", &workers])
            // Neither in the arguments nor in the environment, because it may hold a password.
            .env_remove("REWORK_DB")
            .env("RUST_LOG", "rework=warn")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .map_err(failed)?;
        let database = child.stdin.take().expect("it is piped");
        let monitor = Self(child);
        writeln!(&database, "{}", args.db).map_err(failed)?;
        Ok(monitor)
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(self.0.id().cast_signed());
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        let _ = self.0.wait();
    }
}

pub(super) fn bench(args: BenchArgs) -> Result<()> {
    let figures = block_on(async {
        tokio::select! {
            figures = measure(&args) => return figures,
            interrupted = interrupted() => interrupted?,
        }
        withdraw_copies(&Client::connect(&args.db).await?).await?;
        Err(Failure::new("interrupted")
            .hint("what it has queued stays: see `rework vacuum --tasks --queued --help`"))
    })?;
    if args.json {
        return output::json(&figures);
    }
    let Figures {
        tasks,
        workers,
        enqueue_per_second,
        run_per_second,
        ..
    } = figures;
    output::line(&format!(
        "{tasks} tasks of `{}`, {workers} workers",
        args.operation
    ))?;
    output::line(&format!("enqueue   {enqueue_per_second:>10.0} tasks/s"))?;
    output::line(&format!("run       {run_per_second:>10.0} tasks/s"))?;
    if let Some(per_second) = figures.run_per_second_among_domains {
        output::line(&format!(
            "domains   {per_second:>10.0} tasks/s with {IDLE_DOMAINS} idle domains beside it"
        ))?;
    }
    output::line(&format!(
        "latency   {:>10.2} ms median, {:.2} ms p99, commit to first line ({} samples)",
        figures.latency_ms_median, figures.latency_ms_p99, args.samples
    ))?;
    output::line(&format!(
        "worker    {:>10.2} ms from spawn to ready, {:.1} MB resident",
        figures.ready_ms, figures.worker_memory_mb
    ))
}

async fn measure(args: &BenchArgs) -> Result<Figures> {
    let client = Client::connect(&args.db).await?;
    let host = here::host_name(None).map_err(ClientError::from)?;
    let operations = client.operations(None).await?;
    let Some(operation) = operations
        .iter()
        .find(|row| row.name == args.operation && row.host == host)
    else {
        return Err(Failure::new(format!(
            "operation `{}` is not registered on host `{host}`",
            args.operation
        ))
        .hint(
            "register example-plugins/hello, which offers `noop`, or name one with --operation",
        ));
    };

    if operation.paused {
        let (name, domain) = (&operation.name, &operation.domain);
        return Err(
            Failure::new(format!("operation `{name}` of domain {domain} is paused"))
                .hint("see `rework resume --help`"),
        );
    }

    let among_domains = among_domains(args, &client, operation).await?;
    let began = Instant::now();
    let batch = queue(args, &client, operation).await?;
    let enqueue = began.elapsed();
    let monitor = Monitor::start(args, std::slice::from_ref(&operation.domain))?;
    let seconds = run(args, &client, &batch).await?;

    let mut latencies = Vec::new();
    for _ in 0..args.samples {
        // Lets the monitor become idle again.
        tokio::time::sleep(Duration::from_millis(5)).await;
        let task = client
            .schedule(&args.operation)
            .domain(&operation.domain)
            .await?;
        task.join().await?;
        let row = task.row().await?;
        if let Some(started) = row.started {
            latencies.push((started - row.queued).as_seconds_f64() * 1000.0);
        }
    }
    latencies.sort_by(f64::total_cmp);
    let at = |share: f64| {
        let place = (latencies.len() as f64 * share) as usize;
        latencies
            .get(place.min(latencies.len().saturating_sub(1)))
            .copied()
            .unwrap_or_default()
    };
    let workers = client.workers(Some(&operation.domain), false).await?;
    let worker = workers
        .iter()
        .rev()
        .find(|row| row.state != "dead" && row.started.is_some());
    let ready = worker.and_then(|row| Some((row.started? - row.created).as_seconds_f64() * 1000.0));
    let memory = worker.and_then(|row| row.memory_mb);
    drop(monitor);
    Ok(Figures {
        tasks: args.tasks,
        workers: args.workers,
        enqueue_per_second: f64::from(args.tasks) / enqueue.as_secs_f64(),
        run_per_second: f64::from(args.tasks) / seconds,
        run_per_second_among_domains: among_domains.map(|seconds| f64::from(args.tasks) / seconds),
        latency_ms_median: at(0.5),
        latency_ms_p99: at(0.99),
        ready_ms: ready.unwrap_or_default(),
        worker_memory_mb: memory.unwrap_or_default(),
    })
}

/// Queues the tasks whose throughput is measured.
async fn queue(args: &BenchArgs, client: &Client, operation: &OperationRow) -> Result<Vec<i64>> {
    let mut batch = Vec::new();
    while batch.len() < args.tasks as usize {
        let part = (args.tasks - batch.len() as u32).min(1000);
        let queued = client.schedule_copies(&operation.name, &operation.domain, part);
        batch.extend(queued.await?);
    }
    Ok(batch)
}

/// Waits until all of these tasks have ended. Returns the seconds from the first start to the last end.
async fn run(args: &BenchArgs, client: &Client, batch: &[i64]) -> Result<f64> {
    let last = client.task(TaskId(*batch.last().expect("at least one task was queued")));
    last.join().await?;
    let run = loop {
        let run = client.batch(batch).await?;
        if run.open == 0 {
            break run;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    if run.unwell > 0 {
        return Err(Failure::new(format!(
            "{} of {} tasks of `{}` did not end done: there is nothing to measure",
            run.unwell, args.tasks, args.operation
        ))
        .hint("see `rework list-tasks`"));
    }
    Ok(run.seconds)
}

/// Like [`run`], with a monitor that also serves idle domains, each of which has run one task. They are the
/// same plugin under other names, and are registered only for this measurement.
async fn among_domains(
    args: &BenchArgs,
    client: &Client,
    operation: &OperationRow,
) -> Result<Option<f64>> {
    let path = std::path::Path::new(&operation.path);
    if !path.is_file() {
        return Ok(None);
    }
    let idle = idle_domains();
    client.register_copies(path, &operation.name, &idle).await?;
    let ran = run_beside(args, client, operation, &idle).await;
    withdraw_copies(client).await?;
    ran.map(Some)
}

/// The names of the domains that exist only for a measurement.
fn idle_domains() -> Vec<String> {
    (1..=IDLE_DOMAINS)
        .map(|number| format!("bench-idle-{number}"))
        .collect()
}

/// Withdraws what was registered only for a measurement, also for one that was interrupted before.
async fn withdraw_copies(client: &Client) -> Result<()> {
    for domain in &idle_domains() {
        for row in client.operations(Some(domain)).await? {
            let deployments = client.deployments(&row.name, Some(domain), None, None);
            client.unregister(&deployments.await?).await?;
        }
    }
    Ok(())
}

/// Until this process is told to end: by ctrl-c, SIGTERM or the end of its terminal.
async fn interrupted() -> Result<()> {
    let told = |kind| signal(kind).map_err(Failure::from);
    let (mut terminate, mut hangup) = (told(SignalKind::terminate())?, told(SignalKind::hangup())?);
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
        _ = hangup.recv() => {}
    }
    Ok(())
}

async fn run_beside(
    args: &BenchArgs,
    client: &Client,
    operation: &OperationRow,
    idle: &[String],
) -> Result<f64> {
    let domains = [std::slice::from_ref(&operation.domain), idle].concat();
    for domain in idle {
        client.schedule(&args.operation).domain(domain).await?;
    }
    // All tasks are queued before the monitor starts, as in the measurement with one domain.
    let batch = queue(args, client, operation).await?;
    let _monitor = Monitor::start(args, &domains)?;
    run(args, client, &batch).await
}
