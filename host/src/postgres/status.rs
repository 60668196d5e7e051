//! What is known of a cluster without touching it.

use std::{fmt, path::PathBuf};

/// What is known of a cluster.
#[derive(Debug, Clone)]
pub struct Status {
    /// Its directory.
    pub directory: PathBuf,
    /// Its server's process, if it runs.
    pub pid: Option<i32>,
    /// Its major version, if it has been made.
    pub version: Option<String>,
    /// Where clients find it.
    pub url: String,
    /// Whether its server takes connections; it may do so while its process cannot be seen, for that is
    /// in another process namespace (another container).
    pub answers: bool,
    /// Whether its server stays up without users.
    pub kept: bool,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let directory = self.directory.display();
        let process = match (self.pid, self.answers) {
            (Some(pid), _) => Some(format!("process {pid}")),
            (None, true) => Some("in another process namespace".to_owned()),
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
