//! One of the six fields of a cron rule: the values that it has, how its text is read, and hints about what
//! to write instead of a text that is refused. Each hint is itself accepted, and means what was meant.

/// Why a text is not a cron rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fault {
    /// The text does not follow the grammar.
    Syntax(String),
    /// The rule is valid, but means something else than its author is likely to believe.
    Misleading(String),
}

/// The properties of one of the six fields of a rule.
pub(super) struct Field {
    /// The plural of its values, for messages.
    name: &'static str,
    first: u32,
    last: u32,
    /// After how many values the field starts over; `None` for days of the month, whose number varies.
    cycle: Option<u32>,
    /// The unit in which the values start over: minutes in an hour.
    whole: &'static str,
    /// The names of values, beginning with the name of `first`.
    names: &'static [&'static str],
    /// A range or a step over the whole field, for messages.
    example: &'static str,
}

const fn numbers(
    name: &'static str,
    last: u32,
    whole: &'static str,
    example: &'static str,
) -> Field {
    Field {
        name,
        first: 0,
        last,
        cycle: Some(last + 1),
        whole,
        names: &[],
        example,
    }
}

pub(super) const MINUTE: usize = 1;
pub(super) const HOUR: usize = 2;
pub(super) const DAY: usize = 3;
pub(super) const WEEKDAY: usize = 5;
const FIELDS: [Field; 6] = [
    numbers("seconds", 59, "minute", "*/15"),
    numbers("minutes", 59, "hour", "*/15"),
    numbers("hours", 23, "day", "*/6"),
    Field {
        name: "days of the month",
        first: 1,
        last: 31,
        cycle: None,
        whole: "month",
        names: &[],
        example: "1-31/2",
    },
    Field {
        name: "months",
        first: 1,
        last: 12,
        cycle: Some(12),
        whole: "year",
        names: &[
            "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
        ],
        example: "*/3",
    },
    Field {
        name: "days of the week",
        first: 0,
        last: 7,
        cycle: Some(7),
        whole: "week",
        names: &["sun", "mon", "tue", "wed", "thu", "fri", "sat"],
        example: "1-5/2",
    },
];

/// Translates a field of a rule for the parser `croner`: names become numbers, a list that covers the whole
/// field becomes `*`. `both`: the day of the week was given with a `+` before it.
pub(super) fn read_field(rule: &[&str], place: usize, both: bool) -> Result<String, Fault> {
    let field = &FIELDS[place];
    let word = rule[place];
    let is_days = place == DAY || place == WEEKDAY;
    if word == "*" || word == "*/1" || (word == "?" && is_days) {
        return Ok("*".to_owned());
    }
    let items: Vec<&str> = word.split(',').collect();
    if items.iter().any(|item| item.is_empty()) {
        return Err(Fault::Syntax(if word.is_empty() {
            format!("there are no {}", field.name)
        } else {
            "a list has an empty item".to_owned()
        }));
    }
    let read: Vec<String> = items
        .iter()
        .map(|item| match item.strip_prefix("*/") {
            Some(step) => {
                let step = field.step(item, step)?;
                // A combination of rules can replace this one only if the field holds nothing but the step.
                let others = (place == MINUTE && items.len() == 1)
                    .then(|| every_minutes(rule, step, both))
                    .flatten();
                field.check_step(item, step, others)?;
                Ok(format!("*/{step}"))
            }
            None => field.item(place, item),
        })
        .collect::<Result<_, _>>()?;
    let has = |item: &str| read.iter().any(|other| other == item);
    if has("L") && has("LW") {
        return Err(Fault::Syntax(format!(
            "`{word}`: `L` and `LW` do not go together in one rule"
        )));
    }
    Ok(read.join(","))
}

impl Field {
    fn item(&self, place: usize, item: &str) -> Result<String, Fault> {
        let syntax = |reason: String| Fault::Syntax(format!("`{item}`: {reason}"));
        if let Some((span, step)) = item.split_once('/') {
            let step = self.step(item, step)?;
            let Some((first, last)) = span.split_once('-') else {
                let first = self.value(item, span)?;
                let reason = if first + step > self.top() {
                    format!(
                        "a step needs `*` or a range before it; here it would mean {first} only"
                    )
                } else {
                    let last = self.top();
                    format!("a step needs `*` or a range before it: `{first}-{last}/{step}`")
                };
                return Err(syntax(reason));
            };
            let (first, last) = self.range(item, first, last, step)?;
            if step > last - first {
                return Err(Fault::Misleading(format!(
                    "`{item}`: the step is longer than the range, so that it would mean {first} only; \
                     write `{first}` if that is meant"
                )));
            }
            return Ok(format!("{first}-{last}/{step}"));
        }
        if item == "*" {
            return Err(syntax("`*` stands alone, not in a list".to_owned()));
        }
        if let Some((first, last)) = item.split_once('-') {
            let (first, last) = self.range(item, first, last, 1)?;
            return Ok(format!("{first}-{last}"));
        }
        match place {
            DAY => self.day(item),
            WEEKDAY => self.weekday(item),
            _ => Ok(self.value(item, item)?.to_string()),
        }
    }

    /// Reads a day of the month: `L`, `LW`, `15W`, or a number.
    fn day(&self, item: &str) -> Result<String, Fault> {
        let upper = item.to_ascii_uppercase();
        if upper == "L" || upper == "LW" {
            return Ok(upper);
        }
        match upper.strip_suffix('W') {
            Some(day) => Ok(format!("{}W", self.value(item, day)?)),
            None => Ok(self.value(item, item)?.to_string()),
        }
    }

    /// Reads a day of the week: `5#2`, `5#L`, `5L`, or a day.
    fn weekday(&self, item: &str) -> Result<String, Fault> {
        let syntax = |reason: &str| Fault::Syntax(format!("`{item}`: {reason}"));
        if item.eq_ignore_ascii_case("L") {
            return Err(syntax(
                "the last of which day of the week? `5L` is the last Friday of a month",
            ));
        }
        let upper = item.to_ascii_uppercase();
        if let Some((day, which)) = upper.split_once('#') {
            let day = self.value(item, day)? % 7;
            if which == "L" || number(which).is_some_and(|which| (1..=5).contains(&which)) {
                return Ok(format!("{day}#{which}"));
            }
            return Err(syntax("after `#` comes a number from 1 to 5, or L"));
        }
        match upper.strip_suffix('L') {
            Some(day) => Ok(format!("{}#L", self.value(item, day)? % 7)),
            None => Ok(self.value(item, item)?.to_string()),
        }
    }

    /// Reads a value: a number or a name.
    fn value(&self, item: &str, text: &str) -> Result<u32, Fault> {
        let named = self
            .names
            .iter()
            .position(|name| name.eq_ignore_ascii_case(text))
            .and_then(|place| u32::try_from(place).ok())
            .map(|place| self.first + place);
        let value = named.or_else(|| number(text));
        value
            .filter(|value| (self.first..=self.last).contains(value))
            .ok_or_else(|| {
                let mut known = format!("from {} to {}", self.first, self.last);
                if let (Some(first), Some(last)) = (self.names.first(), self.names.last()) {
                    known.push_str(&format!(", or from {first} to {last}"));
                }
                Fault::Syntax(format!("`{item}`: {} go {known}", self.name))
            })
    }

    /// Reads the step, which follows the `/` of an item.
    fn step(&self, item: &str, text: &str) -> Result<u32, Fault> {
        number(text).filter(|step| *step > 0).ok_or_else(|| {
            let example = self.example;
            Fault::Syntax(format!(
                "`{item}`: a step is a number, at least 1: `{example}`"
            ))
        })
    }

    /// Reads the two ends of a range.
    fn range(&self, item: &str, first: &str, last: &str, step: u32) -> Result<(u32, u32), Fault> {
        let has_names = [first, last].iter().any(|text| number(text).is_none());
        let (first, mut last) = (self.value(item, first)?, self.value(item, last)?);
        // Sunday is both the first and the last day of a week.
        if self.last == 7 && last == 0 && first > 0 {
            last = 7;
        }
        if first > last {
            let advice = self.wrapped(first, last, step, has_names).map_or_else(
                || "months differ in length, so list the days that are meant".to_owned(),
                |list| format!("write `{list}`"),
            );
            return Err(Fault::Syntax(format!(
                "`{item}`: the range goes backwards; {advice}"
            )));
        }
        Ok((first, last))
    }

    /// The values of a range that passes the end of the field, as a list. `None`: they depend on where the
    /// field ends.
    fn wrapped(&self, first: u32, last: u32, step: u32, has_names: bool) -> Option<String> {
        /// Up to this many values are listed one by one; more are shown as ranges.
        const LISTED: usize = 4;
        let shown = |value: u32| {
            let name = self.names.get((value - self.first) as usize);
            match name.filter(|_| has_names) {
                Some(name) => (*name).to_owned(),
                None => value.to_string(),
            }
        };
        // Sunday as 7 instead of 0.
        let first = if first > self.top() {
            self.first
        } else {
            first
        };
        if first <= last {
            return Some(match step {
                1 => format!("{}-{}", shown(first), shown(last)),
                _ if step > last - first => shown(first),
                _ => format!("{}-{}/{step}", shown(first), shown(last)),
            });
        }
        if step > 1 && self.cycle.is_none() {
            return None;
        }
        let (before, after) = (first..=self.top(), self.first..=last);
        let values: Vec<u32> = before
            .clone()
            .chain(after.clone())
            .step_by(step as usize)
            .collect();
        if step > 1 || values.len() <= LISTED {
            let listed: Vec<String> = values.into_iter().map(shown).collect();
            return Some(listed.join(","));
        }
        let parts = [before, after].map(|part| match (*part.start(), *part.end()) {
            (first, last) if first == last => shown(first),
            (first, last) => format!("{}-{}", shown(first), shown(last)),
        });
        Some(parts.join(","))
    }

    /// The largest distinct value: 6 for days of the week, where 7 is a second number of Sunday.
    fn top(&self) -> u32 {
        self.last
            .min(self.first + self.cycle.map_or(30, |cycle| cycle - 1))
    }

    /// Refuses a step over the whole field that does not divide it, since the last distance would be
    /// shorter. `others`: rules that express what was meant, for the hint.
    fn check_step(&self, item: &str, step: u32, others: Option<String>) -> Result<(), Fault> {
        let length = self.cycle.unwrap_or(31);
        let meant: Vec<String> = (self.first..=self.top())
            .step_by(step as usize)
            .map(|value| value.to_string())
            .collect();
        let (name, whole) = (self.name, self.whole);
        let counted = if whole == "week" { "days" } else { name };
        let article = if whole == "hour" { "an" } else { "a" };
        let advice = others.unwrap_or_else(|| {
            format!("a rule begins anew with every {whole}, so it cannot say every {step} {name}")
        });
        if step >= length {
            let only = &meant[0];
            return Err(Fault::Misleading(format!(
                "`{item}`: {name} go from {} to {}, so that it would mean {only} only; write `{only}` if \
                 that is meant; {advice}",
                self.first,
                self.top()
            )));
        }
        match self.cycle {
            Some(cycle) if !cycle.is_multiple_of(step) => Err(Fault::Misleading(format!(
                "`{item}`: {step} does not divide the {cycle} {counted} of {article} {whole}, so that it would mean \
                 {} of every {whole}; write `{}` if that is meant; {advice}",
                short_list(&meant),
                as_range(self.first, self.top(), step),
            ))),
            _ => Ok(()),
        }
    }
}

/// The rules that together fire every `step` minutes, if a few rules are enough. The other fields are those
/// of `rule`.
fn every_minutes(rule: &[&str], step: u32, both: bool) -> Option<String> {
    if !["*", "*/1"].contains(&rule[HOUR]) {
        return None;
    }
    let common = (1..=step.min(60))
        .rev()
        .find(|n| step.is_multiple_of(*n) && 60_u32.is_multiple_of(*n))?;
    let (count, hours) = (60 / common, step / common);
    if count > 4 || !24_u32.is_multiple_of(hours) {
        return None;
    }
    let join = if both { "+" } else { "" };
    let rules: Vec<String> = (0..count)
        .map(|place| {
            let (hour, minute) = (place * step / 60, place * step % 60);
            let hours = match (hour, hours) {
                (_, 1) => "*".to_owned(),
                (_, 24) => hour.to_string(),
                (0, _) => format!("*/{hours}"),
                _ => format!("{hour}-23/{hours}"),
            };
            let [second, .., day, month, weekday] = rule else {
                unreachable!("a rule has six fields");
            };
            format!("`{second} {minute} {hours} {day} {month} {join}{weekday}`")
        })
        .collect();
    Some(match rules.as_slice() {
        [one] => format!("every {step} minutes is {one}"),
        many => format!(
            "every {step} minutes takes {} schedules: {}",
            many.len(),
            many.join(", ")
        ),
    })
}

fn as_range(first: u32, last: u32, step: u32) -> String {
    format!("{first}-{last}/{step}")
}

fn short_list(values: &[String]) -> String {
    match values {
        [first, second, third, .., last] if values.len() > 4 => {
            format!("{first}, {second}, {third}, … {last}")
        }
        all => all.join(", "),
    }
}

/// Reads a number of one to four digits.
pub(super) fn number(text: &str) -> Option<u32> {
    let is_number = (1..=4).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    is_number.then(|| text.parse().ok())?
}

#[cfg(test)]
pub(super) mod tests {
    use super::{super::fields::Fields, *};
    use chrono::{Datelike, NaiveDate, NaiveTime, Timelike};

    fn fault(rule: &str) -> String {
        match Fields::read(rule) {
            Err(Fault::Syntax(reason)) => format!("syntax: {reason}"),
            Err(Fault::Misleading(reason)) => format!("misleading: {reason}"),
            Ok(_) => "it is a rule".to_owned(),
        }
    }

    #[test]
    fn steps_that_do_not_keep_their_distance_are_refused() {
        for (rule, told) in [
            (
                "0 */90 * * * *",
                "misleading: `*/90`: minutes go from 0 to 59, so that it would mean 0 only; write `0` if \
                 that is meant; every 90 minutes takes 2 schedules: `0 0 */3 * * *`, `0 30 1-23/3 * * *`",
            ),
            (
                "*/45 * * * *",
                "misleading: `*/45`: 45 does not divide the 60 minutes of an hour, so that it would mean \
                 0, 45 of every hour; write `0-59/45` if that is meant; every 45 minutes takes 4 schedules: \
                 `0 0 */3 * * *`, `0 45 */3 * * *`, `0 30 1-23/3 * * *`, `0 15 2-23/3 * * *`",
            ),
            (
                "0 */120 * * * *",
                "misleading: `*/120`: minutes go from 0 to 59, so that it would mean 0 only; write `0` if \
                 that is meant; every 120 minutes is `0 0 */2 * * *`",
            ),
            (
                "0 0 */36 * * *",
                "misleading: `*/36`: hours go from 0 to 23, so that it would mean 0 only; write `0` if that \
                 is meant; a rule begins anew with every day, so it cannot say every 36 hours",
            ),
            (
                "0 0 */5 * * *",
                "misleading: `*/5`: 5 does not divide the 24 hours of a day, so that it would mean \
                 0, 5, 10, … 20 of every day; write `0-23/5` if that is meant; a rule begins anew with every \
                 day, so it cannot say every 5 hours",
            ),
        ] {
            assert_eq!(fault(rule), told, "{rule}");
        }
        for (rule, told) in [
            (
                "*/7 * * * * *",
                "`*/7`: 7 does not divide the 60 seconds of a minute",
            ),
            ("*/61 * * * * *", "`*/61`: seconds go from 0 to 59"),
            (
                "0 0 0 */31 * *",
                "`*/31`: days of the month go from 1 to 31",
            ),
            (
                "0 0 0 1 */5 *",
                "`*/5`: 5 does not divide the 12 months of a year",
            ),
            (
                "0 0 0 1 */13 *",
                "`*/13`: months go from 1 to 12, so that it would mean 1 only",
            ),
            (
                "0 0 0 * * */2",
                "`*/2`: 2 does not divide the 7 days of a week",
            ),
            ("0 0 0 * * */7", "`*/7`: days of the week go from 0 to 6"),
            (
                "0 0-30/45 * * * *",
                "`0-30/45`: the step is longer than the range",
            ),
            (
                "0 0,*/50 * * * *",
                "`*/50`: 50 does not divide the 60 minutes",
            ),
        ] {
            let told_of = fault(rule);
            assert!(
                told_of.starts_with(&format!("misleading: {told}")),
                "{rule}: {told_of}"
            );
        }
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        for (rule, told) in [
            (
                "0 0/90 * * * *",
                "`0/90`: a step needs `*` or a range before it; here it would mean 0 only",
            ),
            (
                "0 5/15 * * * *",
                "`5/15`: a step needs `*` or a range before it: `5-59/15`",
            ),
            (
                "0 0 0 * * sat-mon",
                "`sat-mon`: the range goes backwards; write `sat,sun,mon`",
            ),
            (
                "0 0 0 1 nov-feb *",
                "`nov-feb`: the range goes backwards; write `nov,dec,jan,feb`",
            ),
            (
                "0 0 0 1 aug-feb *",
                "`aug-feb`: the range goes backwards; write `aug-dec,jan-feb`",
            ),
            (
                "0 0 22-3/2 * * *",
                "`22-3/2`: the range goes backwards; write `22,0,2`",
            ),
            (
                "0 0 0 25-5/2 * *",
                "`25-5/2`: the range goes backwards; months differ in length",
            ),
            (
                "0 0 */0 * * *",
                "`*/0`: a step is a number, at least 1: `*/6`",
            ),
            ("0 */0 * * * *", "`*/0`: a step is a number, at least 1"),
            ("0 /5 * * * *", "`/5`: minutes go from 0 to 59"),
            ("0 60 * * * *", "`60`: minutes go from 0 to 59"),
            ("0 0 24 * * *", "`24`: hours go from 0 to 23"),
            ("0 0 0 0 * *", "`0`: days of the month go from 1 to 31"),
            (
                "0 0 0 1 1jan *",
                "`1jan`: months go from 1 to 12, or from jan to dec",
            ),
            ("0 mon 0 * * *", "`mon`: minutes go from 0 to 59"),
            (
                "0 0 0 * * monday",
                "`monday`: days of the week go from 0 to 7, or from sun to sat",
            ),
            (
                "0 0 22-2 * * *",
                "`22-2`: the range goes backwards; write `22-23,0-2`",
            ),
            ("0 0 0 * * L", "`L`: the last of which day of the week?"),
            (
                "0 0 0 * * 5#6",
                "`5#6`: after `#` comes a number from 1 to 5",
            ),
            ("0 0 L * * *", "`L`: hours go from 0 to 23"),
            ("0 0 ? * * *", "`?`: hours go from 0 to 23"),
            ("0 0 0 L,LW * *", "`L,LW`: `L` and `LW` do not go together"),
            (
                "0 0 0 * * +mon",
                "`+mon`: `+` joins a day of the week to a day of the month",
            ),
            ("0 *,5 * * * *", "`*`: `*` stands alone"),
            ("0 1,,2 * * * *", "a list has an empty item"),
            ("0 -5 * * * *", "`-5`: minutes go from 0 to 59"),
            ("@daily", "it has one field"),
            ("0 0 0 1 1 * 2030", "it has 7 fields"),
        ] {
            let told_of = fault(rule);
            assert!(
                told_of.starts_with(&format!("syntax: {told}")),
                "{rule}: {told_of}"
            );
        }
    }

    /// What is quoted in a message after a word.
    pub(in crate::model) fn quoted_after<'m>(message: &'m str, word: &str) -> Vec<&'m str> {
        let after = |part: &'m str| part.split('`').next();
        let opening = format!("{word} `");
        message.split(&opening).skip(1).filter_map(after).collect()
    }

    /// The values that an item means which goes over the end of its field.
    fn walk(field: &Field, first: u32, last: u32, step: u32) -> Vec<u32> {
        let length = field.top() + 1 - field.first;
        let place = |value: u32| (value - field.first) % length;
        let count = (place(last) + length - place(first)) % length;
        let mut values: Vec<u32> = (0..=count)
            .step_by(step as usize)
            .map(|after| field.first + (place(first) + after) % length)
            .collect();
        values.sort_unstable();
        values
    }

    /// The values of a field of a rule.
    fn values(fields: &Fields, place: usize) -> Vec<u32> {
        let field = &FIELDS[place];
        let day = NaiveDate::from_ymd_opt(2028, 10, 1).unwrap();
        let days = || day.iter_days().take_while(|day| day.month() == 10);
        let mut values: Vec<u32> = match place {
            0 => fields.seconds.clone(),
            MINUTE => fields.minutes.clone(),
            HOUR => fields.hours.clone(),
            DAY => days()
                .filter(|day| fields.is_day(*day))
                .map(|day| day.day())
                .collect(),
            WEEKDAY => days()
                .take(7)
                .filter(|day| fields.is_day(*day))
                .map(|day| day.weekday().num_days_from_sunday())
                .collect(),
            _ => (field.first..=field.last)
                .filter(|month| fields.is_month(*month))
                .collect(),
        };
        values.sort_unstable();
        values
    }

    fn with(place: usize, item: &str) -> String {
        let mut words = ["0", "0", "0", "*", "*", "*"];
        words[place] = item;
        words.join(" ")
    }

    #[test]
    fn the_hint_for_a_range_over_the_end_is_a_rule_that_means_it() {
        for (place, field) in FIELDS.iter().enumerate() {
            let name = |value: u32| field.names.get((value - field.first) as usize);
            for (first, last) in (field.first..=field.last)
                .flat_map(|first| (field.first..first).map(move |last| (first, last)))
            {
                // Sunday is after Saturday, too.
                if field.last == 7 && last == 0 {
                    continue;
                }
                let mut ranges = vec![format!("{first}-{last}")];
                if let (Some(first), Some(last)) = (name(first), name(last)) {
                    ranges.push(format!("{first}-{last}"));
                }
                for (range, step) in ranges
                    .iter()
                    .flat_map(|range| (1..=7).map(move |n| (range, n)))
                {
                    let item = match step {
                        1 => range.clone(),
                        _ => format!("{range}/{step}"),
                    };
                    let message = fault(&with(place, &item));
                    let hints = quoted_after(&message, "write");
                    let [hint] = hints[..] else {
                        assert!(place == DAY && step > 1, "{message}");
                        continue;
                    };
                    let meant = Fields::read(&with(place, hint));
                    let meant = meant.unwrap_or_else(|fault| panic!("{message}: {fault:?}"));
                    assert_eq!(
                        values(&meant, place),
                        walk(field, first, last, step),
                        "{message}"
                    );
                }
            }
        }
    }

    #[test]
    fn the_hints_for_steps_are_rules() {
        for (place, field) in FIELDS.iter().enumerate() {
            let mut items: Vec<String> = ["*/0", "*/x", "*/"].map(str::to_owned).to_vec();
            items.extend((1..=1500).map(|step| format!("*/{step}")));
            for first in field.first..=field.last {
                items.extend((1..=field.last).map(|step| format!("{first}/{step}")));
                items.extend((1..=9).map(|step| format!("{first}-{}/{step}", field.top())));
            }
            for item in items {
                let message = fault(&with(place, &item));
                for hint in quoted_after(&message, "write")
                    .into_iter()
                    .chain(quoted_after(&message, "at least 1:"))
                    .chain(quoted_after(&message, "before it:"))
                {
                    assert!(Fields::read(&with(place, hint)).is_ok(), "{message}");
                }
            }
        }
    }

    /// Every minute of two days at which one of some rules fires.
    fn minutes_of(rules: &[&str]) -> Vec<u32> {
        let mut minutes: Vec<u32> = rules
            .iter()
            .flat_map(|rule| {
                let fields = Fields::read(rule).unwrap_or_else(|fault| panic!("{rule}: {fault:?}"));
                let times: Vec<NaiveTime> = fields.times().collect();
                times.into_iter().map(|at| at.hour() * 60 + at.minute())
            })
            .collect();
        minutes.sort_unstable();
        minutes
    }

    #[test]
    fn the_rules_for_many_minutes_fire_so_often_and_keep_the_other_fields() {
        let mut found = 0;
        for step in 1..=1500 {
            let message = fault(&format!("30 */{step} * 13 feb +fri"));
            let rules: Vec<&str> = message
                .split('`')
                .filter(|text| text.ends_with(" 13 feb +fri"))
                .collect();
            if rules.is_empty() {
                continue;
            }
            found += 1;
            assert!(
                rules.iter().all(|rule| rule.starts_with("30 ")),
                "{message}"
            );
            let wanted: Vec<u32> = (0..1440).step_by(step as usize).collect();
            assert_eq!(minutes_of(&rules), wanted, "{message}");
        }
        assert!(found > 10, "{found}");
        // There it would mean something else.
        for rule in ["0 */90 8 * * *", "0 */90,5 * * * *"] {
            assert!(!fault(rule).contains("every 90 minutes takes"), "{rule}");
        }
    }
}
