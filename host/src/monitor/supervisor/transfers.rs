//! What goes to the database beside the cycle, for single tasks: contents beside outputs, requests for other
//! tasks, and rows of the log that newer ones have replaced.

use super::Supervisor;
use crate::{
    causes::chain,
    model::{TaskId, WorkerId},
    monitor::{
        event::Event,
        tasks::{self, Saved},
    },
    store::{Ended, ScheduleRequest, StoreError},
    wire::{Bytes, Payload, WireError},
};
use std::{
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

/// A database that could not store a file is asked again after this.
const STORE_AGAIN: Duration = Duration::from_millis(500);

impl Supervisor {
    /// Unpacks the output of a task that has ended. A large one, which comes in descriptors, is hashed and
    /// checked off the loop.
    pub(super) fn unpack(
        &mut self,
        ended: Ended,
        output: Payload,
        files: Vec<(String, Bytes)>,
        mut descriptors: Vec<OwnedFd>,
    ) {
        if descriptors.is_empty() {
            let saved = tasks::saved(output, files, &mut descriptors);
            return self.unpacked(ended, saved);
        }
        let unpack =
            tokio::task::spawn_blocking(move || tasks::saved(output, files, &mut descriptors));
        self.ask(
            async move { unpack.await.unwrap_or_else(|error| Err(error.to_string())) },
            move |saved| Event::Unpacked(Box::new(ended), saved),
        );
    }

    /// What a task left is at hand, or cannot be stored: its end is reported, or first what goes beside its
    /// output is written.
    pub(super) fn unpacked(&mut self, ended: Ended, saved: Result<Saved, String>) {
        let task = ended.task;
        let Some((token, files)) = self.tasks.output(ended, saved) else {
            return;
        };
        let (store, transfers) = (self.store.clone(), self.transfers.clone());
        let events = self.events.clone();
        self.ask(
            async move {
                loop {
                    let saved = {
                        // Not while it waits to be tried again: others have files too.
                        let _turn = transfers.acquire().await;
                        store.file_save_output(task, token, &files).await
                    };
                    match saved {
                        // A finished result is never dropped because the database was away, or refuses
                        // it for another reason than its content.
                        Err(error) if !error.is_bad_data() => {
                            let _ = events.send(Event::Refused(error));
                            tokio::time::sleep(STORE_AGAIN).await;
                        }
                        result => return result,
                    }
                }
            },
            move |stored| Event::Stored(task, stored),
        );
    }

    /// The contents beside an output are stored; now its end.
    pub(super) fn stored(&mut self, task: TaskId, stored: Result<(), StoreError>) {
        let stored = stored.map_err(|error| chain(&error));
        self.tasks.stored(task, stored);
    }

    /// Rows of the log whose place others have taken are gone (or not).
    pub(super) fn lines_deleted(
        &mut self,
        deleted: Result<(), StoreError>,
        rows: Vec<(TaskId, i64)>,
        now: Instant,
    ) {
        let left = match deleted {
            Ok(()) => Vec::new(),
            Err(error) => {
                self.database_failed(&error, now);
                // What the database refuses to delete stays, and harms nobody.
                rows.into_iter().filter(|_| error.is_disconnect()).collect()
            }
        };
        self.tasks.lines_deleted(left);
    }

    /// Queues a task that the running task of a worker asks for.
    pub(super) fn enqueue_for(
        &mut self,
        worker: WorkerId,
        request: String,
        raw_input: Result<Option<Vec<u8>>, WireError>,
    ) {
        let store = self.store.clone();
        self.ask(
            async move {
                let mut request = serde_json::from_str::<ScheduleRequest>(&request)
                    .map_err(|error| format!("the request cannot be read: {error}"))?;
                request.input_raw =
                    raw_input.map_err(|error| format!("the input cannot be read: {error}"))?;
                match store.task_schedule(&request, None).await {
                    Ok(task) => Ok(task.0),
                    Err(error) => Err(chain(&error)),
                }
            },
            move |answer| Event::Enqueued(worker, answer),
        );
    }

    /// The task that a worker's running task asked for is queued (or not).
    pub(super) fn enqueued(&mut self, worker: WorkerId, answer: Result<i64, String>) {
        self.workers.answer_request(worker, answer);
        self.wakeup.want();
    }
}
