//! Waiting for tasks: one asynchronous task of a client watches all that the client waits for. It queries
//! at once and a few times soon after. If the wait is long it listens for notifications, and queries now
//! and then in case one was lost.

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

/// The first pause between two queries for the states of the tasks; each following pause is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(2);
/// The longest pause while no notifications arrive, because the client does not listen yet or cannot.
const LONGEST_POLLING: Duration = Duration::from_millis(50);
/// The longest pause while the client listens: notifications are fast, the query makes sure that none was
/// lost.
const LONGEST_LISTENING: Duration = Duration::from_secs(1);
/// A wait that lasts longer than this opens a connection that listens; shorter waits are not worth it.
const LISTEN_AFTER: Duration = Duration::from_millis(100);
/// The pause before the next try if the client cannot listen.
const LISTEN_AGAIN: Duration = Duration::from_secs(5);
/// How long the watching task stays for the next waiter after the last one is gone.
const LINGER: Duration = Duration::from_millis(200);

/// The answer to a waiter: the state that it waited for, or `None` if the task has been deleted.
pub(super) type Answer = Result<Option<TaskState>, Arc<StoreError>>;

/// A wait for one task.
#[derive(Debug)]
struct Waiter {
    task: TaskId,
    /// Whether the wait also ends when the task begins.
    running: bool,
    answer: oneshot::Sender<Answer>,
}

/// Passes waiters to the client's one watching task, which runs only while there are waiters.
#[derive(Debug)]
pub(super) struct Watch {
    store: Store,
    waiters: std::sync::Mutex<Option<mpsc::UnboundedSender<Waiter>>>,
    /// Why the database does not answer; `None` while it does.
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

    /// Waits until the task has ended or, with `running`, has begun.
    pub(super) async fn wait(&self, task: TaskId, running: bool) -> Answer {
        loop {
            let (answer, answered) = oneshot::channel();
            self.hand_over(Waiter {
                task,
                running,
                answer,
            });
            // The watching task answers before it ends, unless the runtime that it ran in is gone. In that
            // case this runtime starts the next one.
            if let Ok(answer) = answered.await {
                return answer;
            }
        }
    }

    /// A channel that holds the reason while the database does not answer, and `None` otherwise.
    pub(super) fn outages(&self) -> watch::Receiver<Option<String>> {
        self.outage.subscribe()
    }

    fn hand_over(&self, waiter: Waiter) {
        let mut waiters = self.waiters.lock().expect("no holder of this lock panics");
        let waiter = match waiters.as_ref() {
            Some(sender) => match sender.send(waiter) {
                Ok(()) => return,
                // The watching task has ended in the meantime.
                Err(refused) => refused.0,
            },
            None => waiter,
        };
        let (sender, arrivals) = mpsc::unbounded_channel();
        sender.send(waiter).expect("the receiver is still here");
        *waiters = Some(sender);
        let outage = Arc::clone(&self.outage);
        tokio::spawn(Watcher::new(self.store.clone(), arrivals, outage).run());
    }
}

/// The watching task: queries the states of all tasks that are waited for.
struct Watcher {
    store: Store,
    arrivals: mpsc::UnboundedReceiver<Waiter>,
    waiting: Vec<Waiter>,
    pause: Duration,
    bell: Option<Bell>,
    listen_at: Instant,
    outage: Arc<watch::Sender<Option<String>>>,
}

impl Watcher {
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
        while self.waits_for_another().await {
            self.query(None).await;
            while !self.waiting.is_empty() {
                self.keep_listening().await;
                let notified = tokio::select! {
                    () = tokio::time::sleep(self.pause) => {
                        self.pause = (self.pause * 2).min(self.longest_pause());
                        None
                    }
                    Some(waiter) = self.arrivals.recv() => {
                        self.welcome(waiter);
                        None
                    }
                    notified = notifications(&mut self.bell) => notified,
                };
                self.query(notified).await;
            }
        }
        if let Some(bell) = self.bell.take() {
            // If this fails, the row expires by itself.
            let _ = bell.close().await;
        }
    }

    fn longest_pause(&self) -> Duration {
        match self.bell {
            Some(_) => LONGEST_LISTENING,
            None => LONGEST_POLLING,
        }
    }

    /// Waits a moment for the next waiter; `false`: there is none, and the watching task ends.
    async fn waits_for_another(&mut self) -> bool {
        match tokio::time::timeout(LINGER, self.arrivals.recv()).await {
            Ok(Some(waiter)) => self.welcome(waiter),
            Ok(None) => return false,
            Err(_) => {
                // Closed first, so that a waiter is either received here or refused by the channel.
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

    /// Begins to listen once a wait is long, and renews the row that asks for notifications.
    async fn keep_listening(&mut self) {
        let listens = match &mut self.bell {
            Some(bell) => bell.renew().await,
            None if Instant::now() < self.listen_at => return,
            None => match self.store.bell().await {
                Ok(bell) => {
                    self.bell = Some(bell);
                    // Notifications that were sent before the connection listened are lost, so query at
                    // once.
                    self.pause = FIRST_PAUSE;
                    Ok(())
                }
                Err(error) => Err(error),
            },
        };
        if listens.is_err() {
            self.bell = None;
            self.pause = self.pause.min(LONGEST_POLLING);
            self.listen_at = Instant::now() + LISTEN_AGAIN;
        }
    }

    /// Queries the states of these tasks (`None`: of all that are waited for), and answers the waits that
    /// are over.
    async fn query(&mut self, notified: Option<Vec<TaskId>>) {
        self.waiting.retain(|waiter| !waiter.answer.is_closed());
        let notified: Option<HashSet<TaskId>> = notified.map(|tasks| tasks.into_iter().collect());
        let is_looked_at = |waiter: &Waiter| {
            notified
                .as_ref()
                .is_none_or(|notified| notified.contains(&waiter.task))
        };
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
            // The server is unreachable for a moment; the waits go on.
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
            // A waiter that has given up needs no answer.
            let _ = waiter.answer.send(Ok(state));
        }
    }
}

/// The tasks that a notification names; without a connection that listens this waits for ever.
async fn notifications(bell: &mut Option<Bell>) -> Option<Vec<TaskId>> {
    match bell {
        Some(listening) => match listening.next().await {
            Ok(notified) => notified,
            Err(_) => {
                *bell = None;
                None
            }
        },
        None => std::future::pending().await,
    }
}
