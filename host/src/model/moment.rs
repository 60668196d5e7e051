//! When and where the moments of an input are resolved: with the time zones of the host.

use crate::zones::Zone;
use chrono::{DateTime, NaiveDateTime, Utc};
use rework_plugin::moment;

/// When and where a moment is resolved.
#[derive(Debug, Clone)]
pub struct Now {
    /// The time that `(today)` means.
    pub time: DateTime<Utc>,
    /// The zone of what is written without an offset.
    pub zone: Zone,
}

impl moment::Zone for Zone {
    fn shows(&self, time: DateTime<Utc>) -> NaiveDateTime {
        Self::shows(self, time)
    }

    fn first(&self, wall: NaiveDateTime) -> DateTime<Utc> {
        self.when(wall).first()
    }
}

/// The point in time that an expression means; otherwise what is wrong with it.
pub fn resolve(expression: &str, now: &Now) -> Result<DateTime<Utc>, String> {
    moment::resolve(expression, now.time, &now.zone)
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
