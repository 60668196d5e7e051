//! Alternating rounds of what is compared, each on a database of its own in one cluster: medians and ranges,
//! as a table and as JSON.

use clap::Parser;
use rework_measure::Failure;
use serde::Serialize;
use serde_json::Value;
use std::{
    collections::BTreeMap,
    fs::File,
    path::{Path, PathBuf},
    process::Command,
};

#[derive(Parser)]
struct Arguments {
    /// The program, a release build.
    #[arg(long, default_value = "target/release/rework")]
    rework: PathBuf,
    /// The plugin with the operation `noop`, a release build.
    #[arg(long, default_value = "target/release/libhello.so")]
    plugin: PathBuf,
    /// Rounds, each of which measures everything once.
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Tasks of a backlog.
    #[arg(long, default_value_t = 50_000)]
    tasks: u32,
    /// Samples of a latency.
    #[arg(long, default_value_t = 200)]
    samples: u32,
    /// Where the figures of all rounds are written.
    #[arg(long, default_value = "target/bench.json")]
    output: PathBuf,
}

/// Figures of one contestant, by name, one value per round.
type Figures = BTreeMap<&'static str, BTreeMap<String, Vec<f64>>>;

/// A median and its range.
#[derive(Serialize)]
struct Summary {
    median: f64,
    least: f64,
    most: f64,
    rounds: Vec<f64>,
}

/// An embedded cluster, and a fresh database of it for each measurement.
struct Cluster<'a> {
    rework: &'a Path,
    directory: tempfile::TempDir,
    url: String,
    databases: u32,
}

impl<'a> Cluster<'a> {
    fn start(rework: &'a Path) -> Result<Self, Failure> {
        let directory = tempfile::Builder::new()
            .prefix("rework-bench-")
            .tempdir_in("/tmp")?;
        // The server runs as another user, who must be able to enter.
        run(Command::new("chmod").arg("755").arg(directory.path()))?;
        let mut cluster = Self {
            rework,
            directory,
            url: String::new(),
            databases: 0,
        };
        cluster.embedded("start")?;
        cluster.url = cluster.embedded("url")?.trim().to_owned();
        Ok(cluster)
    }

    fn embedded(&self, command: &str) -> Result<String, Failure> {
        let path = self.directory.path().join("db");
        run(self
            .program()
            .args(["embedded", command, "--path"])
            .arg(path))
    }

    fn program(&self) -> Command {
        let mut command = Command::new(self.rework);
        command
            .env("REWORK_STATE_DIR", self.directory.path().join("state"))
            .env_remove("REWORK_DB");
        command
    }

    /// The URL of a new database.
    fn database(&mut self) -> Result<String, Failure> {
        self.databases += 1;
        let name = format!("bench_{}", self.databases);
        let server = self
            .url
            .strip_suffix("/postgres")
            .ok_or("the URL of a cluster ends with its first database")?;
        run(Command::new("psql")
            .args(["--no-psqlrc", "--quiet", "--dbname", &self.url])
            .args(["--command", &format!("create database {name}")])
            // Nothing of the round before is left for later.
            .args(["--command", "checkpoint"]))?;
        Ok(format!("{server}/{name}"))
    }
}

impl Drop for Cluster<'_> {
    fn drop(&mut self) {
        let _ = self.embedded("stop");
    }
}

fn main() -> Result<(), Failure> {
    let arguments = Arguments::parse();
    let mut cluster = Cluster::start(&arguments.rework)?;
    let mut figures = Figures::new();
    let (tasks, samples) = (arguments.tasks.to_string(), arguments.samples.to_string());
    for round in 1..=arguments.rounds {
        eprintln!("round {round} of {}", arguments.rounds);
        for (name, workers) in [
            ("rework 1 worker", "1"),
            ("rework", "2"),
            ("rework 4 workers", "4"),
        ] {
            let url = cluster.database()?;
            run(cluster.program().args(["init-db", &url]))?;
            run(cluster
                .program()
                .args(["register-operations", &url])
                .arg(&arguments.plugin))?;
            let shown = run(cluster.program().args([
                "bench",
                &url,
                "--json",
                "--tasks",
                &tasks,
                "--samples",
                &samples,
                "--workers",
                workers,
            ]))?;
            add(&mut figures, name, &shown)?;
        }
        let peer = || sibling("peer");
        let url = cluster.database()?;
        let shown = run(Command::new(peer()?).args([&url, "backlog", "--jobs", &tasks]))?;
        add(&mut figures, "graphile_worker", &shown)?;
        let url = cluster.database()?;
        let shown = run(Command::new(peer()?).args([&url, "latency", "--samples", &samples]))?;
        add(&mut figures, "graphile_worker", &shown)?;
    }
    let summaries = summarise(&figures);
    print(&summaries);
    serde_json::to_writer_pretty(File::create(&arguments.output)?, &summaries)?;
    eprintln!("all rounds: {}", arguments.output.display());
    Ok(())
}

/// A program that was built beside this one.
fn sibling(name: &str) -> Result<PathBuf, Failure> {
    Ok(std::env::current_exe()?.with_file_name(name))
}

/// Runs a command that has to succeed, and returns what it printed.
fn run(command: &mut Command) -> Result<String, Failure> {
    let output = command.output()?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{command:?}: {}: {stderr}", output.status).into());
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// Adds the numbers of a JSON object to the figures of a contestant.
fn add(figures: &mut Figures, contestant: &'static str, shown: &str) -> Result<(), Failure> {
    let document: BTreeMap<String, Value> = serde_json::from_str(shown)?;
    let of_contestant = figures.entry(contestant).or_default();
    for (name, value) in document {
        if let Some(number) = value.as_f64() {
            of_contestant.entry(name).or_default().push(number);
        }
    }
    Ok(())
}

fn summarise(figures: &Figures) -> BTreeMap<&str, BTreeMap<&str, Summary>> {
    let of_one = |rounds: &Vec<f64>| {
        let mut sorted = rounds.clone();
        sorted.sort_by(f64::total_cmp);
        Summary {
            median: sorted[sorted.len() / 2],
            least: sorted[0],
            most: sorted[sorted.len() - 1],
            rounds: rounds.clone(),
        }
    };
    figures
        .iter()
        .map(|(contestant, of_it)| {
            let summaries = of_it
                .iter()
                .map(|(name, rounds)| (name.as_str(), of_one(rounds)));
            (*contestant, summaries.collect())
        })
        .collect()
}

/// Prints a table: a line per contestant and figure.
fn print(summaries: &BTreeMap<&str, BTreeMap<&str, Summary>>) {
    println!(
        "{:<18} {:<32} {:>12} {:>12} {:>12}",
        "", "", "median", "least", "most"
    );
    for (contestant, of_it) in summaries {
        for (name, summary) in of_it {
            let Summary {
                median,
                least,
                most,
                ..
            } = summary;
            println!("{contestant:<18} {name:<32} {median:>12.2} {least:>12.2} {most:>12.2}");
        }
    }
}
