//! What this monitor knows of one content, which is named by its SHA-256: one state at a time.
//!
//! ```text
//!   Idle ──▶ Obtaining ──▶ Idle (it is in the cache)
//!                │  ▲
//!                ▼  │ after a pause
//!              Refused
//! ```

use crate::{periods::Periods, store::Offer};
use std::{path::PathBuf, time::Instant};

/// Why a content is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Origin {
    /// The catalog names it: it was registered from this path.
    Registered(PathBuf),
    /// Another host has published it.
    Offered(Offer),
}

/// How a content is being obtained.
#[derive(Debug)]
pub(super) enum Stage {
    /// An examiner looks at the file that it was registered from, or at a copy in the cache.
    ExaminingFile {
        /// The path that it was registered from.
        path: PathBuf,
    },
    /// Its bytes are copied from the database.
    Fetching {
        /// Why it is wanted.
        origin: Origin,
        /// What is wrong with the file that it was registered from.
        file_refused: Option<String>,
    },
    /// An examiner looks at the bytes that were fetched.
    ExaminingFetched {
        /// Why it is wanted.
        origin: Origin,
        /// Where the bytes are.
        fetched: PathBuf,
    },
    /// The database is told to deploy it on this host.
    Adopting(Offer),
}

#[derive(Debug)]
struct Refusal {
    reason: String,
    at: Instant,
}

#[derive(Debug, Default)]
enum State {
    /// Nobody wants it, or it is in the cache.
    #[default]
    Idle,
    /// It is being obtained; it may have been refused before.
    Obtaining {
        stage: Stage,
        refused_before: Option<Refusal>,
    },
    /// It cannot be had.
    Refused(Refusal),
}

/// What is known of one content.
#[derive(Debug, Default)]
pub(super) struct Content {
    state: State,
    is_examined: bool,
}

impl Content {
    /// Whether it is being obtained.
    pub(super) fn is_being_obtained(&self) -> bool {
        matches!(self.state, State::Obtaining { .. })
    }

    /// Whether an attempt to obtain it may begin: none is under way, and the last refusal is long enough ago.
    pub(super) fn may_be_tried(&self, now: Instant) -> bool {
        match &self.state {
            State::Idle => true,
            State::Obtaining { .. } => false,
            State::Refused(refusal) => now >= refusal.at + Periods::current().supply_again,
        }
    }

    /// Why it was refused last, also while it is tried again.
    pub(super) fn refused(&self) -> Option<&str> {
        let refusal = match &self.state {
            State::Idle => None,
            State::Obtaining { refused_before, .. } => refused_before.as_ref(),
            State::Refused(refusal) => Some(refusal),
        };
        refusal.map(|refusal| refusal.reason.as_str())
    }

    /// Whether this monitor has examined it, and found it good.
    pub(super) fn is_examined(&self) -> bool {
        self.is_examined
    }

    /// This monitor has examined it, and found it good.
    pub(super) fn found_good(&mut self) {
        self.is_examined = true;
    }

    /// An attempt to obtain it begins, or goes on, with this stage.
    pub(super) fn begin(&mut self, stage: Stage) {
        self.state = State::Obtaining {
            stage,
            refused_before: self.end().1,
        };
    }

    /// It is obtained, or no longer wanted.
    pub(super) fn obtained(&mut self) {
        self.state = State::Idle;
    }

    /// The attempt is given up; the next one may begin at once. Answers the stage that was reached.
    pub(super) fn postpone(&mut self) -> Option<Stage> {
        let (stage, refused_before) = self.end();
        if let Some(refusal) = refused_before {
            self.state = State::Refused(refusal);
        }
        stage
    }

    /// It cannot be had; the attempt is over. Answers whether the reason is another one than before.
    pub(super) fn refuse(&mut self, reason: &str, now: Instant) -> bool {
        let is_news = self.refused() != Some(reason);
        let reason = reason.to_owned();
        self.state = State::Refused(Refusal { reason, at: now });
        is_news
    }

    /// How it is being obtained.
    pub(super) fn stage(&self) -> Option<&Stage> {
        match &self.state {
            State::Obtaining { stage, .. } => Some(stage),
            State::Idle | State::Refused(_) => None,
        }
    }

    /// Leaves the state, which is to be replaced; answers what it held.
    fn end(&mut self) -> (Option<Stage>, Option<Refusal>) {
        match std::mem::take(&mut self.state) {
            State::Idle => (None, None),
            State::Obtaining {
                stage,
                refused_before,
            } => (Some(stage), refused_before),
            State::Refused(refusal) => (None, Some(refusal)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn try_again() -> Duration {
        Periods::current().supply_again
    }

    const MOMENT: Duration = Duration::from_millis(1);

    fn stage() -> Stage {
        Stage::ExaminingFile {
            path: "/plugins/one.so".into(),
        }
    }

    #[test]
    fn what_is_being_obtained_is_not_tried_at_the_same_time() {
        let now = Instant::now();
        let mut content = Content::default();
        assert!(content.may_be_tried(now));
        content.begin(stage());
        assert!(content.is_being_obtained() && !content.may_be_tried(now + 9 * try_again()));
        content.obtained();
        assert!(!content.is_being_obtained() && content.may_be_tried(now));
    }

    #[test]
    fn a_refusal_ends_the_attempt_and_is_tried_again_after_a_pause() {
        let now = Instant::now();
        let mut content = Content::default();
        content.begin(stage());
        assert!(content.refuse("it is gone", now));
        assert!(!content.is_being_obtained());
        assert_eq!(content.refused(), Some("it is gone"));
        assert!(!content.may_be_tried(now + try_again() - MOMENT));
        assert!(content.may_be_tried(now + try_again()));
        // The reason stands while it is tried again, and is news only when it is another one.
        content.begin(stage());
        assert_eq!(content.refused(), Some("it is gone"));
        assert!(!content.refuse("it is gone", now + try_again()));
        assert!(!content.may_be_tried(now + try_again()), "a new pause");
        content.begin(stage());
        assert!(content.refuse("it is empty", now + 2 * try_again()));
        content.begin(stage());
        content.obtained();
        assert_eq!(content.refused(), None);
    }

    #[test]
    fn an_attempt_that_is_given_up_may_begin_anew_at_once() {
        let now = Instant::now();
        let mut content = Content::default();
        content.begin(stage());
        assert!(matches!(
            content.postpone(),
            Some(Stage::ExaminingFile { .. })
        ));
        assert!(content.may_be_tried(now));
        assert!(content.postpone().is_none());
        content.refuse("it is gone", now);
        content.begin(stage());
        content.postpone();
        assert_eq!(content.refused(), Some("it is gone"));
        assert!(content.may_be_tried(now + try_again()));
    }
}
