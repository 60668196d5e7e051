//! Waiting for tasks: one look at the database for all that a process waits for, however many.

use crate::{
    model::{TaskId, task::TaskState},
    store::{Store, StoreError},
};
use std::{collections::HashMap, sync::Arc, time::Duration};
use tokio::sync::{mpsc, oneshot};

/// The pause between two looks: short at first, then as long as the wait has taken so far, up to
/// this.
const LONGEST_PAUSE: Duration = Duration::from_millis(50);
const FIRST_PAUSE: Duration = Duration::from_millis(2);

/// What a waiter is told: the state that it waited for, `None` if the task is gone.
pub(super) type Answer = Result<Option<TaskState>, Arc<StoreError>>;

/// A task that somebody waits for.
#[derive(Debug)]
struct Waiter {
    task: TaskId,
    /// Also content with a task that has only begun.
    running: bool,
    answer: oneshot::Sender<Answer>,
}

/// Hands waiters to the one look-out of a client, which runs only while there are any.
#[derive(Debug)]
pub(super) struct Watch {
    store: Store,
    waiters: std::sync::Mutex<Option<mpsc::UnboundedSender<Waiter>>>,
}

impl Watch {
    pub(super) fn new(store: Store) -> Self {
        Self {
            store,
            waiters: std::sync::Mutex::new(None),
        }
    }

    /// Resolves when the task has ended, or, with `running`, has begun.
    pub(super) async fn wait(&self, task: TaskId, running: bool) -> Answer {
        let (answer, answered) = oneshot::channel();
        self.hand_over(Waiter {
            task,
            running,
            answer,
        });
        answered.await.expect("the look-out answers before it ends")
    }

    fn hand_over(&self, waiter: Waiter) {
        let mut waiters = self.waiters.lock().expect("no holder of this lock panics");
        let waiter = match waiters.as_ref() {
            Some(sender) => match sender.send(waiter) {
                Ok(()) => return,
                // It has ended in the meantime.
                Err(refused) => refused.0,
            },
            None => waiter,
        };
        let (sender, receiver) = mpsc::unbounded_channel();
        sender.send(waiter).expect("the receiver is still here");
        *waiters = Some(sender);
        tokio::spawn(look_out(self.store.clone(), receiver));
    }
}

async fn look_out(store: Store, mut arrivals: mpsc::UnboundedReceiver<Waiter>) {
    let mut waiting: Vec<Waiter> = Vec::new();
    let mut pause = FIRST_PAUSE;
    loop {
        if waiting.is_empty() {
            // Nobody waits: linger a little for the next one, then end. Closing first, so that a
            // waiter is either received here or refused there.
            match tokio::time::timeout(Duration::from_millis(100), arrivals.recv()).await {
                Ok(Some(waiter)) => waiting.push(waiter),
                Ok(None) => return,
                Err(_) => {
                    arrivals.close();
                    while let Ok(waiter) = arrivals.try_recv() {
                        waiting.push(waiter);
                    }
                    if waiting.is_empty() {
                        return;
                    }
                }
            }
            pause = FIRST_PAUSE;
        }
        while let Ok(waiter) = arrivals.try_recv() {
            waiting.push(waiter);
            pause = FIRST_PAUSE;
        }
        waiting.retain(|waiter| !waiter.answer.is_closed());
        waiting = look(&store, waiting).await;
        if waiting.is_empty() {
            continue;
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => pause = (pause * 2).min(LONGEST_PAUSE),
            Some(waiter) = arrivals.recv() => {
                waiting.push(waiter);
                pause = FIRST_PAUSE;
            }
        }
    }
}

/// Answers those whose wait is over and returns the others.
async fn look(store: &Store, waiting: Vec<Waiter>) -> Vec<Waiter> {
    let tasks: Vec<TaskId> = waiting.iter().map(|waiter| waiter.task).collect();
    let states: HashMap<TaskId, TaskState> = match store.task_states(&tasks).await {
        Ok(states) => states.into_iter().collect(),
        // The server is away for a moment; a wait survives that.
        Err(error) if error.is_disconnect() => return waiting,
        Err(error) => {
            let error = Arc::new(error);
            for waiter in waiting {
                let _ = waiter.answer.send(Err(Arc::clone(&error)));
            }
            return Vec::new();
        }
    };
    let mut remaining = Vec::new();
    for waiter in waiting {
        match states.get(&waiter.task) {
            None => drop(waiter.answer.send(Ok(None))),
            Some(state)
                if state.is_terminal() || (waiter.running && *state != TaskState::Queued) =>
            {
                drop(waiter.answer.send(Ok(Some(*state))));
            }
            Some(_) => remaining.push(waiter),
        }
    }
    remaining
}
