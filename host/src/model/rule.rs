//! When a schedule fires: a cron rule in a time zone.

use super::{field::Fault, fields::Fields};
use crate::zones::{Shown, Zone};
use chrono::{DateTime, NaiveDate, NaiveTime, TimeDelta, Timelike, Utc};
use std::{collections::BTreeSet, str::FromStr};

/// A cron rule in a time zone: six fields, seconds first (second, minute, hour, day of the month,
/// month, day of the week), or five, which mean "at second 0". What a field may say is in `fields`.
///
/// Where clocks are changed, two kinds of rules differ, as in Vixie cron and its successors:
///
/// * **Fixed times**: hours and minutes are values, lists or ranges. Every time fires exactly once on
///   every day that the rule is for. A time that clocks skip fires at the first moment after the change;
///   of several that are skipped, or if the rule fires at that moment anyway, each takes the next free
///   second. A time that clocks show twice fires the first time. A day that a calendar leaves out
///   (Samoa, 30 December 2011) has no times.
/// * **Intervals**: hours or minutes hold `*` or a step over all of the field (`*/15`). The rule fires
///   whenever clocks show a time that fits: not for times that they skip, twice for times that they show
///   twice. So every quarter of an hour stays that.
#[derive(Debug, Clone)]
pub struct Rule {
    fields: Fields,
    zone: Zone,
}

/// Why a text is not a cron rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    /// The text does not follow the grammar.
    #[error(
        "`{rule}` is not a cron rule: {reason} (five fields, or six with seconds first: `0 30 6 * * *`)"
    )]
    Syntax {
        rule: String,
        /// What is wrong with the rule.
        reason: String,
    },
    /// The rule is valid, but means something else than its author is likely to believe.
    #[error("`{rule}` would not mean what it seems to mean: {reason}")]
    Misleading {
        rule: String,
        /// What the rule would mean, and how to express what was probably meant.
        reason: String,
    },
    /// The rule describes days that never come, such as 30 February.
    #[error("`{0}` never fires: no day fits it")]
    Never(String),
    /// There is no time zone of this name.
    #[error("`{0}` is not a time zone (examples: UTC, Europe/Paris)")]
    Zone(String),
}

impl Rule {
    /// Reads a cron rule and the name of its time zone.
    ///
    /// # Errors
    ///
    /// If the rule or the name cannot be read, or the rule never fires.
    pub fn parse(rule: &str, zone: &str) -> Result<Self, RuleError> {
        let fields = Fields::read(rule).map_err(|fault| match fault {
            Fault::Syntax(reason) => RuleError::Syntax {
                rule: rule.to_owned(),
                reason,
            },
            Fault::Misleading(reason) => RuleError::Misleading {
                rule: rule.to_owned(),
                reason,
            },
        })?;
        let zone = parse_zone(zone)?;
        match fields.day_from(Utc::now().date_naive()) {
            Some(_) => Ok(Self { fields, zone }),
            None => Err(RuleError::Never(rule.to_owned())),
        }
    }

    /// Remarks about parts of the rule that may be misunderstood, one line each.
    pub fn notes(&self) -> &[String] {
        &self.fields.notes
    }

    /// The first time after `time` at which the rule fires.
    pub fn next_after(&self, time: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let whole = time.with_nanosecond(0)?;
        if self.fields.is_interval {
            return self.interval_from(whole.checked_add_signed(TimeDelta::seconds(1))?);
        }
        // Starts a day early: the last times of a day may come after the next day has begun, where clocks
        // are put back over midnight.
        let mut day = self.zone.shows(time).date().pred_opt()?;
        loop {
            day = self.fields.day_from(day)?;
            let of = |day| self.fixed_after(day, time);
            let next_day = day.succ_opt()?;
            let found = of(day).into_iter().chain(of(next_day)).min();
            if found.is_some() {
                return found;
            }
            day = next_day;
        }
    }

    /// The last time up to `time` at which the rule fires.
    pub fn last_until(&self, time: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let whole = time.with_nanosecond(0)?;
        if self.fields.is_interval {
            return self.interval_until(whole);
        }
        // Starts a day late: clocks that are put back over midnight may have shown times of the next day
        // already.
        let mut day = self.zone.shows(time).date().succ_opt()?;
        loop {
            day = self.fields.day_until(day)?;
            let of = |day| self.fixed_until(day, whole);
            let day_before = day.pred_opt()?;
            let found = of(day).into_iter().chain(of(day_before)).max();
            if found.is_some() {
                return found;
            }
            day = day_before;
        }
    }

    /// All times in `(after, until]` at which the rule fires.
    pub fn between(
        &self,
        after: DateTime<Utc>,
        until: DateTime<Utc>,
    ) -> impl Iterator<Item = DateTime<Utc>> + '_ {
        std::iter::successors(self.next_after(after), |last| self.next_after(*last))
            .take_while(move |time| *time <= until)
    }

    /// The time zone of the rule.
    pub fn zone(&self) -> &Zone {
        &self.zone
    }

    /// Whether the data of its time zone have changed since the rule was read.
    pub fn is_outdated(&self) -> bool {
        Zone::find(self.zone.name()).is_some_and(|zone| zone != self.zone)
    }

    /// For interval rules: the first instant, at or after this whole second, at which the rule fires.
    fn interval_from(&self, mut from: DateTime<Utc>) -> Option<DateTime<Utc>> {
        loop {
            let ahead = self.zone.offset(from);
            let wall = self.fields.from(from.with_timezone(&ahead).naive_local())?;
            let found = wall.checked_sub_offset(ahead)?.and_utc();
            match self.zone.change_after(from) {
                // The clocks change before the time that was found, so the search goes on after the change;
                // it starts two days before the time that was found, since no change moves a clock further.
                Some(change) if change <= found => from = change.max(found - TimeDelta::days(2)),
                _ => return Some(found),
            }
        }
    }

    /// For interval rules: the last instant, up to this whole second, at which the rule fires.
    fn interval_until(&self, mut until: DateTime<Utc>) -> Option<DateTime<Utc>> {
        loop {
            let ahead = self.zone.offset(until);
            let wall = self
                .fields
                .until(until.with_timezone(&ahead).naive_local())?;
            let found = wall.checked_sub_offset(ahead)?.and_utc();
            match self.zone.change_until(until) {
                Some(change) if found < change => {
                    until = (change - TimeDelta::seconds(1)).min(found + TimeDelta::days(2));
                }
                _ => return Some(found),
            }
        }
    }

    /// For rules of fixed times: the first time of a day after an instant.
    fn fixed_after(&self, day: NaiveDate, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
        if !self.fields.is_day(day) {
            return None;
        }
        match self.plain_day(day) {
            Some(midnight) => {
                let from = (after - midnight).num_seconds() + i64::from(after >= midnight);
                let from = day.and_time(NaiveTime::MIN) + TimeDelta::seconds(from.max(0));
                let wall = self.fields.from(from)?;
                (wall.date() == day).then(|| midnight + (wall - day.and_time(NaiveTime::MIN)))
            }
            None => self.fixed_of(day).into_iter().find(|time| *time > after),
        }
    }

    /// For rules of fixed times: the last time of a day up to a whole second.
    fn fixed_until(&self, day: NaiveDate, until: DateTime<Utc>) -> Option<DateTime<Utc>> {
        if !self.fields.is_day(day) {
            return None;
        }
        match self.plain_day(day) {
            Some(midnight) if until < midnight => None,
            Some(midnight) => {
                let last = TimeDelta::seconds(86_399).min(until - midnight);
                let start = day.and_time(NaiveTime::MIN);
                let wall = self.fields.until(start + last)?;
                (wall.date() == day).then(|| midnight + (wall - start))
            }
            None => self.fixed_of(day).into_iter().rfind(|time| *time <= until),
        }
    }

    /// When a day begins on which no clock changes; `None` on other days.
    fn plain_day(&self, day: NaiveDate) -> Option<DateTime<Utc>> {
        let begins = |day: NaiveDate| match self.zone.when(day.and_time(NaiveTime::MIN)) {
            Shown::Once(time) => Some(time),
            _ => None,
        };
        let midnight = begins(day)?;
        let is_plain = begins(day.succ_opt()?)? - midnight == TimeDelta::days(1)
            && self
                .zone
                .change_after(midnight)
                .is_none_or(|change| change >= midnight + TimeDelta::days(1));
        is_plain.then_some(midnight)
    }

    /// Every instant at which a rule of fixed times fires on a day.
    fn fixed_of(&self, day: NaiveDate) -> BTreeSet<DateTime<Utc>> {
        let shown = |time| self.zone.when(day.and_time(time));
        // The calendar leaves this day out if its first moment lies on another day.
        if let Shown::Never(first) = shown(NaiveTime::MIN)
            && self.zone.shows(first).date() != day
        {
            return BTreeSet::new();
        }
        let mut instants = BTreeSet::new();
        let mut skipped = Vec::new();
        for time in self.fields.times() {
            match shown(time) {
                Shown::Once(instant) | Shown::Twice(instant, _) => drop(instants.insert(instant)),
                Shown::Never(after) => skipped.push(after),
            }
        }
        // In order of time, so that a time that was moved takes a second which the following ones then
        // avoid.
        let mut free = DateTime::<Utc>::MIN_UTC;
        for after in skipped {
            free = free.max(after);
            while !instants.insert(free) {
                free += TimeDelta::seconds(1);
            }
        }
        instants
    }

    /// Whether the rule fires every second for a minute or longer, which is hardly ever intended.
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
            // The search began in the middle of a minute, so the next minute decides.
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
/// If there is no time zone of this name.
pub fn parse_zone(name: &str) -> Result<Zone, RuleError> {
    Zone::find(name).ok_or_else(|| RuleError::Zone(name.to_owned()))
}

/// What happens to runs that no monitor was there to queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CatchUp {
    /// Missed runs are left out.
    #[default]
    Skip,
    /// The last missed run is made up for.
    One,
    /// All missed runs are made up for, one after the other.
    All,
}

impl CatchUp {
    /// The keyword in the database.
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
        rule.between(at(after), at(until))
            .map(|time| {
                let ahead = rule.zone().offset(time);
                time.with_timezone(&ahead)
                    .format("%d %H:%M:%S %:z")
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
            ["01 08:15:30 +00:00", "02 08:15:30 +00:00"]
        );
        assert_eq!(
            times(
                "15 8 * * 1",
                "UTC",
                "2026-05-01T00:00:00Z",
                "2026-05-08T00:00:00Z"
            ),
            ["04 08:15:00 +00:00"]
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
            ["29 03:00:00 +02:00", "30 02:30:00 +02:00"]
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
            ["25 02:30:00 +02:00", "26 02:30:00 +01:00"]
        );
    }

    #[test]
    fn lists_and_ranges_of_fixed_times_come_once_each_too() {
        let paris = |rule, after, until| times(rule, "Europe/Paris", after, until);
        let spring = |rule| paris(rule, "2026-03-28T22:00:00Z", "2026-03-29T20:00:00Z");
        let autumn = |rule| paris(rule, "2026-10-24T22:00:00Z", "2026-10-25T20:00:00Z");
        assert_eq!(
            spring("0 0,30 2 * * *"),
            ["29 03:00:00 +02:00", "29 03:00:01 +02:00"]
        );
        assert_eq!(
            autumn("0 0,30 2 * * *"),
            ["25 02:00:00 +02:00", "25 02:30:00 +02:00"]
        );
        assert_eq!(
            spring("0 0 1-3 * * *"),
            [
                "29 01:00:00 +01:00",
                "29 03:00:00 +02:00",
                "29 03:00:01 +02:00"
            ]
        );
        assert_eq!(
            autumn("0 0 1-3 * * *"),
            [
                "25 01:00:00 +02:00",
                "25 02:00:00 +02:00",
                "25 03:00:00 +01:00"
            ]
        );
        assert_eq!(autumn("0 0-45/15 2 * * *").len(), 4);
        assert_eq!(spring("0 0-45/15 2 * * *").len(), 4);
        // Intervals go by what clocks show.
        assert_eq!(spring("0 */30 2 * * *"), [""; 0]);
        assert_eq!(autumn("0 */30 2 * * *").len(), 4);
        assert_eq!(autumn("0 */15 * * * *").len(), 22 * 4);
    }

    #[test]
    fn clocks_are_changed_at_other_times_and_by_other_lengths_elsewhere() {
        // Lord Howe: half an hour, at two.
        let lord_howe = |rule, after, until| times(rule, "Australia/Lord_Howe", after, until);
        assert_eq!(
            lord_howe(
                "0 15,45 2 * * *",
                "2026-10-03T13:00:00Z",
                "2026-10-04T10:00:00Z"
            ),
            ["04 02:30:00 +11:00", "04 02:45:00 +11:00"]
        );
        assert_eq!(
            lord_howe(
                "0 15,45 1 * * *",
                "2026-04-04T13:00:00Z",
                "2026-04-05T10:00:00Z"
            ),
            ["05 01:15:00 +11:00", "05 01:45:00 +11:00"]
        );
        // Sao Paulo, 2018: midnight became one o'clock.
        assert_eq!(
            times(
                "0 0,30 0 * * *",
                "America/Sao_Paulo",
                "2018-11-03T12:00:00Z",
                "2018-11-04T20:00:00Z"
            ),
            ["04 01:00:00 -02:00", "04 01:00:01 -02:00"]
        );
        // Pyongyang, 2018: half past eleven became midnight.
        assert_eq!(
            times(
                "0 45 23 * * *",
                "Asia/Pyongyang",
                "2018-05-04T00:00:00Z",
                "2018-05-05T15:00:00Z"
            ),
            ["05 00:00:00 +09:00", "05 23:45:00 +09:00"]
        );
        // Apia had no 30 December 2011.
        assert_eq!(
            times(
                "0 0 12 * * *",
                "Pacific/Apia",
                "2011-12-29T00:00:00Z",
                "2012-01-01T00:00:00Z"
            ),
            [
                "29 12:00:00 -10:00",
                "31 12:00:00 +14:00",
                "01 12:00:00 +14:00"
            ]
        );
    }

    /// The rule said anew, as slowly as can be: every half minute of some days is asked what clocks show.
    fn oracle(rule: &Rule, after: DateTime<Utc>, until: DateTime<Utc>) -> Vec<DateTime<Utc>> {
        let times: std::collections::HashSet<NaiveTime> = rule.fields.times().collect();
        let fits = |wall: chrono::NaiveDateTime| {
            times.contains(&wall.time()) && rule.fields.is_day(wall.date())
        };
        // Every rule here fires at second 0 or 30.
        let (step, margin) = (TimeDelta::seconds(30), TimeDelta::days(2));
        let mut fired = BTreeSet::new();
        let mut seen = std::collections::HashSet::new();
        let mut skipped = Vec::new();
        let mut now = after - margin;
        let mut before = rule.zone.shows(now);
        while now <= until {
            now += step;
            let wall = rule.zone.shows(now);
            if rule.fields.is_interval {
                if fits(wall) {
                    fired.insert(now);
                }
                continue;
            }
            // What clocks have skipped: days that are partly there.
            let mut missing = before + step;
            while missing < wall {
                if fits(missing)
                    && (missing.date() == before.date() || missing.date() == wall.date())
                {
                    skipped.push(now);
                }
                missing += step;
            }
            if fits(wall) && seen.insert(wall) {
                fired.insert(now);
            }
            before = wall;
        }
        for mut moment in skipped {
            while !fired.insert(moment) {
                moment += TimeDelta::seconds(1);
            }
        }
        let wanted = |time: &DateTime<Utc>| *time > after && *time <= until;
        fired.into_iter().filter(wanted).collect()
    }

    #[test]
    fn around_every_change_of_clocks_it_fires_as_the_oracle_says() {
        let rules = [
            "0 0,30 2 * * *",
            "0 30 0,1,2,3,23 * * *",
            "0 15-45/30 0-4 * * *",
            "0 */30 * * * *",
            "0 20 */2 * * *",
            "0 */20 0-3 * * *",
            "0 0 0 * * *",
            "0 59 23 * * sun",
            "30 0 1-2 L * *",
        ];
        let mut changes = 0;
        for (zone, from, until) in [
            ("Europe/Paris", 2025, 2027),
            ("America/New_York", 2025, 2026),
            ("Australia/Lord_Howe", 2025, 2026),
            ("Europe/Dublin", 2026, 2027),
            ("Africa/Casablanca", 2025, 2026),
            ("Africa/El_Aaiun", 2025, 2025),
            ("Pacific/Apia", 2011, 2012),
            ("America/Sao_Paulo", 2017, 2018),
            ("Asia/Pyongyang", 2018, 2018),
            ("America/St_Johns", 2010, 2010),
            ("Antarctica/Troll", 2026, 2026),
        ] {
            let rules = rules.map(|rule| Rule::parse(rule, zone).unwrap());
            let zone = Zone::find(zone).unwrap();
            let mut time = at(&format!("{from}-01-01T00:00:00Z"));
            while let Some(change) = zone.change_after(time)
                && change < at(&format!("{until}-12-31T00:00:00Z"))
            {
                time = change;
                changes += 1;
                let margin = TimeDelta::hours(30);
                let (after, until) = (change - margin, change + margin);
                for rule in &rules {
                    let said: Vec<_> = rule.between(after, until).collect();
                    let context = (zone.name(), change, rule);
                    assert_eq!(said, oracle(rule, after, until), "{context:?}");
                    // Backwards, from each of them and from between them.
                    let mut back = Vec::new();
                    let mut last = rule.last_until(until);
                    while let Some(time) = last.filter(|time| *time > after) {
                        back.insert(0, time);
                        last = rule.last_until(time - TimeDelta::milliseconds(1));
                    }
                    assert_eq!(back, said, "{context:?}");
                }
            }
        }
        assert!(changes > 25, "{changes}");
    }

    #[test]
    fn a_rule_of_rare_days_is_found_in_both_directions() {
        let rule = Rule::parse("0 * * 29 2 +mon", "Europe/Paris").unwrap();
        assert_eq!(
            rule.next_after(at("2026-05-01T00:00:00Z")),
            Some(at("2044-02-28T23:00:00Z"))
        );
        assert_eq!(
            rule.last_until(at("2026-05-01T00:00:00Z")),
            Some(at("2016-02-29T22:59:00Z"))
        );
        let fixed = Rule::parse("0 30 6 29 2 +mon", "Europe/Paris").unwrap();
        assert_eq!(
            fixed.next_after(at("2026-05-01T00:00:00Z")),
            Some(at("2044-02-29T05:30:00Z"))
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
        assert_eq!(
            refusal("0 0 0 30 2 *", "UTC"),
            "`0 0 0 30 2 *` never fires: no day fits it"
        );
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
