//! The socket between the monitor and one worker. What the worker sends becomes events of the loop; what is
//! sent to the worker waits in a queue, so that the loop never does.

use super::event::Event;
use crate::{
    model::{TaskId, WorkerId},
    monitor::mailbox::Mailbox,
    wire::{self, AsyncReader, AsyncWriter, ToWorker, WireError},
};
use std::os::fd::OwnedFd;
use tokio::sync::mpsc;

/// The queue of messages to one worker.
#[derive(Debug)]
pub(super) struct Connection {
    outgoing: mpsc::UnboundedSender<(ToWorker, Vec<OwnedFd>)>,
}

impl Connection {
    /// Reads from and writes to this end of a worker's socket from now on.
    pub(super) fn open(
        socket: OwnedFd,
        worker: WorkerId,
        mailbox: &Mailbox<Event>,
    ) -> Result<Self, WireError> {
        let (reader, writer) = wire::async_socket(socket)?;
        let (outgoing, queue) = mpsc::unbounded_channel();
        tokio::task::spawn_local(write(writer, queue, worker, mailbox.clone()));
        let mailbox = mailbox.clone();
        tokio::task::spawn_local(async move {
            if let Err(error) = read(reader, worker, &mailbox).await {
                mailbox.send(Event::ProtocolError(worker, error));
            }
            mailbox.send(Event::Disconnected(worker));
        });
        Ok(Self { outgoing })
    }

    /// Sends a message, with these descriptors.
    pub(super) fn send(&self, message: ToWorker, descriptors: Vec<OwnedFd>) {
        // A closed channel means that the worker is dying, which the reader tells.
        let _ = self.outgoing.send((message, descriptors));
    }
}

async fn write(
    mut writer: AsyncWriter,
    mut queue: mpsc::UnboundedReceiver<(ToWorker, Vec<OwnedFd>)>,
    worker: WorkerId,
    mailbox: Mailbox<Event>,
) {
    while let Some((message, descriptors)) = queue.recv().await {
        let task = match &message {
            ToWorker::Run(run) => Some(TaskId(run.task)),
            ToWorker::Hello { .. } | ToWorker::Scheduled(_) | ToWorker::Goodbye => None,
        };
        match writer.send(message, descriptors).await {
            Ok(()) => {}
            // The worker is gone, which the reader tells.
            Err(error) if error.is_hang_up() => return,
            Err(error) => {
                mailbox.send(Event::SendFailed(worker, task, error));
            }
        }
    }
}

/// Carries the messages of a worker into the loop, until the worker closes its socket.
async fn read(
    mut reader: AsyncReader,
    worker: WorkerId,
    mailbox: &Mailbox<Event>,
) -> Result<(), WireError> {
    loop {
        match reader.recv().await {
            Ok(Some((message, descriptors))) => {
                if !mailbox.send(Event::Message(worker, message, descriptors)) {
                    return Ok(());
                }
            }
            // The worker died, perhaps in the middle of a message.
            Ok(None) | Err(WireError::Cut) => return Ok(()),
            Err(error) if error.is_hang_up() => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}
