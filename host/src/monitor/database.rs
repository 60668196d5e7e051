//! Questions to the database. Each is asked in a task beside the loop, and its answer is an event, so the
//! loop never waits.

use super::mailbox::Mailbox;
use crate::store::{Store, StoreError};

/// What the supervisor has to know of an answer to a room that puts tasks into the queue.
#[derive(Debug)]
pub(super) enum News {
    /// There are tasks in the queue that were not there before.
    TasksReady,
    /// The database has not done something.
    Failed(StoreError),
    /// The database has not done something without which the monitor cannot go on: it is given a rest.
    Stuck(StoreError),
}

/// The database, for a room of the monitor whose events are of type `E`.
#[derive(Debug)]
pub(super) struct Database<E> {
    store: Store,
    mailbox: Mailbox<E>,
}

impl<E: 'static> Database<E> {
    /// Asks this store, and puts the answers into this mailbox.
    pub(super) fn new(store: Store, mailbox: Mailbox<E>) -> Self {
        Self { store, mailbox }
    }

    /// Asks a question; the answer is an event.
    pub(super) fn ask<A: 'static>(
        &self,
        question: impl AsyncFnOnce(Store) -> A + 'static,
        event: impl FnOnce(A) -> E + 'static,
    ) {
        let store = self.store.clone();
        self.mailbox
            .run(async move { question(store).await }, event);
    }

    /// Where the answers go, for work beside the loop that asks nothing of the database.
    pub(super) fn mailbox(&self) -> &Mailbox<E> {
        &self.mailbox
    }
}
