//! The way into the loop: events that one room of the monitor puts into the queue of all of them.

use std::{fmt, rc::Rc};
use tokio::sync::mpsc;

/// Takes events of type `E` for the loop. A room knows its own events only; the mailbox wraps them into
/// the event that the loop reads.
pub(super) struct Mailbox<E> {
    send: Rc<dyn Fn(E) -> bool>,
}

impl<E: 'static> Mailbox<E> {
    /// A mailbox whose events go to this queue, wrapped.
    pub(super) fn new<Outer: 'static>(
        queue: mpsc::UnboundedSender<Outer>,
        wrap: impl Fn(E) -> Outer + 'static,
    ) -> Self {
        Self {
            send: Rc::new(move |event| queue.send(wrap(event)).is_ok()),
        }
    }

    /// Queues an event; false: the loop has ended, and nobody reads the queue any more.
    pub(super) fn send(&self, event: E) -> bool {
        (self.send)(event)
    }

    /// Does something in a task beside the loop; its result is an event.
    pub(super) fn run<T: 'static>(
        &self,
        work: impl Future<Output = T> + 'static,
        event: impl FnOnce(T) -> E + 'static,
    ) {
        let mailbox = self.clone();
        tokio::task::spawn_local(async move {
            let result = work.await;
            mailbox.send(event(result));
        });
    }
}

// Derived implementations would ask for events that can be cloned and printed.
impl<E> Clone for Mailbox<E> {
    fn clone(&self) -> Self {
        Self {
            send: Rc::clone(&self.send),
        }
    }
}

impl<E> fmt::Debug for Mailbox<E> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Mailbox").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq)]
    enum Outer {
        Number(u32),
    }

    #[test]
    fn events_of_a_room_arrive_wrapped_until_the_loop_has_ended() {
        let (queue, mut arrivals) = mpsc::unbounded_channel();
        let mailbox = Mailbox::new(queue, Outer::Number);
        assert!(mailbox.send(7));
        assert_eq!(arrivals.try_recv(), Ok(Outer::Number(7)));
        drop(arrivals);
        assert!(!mailbox.send(8));
    }

    #[tokio::test]
    async fn the_result_of_work_beside_the_loop_is_an_event() {
        let (queue, mut arrivals) = mpsc::unbounded_channel();
        let mailbox = Mailbox::new(queue, Outer::Number);
        let beside = async {
            mailbox.run(async { 3 }, |result| result + 1);
            arrivals.recv().await
        };
        let arrived = tokio::task::LocalSet::new().run_until(beside).await;
        assert_eq!(arrived, Some(Outer::Number(4)));
    }
}
