//! The cycle: one statement at a time carries to the database what ended and what began, and brings
//! back what is to be run next.

use super::Supervisor;
use crate::{
    causes::chain,
    model::{TaskId, Token},
    monitor::{
        claim::Appetite,
        event::Event,
        tasks::{Fetched, Stage},
    },
    store::{Claimed, Cycle, CycleResult, FileContent, Store, StoreError},
};
use chrono::Utc;
use std::time::Instant;

impl Supervisor {
    /// Starts a cycle, if there is something to say or to claim and none is under way.
    pub(super) fn cycle(&mut self, now: Instant) {
        if self.tasks.is_in_flight() || !self.outage.may_ask(now) {
            return;
        }
        self.mark_running(now);
        self.tasks.show_unfinished(now);
        self.workers.save(now);
        if self.workers.is_saving() {
            // The workers first: whoever sees a task running finds the worker that runs it.
            return;
        }
        if self.wakeup.take_wanted() {
            self.workers.want_claims();
        }
        let words = self.tasks.next_words(now);
        let appetites = if words.is_alone {
            Vec::new()
        } else {
            self.appetites(now)
        };
        if words.is_empty() && appetites.is_empty() {
            return;
        }
        let scans = self.claims.look_for(appetites, now);
        let cycle = self.tasks.begin_cycle(self.monitor, words, scans);
        let store = self.store.clone();
        // No limit here: the store ends a question that the server is not at work on (`store/silence.rs`),
        // and a server that waits for a lock is at work, however long somebody holds that lock. Whether a
        // cycle without an answer was committed is found out as after any lost connection.
        let said = async move { store.cycle(&cycle).await };
        self.ask(said, Event::Cycled);
    }

    /// Deletes what was shown of lines that went on, where something newer is written. In a
    /// statement of its own: this is rare, and the cycle is the same for everybody.
    fn delete_superseded_lines(&mut self) {
        let rows = self.tasks.superseded_lines();
        if rows.is_empty() {
            return;
        }
        let store = self.store.clone();
        self.ask(
            async move {
                let deleted = store.log_delete(&rows).await;
                (deleted, rows)
            },
            |(deleted, rows)| Event::LinesDeleted(deleted, rows),
        );
    }

    /// What can be taken by the pools for which there may be something.
    fn appetites(&mut self, now: Instant) -> Vec<Appetite> {
        if !self.shutdown.is_working() || self.refusals.is_general() {
            return Vec::new();
        }
        let domains = self.claims.catalog().domains();
        self.workers.begin_claim(domains, now)
    }

    /// Tasks that have run for a moment are shown as running.
    fn mark_running(&mut self, now: Instant) {
        for (worker, task, started) in self.workers.to_show(now) {
            self.tasks.begin(task, worker, started);
            self.workers.show(worker, task);
        }
    }

    /// The database has answered a cycle, or has not.
    pub(super) fn cycled(&mut self, result: Result<CycleResult, StoreError>, now: Instant) {
        let (cycle, was_try) = self.tasks.end_cycle();
        let result = match result {
            Ok(result) => result,
            Err(error) => return self.cycle_failed(cycle, was_try, &error, now),
        };
        self.database_answered(now);
        self.delete_superseded_lines();
        let said_something =
            !(cycle.ended.is_empty() && cycle.marks.is_empty() && cycle.logs.is_empty());
        if said_something {
            self.report_taken(was_try, now);
        }
        let token = Token::new(cycle.monitor, cycle.number);
        let settled = self.tasks.settle(cycle.ended, cycle.marks, &result);
        if let Some(pause) = settled.retry_in {
            self.housekeeping.promote_at(now + pause);
        }
        if settled.is_row_locked {
            self.outage.row_is_locked(now);
        }
        self.looked(&result.claimed, now);
        for claimed in result.claimed {
            self.claimed(claimed, token, now);
        }
    }

    /// A report was taken. If it was a try, or the end of a general refusal, what was set aside is said again
    /// with the rest.
    fn report_taken(&mut self, was_try: bool, now: Instant) {
        let was_general = self.refusals.is_general();
        self.refusals.taken();
        self.taken_at = Some(now);
        if was_try || was_general {
            self.tasks.say_parked();
        }
    }

    /// A cycle did not happen. Nothing of what it said is lost: what the database refuses is found out
    /// and set aside, and what it cannot store is said in words that it can.
    fn cycle_failed(&mut self, cycle: Cycle, was_try: bool, error: &StoreError, now: Instant) {
        self.wakeup.want();
        let pieces = cycle.ended.len() + cycle.marks.len() + cycle.logs.len();
        // A claim is said together with results: it may be what is refused.
        let has_claim = !cycle.scans.is_empty();
        if error.is_disconnect() || error.is_passing() || pieces == 0 {
            // A matter of the server, which passes.
            self.database_failed(error, now);
            self.outage.back_off(now);
            self.tasks.say_again(cycle);
        } else if error.is_bad_data() && pieces == 1 && !was_try {
            let reason = chain(error);
            tracing::error!("the database cannot store what a task left: {reason}");
            if self.tasks.say_storable(cycle, &reason, now) {
                self.refusals.strike();
                self.report_refused(error, now);
            }
        } else if (pieces > 1 || has_claim) && !self.refusals.is_general() {
            // One of them is refused, and the others must not suffer from it.
            self.tasks.say_alone(pieces);
            self.tasks.say_again(cycle);
        } else {
            self.report_refused(error, now);
            // The same result, refused again, says nothing about the others.
            if pieces == 1 && !was_try {
                self.refusals.strike();
            }
            self.tasks.park(cycle, now);
            if self.refusals.is_general() {
                self.tasks.say_alone(0);
            }
        }
    }

    /// A look came back. What it means is said to each pool on its own: one that is idle must not make
    /// the monitor forget that another one has a backlog.
    fn looked(&mut self, claimed: &[Claimed], now: Instant) {
        let mut found_the_rest = false;
        let mut is_any_empty = false;
        for found in self.claims.looked(claimed, now) {
            let is_full = self.workers.claimed(&found.appetite, &found.tasks);
            is_any_empty |= !is_full;
            found_the_rest |= !is_full && found.tasks.iter().sum::<usize>() > 0;
        }
        if is_any_empty {
            self.wakeup.looked(found_the_rest, now);
            // What stands before the remembered positions is found from the front.
            if let Some(at) = self.claims.next_front() {
                self.wakeup.look_at(at.max(now));
            }
        }
    }

    /// A task is claimed: it waits for a worker.
    fn claimed(&mut self, claimed: Claimed, token: Token, now: Instant) {
        let operation = self.claims.catalog().operation(claimed.operation);
        // The version that is current now has to accept what was found in that lane.
        let operation = operation.filter(|operation| operation.lanes.contains(&claimed.lane));
        let (task, rank, operation) = (claimed.task, claimed.rank, operation.cloned());
        if let Some(operation) = self.tasks.claim_in(claimed, token, operation, Utc::now()) {
            let plugin = (operation.domain.as_str(), operation.hash.as_str());
            self.workers.enqueue(plugin, rank, task, now);
        }
    }

    /// Fetches what a claim did not bring along. This happens when a worker has room for the task,
    /// so that the monitor never holds more than its workers can take.
    pub(super) fn fetch(&mut self, task: TaskId) {
        let Some(fields) = self.tasks.fetch(task) else {
            return;
        };
        let (store, transfers) = (self.store.clone(), self.transfers.clone());
        self.ask(
            async move {
                let _turn = transfers.acquire().await;
                fetched(&store, task, fields).await
            },
            move |fetched| Event::Fetched(task, fetched),
        );
    }

    /// What a claim did not bring along has arrived.
    pub(super) fn fetched(
        &mut self,
        task: TaskId,
        fetched: Result<Fetched, StoreError>,
        now: Instant,
    ) {
        let held = self.tasks.get(task);
        let Some(held) = held.filter(|held| held.stage() == Stage::Fetching) else {
            return;
        };
        let rank = held.claimed.rank;
        match fetched {
            Ok(fetched) => {
                self.tasks.bring(task, fetched);
                self.wait_again(task, rank, now);
            }
            Err(error) => {
                self.database_failed(&error, now);
                self.release(task);
            }
        }
    }
}

async fn fetched(store: &Store, task: TaskId, fields: bool) -> Result<Fetched, StoreError> {
    let mut fetched = Fetched::default();
    if fields {
        let input = store.task_input(task).await?;
        fetched.fields = input
            .and_then(|row| row.fields)
            .map(|fields| fields.to_string());
    }
    for info in store.file_list(task, "input").await? {
        let Some(content) = store.file_read(task, "input", &info.name).await? else {
            continue;
        };
        if info.name.is_empty() {
            fetched.raw = Some(content);
        } else {
            let name = info.name;
            fetched.files.push(FileContent { name, content });
        }
    }
    Ok(fetched)
}
