//! How a command fails: one line `error: …`, `hint: …` lines where the reader can act, and a code.
//!
//! | code | meaning |
//! |---|---|
//! | 0 | done |
//! | 1 | the command could not do it |
//! | 2 | the command line is wrong |

use crate::{client::ClientError, monitor::MonitorError};
use std::{io::Write, process::ExitCode};

pub(super) type Result<T, E = Failure> = std::result::Result<T, E>;

/// What the reader is told.
#[derive(Debug)]
pub(super) struct Failure {
    message: String,
    hints: Vec<String>,
    code: u8,
}

impl Failure {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            hints: Vec::new(),
            code: 1,
        }
    }

    /// The command line is wrong.
    pub(super) fn usage(message: impl Into<String>) -> Self {
        Self {
            code: 2,
            ..Self::new(message)
        }
    }

    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// What it says, without its hints.
    pub(super) fn message(&self) -> &str {
        &self.message
    }

    /// Prints it and answers the exit code.
    pub(super) fn report(self) -> ExitCode {
        let mut stderr = anstream::stderr();
        let red = anstyle::AnsiColor::Red.on_default().bold();
        let cyan = anstyle::AnsiColor::Cyan.on_default();
        // Nobody is left to tell that stderr is closed.
        let _ = writeln!(stderr, "{red}error:{red:#} {}", one_line(&self.message));
        for hint in self.hints {
            let _ = writeln!(stderr, "{cyan}hint:{cyan:#} {}", one_line(&hint));
        }
        ExitCode::from(self.code)
    }
}

/// Errors are one line; their causes are behind them.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let words = cause.to_string();
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        source = cause.source();
    }
    text
}

fn one_line(text: &str) -> String {
    text.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect::<Vec<_>>()
        .join(" ")
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let hint = error.hint();
        let failure = Self::new(with_causes(&error));
        match hint {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }
}

impl From<crate::store::StoreError> for Failure {
    fn from(error: crate::store::StoreError) -> Self {
        ClientError::from(error).into()
    }
}

impl From<MonitorError> for Failure {
    fn from(error: MonitorError) -> Self {
        match error {
            MonitorError::Store(error) => error.into(),
            other => Self::new(with_causes(&other)),
        }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            // Whoever read us has seen enough (`| head`).
            std::process::exit(0);
        }
        Self::new(format!("could not write: {error}"))
    }
}
