//! What an operation may return when it fails.

use std::{fmt, panic::Location};

/// The result of an operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an operation failed: a message, and where `?` (or `.into()`) created the error.
///
/// It is created from any `std::error::Error`, from `&str` and from `String`. The causes of an error become
/// part of the message.
///
/// ```
/// use rework_plugin::prelude::*;
///
/// fn parse(text: &str) -> Result<i64> {
///     let number: i64 = text.parse()?;
///     if number < 0 {
///         return Err(format!("{number} is negative").into());
///     }
///     Ok(number)
/// }
///
/// assert_eq!(parse("x").unwrap_err().to_string(), "invalid digit found in string");
/// assert_eq!(parse("-1").unwrap_err().to_string(), "-1 is negative");
/// ```
pub struct Error {
    message: String,
    kind: Kind,
    location: Option<&'static Location<'static>>,
}

/// Which side an error comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The operation returned an error.
    Error,
    /// The input is not what the operation declares.
    BadInput,
    /// The output is not what the operation declares, or cannot be written as JSON.
    BadOutput,
}

impl Kind {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::BadInput => "bad input",
            Self::BadOutput => "bad output",
        }
    }
}

impl Error {
    pub(crate) fn bad_input(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            kind: Kind::BadInput,
            location: None,
        }
    }

    pub(crate) fn bad_output(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            kind: Kind::BadOutput,
            location: None,
        }
    }

    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    pub(crate) fn location(&self) -> Option<String> {
        self.location.map(ToString::to_string)
    }
}

impl<E: Into<Box<dyn std::error::Error + Send + Sync>>> From<E> for Error {
    #[track_caller]
    fn from(error: E) -> Self {
        let location = Some(Location::caller());
        let error = error.into();
        let mut message = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            let words = cause.to_string();
            if !message.contains(&words) {
                message = format!("{message}: {words}");
            }
            source = cause.source();
        }
        Self {
            message,
            kind: Kind::Error,
            location,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match self.location {
            Some(location) => write!(f, " (at {location})"),
            None => Ok(()),
        }
    }
}
