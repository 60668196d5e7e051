//! Workers as a pool sees them, for unit tests.

use super::{Member, Stage};
use crate::{model::WorkerId, wire::PluginFile};
use std::{sync::Arc, time::Instant};

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
