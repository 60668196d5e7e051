//! Pools, and workers as they see them, for unit tests.

use super::{Member, Pool, PoolOptions, Stage};
use crate::{
    model::{TaskId, WorkerId},
    monitor::claim::{Domain, Offer},
    wire::PluginFile,
};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// A millisecond.
pub(in crate::monitor::workers) const MS: Duration = Duration::from_millis(1);

pub(in crate::monitor::workers) fn file(plugin: &str) -> Arc<PluginFile> {
    Arc::new(PluginFile {
        hash: plugin.to_owned(),
        name: format!("lib{plugin}.so"),
    })
}

pub(in crate::monitor::workers) fn idle(id: i64, plugin: &str, since: Instant) -> Member {
    Member {
        id: WorkerId(id),
        plugin: file(plugin),
        stage: Stage::Ready,
        since,
        idle_since: since,
        handed: 0,
        rank: None,
        running_since: None,
        room: 1,
    }
}

pub(in crate::monitor::workers) fn busy(id: i64, plugin: &str, since: Instant) -> Member {
    Member {
        handed: 1,
        rank: Some(0),
        room: 0,
        running_since: Some(since),
        ..idle(id, plugin, since)
    }
}

pub(in crate::monitor::workers) fn starting(id: i64, plugin: &str, since: Instant) -> Member {
    Member {
        stage: Stage::Starting,
        ..idle(id, plugin, since)
    }
}

pub(in crate::monitor::workers) fn options(min: usize, max: usize) -> PoolOptions {
    PoolOptions {
        min_workers: min,
        max_workers: max,
        ..PoolOptions::default()
    }
}

/// A domain with these plugins, each with a lane, and a pool for it.
pub(in crate::monitor::workers) fn pool_of(plugins: &[&str]) -> (Pool, Domain) {
    let offer = |(lane, plugin): (i32, &&str)| {
        let offer = Offer {
            file: file(plugin),
            lanes: vec![lane],
        };
        ((*plugin).to_owned(), offer)
    };
    let domain: Domain = (0..).zip(plugins).map(offer).collect();
    let mut pool = Pool::default();
    pool.offer(Some(&domain));
    (pool, domain)
}

/// Tasks of a plugin take so long, as was seen.
pub(in crate::monitor::workers) fn takes(pool: &mut Pool, plugin: &str, time: Duration) {
    pool.share(plugin).took(time);
}

pub(in crate::monitor::workers) fn waits(
    pool: &mut Pool,
    plugin: &str,
    rank: i16,
    ids: std::ops::Range<i64>,
    now: Instant,
) {
    for id in ids {
        pool.share(plugin).push(rank, TaskId(id), now);
    }
}

/// Plugins and how many of each, in the order of their turns, and the quota of all.
pub(in crate::monitor::workers) fn claims(
    pool: &Pool,
    domain: &Domain,
    members: &[Member],
    max: usize,
    now: Instant,
) -> (i32, Vec<(String, i32)>) {
    let appetite = pool.appetite(0, "d", domain, members, &options(0, max), now);
    appetite.map_or((0, Vec::new()), |appetite| {
        let wants = appetite.wants.into_iter();
        (
            appetite.quota,
            wants.map(|want| (want.plugin, want.most)).collect(),
        )
    })
}

pub(in crate::monitor::workers) fn named(wants: &[(&str, i32)]) -> Vec<(String, i32)> {
    let owned = |(plugin, most): &(&str, i32)| ((*plugin).to_owned(), *most);
    wants.iter().map(owned).collect()
}
