//! Notifications of the database, for monitors and waiting clients. They only make a reaction faster: what
//! they announce is also found by the periodic queries.

use super::{Store, error::Result, pool::Pool, session::accepts_writes};
use crate::{model::TaskId, periods::Periods};
use sqlx::{
    Acquire,
    postgres::{PgListener, PgNotification},
};
use std::{
    io,
    time::{Duration, Instant},
};
use tokio::sync::watch;

/// What a notification of the database, or a new connection, tells a monitor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notification {
    /// There may be tasks to claim.
    Ready,
    /// Somebody asked to abort this claimed task; `None`: the notification names no task.
    Abort(Option<TaskId>),
    /// Operations, deployments or lanes changed.
    Catalog,
    /// Somebody asked a worker to end.
    Worker,
    /// Schedules changed.
    Schedules,
    /// A new connection listens. Its server may be another one, and notifications may have been lost.
    Reconnected {
        /// Whether functions notify in every transaction on this server; see [`Store::may_notify`].
        may_notify: bool,
    },
}

/// A connection that only listens. It ends with the first error: what it would have heard since the
/// connection was lost is unknown, so whoever listens starts anew.
#[derive(Debug)]
struct Ear {
    listener: PgListener,
    pool: Pool,
    distrusted: watch::Receiver<u64>,
}

impl Ear {
    async fn new(pool: &Pool, channels: &[&str]) -> Result<Self> {
        let distrusted = pool.distrusted();
        let mut listener = PgListener::connect_with(&pool.of_driver().await?).await?;
        listener.eager_reconnect(false);
        let listening = listener.listen_all(channels.iter().copied());
        match tokio::time::timeout(Periods::current().listen_proof_limit, listening).await {
            Ok(listening) => listening?,
            Err(_) => return Err(lost("the server did not answer").into()),
        }
        Ok(Self {
            listener,
            pool: pool.clone(),
            distrusted,
        })
    }

    /// The next notification.
    async fn next(&mut self) -> Result<PgNotification> {
        loop {
            tokio::select! {
                heard = self.listener.try_recv() => {
                    return Ok(heard?.ok_or_else(|| lost("the connection was lost"))?);
                }
                // Another connection has found that the server no longer accepts writes, or has been
                // replaced.
                _ = self.distrusted.changed() => return Err(lost("the server is not the same").into()),
                () = tokio::time::sleep(Periods::current().listen_proof) => self.prove().await?,
            }
        }
    }

    /// Tests that notifications would arrive: the server answers on this connection, and accepts writes.
    async fn prove(&mut self) -> Result<()> {
        let proof = async { accepts_writes(self.listener.acquire().await?).await };
        let told = match tokio::time::timeout(Periods::current().listen_proof_limit, proof).await {
            Ok(Ok(true)) => return Ok(()),
            Ok(Ok(false)) => "the server does not accept writes any more",
            Ok(Err(_)) => "the connection was lost",
            Err(_) => "the server is silent",
        };
        self.pool.distrust();
        Err(lost(told).into())
    }
}

fn lost(told: &str) -> sqlx::Error {
    sqlx::Error::Io(io::Error::new(
        io::ErrorKind::ConnectionAborted,
        told.to_owned(),
    ))
}

/// A connection that listens to all channels of a monitor.
#[derive(Debug)]
pub struct Listener {
    ear: Ear,
    may_notify: bool,
}

impl Store {
    /// Opens a connection that listens to all channels of a monitor.
    pub async fn listen(&self) -> Result<Listener> {
        let channels = [
            "rework_ready",
            "rework_abort",
            "rework_catalog",
            "rework_worker",
            "rework_sched",
        ];
        let ear = Ear::new(&self.pool, &channels).await?;
        // Read anew with every connection: a server may have been restarted with another setting.
        let may_notify = self.may_notify().await?;
        Ok(Listener { ear, may_notify })
    }
}

impl Listener {
    /// The first notification of every new connection.
    pub fn reconnected(&self) -> Notification {
        Notification::Reconnected {
            may_notify: self.may_notify,
        }
    }

    /// The next notification. After an error the connection is closed: it was lost, or failed its test.
    pub async fn next(&mut self) -> Result<Notification> {
        let notification = self.ear.next().await?;
        Ok(match notification.channel() {
            "rework_abort" => Notification::Abort(notification.payload().parse().ok()),
            "rework_catalog" => Notification::Catalog,
            "rework_worker" => Notification::Worker,
            "rework_sched" => Notification::Schedules,
            _ => Notification::Ready,
        })
    }
}

/// A connection that listens for a client that waits for tasks, and the client's row in the table of
/// waiting clients: functions notify clients only while that table has rows.
#[derive(Debug)]
pub struct Bell {
    store: Store,
    ear: Ear,
    waiter: i64,
    renewed: Instant,
}

/// Seconds after which the row of a client that has died no longer counts.
const WAITER_LIFE: f64 = 30.0;
/// How often a living client renews its row: three times within `WAITER_LIFE`.
const WAITER_RENEWAL: Duration = Duration::from_secs(10);

impl Store {
    /// Registers this client as waiting: from now on it is notified when tasks begin, end or are deleted.
    pub async fn bell(&self) -> Result<Bell> {
        let ear = Ear::new(&self.pool, &["rework_task"]).await?;
        let waiter = sqlx::query_scalar!(
            "insert into rework.waiter (until)
             values (clock_timestamp() + $1 * interval '1 second') returning id",
            WAITER_LIFE
        )
        .fetch_one(&self.pool)
        .await?;
        Ok(Bell {
            store: self.clone(),
            ear,
            waiter,
            renewed: Instant::now(),
        })
    }
}

impl Bell {
    /// Waits until something has happened to these tasks, or (`None`) to any. After an error the connection
    /// is closed.
    pub async fn next(&mut self) -> Result<Option<Vec<TaskId>>> {
        let notification = self.ear.next().await?;
        let payload = notification.payload();
        let ids: Result<Vec<i64>, _> = payload.split(',').map(str::parse).collect();
        Ok(ids.ok().map(|ids| ids.into_iter().map(TaskId).collect()))
    }

    /// Renews the row, unless it was renewed less than `WAITER_RENEWAL` ago.
    pub async fn renew(&mut self) -> Result<()> {
        if self.renewed.elapsed() < WAITER_RENEWAL {
            return Ok(());
        }
        self.renewed = Instant::now();
        // The row may have expired and been removed by another client.
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

    /// Removes the row and closes the connection.
    pub async fn close(self) -> Result<()> {
        sqlx::query!("delete from rework.waiter where id = $1", self.waiter)
            .execute(&self.store.pool)
            .await?;
        Ok(())
    }
}
