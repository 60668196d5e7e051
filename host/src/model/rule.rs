//! When a schedule fires: a cron rule in a time zone.

use chrono::{DateTime, TimeDelta, Utc};
use chrono_tz::Tz;
use croner::{
    Cron,
    parser::{CronParser, Seconds, Year},
};
use std::str::FromStr;

/// A cron rule in a time zone: six fields, seconds first (second, minute, hour, day of the month,
/// month, day of the week), or five, which mean "at second 0".
///
/// Where clocks are put forward, a rule that names an hour fires for a skipped time right after the
/// gap; where they are put back, it fires once for a repeated time. Rules with `*` or a step in
/// their hours go by what the clock shows (the rules of Vixie cron).
#[derive(Debug, Clone)]
pub struct Rule {
    cron: Cron,
    zone: Tz,
}

/// Why a text is no rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    /// It cannot be read.
    #[error(
        "`{rule}` is not a cron rule: {reason} (five fields, or six with seconds first: `0 30 6 * * *`)"
    )]
    Syntax {
        /// What was given.
        rule: String,
        /// What is wrong with it.
        reason: String,
    },
    /// No day ever fits.
    #[error("`{0}` never fires")]
    Never(String),
    /// There is no such time zone.
    #[error("`{0}` is not a time zone (examples: UTC, Europe/Paris)")]
    Zone(String),
}

impl Rule {
    /// Reads a rule and the name of a time zone.
    ///
    /// # Errors
    ///
    /// If one of them cannot be read, or the rule never fires.
    pub fn parse(rule: &str, zone: &str) -> Result<Self, RuleError> {
        let syntax = |reason: String| RuleError::Syntax {
            rule: rule.to_owned(),
            reason,
        };
        let fields = rule.split_whitespace().count();
        if fields != 5 && fields != 6 {
            return Err(syntax(match fields {
                1 => "it has one field".to_owned(),
                count => format!("it has {count} fields"),
            }));
        }
        let mut lists = rule.split_whitespace().map(|field| field.split(','));
        if lists.any(|mut list| list.any(str::is_empty)) {
            return Err(syntax("a list has an empty item".to_owned()));
        }
        let parser = CronParser::builder()
            .seconds(Seconds::Optional)
            .year(Year::Disallowed)
            .build();
        let cron = parser.parse(rule).map_err(|error| {
            let words = error.to_string();
            let words = words
                .split_once(": ")
                .map_or(words.as_str(), |(_, words)| words);
            let mut words = words.trim_end_matches('.').to_owned();
            if let Some(first) = words.get_mut(..1) {
                first.make_ascii_lowercase();
            }
            // Which one it is shows when the others are beyond doubt.
            let culprit = rule.split_whitespace().enumerate().find(|(place, field)| {
                let mut alone = vec!["*"; fields];
                alone[*place] = field;
                parser.parse(&alone.join(" ")).is_err()
            });
            syntax(match culprit {
                Some((_, field)) => format!("`{field}`: {words}"),
                None => words,
            })
        })?;
        let zone = parse_zone(zone)?;
        let rule_of = Self { cron, zone };
        match rule_of.next_after(Utc::now()) {
            Some(_) => Ok(rule_of),
            None => Err(RuleError::Never(rule.to_owned())),
        }
    }

    /// The first time after `time` at which it fires.
    pub fn next_after(&self, time: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let local = time.with_timezone(&self.zone);
        let next = self.cron.find_next_occurrence(&local, false).ok()?;
        Some(next.to_utc())
    }

    /// The last time up to `time` at which it fires.
    pub fn last_until(&self, time: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let local = time.with_timezone(&self.zone);
        let last = self.cron.find_previous_occurrence(&local, true).ok()?;
        Some(last.to_utc())
    }

    /// Every time in `(after, until]` at which it fires.
    pub fn between(
        &self,
        after: DateTime<Utc>,
        until: DateTime<Utc>,
    ) -> impl Iterator<Item = DateTime<Utc>> + '_ {
        std::iter::successors(self.next_after(after), |last| self.next_after(*last))
            .take_while(move |time| *time <= until)
    }

    /// The zone in which it is meant.
    pub fn zone(&self) -> Tz {
        self.zone
    }

    /// Whether it fires every second for a minute or longer, which is hardly ever meant.
    pub fn fires_every_second(&self) -> bool {
        self.fires_every_second_from(Utc::now())
    }

    fn fires_every_second_from(&self, now: DateTime<Utc>) -> bool {
        let whole_minute = || {
            let next = self.next_after(now)?;
            let second = next.timestamp() % 60;
            if second == 0 {
                return Some(next);
            }
            // We are in the middle of one; the next one it is.
            self.next_after(next + TimeDelta::seconds(59 - second))
        };
        let Some(first) = whole_minute() else {
            return false;
        };
        self.between(first, first + TimeDelta::seconds(59)).count() == 59
    }
}

/// A time zone by its name.
///
/// # Errors
///
/// If there is none of this name.
pub fn parse_zone(name: &str) -> Result<Tz, RuleError> {
    Tz::from_str(name.trim()).map_err(|_| RuleError::Zone(name.to_owned()))
}

/// What becomes of the runs that nobody was there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CatchUp {
    /// They are left out.
    #[default]
    Skip,
    /// The last of them is made up for.
    One,
    /// All of them are made up for, one after the other.
    All,
}

impl CatchUp {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Skip => "skip",
            Self::One => "one",
            Self::All => "all",
        }
    }
}

impl FromStr for CatchUp {
    type Err = String;
    fn from_str(word: &str) -> Result<Self, String> {
        [Self::Skip, Self::One, Self::All]
            .into_iter()
            .find(|policy| policy.as_str() == word)
            .ok_or_else(|| format!("`{word}` is none of: skip, one, all"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    fn times(rule: &str, zone: &str, after: &str, until: &str) -> Vec<String> {
        let rule = Rule::parse(rule, zone).unwrap();
        let zone = rule.zone();
        rule.between(at(after), at(until))
            .map(|time| {
                time.with_timezone(&zone)
                    .format("%d %H:%M:%S %Z")
                    .to_string()
            })
            .collect()
    }

    #[test]
    fn six_fields_begin_with_seconds_and_five_mean_second_zero() {
        assert_eq!(
            times(
                "30 15 8 * * *",
                "UTC",
                "2026-05-01T00:00:00Z",
                "2026-05-02T12:00:00Z"
            ),
            ["01 08:15:30 UTC", "02 08:15:30 UTC"]
        );
        assert_eq!(
            times(
                "15 8 * * 1",
                "UTC",
                "2026-05-01T00:00:00Z",
                "2026-05-08T00:00:00Z"
            ),
            ["04 08:15:00 UTC"]
        );
    }

    #[test]
    fn a_time_that_clocks_skip_comes_right_after_the_gap() {
        // Paris, 29 March 2026: 02:00 becomes 03:00.
        assert_eq!(
            times(
                "0 30 2 * * *",
                "Europe/Paris",
                "2026-03-28T12:00:00Z",
                "2026-03-30T12:00:00Z"
            ),
            ["29 03:00:00 CEST", "30 02:30:00 CEST"]
        );
    }

    #[test]
    fn a_time_that_clocks_repeat_comes_once() {
        // Paris, 25 October 2026: 03:00 becomes 02:00.
        assert_eq!(
            times(
                "0 30 2 * * *",
                "Europe/Paris",
                "2026-10-24T12:00:00Z",
                "2026-10-26T12:00:00Z"
            ),
            ["25 02:30:00 CEST", "26 02:30:00 CET"]
        );
    }

    #[test]
    fn a_rule_for_every_hour_fires_in_every_hour() {
        // 23 hours and 25 hours.
        let hours = |after, until| times("0 0 * * * *", "Europe/Paris", after, until).len();
        assert_eq!(hours("2026-03-28T23:00:00Z", "2026-03-29T22:00:00Z"), 23);
        assert_eq!(hours("2026-10-24T22:00:00Z", "2026-10-25T23:00:00Z"), 25);
    }

    #[test]
    fn what_is_no_rule_is_told() {
        let refusal = |rule, zone| Rule::parse(rule, zone).unwrap_err().to_string();
        assert!(refusal("* * *", "UTC").starts_with("`* * *` is not a cron rule: it has 3 fields"));
        assert!(refusal("0 0 25 * * *", "UTC").starts_with("`0 0 25 * * *` is not a cron rule: "));
        assert!(refusal("0 61 * * * *", "UTC").contains("rule: `61`: "));
        assert!(refusal("0 0 0 1,,2 * *", "UTC").contains("a list has an empty item"));
        assert!(refusal("a b c d e f", "UTC").starts_with("`a b c d e f` is not a cron rule: "));
        assert_eq!(refusal("0 0 0 30 2 *", "UTC"), "`0 0 0 30 2 *` never fires");
        assert_eq!(
            refusal("0 0 * * * *", "Europe/Pari"),
            "`Europe/Pari` is not a time zone (examples: UTC, Europe/Paris)"
        );
    }

    #[test]
    fn every_second_is_noticed_however_it_is_written() {
        let every = |rule| Rule::parse(rule, "UTC").unwrap().fires_every_second();
        assert!(every("* * * * * *"));
        assert!(every("*/1 * * * * *"));
        // Also in the last minute of an hour that it is about.
        let late = "2026-03-04T03:59:20Z".parse().unwrap();
        let rule = Rule::parse("* 59 3 * * *", "UTC").unwrap();
        assert!(rule.fires_every_second_from(late));
        assert!(every("0-59 * 3 * * *"));
        assert!(!every("*/2 * * * * *"));
        assert!(!every("0 * * * * *"));
        assert!(!every("* * * * *"));
    }
}
