//! Why a plugin is refused, each in one line that names the file and what to do.

use crate::model::word::printable_path;
use std::{
    fmt,
    path::{Path, PathBuf},
};

/// What to do about a state directory that cannot be used.
const STATE_DIR_HINT: &str = "set REWORK_STATE_DIR to a directory that this user can write, on a file system that is not \
     mounted noexec";

/// A plugin that cannot be used. Its text is complete: path, reason, remedy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PluginError {
    /// The file, as the user named it.
    pub path: PathBuf,
    /// What is wrong with it, after its name; some reasons begin with a colon.
    pub reason: String,
    /// Whether time may mend it: the file may still be arriving.
    pub unfinished: bool,
    /// What to do, where the reason does not say it.
    pub hint: Option<String>,
}

impl PluginError {
    pub(crate) fn new(path: impl Into<PathBuf>, reason: impl Into<String>) -> Self {
        // What a loader says may hold anything; an error is one line that a database can store.
        let reason: String = reason.into().replace('\0', "");
        let reason = reason.split_whitespace().collect::<Vec<_>>().join(" ");
        Self {
            path: path.into(),
            reason,
            unfinished: false,
            hint: None,
        }
    }

    /// The same of the file as its users call it.
    pub(super) fn called(self, named: &Path) -> Self {
        Self {
            path: named.to_owned(),
            ..self
        }
    }

    /// As [`PluginError::new`], where the state directory is to blame and not the plugin.
    pub(super) fn of_state_dir(path: impl Into<PathBuf>, reason: impl Into<String>) -> Self {
        Self {
            hint: Some(STATE_DIR_HINT.to_owned()),
            ..Self::new(path, reason)
        }
    }

    /// As [`PluginError::new`], of a file that may still be arriving.
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
