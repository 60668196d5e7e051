//! Why a plugin is refused, on one line that names the file and what to do.

use crate::model::name::printable_path;
use std::{
    fmt,
    path::{Path, PathBuf},
};

/// The hint for a state directory that cannot be used.
const STATE_DIR_HINT: &str = "set REWORK_STATE_DIR to a directory that this user can write, on a file system that is not \
     mounted noexec";

/// A plugin that cannot be used. The message is complete: path, reason, remedy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PluginError {
    /// The path of the file as the user gave it.
    pub path: PathBuf,
    /// What is wrong with the file, to be put after its path; some reasons begin with a colon.
    pub reason: String,
    /// Whether the file may still be in the middle of being written, so that a later try may succeed.
    pub unfinished: bool,
    /// What to do about it, if the reason does not say so.
    pub hint: Option<String>,
}

impl PluginError {
    pub(crate) fn new(path: impl Into<PathBuf>, reason: impl Into<String>) -> Self {
        // The loader's message may contain any bytes; this error must be one line that a database can
        // store.
        let reason: String = reason.into().replace('\0', "");
        let reason = reason.split_whitespace().collect::<Vec<_>>().join(" ");
        Self {
            path: path.into(),
            reason,
            unfinished: false,
            hint: None,
        }
    }

    /// The same error, about the file under the path `named`.
    pub(super) fn called(self, named: &Path) -> Self {
        Self {
            path: named.to_owned(),
            ..self
        }
    }

    /// Like [`PluginError::new`], for an error of the state directory, not of the plugin.
    pub(super) fn of_state_dir(path: impl Into<PathBuf>, reason: impl Into<String>) -> Self {
        Self {
            hint: Some(STATE_DIR_HINT.to_owned()),
            ..Self::new(path, reason)
        }
    }

    /// Like [`PluginError::new`], for a file that may still be in the middle of being written.
    pub(crate) fn unfinished(path: impl Into<PathBuf>, reason: impl Into<String>) -> Self {
        Self {
            unfinished: true,
            ..Self::new(path, reason)
        }
    }
}

impl fmt::Display for PluginError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let space = if self.reason.starts_with(':') {
            ""
        } else {
            " "
        };
        let path = printable_path(&self.path);
        write!(f, "{path}{space}{}", self.reason)
    }
}

impl std::error::Error for PluginError {}
