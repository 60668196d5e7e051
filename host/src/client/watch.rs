//! Waiting for tasks: one look-out for all that a client waits for, however many. It looks at once
//! and a few times soon after; if the wait turns out to be long it listens, and looks again now and
//! then, for what is not heard.

use crate::{
    model::{TaskId, task::TaskState},
    store::{Bell, Store, StoreError},
};
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::{mpsc, oneshot, watch};

/// The pause between two looks doubles from this
const FIRST_PAUSE: Duration = Duration::from_millis(2);
/// to this while nobody tells us,
const LONGEST_UNTOLD: Duration = Duration::from_millis(50);
/// or to this when we are told.
const LONGEST_TOLD: Duration = Duration::from_secs(1);
/// A wait that is shorter than this is not worth a connection that listens.
const LISTEN_AFTER: Duration = Duration::from_millis(100);
/// Where listening is not to be had, it is tried again after this.
const LISTEN_AGAIN: Duration = Duration::from_secs(5);
/// With nobody waiting, the look-out stays for the next one for so long.
const LINGER: Duration = Duration::from_millis(200);

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
    /// Why the database does not answer, while it does not.
    outage: Arc<watch::Sender<Option<String>>>,
}

impl Watch {
    pub(super) fn new(store: Store) -> Self {
        Self {
            store,
            waiters: std::sync::Mutex::new(None),
            outage: Arc::new(watch::Sender::new(None)),
        }
    }

    /// Resolves when the task has ended, or, with `running`, has begun.
    pub(super) async fn wait(&self, task: TaskId, running: bool) -> Answer {
        loop {
            let (answer, answered) = oneshot::channel();
            self.hand_over(Waiter {
                task,
                running,
                answer,
            });
            // It answers before it ends, unless the runtime that it ran in has gone; then ours has
            // the next one.
            if let Ok(answer) = answered.await {
                return answer;
            }
        }
    }

    /// Says why the database does not answer while somebody waits, and when it does again.
    pub(super) fn outages(&self) -> watch::Receiver<Option<String>> {
        self.outage.subscribe()
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
        let (sender, arrivals) = mpsc::unbounded_channel();
        sender.send(waiter).expect("the receiver is still here");
        *waiters = Some(sender);
        let outage = Arc::clone(&self.outage);
        tokio::spawn(LookOut::new(self.store.clone(), arrivals, outage).run());
    }
}

/// See the module.
struct LookOut {
    store: Store,
    arrivals: mpsc::UnboundedReceiver<Waiter>,
    waiting: Vec<Waiter>,
    pause: Duration,
    bell: Option<Bell>,
    listen_at: Instant,
    outage: Arc<watch::Sender<Option<String>>>,
}

impl LookOut {
    fn new(
        store: Store,
        arrivals: mpsc::UnboundedReceiver<Waiter>,
        outage: Arc<watch::Sender<Option<String>>>,
    ) -> Self {
        Self {
            store,
            arrivals,
            waiting: Vec::new(),
            pause: FIRST_PAUSE,
            bell: None,
            listen_at: Instant::now() + LISTEN_AFTER,
            outage,
        }
    }

    async fn run(mut self) {
        while self.somebody_waits().await {
            self.look(None).await;
            while !self.waiting.is_empty() {
                self.attend_to_bell().await;
                let told = tokio::select! {
                    () = tokio::time::sleep(self.pause) => {
                        self.pause = (self.pause * 2).min(self.longest_pause());
                        None
                    }
                    Some(waiter) = self.arrivals.recv() => {
                        self.welcome(waiter);
                        None
                    }
                    told = heard(&mut self.bell) => told,
                };
                self.look(told).await;
            }
        }
        if let Some(bell) = self.bell.take() {
            // If it cannot be said, the row expires.
            let _ = bell.close().await;
        }
    }

    fn longest_pause(&self) -> Duration {
        match self.bell {
            Some(_) => LONGEST_TOLD,
            None => LONGEST_UNTOLD,
        }
    }

    /// Waits a little for the next one; false: it is time to end.
    async fn somebody_waits(&mut self) -> bool {
        match tokio::time::timeout(LINGER, self.arrivals.recv()).await {
            Ok(Some(waiter)) => self.welcome(waiter),
            Ok(None) => return false,
            Err(_) => {
                // Closed first, so that a waiter is either received here or refused there.
                self.arrivals.close();
                while let Ok(waiter) = self.arrivals.try_recv() {
                    self.welcome(waiter);
                }
            }
        }
        self.listen_at = Instant::now() + LISTEN_AFTER;
        !self.waiting.is_empty()
    }

    fn welcome(&mut self, waiter: Waiter) {
        self.pause = FIRST_PAUSE;
        self.waiting.push(waiter);
        while let Ok(waiter) = self.arrivals.try_recv() {
            self.waiting.push(waiter);
        }
    }

    /// Asks to be told once the wait is long, and says now and then that we are still here.
    async fn attend_to_bell(&mut self) {
        let listens = match &mut self.bell {
            Some(bell) => bell.renew().await,
            None if Instant::now() < self.listen_at => return,
            None => match self.store.bell().await {
                Ok(bell) => {
                    self.bell = Some(bell);
                    // What happened before we were heard is not told.
                    self.pause = FIRST_PAUSE;
                    Ok(())
                }
                Err(error) => Err(error),
            },
        };
        if listens.is_err() {
            self.bell = None;
            self.pause = self.pause.min(LONGEST_UNTOLD);
            self.listen_at = Instant::now() + LISTEN_AGAIN;
        }
    }

    /// Looks at these tasks, or at all that somebody waits for, and answers those whose wait is
    /// over.
    async fn look(&mut self, told: Option<Vec<TaskId>>) {
        self.waiting.retain(|waiter| !waiter.answer.is_closed());
        let told: Option<HashSet<TaskId>> = told.map(|tasks| tasks.into_iter().collect());
        let is_looked_at =
            |waiter: &Waiter| told.as_ref().is_none_or(|told| told.contains(&waiter.task));
        let tasks: Vec<TaskId> = self
            .waiting
            .iter()
            .filter(|waiter| is_looked_at(waiter))
            .map(|waiter| waiter.task)
            .collect();
        if tasks.is_empty() {
            return;
        }
        let states: HashMap<TaskId, TaskState> = match self.store.task_states(&tasks).await {
            Ok(states) => {
                self.outage
                    .send_if_modified(|outage| outage.take().is_some());
                states.into_iter().collect()
            }
            // The server is away for a moment; a wait survives that.
            Err(error) if error.is_disconnect() => {
                let was_known = self.outage.borrow().is_some();
                if !was_known {
                    self.outage.send_replace(Some(error.to_string()));
                }
                return;
            }
            Err(error) => {
                let error = Arc::new(error);
                for waiter in self.waiting.drain(..) {
                    let _ = waiter.answer.send(Err(Arc::clone(&error)));
                }
                return;
            }
        };
        let over = |waiter: &mut Waiter| {
            is_looked_at(waiter)
                && states.get(&waiter.task).is_none_or(|state| {
                    state.is_terminal() || (waiter.running && *state != TaskState::Queued)
                })
        };
        for waiter in self.waiting.extract_if(.., over) {
            let state = states.get(&waiter.task).copied();
            // Whoever does not wait any more is not told.
            let _ = waiter.answer.send(Ok(state));
        }
    }
}

/// The tasks that something has happened to; never, if nobody tells us.
async fn heard(bell: &mut Option<Bell>) -> Option<Vec<TaskId>> {
    match bell {
        Some(listening) => match listening.next().await {
            Ok(told) => told,
            Err(_) => {
                *bell = None;
                None
            }
        },
        None => std::future::pending().await,
    }
}
