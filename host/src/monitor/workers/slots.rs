//! The tasks that a worker was handed and has not given back, each in a slot of the page that monitor and
//! worker share. Tasks are found by slot and by id without a search.

use crate::{
    model::{TaskId, time::from_micros},
    store::CatalogRow,
    wire::{Limits, Page, SlotState},
};
use chrono::{DateTime, Utc};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

/// Under which conditions a worker runs a task.
#[derive(Debug, Clone)]
pub(in crate::monitor) struct Terms {
    /// The version of the operation.
    pub(in crate::monitor) operation: Arc<CatalogRow>,
    /// What the task may use.
    pub(in crate::monitor) limits: Limits,
    /// How long it may run; `None`: for ever.
    pub(in crate::monitor) timeout: Option<Duration>,
    /// Whether other monitors run it again once this monitor's lease has ended.
    pub(in crate::monitor) is_repeated_if_lost: bool,
}

/// A task that was taken out of the hands of a worker before it began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::monitor) struct Revoked {
    pub(in crate::monitor) task: TaskId,
    /// The task's place in the order of running.
    pub(in crate::monitor) rank: i16,
}

/// When a task began.
#[derive(Debug, Clone, Copy)]
pub(super) struct Begun {
    /// When the monitor noticed it.
    pub(super) noticed: Instant,
    /// When it was, by the worker's clock.
    pub(super) time: DateTime<Utc>,
}

/// A task in the hands of a worker.
#[derive(Debug, Clone)]
pub(super) struct Handed {
    pub(super) task: TaskId,
    pub(super) slot: u32,
    /// The task's place in the order of running.
    pub(super) rank: i16,
    pub(super) terms: Terms,
    /// `None`: it was not seen to have begun.
    pub(super) begun: Option<Begun>,
}

impl Handed {
    fn revoked(&self) -> Revoked {
        Revoked {
            task: self.task,
            rank: self.rank,
        }
    }
}

/// The slots of one worker.
#[derive(Debug)]
pub(super) struct Slots {
    page: Page,
    /// The tasks in the order in which they were handed over, which is the order in which they run.
    handed: BTreeMap<u64, Handed>,
    /// The key in `handed` of the next task.
    next: u64,
    /// The keys in `handed` by task.
    by_task: HashMap<TaskId, u64>,
    free: BTreeSet<u32>,
}

impl Slots {
    /// All slots of a new page.
    pub(super) fn new(page: Page) -> Self {
        Self {
            page,
            handed: BTreeMap::new(),
            next: 0,
            by_task: HashMap::new(),
            free: (0..Page::SLOTS).collect(),
        }
    }

    /// The page itself, for what it holds besides tasks.
    pub(super) fn page(&self) -> &Page {
        &self.page
    }

    /// Puts a task into a slot, from which the worker may begin it once it has received the task; `None`: all
    /// slots are taken.
    pub(super) fn hand(&mut self, task: TaskId, rank: i16, terms: Terms) -> Option<u32> {
        let slot = self.free.pop_first()?;
        self.page.hand(slot, task.0);
        let handed = Handed {
            task,
            slot,
            rank,
            terms,
            begun: None,
        };
        self.handed.insert(self.next, handed);
        self.by_task.insert(task, self.next);
        self.next += 1;
        Some(slot)
    }

    /// The worker says that it has finished a task; `None`: it has not begun this task in this slot.
    pub(super) fn finish(&mut self, slot: u32, task: TaskId) -> Option<Handed> {
        let is_it = self.get(task).is_some_and(|handed| handed.slot == slot);
        if !is_it || self.page.state(slot) != SlotState::Begun {
            return None;
        }
        self.page.release(slot);
        self.forget(task)
    }

    /// Takes back a task, if it has not begun.
    pub(super) fn revoke(&mut self, task: TaskId) -> Option<Revoked> {
        let slot = self.get(task)?.slot;
        if !self.page.revoke(slot) {
            return None;
        }
        Some(self.forget(task)?.revoked())
    }

    /// Takes back every task that has not begun.
    pub(super) fn revoke_all(&mut self) -> Vec<Revoked> {
        let tasks: Vec<TaskId> = self.handed.values().map(|handed| handed.task).collect();
        tasks
            .into_iter()
            .filter_map(|task| self.revoke(task))
            .collect()
    }

    fn forget(&mut self, task: TaskId) -> Option<Handed> {
        let handed = self.handed.remove(&self.by_task.remove(&task)?)?;
        self.free.insert(handed.slot);
        Some(handed)
    }

    /// The worker is dead: what it had, parted into what had begun and what had not.
    pub(super) fn take_all(&mut self) -> (Vec<Handed>, Vec<Revoked>) {
        self.by_task.clear();
        let all = std::mem::take(&mut self.handed).into_values();
        let (begun, waiting): (Vec<_>, Vec<_>) = all.partition(|handed| handed.begun.is_some());
        (begun, waiting.iter().map(Handed::revoked).collect())
    }

    /// Notes which tasks have begun since the last look.
    pub(super) fn notice_begun(&mut self, now: Instant) {
        for handed in self.handed.values_mut() {
            if handed.begun.is_none()
                && let Some(started_us) = self.page.started_us(handed.slot)
            {
                handed.begun = Some(Begun {
                    noticed: now,
                    time: from_micros(started_us),
                });
            }
        }
    }

    /// A task that the worker was handed and has not given back.
    pub(super) fn get(&self, task: TaskId) -> Option<&Handed> {
        self.handed.get(self.by_task.get(&task)?)
    }

    /// The task that runs, and since when.
    pub(super) fn running(&self) -> Option<(&Handed, Begun)> {
        self.handed
            .values()
            .find_map(|handed| Some((handed, handed.begun?)))
    }

    /// The tasks in the order of running.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Handed> {
        self.handed.values()
    }

    /// How many tasks the worker has.
    pub(super) fn len(&self) -> usize {
        self.handed.len()
    }

    /// Whether the worker has no task.
    pub(super) fn is_empty(&self) -> bool {
        self.handed.is_empty()
    }

    /// The most urgent rank among the tasks.
    pub(super) fn rank(&self) -> Option<i16> {
        self.handed.values().map(|handed| handed.rank).min()
    }

    /// Tells the worker how long it may go on, in nanoseconds of the boot clock. The lease counts only for a
    /// worker with a task that others would repeat: killing hours of work because Postgres was away would
    /// protect nothing.
    pub(super) fn set_lease(&self, until: u64) {
        let mut handed = self.handed.values();
        let is_repeated = handed.any(|handed| handed.terms.is_repeated_if_lost);
        self.page
            .set_lease(if is_repeated { until } else { u64::MAX });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::monitor::workers::fixtures::{slots, terms};

    const A: TaskId = TaskId(1);
    const B: TaskId = TaskId(2);

    #[test]
    fn a_task_that_has_begun_is_not_taken_back_and_one_that_has_not_never_begins() {
        let (mut slots, _directory) = slots();
        let of_a = slots.hand(A, 0, terms()).unwrap();
        let of_b = slots.hand(B, 5, terms()).unwrap();
        assert!(slots.page().begin(of_a, A.0, 7));
        assert_eq!(slots.revoke_all(), [Revoked { task: B, rank: 5 }]);
        assert!(!slots.page().begin(of_b, B.0, 8), "it was taken back");
        slots.notice_begun(Instant::now());
        let (running, begun) = slots.running().unwrap();
        assert_eq!((running.task, begun.time.timestamp_micros()), (A, 7));
        assert!(slots.finish(of_a, B).is_none(), "this is not its slot");
        assert_eq!(slots.finish(of_a, A).unwrap().task, A);
        assert!(slots.is_empty() && slots.finish(of_a, A).is_none());
    }

    #[test]
    fn a_slot_that_is_free_again_is_used_again() {
        let (mut slots, _directory) = slots();
        for task in 0..i64::from(Page::SLOTS) {
            assert!(slots.hand(TaskId(task), 0, terms()).is_some());
        }
        assert_eq!(slots.hand(TaskId(1000), 0, terms()), None, "all are taken");
        assert!(slots.revoke(TaskId(9)).is_some());
        assert_eq!(slots.hand(TaskId(1000), -3, terms()), Some(9));
        assert_eq!(slots.get(TaskId(1000)).unwrap().slot, 9);
        assert_eq!((slots.len(), slots.rank()), (128, Some(-3)));
    }

    #[test]
    fn the_lease_counts_for_tasks_that_others_would_repeat() {
        let (mut slots, _directory) = slots();
        slots.hand(A, 0, terms()).unwrap();
        slots.set_lease(99);
        assert_eq!(slots.page().lease_until(), u64::MAX);
        let repeated = Terms {
            is_repeated_if_lost: true,
            ..terms()
        };
        slots.hand(B, 0, repeated).unwrap();
        slots.set_lease(99);
        assert_eq!(slots.page().lease_until(), 99);
    }
}
