//! How a command fails: one line `error: …`, `hint: …` lines where the reader can act, and a code.
//!
//! | code | meaning |
//! |---|---|
//! | 0 | done |
//! | 1 | the command could not do it |
//! | 2 | the command line is wrong |

use super::output::{harmless, note};
use crate::{
    causes::chain,
    client::ClientError,
    monitor::{IdentityError, MonitorError},
};
use anstyle::{AnsiColor, Style};
use clap::error::{ContextKind, ErrorKind};
use std::{ffi::OsString, io::Write, process::ExitCode};

const RED: Style = AnsiColor::Red.on_default().bold();
const CYAN: Style = AnsiColor::Cyan.on_default();

pub(super) type Result<T, E = Failure> = std::result::Result<T, E>;

/// The error that a command ends with: what is printed, and the exit code.
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

    /// An error of the command line's syntax or arguments.
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

    /// The same error, of a command that has changed something before it failed: the message says so.
    pub(super) fn after(mut self, change: &str) -> Self {
        self.message = if self.message.is_empty() {
            change.to_owned()
        } else {
            format!("{change}; {}", self.message)
        };
        self
    }

    /// The message without its hints.
    pub(super) fn message(&self) -> &str {
        &self.message
    }

    /// Prints the error and returns the exit code.
    pub(super) fn report(self) -> ExitCode {
        if self.code == 0 {
            if !self.message.is_empty() {
                note(&self.message);
            }
            return ExitCode::SUCCESS;
        }
        // Ignored if stderr is closed.
        let _ = writeln!(
            anstream::stderr(),
            "{RED}error:{RED:#} {}",
            one_line(&self.message)
        );
        self.hints.iter().for_each(|text| hint(text));
        ExitCode::from(self.code)
    }
}

fn hint(text: &str) {
    let _ = writeln!(anstream::stderr(), "{CYAN}hint:{CYAN:#} {}", one_line(text));
}

/// Prints clap's message about the command line, or the help that was asked for. Returns the exit code.
pub(super) fn usage(error: &clap::Error, arguments: &[OsString]) -> ExitCode {
    if !error.use_stderr() {
        // --help and --version.
        let text = error.render().ansi().to_string();
        let mut stdout = anstream::stdout().lock();
        return match stdout
            .write_all(text.as_bytes())
            .and_then(|()| stdout.flush())
        {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => Failure::from(error).report(),
        };
    }
    let text = without_typed_breaks(error.render().to_string(), arguments);
    let text: Vec<String> = text.lines().map(presentable).collect();
    let text = text.join("\n");
    let _ = match text.strip_prefix("error: ") {
        Some(text) => writeln!(anstream::stderr(), "{RED}error:{RED:#} {text}"),
        None => writeln!(anstream::stderr(), "{text}"),
    };
    let missing = error.get(ContextKind::InvalidArg).map(ToString::to_string);
    if error.kind() == ErrorKind::MissingRequiredArgument
        && missing.is_some_and(|missing| missing.contains("<DB>"))
    {
        hint("DB is the first argument; it may be left out if REWORK_DB names it");
    }
    ExitCode::from(2)
}

/// The message with line breaks escaped inside the arguments that it quotes.
fn without_typed_breaks(mut message: String, arguments: &[OsString]) -> String {
    for argument in arguments.iter().filter_map(|argument| argument.to_str()) {
        let value = argument.split_once('=').map_or("", |(_, value)| value);
        for typed in [argument, argument.trim(), value, value.trim()] {
            if !typed.contains(['\n', '\r']) {
                continue;
            }
            let escaped = typed.replace('\n', "\\n").replace('\r', "\\r");
            for quote in ['\'', '`'] {
                let quoted = |text: &str| format!("{quote}{text}{quote}");
                message = message.replace(&quoted(typed), &quoted(&escaped));
            }
        }
    }
    message
}

/// The text on one line.
fn one_line(text: &str) -> String {
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    presentable(&lines.join(" "))
}

/// A line without passwords, and of limited length: it may repeat what was typed.
fn presentable(line: &str) -> String {
    const LONGEST: usize = 2000;
    let line = without_passwords(line);
    let line = harmless(&line);
    if line.len() <= LONGEST {
        return line.into_owned();
    }
    let (start, end) = (
        line.floor_char_boundary(LONGEST / 2),
        line.ceil_char_boundary(line.len() - LONGEST / 2),
    );
    format!("{} … {}", &line[..start], &line[end..])
}

/// Writes `postgres://user:…@host` for a URL with a password, even if the URL is not quite valid.
fn without_passwords(text: &str) -> String {
    let mut shown = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("postgres") {
        let (before, url) = rest.split_at(at);
        let end = url
            .find(|c: char| c.is_whitespace() || "`'\"".contains(c))
            .unwrap_or(url.len());
        let (url, after) = url.split_at(end);
        shown += before;
        let secret = url.rfind('@').and_then(|at| {
            let scheme = url.find(":/").map_or(0, |colon| colon + 1);
            let colon = url[scheme..at].find(':')? + scheme;
            Some((colon + 1, at))
        });
        match secret {
            Some((from, to)) => shown += &format!("{}…{}", &url[..from], &url[to..]),
            None => shown += url,
        }
        rest = after;
    }
    shown + rest
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let hint = error.hint();
        let failure = Self::new(chain(&error));
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
            MonitorError::WorkerUser(IdentityError::NotRoot(_)) => Self::new(chain(&error))
                .hint("start the monitor as root, or as that user without --worker-user"),
            other => Self::new(chain(&other)),
        }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            // The reader of the output has closed it (`| head`): not an error.
            return Self {
                code: 0,
                ..Self::new("")
            };
        }
        Self::new(format!("could not write: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_password_comes_back() {
        for (given, shown) in [
            (
                "no `postgres://u:sekret@h/x` here",
                "no `postgres://u:…@h/x` here",
            ),
            ("postgresql://u:se:k@ret@h:1/x", "postgresql://u:…@h:1/x"),
            ("postgres:/u:sekret@h/x", "postgres:/u:…@h/x"),
            (
                "postgres://u@h/x and postgres",
                "postgres://u@h/x and postgres",
            ),
            ("it is é", "it is é"),
        ] {
            assert_eq!(without_passwords(given), shown);
        }
    }

    #[test]
    fn what_was_changed_before_is_said_first() {
        let of = |kind: std::io::ErrorKind| Failure::from(std::io::Error::from(kind));
        let full = of(std::io::ErrorKind::StorageFull).after("task 7 is queued");
        assert_eq!(
            (full.message(), full.code),
            ("task 7 is queued; could not write: no storage space", 1)
        );
        let unread = of(std::io::ErrorKind::BrokenPipe);
        assert_eq!((unread.message(), unread.code), ("", 0));
        let unread = unread.after("task 7 is queued");
        assert_eq!((unread.message(), unread.code), ("task 7 is queued", 0));
    }

    #[test]
    fn what_is_too_long_is_cut_in_the_middle() {
        let long = format!("begin {} end", "é".repeat(100_000));
        let shown = presentable(&long);
        assert!(shown.len() < 2100 && shown.starts_with("begin é") && shown.ends_with("é end"));
    }
}
