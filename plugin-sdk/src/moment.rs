//! Moments: points in time that are written as an expression and resolved when a task is queued.
//!
//! ```text
//! (today)                                      now
//! (date "2021-1-1 09:00")                      a fixed time
//! (shifted (today) #:days -7 #:hour 0)         moved by days, set to an hour
//! (monthstart (today))  (monthend …)  (yearstart …)  (yearend …)
//! ```
//!
//! Days, weeks, months and years are counted on the calendar of a time zone and keep the time of day;
//! hours, minutes and seconds are time that passes, so that an hour is an hour when clocks are changed.
//! The ends and beginnings of months and years keep the time of day too. `shifted` takes the words of
//! Python's `relativedelta` (plural: add; singular: set): first what is set, then months and years, whose
//! day is the last of the month where the month is too short, then weeks and days, then the rest.
//! A time that clocks skip is the first one after the change; one that they show twice, the first.

use crate::zones::Zone;
use chrono::{
    DateTime, Datelike, Days, FixedOffset, Months, NaiveDate, NaiveDateTime, TimeDelta, Timelike,
    Utc,
};
use rework_plugin::spec::read_datetime;

/// When and where a moment is resolved.
#[derive(Debug, Clone)]
pub struct Now {
    /// The time that `(today)` means.
    pub time: DateTime<Utc>,
    /// The zone of what is written without an offset.
    pub zone: Zone,
}

/// How deep expressions may be nested.
const DEEPEST: usize = 32;

/// The point in time that an expression means; otherwise what is wrong with it.
pub fn resolve(expression: &str, now: &Now) -> Result<DateTime<Utc>, String> {
    let mut reader = Reader {
        tokens: tokens(expression)?,
        at: 0,
        now,
    };
    let point = reader.moment(0)?;
    match reader.next() {
        None => Some(point.instant(&now.zone))
            .filter(|time| (1..=9999).contains(&time.year()))
            .ok_or_else(out_of_range),
        Some(token) => Err(format!("there is `{}` after the end", token.shown())),
    }
}

fn out_of_range() -> String {
    "the time is out of range".to_owned()
}

/// A time while it is computed.
#[derive(Debug, Clone, Copy)]
enum Point {
    /// An instant that is known, though clocks may show its time twice.
    Instant(DateTime<Utc>),
    /// What clocks show.
    Wall(NaiveDateTime),
}

impl Point {
    fn instant(self, zone: &Zone) -> DateTime<Utc> {
        match self {
            Self::Instant(time) => time,
            Self::Wall(wall) => zone.when(wall).first(),
        }
    }

    fn wall(self, zone: &Zone) -> NaiveDateTime {
        match self {
            Self::Instant(time) => zone.shows(time),
            Self::Wall(wall) => wall,
        }
    }
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

struct Reader<'n> {
    tokens: Vec<Token>,
    at: usize,
    now: &'n Now,
}

impl Reader<'_> {
    fn next(&mut self) -> Option<Token> {
        let token = self.tokens.get(self.at).cloned();
        self.at += 1;
        token
    }

    /// One expression.
    fn moment(&mut self, depth: usize) -> Result<Point, String> {
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
            "today" => Point::Instant(self.now.time),
            "date" => match self.next() {
                Some(Token::Text(text)) => date(&text)?,
                _ => return Err("date takes a text: (date \"2021-1-1 09:00\")".to_owned()),
            },
            "shifted" => {
                let time = self.moment(depth + 1)?;
                self.shifted(time)?
            }
            "monthstart" | "monthend" | "yearstart" | "yearend" => {
                let time = self.moment(depth + 1)?;
                Point::Wall(edge(&word, time.wall(&self.now.zone)))
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

    /// `#:days -7 #:hour 0`: first what is set, then what is added, the longest first.
    fn shifted(&mut self, time: Point) -> Result<Point, String> {
        let zone = &self.now.zone;
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
        for (unit, _) in &set {
            if !UNITS.contains(&unit.as_str()) {
                return Err(unknown_unit(unit));
            }
        }
        let sum = |wanted: &str| -> i64 {
            let numbers = add.iter().filter(|(unit, _)| unit == wanted);
            numbers.map(|(_, number)| i64::from(*number)).sum()
        };
        for (unit, _) in &add {
            if unit != "week" && !UNITS.contains(&unit.as_str()) {
                return Err(unknown_unit(&format!("{unit}s")));
            }
        }
        let months = sum("year") * 12 + sum("month");
        let days = sum("week") * 7 + sum("day");
        let seconds = sum("hour") * 3600 + sum("minute") * 60 + sum("second");
        let mut time = time;
        if !set.is_empty() || months != 0 || days != 0 {
            let wall = on_calendar(time.wall(zone), &set, months)?;
            let days = TimeDelta::try_days(days).ok_or_else(out_of_range)?;
            let wall = wall.checked_add_signed(days).ok_or_else(out_of_range)?;
            time = Point::Wall(wall);
        }
        if seconds != 0 {
            let passed = TimeDelta::try_seconds(seconds).ok_or_else(out_of_range)?;
            let later = time.instant(zone).checked_add_signed(passed);
            time = Point::Instant(later.ok_or_else(out_of_range)?);
        }
        Ok(time)
    }
}

/// What can be set, and, with an `s`, added.
const UNITS: [&str; 6] = ["year", "month", "day", "hour", "minute", "second"];

/// A time with parts of it set and months added. A day that is not set becomes the last of its month
/// where the month is too short.
fn on_calendar(
    wall: NaiveDateTime,
    set: &[(String, i32)],
    months: i64,
) -> Result<NaiveDateTime, String> {
    let value = |wanted: &str| {
        let found = set.iter().rfind(|(unit, _)| unit == wanted);
        found.map(|(_, number)| *number)
    };
    let lacking = |unit: &str, number: i32| format!("there is no {unit} {number}");
    let year = value("year").unwrap_or(wall.year());
    let month = match value("month") {
        Some(month) => u32::try_from(month)
            .ok()
            .filter(|month| (1..=12).contains(month))
            .ok_or_else(|| lacking("month", month))?,
        None => wall.month(),
    };
    let first = NaiveDate::from_ymd_opt(year, month, 1).ok_or_else(|| lacking("year", year))?;
    let step = u32::try_from(months.unsigned_abs()).map_err(|_| out_of_range())?;
    let first = if months < 0 {
        first.checked_sub_months(Months::new(step))
    } else {
        first.checked_add_months(Months::new(step))
    };
    let first = first.ok_or_else(out_of_range)?;
    let last_day = u32::from(first.num_days_in_month());
    let day = match value("day") {
        Some(day) => u32::try_from(day)
            .ok()
            .filter(|day| (1..=last_day).contains(day))
            .ok_or_else(|| lacking("day", day))?,
        None => wall.day().min(last_day),
    };
    let mut time = first
        .with_day(day)
        .ok_or_else(out_of_range)?
        .and_time(wall.time());
    for (unit, number) in set {
        let natural = u32::try_from(*number).unwrap_or(u32::MAX);
        time = match unit.as_str() {
            "hour" => time.with_hour(natural),
            "minute" => time.with_minute(natural),
            "second" => time.with_second(natural),
            _ => Some(time),
        }
        .ok_or_else(|| lacking(unit, *number))?;
    }
    Ok(time)
}

fn unknown_unit(unit: &str) -> String {
    format!(
        "#:{unit} is unknown (known: years, months, weeks, days, hours, minutes, seconds to add; \
         year, month, day, hour, minute, second to set)"
    )
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
fn date(text: &str) -> Result<Point, String> {
    match read_datetime(text) {
        Some((clock, None)) => Ok(Point::Wall(clock)),
        Some((clock, Some(offset))) => at_offset(clock, offset),
        None => Err(format!("`{text}` is not a date (example: 2021-1-1 09:00)")),
    }
}

fn at_offset(clock: NaiveDateTime, offset: FixedOffset) -> Result<Point, String> {
    let instant = clock.checked_sub_offset(offset).ok_or_else(out_of_range)?;
    Ok(Point::Instant(instant.and_utc()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(expression: &str) -> Result<String, String> {
        resolved_at(expression, "2026-02-15T10:30:00Z")
    }

    fn resolved_at(expression: &str, time: &str) -> Result<String, String> {
        let now = Now {
            time: time.parse().unwrap(),
            zone: Zone::find("Europe/Paris").unwrap(),
        };
        resolve(expression, &now).map(|time| time.format("%Y-%m-%dT%H:%M:%SZ").to_string())
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
    fn an_instant_stays_itself_and_an_hour_an_hour_when_clocks_are_changed() {
        for (now, expression, time) in [
            // Half past two, the second time: clocks have shown it an hour before.
            ("2026-10-25T01:30:00Z", "(today)", "2026-10-25T01:30:00Z"),
            (
                "2026-10-25T01:30:00Z",
                "(shifted (today) #:hours 1)",
                "2026-10-25T02:30:00Z",
            ),
            (
                "2026-10-25T00:30:00Z",
                "(shifted (today) #:hours 1)",
                "2026-10-25T01:30:00Z",
            ),
            (
                "2026-10-25T00:30:00Z",
                "(shifted (today) #:days 0)",
                "2026-10-25T00:30:00Z",
            ),
            (
                "2026-10-25T01:30:00Z",
                "(shifted (today) #:hours -1)",
                "2026-10-25T00:30:00Z",
            ),
            (
                "2026-10-25T01:30:00Z",
                "(date \"2026-10-25T02:30:00+01:00\")",
                "2026-10-25T01:30:00Z",
            ),
            // Half past one, before clocks are put forward.
            (
                "2026-03-29T00:30:00Z",
                "(shifted (today) #:hours 1)",
                "2026-03-29T01:30:00Z",
            ),
            (
                "2026-03-29T00:30:00Z",
                "(shifted (today) #:minutes 45)",
                "2026-03-29T01:15:00Z",
            ),
            (
                "2026-03-28T11:00:00Z",
                "(shifted (today) #:hours 24)",
                "2026-03-29T11:00:00Z",
            ),
            (
                "2026-03-28T11:00:00Z",
                "(shifted (today) #:days 1)",
                "2026-03-29T10:00:00Z",
            ),
            (
                "2026-03-22T01:30:00Z",
                "(shifted (today) #:weeks 1)",
                "2026-03-29T01:00:00Z",
            ),
        ] {
            let told = resolved_at(expression, now);
            assert_eq!(told.as_deref(), Ok(time), "{now} {expression}");
        }
    }

    #[test]
    fn months_and_years_end_where_they_are_too_short() {
        for (expression, time) in [
            (
                "(shifted (date \"2026-1-31 12:00\") #:months 1)",
                "2026-02-28T11:00:00Z",
            ),
            (
                "(shifted (date \"2026-1-31 12:00\") #:month 2)",
                "2026-02-28T11:00:00Z",
            ),
            (
                "(shifted (date \"2028-2-29 12:00\") #:years 1)",
                "2029-02-28T11:00:00Z",
            ),
            (
                "(shifted (date \"2028-2-29 12:00\") #:year 2027)",
                "2027-02-28T11:00:00Z",
            ),
            (
                "(shifted (date \"2028-2-29 12:00\") #:years 4)",
                "2032-02-29T11:00:00Z",
            ),
            // What is set is set at once, whatever the order.
            (
                "(shifted (date \"2026-1-31 12:00\") #:month 2 #:day 5)",
                "2026-02-05T11:00:00Z",
            ),
            (
                "(shifted (date \"2026-2-15 12:00\") #:day 31 #:month 1)",
                "2026-01-31T11:00:00Z",
            ),
            (
                "(shifted (date \"2026-2-15 12:00\") #:day 31 #:months -1)",
                "2026-01-31T11:00:00Z",
            ),
            // Months before days: the first of March, and then the day before.
            (
                "(shifted (date \"2026-2-1 12:00\") #:days -1 #:months 1)",
                "2026-02-28T11:00:00Z",
            ),
            (
                "(shifted (date \"2026-12-31 12:00\") #:months -10)",
                "2026-02-28T11:00:00Z",
            ),
        ] {
            assert_eq!(resolved(expression).as_deref(), Ok(time), "{expression}");
        }
        let told = resolved("(shifted (today) #:month 13)");
        assert_eq!(told.unwrap_err(), "there is no month 13");
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
