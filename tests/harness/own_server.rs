//! An embedded cluster of one test, where settings of the server are changed.

use super::{Monitor, beside_cluster, psql};
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::{Command, Output},
};

/// A cluster with the schema; stopped and removed at the end.
pub(crate) struct OwnServer {
    directory: PathBuf,
    /// `REWORK_TEST_PERIODS` of its commands and monitors.
    periods: &'static str,
}

impl OwnServer {
    pub(crate) fn new(name: &str) -> Self {
        // Short enough for a socket.
        let directory = beside_cluster(&format!("rwo-{name}-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o755)).unwrap();
        let server = Self {
            directory,
            periods: "",
        };
        server.ok(&["init-db"]);
        server
    }

    pub(crate) fn with_periods(mut self, periods: &'static str) -> Self {
        self.periods = periods;
        self
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rework"));
        command
            .args(arguments)
            .env(
                "REWORK_DB",
                format!("embedded:{}", self.directory.display()),
            )
            .env("REWORK_HOST", "testhost")
            .env("REWORK_STATE_DIR", self.directory.join("state"))
            .env("REWORK_TEST_PERIODS", self.periods)
            .env_remove("RUST_LOG");
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Runs a command that has to succeed; what it printed.
    pub(crate) fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    pub(crate) fn monitor(&self, arguments: &[&str]) -> Monitor {
        let command = self.command(&[&["monitor"], arguments].concat());
        Monitor::start(command, self.directory.join("monitor.log"))
    }

    /// What `rework embedded` says to a word, as `url` or `stop`.
    pub(crate) fn embedded(&self, word: &str) -> String {
        self.ok(&["embedded", word])
    }

    /// Each of these statements by itself, in one session.
    pub(crate) fn psql(&self, statements: &str) -> String {
        let url = self.embedded("url");
        let output = Command::new(psql())
            .args([
                "--no-psqlrc",
                "-qtA",
                "-v",
                "ON_ERROR_STOP=1",
                "--dbname",
                &url,
            ])
            .args(statements.split(';').flat_map(|one| ["--command", one]))
            .output()
            .unwrap();
        assert!(output.status.success(), "{statements}: {output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Changes the settings of the server while it runs: `set NAME = VALUE` or `reset NAME`.
    pub(crate) fn alter(&self, setting: &str) {
        self.psql(&format!("alter system {setting}; select pg_reload_conf()"));
    }

    /// The state of a task.
    pub(crate) fn state(&self, id: &str) -> String {
        self.psql(&format!(
            "select state from rework.task_view where id = {id}"
        ))
    }
}

impl Drop for OwnServer {
    fn drop(&mut self) {
        self.run(&["embedded", "stop"]);
        let _ = fs::remove_dir_all(&self.directory);
    }
}
