//! Signals and notifications of the database, as events of the loop.

use crate::{
    monitor::{event::Event, init, options::MonitorError, shutdown::Interrupt, workers::process},
    store::Store,
};
use nix::sys::signal::Signal;
use std::time::Duration;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};

/// A database that cannot be listened to is tried again after this, and later each time,
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// but never later than this.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Turns the signals that a monitor acts upon into events from now on.
pub(super) fn signals(events: &mpsc::UnboundedSender<Event>) -> Result<(), MonitorError> {
    let listen = |kind: SignalKind, event: fn() -> Event| {
        let mut stream = signal(kind).map_err(|source| MonitorError::System {
            doing: "could not listen to signals".to_owned(),
            source,
        })?;
        let events = events.clone();
        tokio::task::spawn_local(async move {
            while stream.recv().await.is_some() && events.send(event()).is_ok() {}
        });
        Ok::<_, MonitorError>(())
    };
    let own = || Event::Interrupted(Interrupt::Own);
    listen(SignalKind::child(), || Event::Child)?;
    listen(SignalKind::interrupt(), own)?;
    listen(SignalKind::terminate(), own)?;
    listen(SignalKind::from_raw(init::relay()), || {
        Event::Interrupted(Interrupt::Relayed)
    })?;
    if process::is_ignored(Signal::SIGHUP) {
        // As under nohup(1): the terminal may go, the monitor stays.
        return Ok(());
    }
    listen(SignalKind::hangup(), own)
}

/// Carries notifications into the loop. While there is no connection the periodic look is all there is, and all
/// that is needed.
pub(super) fn notifications(store: Store, events: mpsc::UnboundedSender<Event>) {
    tokio::task::spawn_local(async move {
        let mut pause = FIRST_PAUSE;
        loop {
            if let Ok(mut listener) = store.listen().await {
                pause = FIRST_PAUSE;
                let mut news = listener.reconnected();
                loop {
                    if events.send(Event::Notified(news)).is_err() {
                        return;
                    }
                    match listener.next().await {
                        Ok(next) => news = next,
                        Err(_) => break,
                    }
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    });
}
