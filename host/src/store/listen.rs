//! Waking up: what the database tells whoever listens. It makes us fast, never right.

use super::{Store, error::Result};
use crate::model::TaskId;
use sqlx::postgres::PgListener;

/// Something that happened in the database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notification {
    /// There is something to claim.
    Ready,
    /// Somebody wants this claimed task to end.
    Abort(Option<TaskId>),
    /// Operations, deployments or lanes changed.
    Catalog,
    /// Somebody wants a worker to end.
    Worker,
    /// Schedules changed.
    Schedules,
    /// The connection was lost and is back; anything may have happened.
    Reconnected,
}

/// A connection that only listens.
#[derive(Debug)]
pub struct Listener {
    listener: PgListener,
}

impl Store {
    /// Listens to everything a monitor wants to hear.
    pub async fn listen(&self) -> Result<Listener> {
        let mut listener = PgListener::connect_with(&self.pool).await?;
        listener
            .listen_all([
                "rework_ready",
                "rework_abort",
                "rework_catalog",
                "rework_worker",
                "rework_sched",
            ])
            .await?;
        Ok(Listener { listener })
    }
}

impl Listener {
    /// The next notification. Reconnects by itself; an error means that it could not.
    pub async fn next(&mut self) -> Result<Notification> {
        let Some(notification) = self.listener.try_recv().await? else {
            return Ok(Notification::Reconnected);
        };
        Ok(match notification.channel() {
            "rework_abort" => Notification::Abort(notification.payload().parse().ok()),
            "rework_catalog" => Notification::Catalog,
            "rework_worker" => Notification::Worker,
            "rework_sched" => Notification::Schedules,
            _ => Notification::Ready,
        })
    }
}
