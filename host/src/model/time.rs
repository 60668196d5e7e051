//! Times as people and programs read them: always UTC, up to six decimals.

use chrono::{DateTime, Utc};
use rework_plugin::spec::parse_datetime;

/// A time as every `--json` prints it: RFC 3339 in UTC, with up to six decimals and `Z`.
pub fn rfc3339(time: DateTime<Utc>) -> String {
    let micros = time.format("%Y-%m-%dT%H:%M:%S%.6f").to_string();
    let trimmed = micros.trim_end_matches('0').trim_end_matches('.');
    format!("{trimmed}Z")
}

/// The time that is this many microseconds after the epoch. For a number that is no time: now.
pub fn from_micros(micros: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_micros(micros).unwrap_or_else(Utc::now)
}

/// A time as every listing prints it: `2018-11-28 16:08:27.123456UTC`.
pub fn human(time: DateTime<Utc>) -> String {
    time.format("%Y-%m-%d %H:%M:%S%.6fUTC").to_string()
}

/// Writes a time as [`rfc3339`], for `#[serde(serialize_with)]`.
pub fn serialize<S: serde::Serializer>(
    time: &DateTime<Utc>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&rfc3339(*time))
}

/// Writes a time as [`rfc3339`], `None` as null, for `#[serde(serialize_with)]`.
pub fn serialize_option<S: serde::Serializer>(
    time: &Option<DateTime<Utc>>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match time {
        Some(time) => serialize(time, serializer),
        None => serializer.serialize_none(),
    }
}

/// The error for a text that is not a time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a time (examples: 2026-05-01T09:00:00Z, 2026-05-01 09:00)")]
pub struct NotATime(String);

/// Reads a time; without an offset it is in UTC.
pub fn parse(text: &str) -> Result<DateTime<Utc>, NotATime> {
    let text = text.trim();
    let without_zone = text.strip_suffix("UTC").unwrap_or(text);
    parse_datetime(without_zone).ok_or_else(|| NotATime(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_are_trimmed() {
        for text in [
            "2026-05-01T09:00:00Z",
            "2026-05-01T09:00:10.5Z",
            "2026-05-01T09:00:00.000001Z",
        ] {
            assert_eq!(rfc3339(parse(text).unwrap()), text);
        }
    }

    #[test]
    fn without_an_offset_it_is_utc() {
        let nine = parse("2026-05-01T09:00:00Z").unwrap();
        for text in [
            "2026-05-01 09:00",
            "2026-05-01T09:00:00",
            "2026-05-01 11:00:00+02:00",
            "2026-05-01 09:00:00UTC",
        ] {
            assert_eq!(parse(text), Ok(nine), "{text}");
        }
        assert!(parse("tomorrow").is_err());
    }
}
