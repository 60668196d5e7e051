//! Writes that the database refuses, for whatever reason: what is logged about them, when, and when that is
//! over. No database is asked here; the supervisor tells what was refused.

use crate::{
    model::{duration::human, time},
    periods::Periods,
    store::StoreError,
};
use chrono::{DateTime, Utc};
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// A refusal that goes on is logged again after this.
const LOG_AGAIN: Duration = Duration::from_secs(30);
/// A refusal that usually passes (a deadlock, a cancelled statement) is logged when it has happened this often.
const PASSING: u32 = 3;
/// After this many results in a row that were refused, each reported alone, the refusals are not a matter of
/// single results.
const STRIKES: u32 = 5;
/// The longest text about refusals in a monitor's row, in characters.
const LONGEST: usize = 1000;

/// What was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// A report about tasks, or a claim: the monitor's cycle.
    Report,
    /// Anything else.
    Other,
}

/// A line for the log.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Message {
    /// At the level of an error.
    Refused(String),
    /// It is over.
    Over(String),
}

/// The refusals that go on.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    /// By their messages.
    current: BTreeMap<String, Refusal>,
    /// Results refused one after the other.
    strikes: u32,
    /// Since when the database has owed an answer to a report.
    unanswered_since: Option<Instant>,
}

#[derive(Debug)]
struct Refusal {
    what: Refused,
    since: Instant,
    since_time: DateTime<Utc>,
    last: Instant,
    times: u32,
    /// Whether refusals of this kind usually pass.
    passes: bool,
    /// When it was last logged.
    logged: Option<Instant>,
}

impl Refusals {
    /// The database has refused something.
    pub(super) fn note(&mut self, error: &StoreError, what: Refused, now: Instant) {
        let words = crate::causes::chain(error);
        let words = match error.code() {
            Some(code) => format!("{words} (SQLSTATE {code})"),
            None => words,
        };
        self.refused(words, error.is_passing(), what, now, Utc::now());
    }

    fn refused(
        &mut self,
        words: String,
        passes: bool,
        what: Refused,
        now: Instant,
        time: DateTime<Utc>,
    ) {
        let refusal = self.current.entry(words).or_insert(Refusal {
            what,
            since: now,
            since_time: time,
            last: now,
            times: 0,
            passes,
            logged: None,
        });
        refusal.last = now;
        refusal.times += 1;
        if what == Refused::Report {
            refusal.what = what;
        }
    }

    /// Whether the database owes an answer to a report now. One that takes long counts as refused: the server
    /// is at work on it (`store/silence.rs`), and nothing takes this long but waiting for a lock.
    pub(super) fn wait(&mut self, is_unanswered: bool, now: Instant) {
        if !is_unanswered {
            self.unanswered_since = None;
            return;
        }
        let since = *self.unanswered_since.get_or_insert(now);
        if now.duration_since(since) >= Periods::current().report_unanswered {
            let words = "a report has had no answer for a while, as where somebody holds a lock on a table \
                         (`rework doctor` names who does)";
            self.refused(words.to_owned(), false, Refused::Other, now, Utc::now());
        }
    }

    /// A result was refused that was reported alone.
    pub(super) fn strike(&mut self) {
        self.strikes += 1;
    }

    /// A report was taken.
    pub(super) fn taken(&mut self) {
        self.strikes = 0;
    }

    /// Whether it is results in general that are refused, not single ones. Then nothing new is claimed.
    pub(super) fn is_general(&self) -> bool {
        self.strikes >= STRIKES
    }

    /// Whether any refusal goes on that does not usually pass by itself.
    pub(super) fn is_any(&self) -> bool {
        self.current.values().any(Refusal::is_serious)
    }

    /// What is to be logged now, while this many results wait; `all_reported`: every report has been taken.
    pub(super) fn take_messages(
        &mut self,
        waiting: usize,
        all_reported: bool,
        now: Instant,
    ) -> Vec<Message> {
        let mut messages = Vec::new();
        self.current.retain(|words, refusal| {
            let is_over = now.duration_since(refusal.last) >= Periods::current().refused_over
                || refusal.what == Refused::Report && all_reported;
            if is_over {
                if refusal.logged.is_some() {
                    let lasted = human(whole_seconds(now.duration_since(refusal.since)));
                    messages.push(Message::Over(format!(
                        "the database takes again what it did not take for {lasted}: {words}"
                    )));
                }
                return false;
            }
            let is_due = refusal
                .logged
                .is_none_or(|last| now.duration_since(last) >= LOG_AGAIN);
            if is_due && refusal.is_serious() {
                let lasted = match refusal.logged {
                    None => String::new(),
                    Some(_) => {
                        let lasted = whole_seconds(now.duration_since(refusal.since));
                        format!(" for {}", human(lasted))
                    }
                };
                messages.push(Message::Refused(format!(
                    "the database does not take what this monitor writes{lasted} ({}; running tasks go on): \
                     {words}",
                    results(waiting)
                )));
                refusal.logged = Some(now);
            }
            true
        });
        messages
    }

    /// The text about refusals for the monitor's row.
    pub(super) fn trouble(&self, waiting: usize) -> Option<String> {
        let serious = || self.current.iter().filter(|(_, one)| one.is_serious());
        let since = serious().map(|(_, one)| one.since_time).min()?;
        let words: Vec<&str> = serious().map(|(words, _)| words.as_str()).collect();
        let text = format!(
            "since {} ({}): {}",
            time::human(since),
            results(waiting),
            words.join("; ")
        );
        Some(text.chars().take(LONGEST).collect())
    }
}

impl Refusal {
    fn is_serious(&self) -> bool {
        !self.passes || self.times >= PASSING
    }
}

fn results(waiting: usize) -> String {
    match waiting {
        0 => "no result waits".to_owned(),
        1 => "1 result waits".to_owned(),
        count => format!("{count} results wait"),
    }
}

fn whole_seconds(duration: Duration) -> Duration {
    Duration::from_secs(duration.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refuse(refusals: &mut Refusals, passes: bool, now: Instant) {
        let time = "2026-05-01T09:00:00Z".parse().unwrap();
        refusals.refused("no".to_owned(), passes, Refused::Report, now, time);
    }

    #[test]
    fn a_refusal_is_logged_when_it_begins_every_half_minute_and_when_it_is_over() {
        let mut refusals = Refusals::default();
        let start = Instant::now();
        let mut lines = Vec::new();
        for second in 0..=70 {
            let now = start + Duration::from_secs(second);
            refuse(&mut refusals, false, now);
            lines.extend(refusals.take_messages(2, false, now));
        }
        let expected = ["", " for 30s", " for 1m"].map(|lasted| {
            Message::Refused(format!(
                "the database does not take what this monitor writes{lasted} (2 results wait; running tasks \
                 go on): no"
            ))
        });
        assert_eq!(lines, expected);
        assert!(
            refusals
                .trouble(2)
                .unwrap()
                .starts_with("since 2026-05-01 09:00:00")
        );
        let over = refusals.take_messages(0, true, start + Duration::from_secs(71));
        assert_eq!(
            over,
            [Message::Over(
                "the database takes again what it did not take for 1m11s: no".to_owned()
            )]
        );
        assert_eq!(refusals.trouble(0), None);
    }

    #[test]
    fn what_passes_by_itself_is_not_logged() {
        let mut refusals = Refusals::default();
        let start = Instant::now();
        let over = start + Periods::current().refused_over;
        refuse(&mut refusals, true, start);
        assert_eq!(refusals.take_messages(1, false, start), []);
        assert_eq!(refusals.take_messages(0, false, over), []);
        for _ in 0..PASSING {
            refuse(&mut refusals, true, over);
        }
        assert_eq!(refusals.take_messages(1, false, over).len(), 1);
    }

    #[test]
    fn one_result_that_is_refused_is_not_all_of_them() {
        let mut refusals = Refusals::default();
        for _ in 1..STRIKES {
            refusals.strike();
        }
        assert!(!refusals.is_general());
        refusals.strike();
        assert!(refusals.is_general());
        refusals.taken();
        assert!(!refusals.is_general());
    }

    #[test]
    fn a_report_without_an_answer_is_told_until_it_is_answered() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let long = Periods::current().report_unanswered;
        let mut refusals = Refusals::default();
        refusals.wait(true, start);
        refusals.wait(true, start + long - second);
        assert!(!refusals.is_any());
        // Another report: each has its time.
        refusals.wait(false, start + long);
        refusals.wait(true, start + long);
        assert!(!refusals.is_any());
        refusals.wait(true, start + long * 2);
        assert!(refusals.is_any());
    }
}
