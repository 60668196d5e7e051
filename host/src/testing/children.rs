//! The processes of an installation: this test binary once more, as the command line.

use super::{hook::COMMAND_LINE, installation::TestingError};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{
    fs::File,
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// How long a monitor may take to end its workers.
const END_LIMIT: Duration = Duration::from_secs(20);

/// Where an installation is, for its commands.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) database: String,
    pub(super) host: String,
    pub(super) state: std::path::PathBuf,
}

#[expect(
    clippy::disallowed_methods,
    reason = "tests start the program that they are"
)]
fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.arg0(COMMAND_LINE).args(arguments);
    command
}

impl Place {
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = command(arguments);
        command
            .env("REWORK_DB", &self.database)
            .env("REWORK_HOST", &self.host)
            .env("REWORK_STATE_DIR", &self.state);
        command
    }

    /// Runs a command to its end.
    pub(super) fn run(&self, arguments: &[&str]) -> Result<String, TestingError> {
        run(self.command(arguments), arguments)
    }

    /// Starts a monitor that logs into this file.
    pub(super) fn monitor(&self, arguments: &[&str], log: &Path) -> Result<Monitor, TestingError> {
        let failed = TestingError::system("start a monitor");
        let log = File::create(log).map_err(&failed)?;
        let child = self
            .command(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .map_err(&failed)?;
        Ok(Monitor { child })
    }
}

/// Runs a command that needs no database.
pub(super) fn run_anywhere(arguments: &[&str]) -> Result<String, TestingError> {
    run(command(arguments), arguments)
}

fn run(mut command: Command, arguments: &[&str]) -> Result<String, TestingError> {
    // Held open while it runs: the end of its standard input would end it.
    let child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let ended = child.and_then(|mut child| {
        let input = child.stdin.take();
        let output = child.wait_with_output();
        drop(input);
        output
    });
    let output = ended.map_err(TestingError::system("run a command"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(TestingError::Command {
        command: arguments.join(" "),
        words: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    })
}

/// Builds the plugin of a crate; its file.
#[expect(clippy::disallowed_methods, reason = "cargo builds what tests need")]
pub(super) fn build(directory: &Path) -> Result<std::path::PathBuf, TestingError> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["build", "--lib", "--message-format=json"])
        .current_dir(directory)
        .stdin(Stdio::null())
        .output()
        .map_err(TestingError::system("run cargo"))?;
    if !output.status.success() {
        return Err(TestingError::Command {
            command: format!("cargo build, in {}", directory.display()),
            words: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        });
    }
    // The last artifact is that of the crate itself.
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["reason"] == "compiler-artifact")
        .filter_map(|message| {
            let files = message["filenames"].as_array()?.clone();
            files
                .into_iter()
                .filter_map(|file| Some(file.as_str()?.to_owned()))
                .find(|file| file.ends_with(".so"))
        })
        .next_back()
        .map(Into::into)
        .ok_or_else(|| TestingError::NoPlugin(directory.to_owned()))
}

/// A running monitor; ended, with all below it, when it is dropped.
#[derive(Debug)]
pub(super) struct Monitor {
    child: Child,
}

impl Monitor {
    /// Whether it runs.
    pub(super) fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        if !self.is_alive() {
            return;
        }
        let pid = Pid::from_raw(self.child.id().cast_signed());
        let _ = kill(pid, Signal::SIGTERM);
        let deadline = Instant::now() + END_LIMIT;
        while self.is_alive() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        // Its workers end with it: they watch its end of their sockets.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
