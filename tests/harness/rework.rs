//! Running the binary: one command at a time, or a monitor for the length of a scope.

use super::{Database, registered, until};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Instant,
};

/// A fresh installation: a database with the schema, a state directory, a host name.
#[derive(Debug)]
pub(crate) struct Rework {
    pub(crate) database: Database,
    state: tempfile::TempDir,
    /// `REWORK_TEST_PERIODS` of its commands and monitors.
    periods: &'static str,
}

/// What a command printed, and how it ended.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) code: i32,
}

impl Rework {
    /// With the schema.
    pub(crate) fn new() -> Self {
        Self::over(Database::with_schema())
    }

    /// Without it.
    pub(crate) fn without_schema() -> Self {
        Self::over(Database::empty())
    }

    pub(super) fn over(database: Database) -> Self {
        Self {
            database,
            state: tempfile::tempdir().expect("a directory"),
            periods: "",
        }
    }

    /// With periods of its own from now on, as `lease=1500`: names and milliseconds of `rework::periods`.
    /// The others keep their defaults.
    pub(crate) fn with_periods(mut self, periods: &'static str) -> Self {
        self.periods = periods;
        self
    }

    /// With the schema and these plugins registered: a copy of an installation in which they have been.
    pub(crate) fn with_plugins(plugins: &[PathBuf]) -> Self {
        registered::installation(plugins)
    }

    /// A directory for what a test needs.
    pub(crate) fn directory(&self) -> &Path {
        self.state.path()
    }

    /// A command of this installation.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rework"));
        command
            .args(arguments)
            .env("REWORK_DB", self.database.url())
            .env("REWORK_HOST", "testhost")
            .env("REWORK_STATE_DIR", self.state.path())
            .env("REWORK_TEST_PERIODS", self.periods)
            .env_remove("RUST_LOG")
            .current_dir(self.state.path())
            .stdin(Stdio::null());
        command
    }

    /// Runs a command to its end.
    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        let output = self.command(arguments).output().expect("the binary runs");
        Output {
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            code: output.status.code().unwrap_or(-1),
        }
    }

    /// Runs a command that has to succeed; what it printed.
    pub(crate) fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert_eq!(output.code, 0, "{arguments:?}: {output:#?}");
        output.stdout.trim_end().to_owned()
    }

    /// Runs a command that has to fail with this code; what it complained, checked to be an error
    /// line that shows no inner form and no panic.
    pub(crate) fn fails(&self, code: i32, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert_eq!(output.code, code, "{arguments:?}: {output:#?}");
        assert!(
            output.stderr.starts_with("error: "),
            "{arguments:?}: {output:#?}"
        );
        for leak in ["panicked", "Some(", "Error {", "Os {"] {
            assert!(!output.stderr.contains(leak), "{arguments:?}: {output:#?}");
        }
        output.stderr
    }

    /// As [`Rework::fails`], with something to read on its standard input.
    pub(crate) fn fails_with_stdin(&self, code: i32, arguments: &[&str], stdin: &str) -> String {
        use std::io::Write;
        let mut child = self
            .command(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary runs");
        child
            .stdin
            .take()
            .expect("piped")
            .write_all(stdin.as_bytes())
            .expect("it reads");
        let output = child.wait_with_output().expect("it ends");
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {stderr}");
        stderr
    }

    /// The document that a listing prints with `--json`.
    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        let text = self.ok(&[arguments, &["--json"]].concat());
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// Queues a task; its number.
    pub(crate) fn schedule(&self, arguments: &[&str]) -> String {
        self.ok(&[&["schedule"], arguments].concat())
    }

    /// Queues a task of `misbehave` in this mode; its number.
    pub(crate) fn misbehave(&self, mode: &str) -> String {
        let input = serde_json::json!({ "mode": mode }).to_string();
        self.schedule(&["misbehave", "--input", &input])
    }

    /// Everything known about a task.
    pub(crate) fn task(&self, id: &str) -> Value {
        self.json(&["show-task", id])
    }

    /// Queues a task that runs until [`Self::release`] is called.
    pub(crate) fn hang_until_released(&self) -> String {
        let until = self.released();
        self.schedule(&[
            "misbehave",
            "--input",
            &serde_json::json!({ "mode": "hang", "until": until }).to_string(),
        ])
    }

    /// Lets what [`Self::hang_until_released`] has queued, and will queue, return.
    pub(crate) fn release(&self) {
        std::fs::write(self.released(), "").expect("a file");
    }

    fn released(&self) -> PathBuf {
        self.state.path().join("released")
    }

    /// Waits until a task has been seen in one of these states; everything known about it right after.
    pub(crate) fn wait(&self, id: &str, states: &[&str]) -> Value {
        let look = format!(
            "select concat_ws(': ', state, cause, error) from rework.task_view where id = {id}"
        );
        until(
            &format!("task {id} to be {states:?}"),
            || self.database.psql(&look),
            |seen| {
                let state = seen.split(':').next().unwrap_or_default();
                states.contains(&state)
            },
        );
        self.task(id)
    }

    /// Waits until the only monitor has renewed its lease so many times more.
    pub(crate) fn until_renewed(&self, times: usize) {
        self.until_renewed_on("testhost", times);
    }

    /// Waits until the monitor of a host has renewed its lease so many times.
    pub(crate) fn until_renewed_on(&self, host: &str, times: usize) {
        let last_seen = format!("select last_seen from rework.monitor where host = '{host}'");
        let renewed = || self.database.psql(&last_seen);
        for _ in 0..times {
            let last = renewed();
            until("the lease to be renewed", renewed, |now| *now != last);
        }
    }

    /// Waits until a task has ended, however; everything known about it then.
    pub(crate) fn ended(&self, id: &str) -> Value {
        self.wait(id, &["done", "failed", "aborted"])
    }

    /// The lines of a task's log, without times.
    pub(crate) fn log(&self, id: &str) -> Vec<String> {
        let lines = self.json(&["log-task", id]);
        let text = |line: &Value| {
            let source = line["target"]
                .as_str()
                .or(line["stream"].as_str())
                .unwrap_or_default();
            format!(
                "{source}:{}:{}",
                line["level"].as_str().unwrap(),
                line["line"].as_str().unwrap()
            )
        };
        lines.as_array().expect("a list").iter().map(text).collect()
    }

    /// Runs a monitor for these domains until the end of the scope.
    pub(crate) fn monitor(&self, arguments: &[&str]) -> Monitor {
        self.monitor_by(self.command(&[&["monitor"], arguments].concat()))
    }

    /// As [`Rework::monitor`], with a state directory of its own, as on another host.
    pub(crate) fn monitor_in(&self, state: &Path, arguments: &[&str]) -> Monitor {
        let mut command = self.command(&[&["monitor"], arguments].concat());
        command.env("REWORK_STATE_DIR", state);
        self.monitor_by(command)
    }

    /// Runs a monitor of the domain `misbehaving`, with these arguments besides, in whose workers the
    /// plugin of that name does this when it is loaded.
    pub(crate) fn monitor_that_misbehaves_on_load(&self, how: &str, arguments: &[&str]) -> Monitor {
        let name = "MISBEHAVE_ON_LOAD";
        let domain = ["monitor", "--domain", "misbehaving", "--env", name];
        let mut command = self.command(&[&domain[..], arguments].concat());
        command.env(name, how);
        self.monitor_by(command)
    }

    /// Runs a monitor that is started in this way.
    pub(crate) fn monitor_by(&self, command: Command) -> Monitor {
        let log = self
            .state
            .path()
            .join(format!("monitor-{}.log", self.state_entries()));
        Monitor::start(command, log)
    }

    fn state_entries(&self) -> usize {
        std::fs::read_dir(self.state.path())
            .expect("a directory")
            .count()
    }
}

/// A monitor of its own; ended, with all below it, at the end of its scope.
#[derive(Debug)]
pub(crate) struct Monitor {
    child: Child,
    log: PathBuf,
}

impl Monitor {
    /// Starts what this command starts; what it complains about is in the file `log`.
    pub(super) fn start(mut command: Command, log: PathBuf) -> Self {
        let stderr = File::create(&log).expect("a file");
        let child = command
            .stdout(Stdio::null())
            .stderr(stderr)
            .spawn()
            .expect("the binary runs");
        Self { child, log }
    }

    /// Its process.
    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    /// What it has logged.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The processor time that it uses meanwhile, as a part of the time that passes: a busy machine gives
    /// it less of that, never more.
    pub(crate) fn processor_share(&self, meanwhile: impl FnOnce()) -> f64 {
        let (before, begin) = (self.processor_seconds(), Instant::now());
        meanwhile();
        (self.processor_seconds() - before) / begin.elapsed().as_secs_f64()
    }

    fn processor_seconds(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid()));
        let stat = stat.expect("the monitor lives");
        let (_, fields) = stat.rsplit_once(')').expect("its name is in brackets");
        // In user mode and in the kernel, in ticks of ten milliseconds; see proc_pid_stat(5).
        let ticks = fields.split_whitespace().skip(11).take(2);
        ticks
            .map(|ticks| ticks.parse::<f64>().expect("a number") / 100.0)
            .sum()
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).expect("the monitor lives");
    }

    /// Waits until it has ended; its exit code.
    pub(crate) fn wait(&mut self) -> Option<i32> {
        let log = self.log.clone();
        until(
            "the monitor to end",
            || {
                (
                    self.child.try_wait().expect("it is our child"),
                    std::fs::read_to_string(&log),
                )
            },
            |(status, _)| status.is_some(),
        )
        .0
        .expect("it has ended")
        .code()
    }

    /// As ctrl-c; its exit code.
    pub(crate) fn interrupt(mut self) -> Option<i32> {
        self.signal(Signal::SIGINT);
        self.wait()
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = kill(self.pid(), Signal::SIGTERM);
            if !std::thread::panicking() {
                self.wait();
                return;
            }
            // The test has failed already; leave nothing behind, and say what the monitor said.
            std::thread::sleep(std::time::Duration::from_millis(500));
            let _ = self.child.kill();
            let _ = self.child.wait();
            eprintln!("the monitor's log:\n{}", self.log());
        }
    }
}
