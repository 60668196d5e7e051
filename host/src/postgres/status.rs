//! The state of a cluster, read without changing anything.

use std::{fmt, path::PathBuf};

/// The state of a cluster.
#[derive(Debug, Clone)]
pub struct Status {
    pub directory: PathBuf,
    /// The process id of the server; `None`: it does not run, or its process cannot be seen.
    pub pid: Option<i32>,
    /// The major version of PostgreSQL that the cluster was created with; `None`: it has not been created.
    pub version: Option<String>,
    /// The URL for clients.
    pub url: String,
    /// Whether the server accepts connections. That is possible while its process cannot be seen, if it
    /// runs in another process namespace (another container), or `/proc` hides it.
    pub answers: bool,
    /// Whether the server stays up without users.
    pub kept: bool,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let directory = self.directory.display();
        let process = match (self.pid, self.answers) {
            (Some(pid), _) => Some(format!("process {pid}")),
            (None, true) => Some("its process cannot be seen from here".to_owned()),
            (None, false) => None,
        };
        match (&self.version, process) {
            (None, _) => write!(f, "there is no cluster in {directory} yet"),
            (Some(version), None) => {
                write!(f, "stopped: PostgreSQL {version} in {directory}")
            }
            (Some(version), Some(process)) => write!(
                f,
                "running: PostgreSQL {version} in {directory}, {process}, {}{}",
                self.url,
                if self.kept {
                    ", kept up until it is stopped"
                } else {
                    ""
                }
            ),
        }
    }
}
