//! Waking up: what the database tells whoever listens. It makes us fast, never right.

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
    /// A new connection listens, to a server that may be another one; anything may have happened.
    Reconnected {
        /// Whether functions notify in everybody's transactions there; see [`Store::may_notify`].
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
                // Others have found out that the server is not what it was.
                _ = self.distrusted.changed() => return Err(lost("the server is not the same").into()),
                () = tokio::time::sleep(Periods::current().listen_proof) => self.prove().await?,
            }
        }
    }

    /// Finds out whether anything would be heard: the server answers on this connection, and is one
    /// that is written to.
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

/// Hears all that a monitor wants to hear.
#[derive(Debug)]
pub struct Listener {
    ear: Ear,
    may_notify: bool,
}

impl Store {
    /// Listens to everything a monitor wants to hear.
    pub async fn listen(&self) -> Result<Listener> {
        let channels = [
            "rework_ready",
            "rework_abort",
            "rework_catalog",
            "rework_worker",
            "rework_sched",
        ];
        let ear = Ear::new(&self.pool, &channels).await?;
        // Asked with every connection: a server may have been restarted with another setting.
        let may_notify = self.may_notify().await?;
        Ok(Listener { ear, may_notify })
    }
}

impl Listener {
    /// What is to be told first of every new connection.
    pub fn reconnected(&self) -> Notification {
        Notification::Reconnected {
            may_notify: self.may_notify,
        }
    }

    /// The next notification; an error means that the connection is lost or proved nothing, and that
    /// nothing more is heard.
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

/// A connection that listens for a client that waits for tasks, and the row that says so: nobody
/// is told without one.
#[derive(Debug)]
pub struct Bell {
    store: Store,
    ear: Ear,
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
    /// Waits until something has happened: to these tasks, or (`None`) to any. An error means that
    /// nothing more is heard.
    pub async fn next(&mut self) -> Result<Option<Vec<TaskId>>> {
        let notification = self.ear.next().await?;
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
