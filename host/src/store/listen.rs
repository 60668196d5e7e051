//! Waking up: what the database tells whoever listens. It makes us fast, never right.

use super::{Store, error::Result};
use crate::model::TaskId;
use sqlx::postgres::PgListener;
use std::time::{Duration, Instant};

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

/// A connection that listens for a client that waits for tasks, and the row that says so: nobody
/// is told without one.
#[derive(Debug)]
pub struct Bell {
    store: Store,
    listener: PgListener,
    waiter: i64,
    renewed: Instant,
}

/// A row whose client has died counts for so long, in seconds.
const WAITER_LIFE: f64 = 30.0;
/// A living client renews its row so often.
const WAITER_RENEWAL: Duration = Duration::from_secs(10);

impl Store {
    /// From now on this client is told when tasks begin, end or go.
    pub async fn bell(&self) -> Result<Bell> {
        let mut listener = PgListener::connect_with(&self.pool).await?;
        listener.listen("rework_task").await?;
        let waiter = sqlx::query_scalar!(
            "insert into rework.waiter (until)
             values (clock_timestamp() + $1 * interval '1 second') returning id",
            WAITER_LIFE
        )
        .fetch_one(&self.pool)
        .await?;
        Ok(Bell {
            store: self.clone(),
            listener,
            waiter,
            renewed: Instant::now(),
        })
    }
}

impl Bell {
    /// Waits until something has happened: to these tasks, or (`None`) to any.
    pub async fn next(&mut self) -> Result<Option<Vec<TaskId>>> {
        let Some(notification) = self.listener.try_recv().await? else {
            // The connection was lost and is back.
            return Ok(None);
        };
        let payload = notification.payload();
        let ids: Result<Vec<i64>, _> = payload.split(',').map(str::parse).collect();
        Ok(ids.ok().map(|ids| ids.into_iter().map(TaskId).collect()))
    }

    /// Keeps the row alive; costs nothing when it was renewed a moment ago.
    pub async fn renew(&mut self) -> Result<()> {
        if self.renewed.elapsed() < WAITER_RENEWAL {
            return Ok(());
        }
        self.renewed = Instant::now();
        // A row that had expired may have been removed by another client.
        sqlx::query!(
            "with expired as (delete from rework.waiter where until < clock_timestamp() and id <> $1)
             insert into rework.waiter as w (id, until) overriding system value
             values ($1, clock_timestamp() + $2 * interval '1 second')
             on conflict (id) do update set until = excluded.until",
            self.waiter,
            WAITER_LIFE
        )
        .execute(&self.store.pool)
        .await?;
        Ok(())
    }

    /// Nobody waits any more.
    pub async fn close(self) -> Result<()> {
        sqlx::query!("delete from rework.waiter where id = $1", self.waiter)
            .execute(&self.store.pool)
            .await?;
        Ok(())
    }
}
