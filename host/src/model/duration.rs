//! Durations as people type them: `3m`, `1h30m`, or ISO 8601 (`P1D`, `PT3M`).

use std::time::Duration;

/// The error for a text that is not a duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a duration (examples: 30s, 3m, 1h30m, P1D)")]
pub struct NotADuration(String);

/// Reads a duration. Whitespace between its parts is allowed; a number without a unit is not.
pub fn parse_duration(text: &str) -> Result<Duration, NotADuration> {
    let fault = || NotADuration(text.to_owned());
    let trimmed = text.trim();
    let seconds = match trimmed.strip_prefix(['P', 'p']) {
        Some(rest) => iso_seconds(rest),
        None => unit_seconds(trimmed),
    }
    .ok_or_else(fault)?;
    Duration::try_from_secs_f64(seconds).map_err(|_| fault())
}

/// Reads `1h30m`: numbers, each followed by a unit. Returns seconds.
fn unit_seconds(text: &str) -> Option<f64> {
    sum_parts(text, |unit| {
        Some(match unit {
            "ms" => 0.001,
            "s" | "sec" => 1.0,
            "m" | "min" => 60.0,
            "h" => 3600.0,
            "d" => 86_400.0,
            "w" => 604_800.0,
            _ => return None,
        })
    })
}

/// Reads the part of an ISO 8601 duration after its `P`. Years and months have no fixed length and are
/// refused. Returns seconds.
fn iso_seconds(text: &str) -> Option<f64> {
    let upper = text.to_ascii_uppercase();
    let (date, time) = match upper.split_once('T') {
        Some((date, time)) => (date, Some(time)),
        None => (upper.as_str(), None),
    };
    let days = match date {
        "" if time.is_some() => 0.0,
        date => sum_parts(date, |unit| match unit {
            "D" => Some(86_400.0),
            "W" => Some(604_800.0),
            _ => None,
        })?,
    };
    let clock = match time {
        None => 0.0,
        Some(time) => sum_parts(time, |unit| match unit {
            "H" => Some(3600.0),
            "M" => Some(60.0),
            "S" => Some(1.0),
            _ => None,
        })?,
    };
    Some(days + clock)
}

fn sum_parts(text: &str, seconds_of: impl Fn(&str) -> Option<f64>) -> Option<f64> {
    let mut rest = text;
    let mut total = None;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(digits);
        let end = after
            .find(|c: char| !c.is_ascii_alphabetic())
            .unwrap_or(after.len());
        let (unit, after) = after.split_at(end);
        total = Some(total.unwrap_or(0.0) + number.parse::<f64>().ok()? * seconds_of(unit)?);
        rest = after.trim_start();
    }
    total
}

/// Writes a duration in a form that `parse_duration` reads: `1h30m`, `2.5s`, `0s`.
pub fn human(duration: Duration) -> String {
    let whole = duration.as_secs();
    let (hours, minutes, seconds) = (whole / 3600, whole / 60 % 60, whole % 60);
    let fraction = duration.subsec_millis();
    let mut text = String::new();
    if hours > 0 {
        text += &format!("{hours}h");
    }
    if minutes > 0 {
        text += &format!("{minutes}m");
    }
    if seconds > 0 || fraction > 0 || text.is_empty() {
        let decimals = format!("{fraction:03}");
        let decimals = decimals.trim_end_matches('0');
        let point = if decimals.is_empty() { "" } else { "." };
        text += &format!("{seconds}{point}{decimals}s");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_notations() {
        for (text, seconds) in [
            ("30s", 30.0),
            ("3m", 180.0),
            ("1h30m", 5400.0),
            ("1h 30m", 5400.0),
            ("0s", 0.0),
            ("250ms", 0.25),
            ("P1D", 86_400.0),
            ("PT3M", 180.0),
            ("P1DT12H", 129_600.0),
            ("1.5h", 5400.0),
        ] {
            assert_eq!(
                parse_duration(text).unwrap().as_secs_f64(),
                seconds,
                "{text}"
            );
        }
    }

    #[test]
    fn human_reads_back() {
        for text in ["0s", "30s", "1h30m", "2.5s", "25h", "1m0.25s"] {
            assert_eq!(human(parse_duration(text).unwrap()), text);
        }
    }

    #[test]
    fn refusals_name_the_text() {
        for text in [
            "", "3", "3x", "m", "P", "PT", "P1Y", "-3s", "1h30", "PT3", "1..5s",
        ] {
            let error = parse_duration(text).unwrap_err().to_string();
            assert!(
                error.starts_with(&format!("`{text}` is not a duration")),
                "{error}"
            );
        }
    }
}
