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
//! Every time on the way is one of the years 1 to 9999.
//!
//! The function `moment` of the database means the same; `tests/moments.json` holds what both must say.

use crate::spec::{parse_datetime, read_datetime};
use chrono::{
    DateTime, Datelike, Days, Months, NaiveDate, NaiveDateTime, TimeDelta, Timelike, Utc,
};
use std::ops::RangeInclusive;

/// A time zone, as moments need it.
pub trait Zone {
    /// What its clocks show at an instant.
    fn shows(&self, time: DateTime<Utc>) -> NaiveDateTime;

    /// The first instant at which its clocks show a time; if they skip it, the first one after the change.
    fn first(&self, wall: NaiveDateTime) -> DateTime<Utc>;
}

impl Zone for Utc {
    fn shows(&self, time: DateTime<Utc>) -> NaiveDateTime {
        time.naive_utc()
    }

    fn first(&self, wall: NaiveDateTime) -> DateTime<Utc> {
        wall.and_utc()
    }
}

/// How deep expressions may be nested.
const DEEPEST: usize = 32;

/// The years of every time in an expression.
const YEARS: RangeInclusive<i32> = 1..=9999;

/// The point in time that an expression means at a time in a zone.
///
/// # Errors
///
/// What is wrong with the expression.
pub fn resolve(
    expression: &str,
    time: DateTime<Utc>,
    zone: &dyn Zone,
) -> Result<DateTime<Utc>, String> {
    let mut reader = Reader {
        tokens: tokens(expression)?,
        at: 0,
        now: time,
        zone,
    };
    let point = reader.moment(0)?;
    match reader.next() {
        None => in_range(Point::Instant(point.instant(zone))).map(|point| point.instant(zone)),
        Some(token) => Err(format!("there is `{}` after the end", token.shown())),
    }
}

fn out_of_range() -> String {
    "the time is out of range".to_owned()
}

/// A time of the years 1 to 9999.
fn in_range(point: Point) -> Result<Point, String> {
    let year = match point {
        Point::Instant(time) => time.year(),
        Point::Wall(wall) => wall.year(),
    };
    match YEARS.contains(&year) {
        true => Ok(point),
        false => Err(out_of_range()),
    }
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
    fn instant(self, zone: &dyn Zone) -> DateTime<Utc> {
        match self {
            Self::Instant(time) => time,
            Self::Wall(wall) => zone.first(wall),
        }
    }

    fn wall(self, zone: &dyn Zone) -> NaiveDateTime {
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

struct Reader<'z> {
    tokens: Vec<Token>,
    /// The place of the next token.
    at: usize,
    /// What `(today)` means.
    now: DateTime<Utc>,
    zone: &'z dyn Zone,
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
            "today" => Point::Instant(self.now),
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
                Point::Wall(edge(&word, time.wall(self.zone)))
            }
            other => {
                return Err(format!(
                    "`{other}` is unknown (known: today, date, shifted, monthstart, monthend, yearstart, yearend)"
                ));
            }
        };
        let time = in_range(time)?;
        match self.next() {
            Some(Token::Close) => Ok(time),
            Some(token) => Err(format!("expected `)`, found `{}`", token.shown())),
            None => Err("a `)` is missing".to_owned()),
        }
    }

    /// `#:days -7 #:hour 0`: first what is set, then what is added, the longest first.
    fn shifted(&mut self, time: Point) -> Result<Point, String> {
        let zone = self.zone;
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
            let wall = time.wall(zone);
            in_range(Point::Wall(wall))?;
            let wall = on_calendar(wall, &set, months)?;
            let days = TimeDelta::try_days(days).ok_or_else(out_of_range)?;
            let wall = wall.checked_add_signed(days).ok_or_else(out_of_range)?;
            time = Point::Wall(wall);
        }
        if seconds != 0 {
            in_range(time)?;
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
    let first = NaiveDate::from_ymd_opt(year, month, 1)
        .filter(|first| YEARS.contains(&first.year()))
        .ok_or_else(|| lacking("year", year))?;
    let step = u32::try_from(months.unsigned_abs()).map_err(|_| out_of_range())?;
    let first = if months < 0 {
        first.checked_sub_months(Months::new(step))
    } else {
        first.checked_add_months(Months::new(step))
    };
    let first = first
        .filter(|first| YEARS.contains(&first.year()))
        .ok_or_else(out_of_range)?;
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
    let point = match (read_datetime(text), parse_datetime(text)) {
        (Some((wall, None)), _) => Some(Point::Wall(wall)),
        (_, instant) => instant.map(Point::Instant),
    };
    point.ok_or_else(|| format!("`{text}` is not a date (example: 2021-1-1 09:00)"))
}
