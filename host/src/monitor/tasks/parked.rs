//! Reports that the database has refused, set aside so that they hold up no others. Every few seconds one
//! of them is tried again; when it is taken, so may be the rest.

use crate::{
    model::{TaskId, Token},
    periods::Periods,
    store::{Ended, LogChunk, Mark},
};
use std::{collections::BTreeMap, time::Instant};

/// What one cycle says about tasks.
pub(super) type Words = (Vec<Ended>, Vec<Mark>, Vec<LogChunk>);

/// What has been set aside.
#[derive(Debug, Default)]
pub(super) struct Parked {
    pub(super) ended: BTreeMap<TaskId, Ended>,
    marks: BTreeMap<TaskId, Mark>,
    pub(super) logs: Vec<LogChunk>,
    /// The end that was tried last.
    tried: Option<TaskId>,
    try_at: Option<Instant>,
    /// Whether the cycle that is under way is such a try.
    pub(super) is_trying: bool,
}

impl Parked {
    /// Whether nothing has been set aside.
    pub(super) fn is_empty(&self) -> bool {
        self.ended.is_empty() && self.marks.is_empty() && self.logs.is_empty()
    }

    /// Whether nothing has been set aside, nor is being tried again.
    pub(super) fn is_over(&self) -> bool {
        self.is_empty() && !self.is_trying
    }

    /// When something of it is to be tried again.
    pub(super) fn next_try(&self) -> Option<Instant> {
        self.try_at.filter(|_| !self.is_empty() && !self.is_trying)
    }

    /// Sets something aside; a while later it is tried again.
    pub(super) fn park(&mut self, (ended, marks, logs): Words, now: Instant) {
        self.ended
            .extend(ended.into_iter().map(|one| (one.task, one)));
        for mark in marks {
            // An end says more.
            if !self.ended.contains_key(&mark.task) {
                self.marks.insert(mark.task, mark);
            }
        }
        self.logs.extend(logs);
        self.try_at = Some(now + Periods::current().refused_again);
    }

    /// One thing that is to be tried now, each in its turn.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<Words> {
        self.next_try().filter(|at| now >= *at)?;
        self.is_trying = true;
        let after = self.tried.map_or(TaskId(0), |last| TaskId(last.0 + 1));
        let next = self
            .ended
            .range(after..)
            .next()
            .or(self.ended.iter().next());
        if let Some((&task, _)) = next {
            self.tried = Some(task);
            let ended = self.ended.remove(&task);
            return Some((ended.into_iter().collect(), Vec::new(), Vec::new()));
        }
        if let Some((_, mark)) = self.marks.pop_first() {
            return Some((Vec::new(), vec![mark], Vec::new()));
        }
        Some((Vec::new(), Vec::new(), vec![self.logs.remove(0)]))
    }

    /// An end of this claim says more than what its mark would have said.
    pub(super) fn forget_mark(&mut self, task: TaskId, token: Token) {
        if self
            .marks
            .get(&task)
            .is_some_and(|mark| mark.token == token)
        {
            self.marks.remove(&task);
        }
    }

    /// Everything, to be said anew.
    pub(super) fn take_all(&mut self) -> Words {
        (
            std::mem::take(&mut self.ended).into_values().collect(),
            std::mem::take(&mut self.marks).into_values().collect(),
            std::mem::take(&mut self.logs),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{model::task::Outcome, store::Fate};
    use chrono::Utc;

    fn end(task: i64) -> Ended {
        Ended::new(
            (TaskId(task), 1),
            Token(1),
            Fate::End(Outcome::Done),
            Utc::now(),
        )
    }

    #[test]
    fn each_is_tried_in_its_turn() {
        let mut parked = Parked::default();
        let mut now = Instant::now();
        parked.park((vec![end(1), end(2)], Vec::new(), Vec::new()), now);
        assert!(parked.take_due(now).is_none(), "not at once");
        let mut tried = Vec::new();
        for _ in 0..3 {
            now += Periods::current().refused_again;
            let (ended, _, _) = parked.take_due(now).expect("it is due");
            assert!(parked.take_due(now).is_none(), "one at a time");
            tried.push(ended[0].task.0);
            parked.is_trying = false;
            parked.park((ended, Vec::new(), Vec::new()), now);
        }
        assert_eq!(tried, [1, 2, 1]);
    }
}
