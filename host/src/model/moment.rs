//! Moments: points in time that are written as an expression and resolved when a task is queued.
//!
//! ```text
//! (today)                                      now
//! (date "2021-1-1 09:00")                      a fixed time
//! (shifted (today) #:days -7 #:hour 0)         moved by days, set to an hour
//! (monthstart (today))  (monthend …)  (yearstart …)  (yearend …)
//! ```
//!
//! They mean what the original's mean: arithmetic goes by the wall clock of a time zone, the ends and
//! beginnings of months and years keep the time of day, and `shifted` takes the words of Python's
//! `relativedelta` (plural: add; singular: set).

use chrono::{
    DateTime, Datelike, Days, Months, NaiveDate, NaiveDateTime, TimeDelta, TimeZone, Timelike, Utc,
};
use chrono_tz::Tz;
use rework_plugin::spec::read_datetime;

/// When and where a moment is resolved.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// The time that `(today)` means.
    pub time: DateTime<Utc>,
    /// The zone of what is written without an offset.
    pub zone: Tz,
}

/// How deep expressions may be nested.
const DEEPEST: usize = 32;

/// The point in time that an expression means; otherwise what is wrong with it.
pub fn resolve(expression: &str, now: Now) -> Result<DateTime<Utc>, String> {
    let mut reader = Reader {
        tokens: tokens(expression)?,
        at: 0,
        now,
    };
    let wall = reader.moment(0)?;
    match reader.next() {
        None => on_clock(wall, now.zone),
        Some(token) => Err(format!("there is `{}` after the end", token.shown())),
    }
}

/// The instant at which the clocks of a zone show a time: of two, the first; of none, the first one
/// after the gap.
fn on_clock(wall: NaiveDateTime, zone: Tz) -> Result<DateTime<Utc>, String> {
    (0..=24 * 4)
        .find_map(|quarters| {
            let wall = wall.checked_add_signed(TimeDelta::minutes(15 * quarters))?;
            zone.from_local_datetime(&wall).earliest()
        })
        .map(|time| time.to_utc())
        .filter(|time| (1..=9999).contains(&time.year()))
        .ok_or_else(|| "the time is out of range".to_owned())
}

#[derive(Debug, Clone, PartialEq)]
enum Token {
    Open,
    Close,
    Word(String),
    Keyword(String),
    Text(String),
}

impl Token {
    fn shown(&self) -> String {
        match self {
            Self::Open => "(".to_owned(),
            Self::Close => ")".to_owned(),
            Self::Word(word) => word.clone(),
            Self::Keyword(word) => format!("#:{word}"),
            Self::Text(text) => format!("\"{text}\""),
        }
    }
}

fn tokens(expression: &str) -> Result<Vec<Token>, String> {
    let mut tokens = Vec::new();
    let mut rest = expression.trim_start();
    while let Some(first) = rest.chars().next() {
        let (token, after) = match first {
            '(' => (Token::Open, &rest[1..]),
            ')' => (Token::Close, &rest[1..]),
            '"' => {
                let (text, after) = rest[1..]
                    .split_once('"')
                    .ok_or("a text is not closed with `\"`")?;
                (Token::Text(text.to_owned()), after)
            }
            _ => {
                let end = rest
                    .find(|c: char| c.is_whitespace() || "()\"".contains(c))
                    .unwrap_or(rest.len());
                let (word, after) = rest.split_at(end);
                let token = match word.strip_prefix("#:") {
                    Some(keyword) => Token::Keyword(keyword.to_owned()),
                    None => Token::Word(word.to_owned()),
                };
                (token, after)
            }
        };
        tokens.push(token);
        rest = after.trim_start();
    }
    Ok(tokens)
}

struct Reader {
    tokens: Vec<Token>,
    at: usize,
    now: Now,
}

impl Reader {
    fn next(&mut self) -> Option<Token> {
        let token = self.tokens.get(self.at).cloned();
        self.at += 1;
        token
    }

    /// One expression, as a time on the wall clock of the zone.
    fn moment(&mut self, depth: usize) -> Result<NaiveDateTime, String> {
        if depth > DEEPEST {
            return Err("it is nested too deeply".to_owned());
        }
        match self.next() {
            Some(Token::Open) => {}
            Some(token) => return Err(format!("expected `(`, found `{}`", token.shown())),
            None => return Err("expected `(`, found the end".to_owned()),
        }
        let Some(Token::Word(word)) = self.next() else {
            return Err("a name must follow `(`".to_owned());
        };
        let time = match word.as_str() {
            "today" => self.now.time.with_timezone(&self.now.zone).naive_local(),
            "date" => match self.next() {
                Some(Token::Text(text)) => date(&text, self.now.zone)?,
                _ => return Err("date takes a text: (date \"2021-1-1 09:00\")".to_owned()),
            },
            "shifted" => {
                let time = self.moment(depth + 1)?;
                self.shifted(time)?
            }
            "monthstart" | "monthend" | "yearstart" | "yearend" => {
                let time = self.moment(depth + 1)?;
                edge(&word, time)
            }
            other => {
                return Err(format!(
                    "`{other}` is unknown (known: today, date, shifted, monthstart, monthend, yearstart, yearend)"
                ));
            }
        };
        match self.next() {
            Some(Token::Close) => Ok(time),
            Some(token) => Err(format!("expected `)`, found `{}`", token.shown())),
            None => Err("a `)` is missing".to_owned()),
        }
    }

    /// `#:days -7 #:hour 0`: first what is set, then what is added.
    fn shifted(&mut self, time: NaiveDateTime) -> Result<NaiveDateTime, String> {
        let (mut set, mut add) = (Vec::new(), Vec::new());
        while let Some(Token::Keyword(unit)) = self.tokens.get(self.at).cloned() {
            self.at += 1;
            let number = match self.next() {
                Some(Token::Word(number)) => number.parse::<i32>().ok(),
                _ => None,
            };
            let number = number.ok_or_else(|| format!("#:{unit} needs an integer: #:{unit} 1"))?;
            match unit.strip_suffix('s') {
                Some(singular) => add.push((singular.to_owned(), number)),
                None => set.push((unit, number)),
            }
        }
        let out_of_range = || "the time is out of range".to_owned();
        let time = set
            .into_iter()
            .try_fold(time, |time, (unit, number)| set_unit(time, &unit, number))?;
        // Months first, as relativedelta does: a day that the month lacks becomes its last.
        add.sort_by_key(|(unit, _)| !matches!(unit.as_str(), "year" | "month"));
        add.into_iter().try_fold(time, |time, (unit, number)| {
            let months = |months: i32| {
                let step = Months::new(months.unsigned_abs());
                if months < 0 {
                    time.checked_sub_months(step)
                } else {
                    time.checked_add_months(step)
                }
            };
            let by = |seconds: i64| {
                let delta = TimeDelta::try_seconds(i64::from(number).checked_mul(seconds)?)?;
                time.checked_add_signed(delta)
            };
            match unit.as_str() {
                "year" => number.checked_mul(12).and_then(months),
                "month" => months(number),
                "week" => by(7 * 86_400),
                "day" => by(86_400),
                "hour" => by(3600),
                "minute" => by(60),
                "second" => by(1),
                _ => return Err(unknown_unit(&format!("{unit}s"))),
            }
            .ok_or_else(out_of_range)
        })
    }
}

fn unknown_unit(unit: &str) -> String {
    format!(
        "#:{unit} is unknown (known: years, months, weeks, days, hours, minutes, seconds to add; \
         year, month, day, hour, minute, second to set)"
    )
}

fn set_unit(time: NaiveDateTime, unit: &str, number: i32) -> Result<NaiveDateTime, String> {
    let natural = u32::try_from(number).unwrap_or(u32::MAX);
    match unit {
        "year" => time.with_year(number),
        "month" => time.with_month(natural),
        "day" => time.with_day(natural),
        "hour" => time.with_hour(natural),
        "minute" => time.with_minute(natural),
        "second" => time.with_second(natural),
        _ => return Err(unknown_unit(unit)),
    }
    .ok_or_else(|| format!("there is no {unit} {number}"))
}

/// The first or last day of the month or year, at the same time of day.
fn edge(word: &str, time: NaiveDateTime) -> NaiveDateTime {
    let (year, month) = (time.year(), time.month());
    let last_of = |year: i32, month: u32| {
        let first = NaiveDate::from_ymd_opt(year, month, 1);
        first
            .and_then(|first| first.checked_add_months(Months::new(1)))
            .and_then(|next| next.checked_sub_days(Days::new(1)))
    };
    let day = match word {
        "monthstart" => NaiveDate::from_ymd_opt(year, month, 1),
        "monthend" => last_of(year, month),
        "yearstart" => NaiveDate::from_ymd_opt(year, 1, 1),
        _ => NaiveDate::from_ymd_opt(year, 12, 31),
    };
    day.map_or(time, |day| day.and_time(time.time()))
}

/// A date, with or without a time, with or without an offset.
fn date(text: &str, zone: Tz) -> Result<NaiveDateTime, String> {
    match read_datetime(text) {
        Some((clock, None)) => Ok(clock),
        Some((clock, Some(offset))) => Ok((clock - offset)
            .and_utc()
            .with_timezone(&zone)
            .naive_local()),
        None => Err(format!("`{text}` is not a date (example: 2021-1-1 09:00)")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(expression: &str) -> Result<String, String> {
        let now = Now {
            time: "2026-02-15T10:30:00Z".parse().unwrap(),
            zone: "Europe/Paris".parse().unwrap(),
        };
        resolve(expression, now).map(|time| time.format("%Y-%m-%dT%H:%M:%SZ").to_string())
    }

    #[test]
    fn expressions_mean_what_they_say() {
        for (expression, time) in [
            ("(today)", "2026-02-15T10:30:00Z"),
            ("(shifted (today) #:days 7)", "2026-02-22T10:30:00Z"),
            (
                "(shifted (today) #:days -7 #:hour 0 #:minute 0)",
                "2026-02-07T23:00:00Z",
            ),
            (
                "(shifted (date \"2024-1-31\") #:months 1)",
                "2024-02-28T23:00:00Z",
            ),
            (
                "(shifted (today) #:years 1 #:weeks 1 #:hours 1 #:minutes 1 #:seconds 1)",
                "2027-02-22T11:31:01Z",
            ),
            ("(date \"2021-1-1 09:00\")", "2021-01-01T08:00:00Z"),
            (
                "(date \"2021-07-01T09:00:00+00:00\")",
                "2021-07-01T09:00:00Z",
            ),
            ("(monthstart (today))", "2026-02-01T10:30:00Z"),
            ("(monthend (today))", "2026-02-28T10:30:00Z"),
            ("(yearstart (today))", "2026-01-01T10:30:00Z"),
            ("(yearend (monthstart (today)))", "2026-12-31T10:30:00Z"),
            // Wall clocks in Paris skip from 02:00 to 03:00 that day.
            ("(date \"2026-03-29 02:30\")", "2026-03-29T01:00:00Z"),
            (
                "(shifted (date \"2026-03-28 12:00\") #:days 1)",
                "2026-03-29T10:00:00Z",
            ),
        ] {
            assert_eq!(resolved(expression).as_deref(), Ok(time), "{expression}");
        }
    }

    #[test]
    fn mistakes_are_named() {
        for (expression, fault) in [
            ("today", "expected `(`, found `today`"),
            ("(today", "a `)` is missing"),
            ("(today) (today)", "there is `(` after the end"),
            ("(tomorrow)", "`tomorrow` is unknown"),
            ("(date 2021)", "date takes a text"),
            ("(date \"noon\")", "`noon` is not a date"),
            ("(date \"2021", "a text is not closed"),
            ("(shifted (today) #:days)", "#:days needs an integer"),
            ("(shifted (today) #:moons 1)", "#:moons is unknown"),
            ("(shifted (today) #:moon 1)", "#:moon is unknown"),
            (
                "(shifted (today) #:years 999999)",
                "the time is out of range",
            ),
            ("(shifted (today) #:years 7974)", "the time is out of range"),
            ("(shifted (today) #:day 31)", "there is no day 31"),
            ("", "expected `(`, found the end"),
        ] {
            let told = resolved(expression).unwrap_err();
            assert!(told.starts_with(fault), "{expression}: {told}");
        }
        let deep = format!("{}(today){}", "(monthend ".repeat(40), ")".repeat(40));
        assert_eq!(resolved(&deep).unwrap_err(), "it is nested too deeply");
    }
}
