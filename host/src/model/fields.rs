//! The fields of a cron rule together: read strictly, each by `field`, so that what is accepted means what
//! it seems to mean.
//! `croner` turns what is accepted into sets of values and knows the days of a month; when a rule fires
//! is computed in `rule`.
//!
//! | field | values | also |
//! |---|---|---|
//! | second, minute | 0–59 | |
//! | hour | 0–23 | |
//! | day of the month | 1–31 | `L` the last, `LW` the last working day, `15W` the working day nearest to the 15th |
//! | month | 1–12, `jan`–`dec` | |
//! | day of the week | 0–7 (0 and 7 are Sunday), `sun`–`sat` | `5#2` the second Friday, `5L` the last one |
//!
//! A field is `*`, or a list of values, ranges (`8-17`), ranges with a step (`8-17/3`) and steps over all
//! of the field (`*/15`), which must divide it. `?` in a field of days is `*`. A day of the month beside a
//! day of the week: either of them is enough; with `+` before the day of the week both must fit.

use super::field::{DAY, Fault, HOUR, MINUTE, WEEKDAY, number, read_field};
use chrono::{Datelike, Days, Months, NaiveDate, NaiveDateTime, NaiveTime, Timelike};
use croner::{
    Cron,
    parser::{CronParser, Seconds, Year},
};

/// The calendar repeats after this many years: a date that has not come by then never comes.
const CYCLE_YEARS: i32 = 400;

/// The fields of a rule as sets of values.
#[derive(Debug, Clone)]
pub(super) struct Fields {
    cron: Cron,
    pub(super) seconds: Vec<u32>,
    pub(super) minutes: Vec<u32>,
    pub(super) hours: Vec<u32>,
    /// Whether the hours or the minutes are `*`, or a step over the whole field.
    pub(super) is_interval: bool,
    /// Remarks about parts of the rule that may be misunderstood.
    pub(super) notes: Vec<String>,
}

impl Fields {
    /// Reads five or six fields.
    pub(super) fn read(rule: &str) -> Result<Self, Fault> {
        let mut words: Vec<&str> = rule.split_whitespace().collect();
        match words.len() {
            6 => {}
            5 => words.insert(0, "0"),
            1 => return Err(Fault::Syntax("it has one field".to_owned())),
            count => return Err(Fault::Syntax(format!("it has {count} fields"))),
        }
        let (both, weekdays) = match words[WEEKDAY].strip_prefix('+') {
            Some(rest) => (true, rest),
            None => (false, words[WEEKDAY]),
        };
        words[WEEKDAY] = weekdays;
        let mut read: Vec<String> = (0..words.len())
            .map(|place| read_field(&words, place, both))
            .collect::<Result<_, _>>()?;
        let are_days_limited = read[DAY] != "*" && read[WEEKDAY] != "*";
        if both && !are_days_limited {
            return Err(Fault::Syntax(format!(
                "`+{weekdays}`: `+` joins a day of the week to a day of the month, and one of them is `*`"
            )));
        }
        let mut notes = Vec::new();
        if are_days_limited && !both {
            notes.push(format!(
                "the rule fires on days that fit the day of the month (`{}`) or the day of the week \
                 (`{weekdays}`): write `+{weekdays}` for days that fit both",
                words[DAY]
            ));
        }
        if read[DAY].contains("*/") {
            notes.push(format!(
                "`{}` in the days of the month counts from the first of every month anew",
                words[DAY]
            ));
        }
        // Nearly everywhere clocks are changed at night, between midnight and three.
        let is_by_night = |hours: &str| {
            let first = hours.split([',', '-']).filter_map(number).min();
            !hours.contains('*') && first.is_some_and(|first| first <= 3)
        };
        if read[MINUTE].contains('*') && is_by_night(&read[HOUR]) {
            let fixed = words[MINUTE].replace('*', "0-59");
            notes.push(format!(
                "`{}` in the minutes makes an interval, although the hour is fixed (`{}`): the rule does \
                 not fire in an hour that clocks skip, and fires twice in one that they show twice; write \
                 `{fixed}` for fixed times",
                words[MINUTE], words[HOUR]
            ));
        }
        let is_interval = read[1..=2].iter().any(|field| field.contains('*'));
        if both {
            read[WEEKDAY].insert(0, '+');
        }
        let parser = CronParser::builder()
            .seconds(Seconds::Required)
            .year(Year::Disallowed)
            .build();
        let cron = parser
            .parse(&read.join(" "))
            .map_err(|error| Fault::Syntax(error.to_string()))?;
        let values = |component: &croner::CronComponent| {
            component.values().into_iter().map(u32::from).collect()
        };
        Ok(Self {
            seconds: values(&cron.pattern.seconds),
            minutes: values(&cron.pattern.minutes),
            hours: values(&cron.pattern.hours),
            cron,
            is_interval,
            notes,
        })
    }

    /// Whether the rule fires on a day.
    pub(super) fn is_day(&self, day: NaiveDate) -> bool {
        let weekday = match day.weekday() {
            chrono::Weekday::Mon => croner::Weekday::Monday,
            chrono::Weekday::Tue => croner::Weekday::Tuesday,
            chrono::Weekday::Wed => croner::Weekday::Wednesday,
            chrono::Weekday::Thu => croner::Weekday::Thursday,
            chrono::Weekday::Fri => croner::Weekday::Friday,
            chrono::Weekday::Sat => croner::Weekday::Saturday,
            chrono::Weekday::Sun => croner::Weekday::Sunday,
        };
        let pattern = &self.cron.pattern;
        self.is_month(day.month())
            && pattern
                .day_match(day.year(), day.month(), day.day(), weekday)
                .unwrap_or(false)
    }

    /// Whether the rule fires in a month.
    pub(super) fn is_month(&self, month: u32) -> bool {
        self.cron.pattern.month_match(month).unwrap_or(false)
    }

    /// The first day, from this one on, on which the rule fires; `None`: there is no such day.
    pub(super) fn day_from(&self, day: NaiveDate) -> Option<NaiveDate> {
        let last_year = day.year() + CYCLE_YEARS;
        let mut day = day;
        while day.year() <= last_year {
            if !self.is_month(day.month()) {
                day = day.with_day(1)?.checked_add_months(Months::new(1))?;
            } else if self.is_day(day) {
                return Some(day);
            } else {
                day = day.succ_opt()?;
            }
        }
        None
    }

    /// The last day, up to this one, on which the rule fires.
    pub(super) fn day_until(&self, day: NaiveDate) -> Option<NaiveDate> {
        let first_year = day.year() - CYCLE_YEARS;
        let mut day = day;
        while day.year() >= first_year {
            if !self.is_month(day.month()) {
                day = day.with_day(1)?.checked_sub_days(Days::new(1))?;
            } else if self.is_day(day) {
                return Some(day);
            } else {
                day = day.pred_opt()?;
            }
        }
        None
    }

    /// Every time of day at which the rule fires, in order.
    pub(super) fn times(&self) -> impl Iterator<Item = NaiveTime> + '_ {
        self.hours.iter().flat_map(move |hour| {
            self.minutes.iter().flat_map(move |minute| {
                let times = self.seconds.iter();
                times.filter_map(|second| NaiveTime::from_hms_opt(*hour, *minute, *second))
            })
        })
    }

    /// The first time of day, from this one on, at which the rule fires.
    fn time_from(&self, time: NaiveTime) -> Option<NaiveTime> {
        let (at_hour, at_minute) = (time.hour(), time.minute());
        for hour in self.hours.iter().filter(|hour| **hour >= at_hour) {
            for minute in &self.minutes {
                if *hour == at_hour && *minute < at_minute {
                    continue;
                }
                let is_same = *hour == at_hour && *minute == at_minute;
                let least = if is_same { time.second() } else { 0 };
                if let Some(second) = self.seconds.iter().find(|second| **second >= least) {
                    return NaiveTime::from_hms_opt(*hour, *minute, *second);
                }
            }
        }
        None
    }

    /// The last time of day, up to this one, at which the rule fires.
    fn time_until(&self, time: NaiveTime) -> Option<NaiveTime> {
        let (at_hour, at_minute) = (time.hour(), time.minute());
        for hour in self.hours.iter().rev().filter(|hour| **hour <= at_hour) {
            for minute in self.minutes.iter().rev() {
                if *hour == at_hour && *minute > at_minute {
                    continue;
                }
                let is_same = *hour == at_hour && *minute == at_minute;
                let most = if is_same { time.second() } else { 59 };
                if let Some(second) = self.seconds.iter().rfind(|second| **second <= most) {
                    return NaiveTime::from_hms_opt(*hour, *minute, *second);
                }
            }
        }
        None
    }

    /// The first date and time, from this whole second on, at which the rule fires.
    pub(super) fn from(&self, wall: NaiveDateTime) -> Option<NaiveDateTime> {
        let today = self
            .is_day(wall.date())
            .then(|| self.time_from(wall.time()));
        match today.flatten() {
            Some(time) => Some(wall.date().and_time(time)),
            None => {
                let day = self.day_from(wall.date().succ_opt()?)?;
                Some(day.and_time(self.time_from(NaiveTime::MIN)?))
            }
        }
    }

    /// The last date and time, up to this whole second, at which the rule fires.
    pub(super) fn until(&self, wall: NaiveDateTime) -> Option<NaiveDateTime> {
        let today = self
            .is_day(wall.date())
            .then(|| self.time_until(wall.time()));
        match today.flatten() {
            Some(time) => Some(wall.date().and_time(time)),
            None => {
                let day = self.day_until(wall.date().pred_opt()?)?;
                let end = NaiveTime::from_hms_opt(23, 59, 59)?;
                Some(day.and_time(self.time_until(end)?))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::field::tests::quoted_after, *};

    fn days(rule: &str, from: &str, until: &str) -> Vec<String> {
        let fields = Fields::read(rule).unwrap();
        let (from, until): (NaiveDate, NaiveDate) = (from.parse().unwrap(), until.parse().unwrap());
        let found: Vec<NaiveDate> = from
            .iter_days()
            .take_while(|day| *day <= until)
            .filter(|day| fields.is_day(*day))
            .collect();
        // The searches find the same days, in both directions.
        let mut forth = Vec::new();
        let mut day = fields.day_from(from);
        while let Some(next) = day.filter(|day| *day <= until) {
            forth.push(next);
            day = fields.day_from(next.succ_opt().unwrap());
        }
        let mut back = Vec::new();
        let mut day = fields.day_until(until);
        while let Some(last) = day.filter(|day| *day >= from) {
            back.insert(0, last);
            day = fields.day_until(last.pred_opt().unwrap());
        }
        assert_eq!((&forth, &back), (&found, &found), "{rule}");
        found
            .iter()
            .map(|day| day.format("%m-%d %a").to_string())
            .collect()
    }

    #[test]
    fn days_are_those_of_the_table() {
        let of = |rule| days(rule, "2026-02-01", "2026-03-31");
        assert_eq!(of("0 0 0 L * *"), ["02-28 Sat", "03-31 Tue"]);
        assert_eq!(of("0 0 0 LW * *"), ["02-27 Fri", "03-31 Tue"]);
        assert_eq!(of("0 0 0 15W * *"), ["02-16 Mon", "03-16 Mon"]);
        assert_eq!(of("0 0 0 1W * *"), ["02-02 Mon", "03-02 Mon"]);
        assert_eq!(of("0 0 0 * * fri#2"), ["02-13 Fri", "03-13 Fri"]);
        assert_eq!(of("0 0 0 * * 5L"), ["02-27 Fri", "03-27 Fri"]);
        assert_eq!(of("0 0 0 * * 5#L"), ["02-27 Fri", "03-27 Fri"]);
        assert_eq!(of("0 0 0 * * sun#1"), ["02-01 Sun", "03-01 Sun"]);
        assert_eq!(of("0 0 0 * * 7#1"), ["02-01 Sun", "03-01 Sun"]);
        assert_eq!(of("0 0 0 13 * +fri"), ["02-13 Fri", "03-13 Fri"]);
        assert_eq!(of("0 0 0 13 feb fri").len(), 4, "either");
        assert_eq!(of("0 0 0 ? feb sat-sun").len(), 8);
        assert_eq!(of("0 0 0 ? feb 6,7").len(), 8);
        assert_eq!(of("0 0 0 */15 * ?").len(), 5);
        assert_eq!(of("0 0 0 30 2 *"), [""; 0]);
        assert_eq!(days("0 0 0 29 2 +mon", "2026-01-01", "2060-12-31").len(), 1);
    }

    #[test]
    fn what_may_be_taken_for_something_else_is_noted() {
        let notes = |rule| Fields::read(rule).unwrap().notes;
        assert!(
            notes("0 0 0 13 * fri")[0]
                .contains("(`13`) or the day of the week (`fri`): write `+fri`")
        );
        assert!(notes("0 0 0 */2 * *")[0].contains("from the first of every month anew"));
        for (rule, fixed) in [
            ("0 */30 2 * * *", "0-59/30"),
            ("0 * 1,2 * * *", "0-59"),
            ("0 */20,50 0-8/2 * * *", "0-59/20,50"),
        ] {
            let note = &notes(rule)[0];
            assert!(
                note.contains("does not fire in an hour that clocks skip"),
                "{note}"
            );
            assert_eq!(quoted_after(note, "write"), [fixed], "{note}");
            let minute = rule.split(' ').nth(MINUTE).unwrap();
            let is = Fields::read(&rule.replacen(minute, fixed, 1)).unwrap();
            assert!(!is.is_interval && is.minutes == Fields::read(rule).unwrap().minutes);
        }
        assert_eq!(notes("0 */30 4 * * *"), [""; 0]);
        assert_eq!(notes("0 */30 */2 * * *"), [""; 0]);
        assert_eq!(notes("0 0 0 13 * +fri"), [""; 0]);
        assert_eq!(notes("0 */15 8-17 * * mon-fri"), [""; 0]);
    }

    #[test]
    fn a_star_in_hours_or_minutes_makes_an_interval() {
        let is_interval = |rule| Fields::read(rule).unwrap().is_interval;
        for rule in [
            "* * * * *",
            "0 */2 * * *",
            "*/15 2 * * *",
            "*/20,50 2 * * *",
        ] {
            assert!(is_interval(rule), "{rule}");
        }
        for rule in [
            "30 2 * * *",
            "0,30 2 * * *",
            "0-45/15 1-3 * * *",
            "*/10 30 2 * * *",
            "0 0-23 * * *",
        ] {
            assert!(!is_interval(rule), "{rule}");
        }
    }
}
