//! What is claimed, and where it is looked for: the operations that this host may run, what its pools can
//! take of them, and how far each lane has been read. The claim itself is a part of the cycle
//! (`store/cycle.rs`).

mod appetite;
mod catalog;
mod positions;

pub(super) use appetite::{Appetite, Want};
#[cfg(test)]
pub(super) use catalog::Offer;
pub(super) use catalog::{Availability, Catalog, Domain};

use super::{database::Database, poll::Poll};
use crate::{
    plugin::Cache,
    store::{CatalogRow, Claimed, Scan, Store, StoreError},
};
use positions::Positions;
use std::time::{Duration, Instant};

/// The catalog is read this often. Notifications tell of changes at once; this makes it right.
const RELOAD_EVERY: Duration = Duration::from_secs(1);

/// The catalog has been read, or the database has not answered.
pub(super) type Event = Result<Vec<CatalogRow>, StoreError>;

/// What the monitor may claim.
#[derive(Debug)]
pub(super) struct Claims {
    database: Database<Event>,
    host: String,
    domains: Vec<String>,
    catalog: Catalog,
    reload: Poll,
    positions: Positions,
    /// What the cycle that is under way looks for.
    looking_for: Vec<Appetite>,
}

/// What a look has brought for one pool.
#[derive(Debug)]
pub(super) struct Found {
    /// What was looked for.
    pub(super) appetite: Appetite,
    /// How many tasks for each of its wants.
    pub(super) tasks: Vec<usize>,
}

impl Claims {
    /// Of a monitor for this host and these domains (empty: every domain).
    pub(super) fn new(
        database: Database<Event>,
        host: String,
        domains: Vec<String>,
        now: Instant,
    ) -> Self {
        Self {
            database,
            host,
            domains,
            catalog: Catalog::default(),
            reload: Poll::every(RELOAD_EVERY, now),
            positions: Positions::default(),
            looking_for: Vec::new(),
        }
    }

    /// What this host may run, as the database last said.
    pub(super) fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// The catalog may have changed.
    pub(super) fn reload(&mut self, now: Instant) {
        self.reload.want(now);
    }

    /// Reads the catalog, if that is due.
    pub(super) fn tick(&mut self, cache: &Cache, now: Instant) {
        if !self.reload.begin(now) {
            return;
        }
        let (host, domains, cache) = (self.host.clone(), self.domains.clone(), cache.clone());
        self.database.ask(
            async move |store| read_catalog(store, &host, &domains, cache).await,
            |rows| rows,
        );
    }

    /// When the catalog is to be read next.
    pub(super) fn next_wake(&self) -> Option<Instant> {
        self.reload.next_wake()
    }

    /// The catalog has been read (or not).
    pub(super) fn answered(&mut self) {
        self.reload.answered();
    }

    /// Takes over what the catalog says. True: there are other lanes to look into than before.
    pub(super) fn update(
        &mut self,
        rows: Vec<CatalogRow>,
        availability: impl Fn(&CatalogRow) -> Availability,
    ) -> bool {
        let before = self.catalog.lanes();
        for refusal in self.catalog.update(rows, availability) {
            tracing::error!("a registered plugin cannot be used: {refusal}");
        }
        before != self.catalog.lanes()
    }

    /// Begins a look for what these pools can take: where to look.
    pub(super) fn look_for(&mut self, appetites: Vec<Appetite>, now: Instant) -> Vec<Scan> {
        let scans = match appetites.is_empty() {
            true => Vec::new(),
            false => self.positions.scans(&appetites, now),
        };
        self.looking_for = appetites;
        scans
    }

    /// The look came back with these tasks: what it has brought for each pool, in the order of the look.
    pub(super) fn looked(&mut self, claimed: &[Claimed], now: Instant) -> Vec<Found> {
        self.positions.learn(claimed, now);
        let appetites = std::mem::take(&mut self.looking_for);
        let found = appetite::found(&appetites, claimed);
        appetites
            .into_iter()
            .zip(found)
            .map(|(appetite, tasks)| Found { appetite, tasks })
            .collect()
    }

    /// When to look from the front, for what stands before the remembered positions; `None`: the last look
    /// was one.
    pub(super) fn next_front(&self) -> Option<Instant> {
        self.positions.next_front()
    }
}

async fn read_catalog(store: Store, host: &str, domains: &[String], cache: Cache) -> Event {
    let rows = store.operation_catalog(host, domains).await?;
    // The cache reads a copy that it has not seen yet, which is not for the loop.
    let reading = tokio::task::spawn_blocking(move || {
        for row in &rows {
            cache.find(&row.hash);
        }
        rows
    });
    Ok(reading.await.expect("looking for a copy does not panic"))
}
