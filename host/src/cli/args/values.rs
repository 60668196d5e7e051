//! Readers of values: each refuses in one line what an option cannot take.

use crate::model::{
    duration::parse_duration,
    number::check_numbers,
    rule::{CatchUp, Rule, RuleError, parse_zone},
};
use chrono::{DateTime, Utc};
use serde_json::Value;
use std::{ops::RangeInclusive, path::PathBuf, time::Duration};

/// The name of an environment variable.
pub(super) fn variable(text: &str) -> Result<String, String> {
    if text.is_empty() || text.contains('=') {
        return Err("it must be the name of a variable; its value is the monitor's own".to_owned());
    }
    Ok(text.to_owned())
}

pub(super) fn key(text: &str) -> Result<String, &'static str> {
    if text.is_empty() {
        return Err("it is empty: all tasks that have it would be one");
    }
    Ok(text.to_owned())
}

pub(super) fn json(text: &str) -> Result<Value, String> {
    // Before it is read: what reading changes is not seen afterwards.
    check_numbers(text).map_err(|fault| fault.to_string())?;
    serde_json::from_str(text).map_err(|error| format!("it is not JSON: {error}"))
}

pub(super) fn rule(text: &str) -> Result<String, RuleError> {
    Rule::parse(text, "UTC").map(|_| text.to_owned())
}

pub(super) fn zone(text: &str) -> Result<String, RuleError> {
    parse_zone(text).map(|_| text.to_owned())
}

pub(super) fn catch_up(text: &str) -> Result<CatchUp, String> {
    text.parse()
}

/// A duration that clocks and databases can compute with.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    match parse_duration(text) {
        Ok(duration) if duration > Duration::from_secs(36_525 * 86_400) => {
            Err("it must be at most a hundred years".to_owned())
        }
        Ok(duration) => Ok(duration),
        Err(error) => Err(error.to_string()),
    }
}

/// A whole number of a range.
pub(super) fn integer_in<N: TryFrom<i64>>(
    range: RangeInclusive<i64>,
) -> impl Fn(&str) -> Result<N, String> + Clone + Send + Sync {
    move |text| {
        let number = text
            .trim()
            .parse()
            .ok()
            .filter(|number| range.contains(number));
        number
            .and_then(|number| N::try_from(number).ok())
            .ok_or_else(|| {
                let (least, most) = (range.start(), range.end());
                match *most {
                    i64::MAX => format!("it must be a whole number, at least {least}"),
                    _ => format!("it must be a whole number from {least} to {most}"),
                }
            })
    }
}

/// A pattern of SQL `LIKE`.
pub(super) fn pattern(text: &str) -> Result<String, String> {
    let trailing = text.len() - text.trim_end_matches('\\').len();
    if trailing % 2 == 1 {
        return Err("it must not end with a single backslash".to_owned());
    }
    Ok(text.to_owned())
}

pub(super) fn hours(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(hours) if hours > 0.0 && hours <= 24.0 * 366.0 => Ok(hours),
        _ => Err("it must be a number of hours, more than 0 and at most a year".to_owned()),
    }
}

pub(super) fn time(text: &str) -> Result<DateTime<Utc>, crate::model::time::NotATime> {
    crate::model::time::parse(text)
}

pub(super) fn level(text: &str) -> Result<u8, String> {
    match crate::model::log::level_number(text) {
        Some(level) if level > 0 => Ok(level),
        _ => Err("levels are: error, warn, info, debug, trace".to_owned()),
    }
}

pub(super) fn field_and_path(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((field, path)) if !field.is_empty() && !path.is_empty() => {
            Ok((field.to_owned(), PathBuf::from(path)))
        }
        _ => Err("write FIELD=PATH".to_owned()),
    }
}
