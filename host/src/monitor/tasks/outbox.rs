//! What waits to be said to the database in the next cycle.

use super::parked::Parked;
use crate::{
    model::{TaskId, Token},
    store::{Ended, Mark},
};
use std::collections::{BTreeMap, HashMap, btree_map::Entry};

/// What waits for the next cycle.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    ended: BTreeMap<TaskId, Ended>,
    marks: BTreeMap<TaskId, Mark>,
    /// What the database has refused.
    pub(super) parked: Parked,
    /// How many tasks are still held of each cycle's claim.
    open_cycles: HashMap<i64, usize>,
    finished_cycles: Vec<i64>,
}

impl Outbox {
    /// A claim was made.
    pub(super) fn open(&mut self, token: Token) {
        *self.open_cycles.entry(token.cycle()).or_insert(0) += 1;
    }

    /// Nothing more will be written about a task of this claim.
    pub(super) fn close(&mut self, token: Token) {
        if let Some(open) = self.open_cycles.get_mut(&token.cycle()) {
            *open -= 1;
            if *open == 0 {
                self.open_cycles.remove(&token.cycle());
                self.finished_cycles.push(token.cycle());
            }
        }
    }

    /// A task has ended; its marks have been overtaken, for the end takes away what they show. Marks of
    /// another claim of the same task stay.
    pub(super) fn end(&mut self, mut ended: Ended) {
        self.parked.forget_mark(ended.task, ended.token);
        if let Entry::Occupied(mark) = self.marks.entry(ended.task)
            && mark.get().token == ended.token
        {
            overtake(&mut ended, mark.remove());
        }
        self.ended.insert(ended.task, ended);
    }

    /// A task has begun, or has got further.
    pub(super) fn mark(&mut self, mark: Mark) {
        self.marks.insert(mark.task, mark);
    }

    /// The ends that wait for the next cycle.
    pub(super) fn waiting(&self) -> impl Iterator<Item = &Ended> {
        self.ended.values()
    }

    /// The ends that wait, those that have been set aside included.
    pub(super) fn ends(&self) -> impl Iterator<Item = &Ended> {
        self.ended.values().chain(self.parked.ended.values())
    }

    /// Whether there is anything worth a cycle of its own.
    pub(super) fn is_empty(&self) -> bool {
        self.ended.is_empty() && self.marks.is_empty()
    }

    /// Takes everything for a cycle, but for the marks of tasks of which it says an end of another claim: one
    /// statement may write a row once.
    pub(super) fn take(&mut self) -> (Vec<Ended>, Vec<Mark>) {
        let ended = std::mem::take(&mut self.ended);
        let (later, marks) = std::mem::take(&mut self.marks)
            .into_iter()
            .partition::<BTreeMap<_, _>, _>(|(task, _)| ended.contains_key(task));
        self.marks = later;
        let ended = ended.into_values().collect();
        (ended, marks.into_values().collect())
    }

    /// Takes one thing for a cycle.
    pub(super) fn take_one(&mut self) -> (Vec<Ended>, Vec<Mark>) {
        match self.ended.pop_first() {
            Some((_, ended)) => (vec![ended], Vec::new()),
            None => {
                let mark = self.marks.pop_first().map(|(_, mark)| mark);
                (Vec::new(), mark.into_iter().collect())
            }
        }
    }

    /// The cycles of whose claims nothing is held any more.
    pub(super) fn take_finished_cycles(&mut self) -> Vec<i64> {
        std::mem::take(&mut self.finished_cycles)
    }

    /// A cycle did not happen: everything waits again, but for marks overtaken by an end.
    pub(super) fn put_back(&mut self, ended: Vec<Ended>, marks: Vec<Mark>, cycles: Vec<i64>) {
        for one in ended {
            self.ended.entry(one.task).or_insert(one);
        }
        for mark in marks {
            match self.ended.get_mut(&mark.task) {
                Some(ended) if ended.token == mark.token => overtake(ended, mark),
                _ => drop(self.marks.entry(mark.task).or_insert(mark)),
            }
        }
        self.finished_cycles.extend(cycles);
    }
}

/// An end says what a mark of the same claim would have said.
fn overtake(ended: &mut Ended, mark: Mark) {
    if ended.progress.is_none() {
        ended.progress = mark.progress;
        ended.progress_message = mark.progress_message;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::{MonitorId, WorkerId, task::Outcome},
        store::Fate,
    };
    use chrono::Utc;

    fn token(cycle: u64) -> Token {
        Token::new(MonitorId(1), cycle)
    }

    fn mark(cycle: u64) -> Mark {
        Mark {
            task: TaskId(7),
            attempt: 1,
            token: token(cycle),
            started: Utc::now(),
            worker: WorkerId(1),
            plugin_operation: 1,
            progress: Some(0.5),
            progress_message: Some("half".to_owned()),
        }
    }

    fn end(cycle: u64, fate: Fate) -> Ended {
        Ended::new((TaskId(7), 1), token(cycle), fate, Utc::now())
    }

    #[test]
    fn an_end_overtakes_the_marks_of_its_claim() {
        let mut outbox = Outbox::default();
        outbox.mark(mark(1));
        outbox.end(end(1, Fate::End(Outcome::Done)));
        let (ended, marks) = outbox.take();
        assert!(marks.is_empty(), "the end takes away what is shown");
        assert_eq!(ended[0].progress, Some(0.5));
        // A cycle that did not happen brings its mark back.
        outbox.put_back(ended, vec![mark(1)], Vec::new());
        assert!(outbox.take().1.is_empty());
    }

    #[test]
    fn an_end_of_an_earlier_claim_leaves_the_mark_of_a_later_one() {
        let mut outbox = Outbox::default();
        outbox.mark(mark(2));
        outbox.end(end(1, Fate::Release));
        let (ended, marks) = outbox.take();
        assert_eq!(ended[0].progress, None);
        assert!(marks.is_empty(), "the end takes away what is shown");
        outbox.put_back(ended, Vec::new(), Vec::new());
        assert_eq!(outbox.take().0.len(), 1);
        let (ended, marks) = outbox.take();
        assert!(ended.is_empty());
        assert_eq!(marks[0].token, token(2));
    }

    #[test]
    fn a_cycle_is_finished_when_none_of_its_claims_is_open() {
        let mut outbox = Outbox::default();
        outbox.open(token(5));
        outbox.open(token(5));
        outbox.close(token(5));
        assert_eq!(outbox.take_finished_cycles(), [0_i64; 0]);
        outbox.close(token(5));
        assert_eq!(outbox.take_finished_cycles(), [5]);
        assert_eq!(outbox.take_finished_cycles(), [0_i64; 0]);
    }
}
