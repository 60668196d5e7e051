//! The start of a worker process.

use super::{Worker, readable};
use crate::{
    model::WorkerId,
    monitor::{
        mailbox::Mailbox,
        workers::{
            cgroup::{Delegated, WorkerCgroup},
            connection::Connection,
            event::Event,
            identity::Identity,
            life::{End, Life, Load},
            output::Outputs,
            process,
            rows::Row,
            slots::Slots,
            usage::Usage,
        },
    },
    plugin::Cache,
    wire::{self, Page, PluginFile, ToWorker, WireError, marker::Stream},
};
use chrono::Utc;
use nix::unistd::Pid;
use std::{os::fd::OwnedFd, path::Path, sync::Arc, time::Instant};

/// What is needed to start a worker.
#[derive(Debug)]
pub(in crate::monitor::workers) struct Spawn<'a> {
    pub(in crate::monitor::workers) id: WorkerId,
    pub(in crate::monitor::workers) domain: &'a str,
    pub(in crate::monitor::workers) plugin: &'a Arc<PluginFile>,
    pub(in crate::monitor::workers) cache: &'a Cache,
    /// The directory of the monitor's shared pages.
    pub(in crate::monitor::workers) pages: &'a Path,
    pub(in crate::monitor::workers) environment: &'a [(String, String)],
    pub(in crate::monitor::workers) user: Option<&'a Identity>,
    pub(in crate::monitor::workers) no_network: bool,
    /// Where workers get cgroups of their own.
    pub(in crate::monitor::workers) cgroup: Option<&'a Delegated>,
    pub(in crate::monitor::workers) mailbox: &'a Mailbox<Event>,
}

impl Worker {
    /// Starts a worker, and the tasks beside the loop that carry what it says and prints into the loop.
    pub(in crate::monitor::workers) fn spawn(
        spawn: &Spawn<'_>,
        now: Instant,
    ) -> Result<Self, WireError> {
        let plugin = open(spawn.plugin, spawn.cache)?;
        let page_path = spawn.pages.join(format!("{}.page", spawn.id));
        let page = Page::create(&page_path)?;
        let (ours, theirs) = wire::socket_pair()?;
        let spawned =
            process::spawn_worker(&theirs, &page.descriptor()?, spawn.environment, spawn.user)
                .map_err(|source| WireError::System {
                    doing: "start a process",
                    source,
                })?;
        drop(theirs);
        let connection = Connection::open(ours, spawn.id, spawn.mailbox)?;
        let nonce = wire::marker::nonce().map_err(|source| WireError::System {
            doing: "read random bytes",
            source,
        })?;
        let hello = ToWorker::Hello {
            version: wire::WIRE_VERSION,
            plugin: (**spawn.plugin).clone(),
            nonce: nonce.clone(),
            no_network: spawn.no_network,
        };
        connection.send(hello, vec![plugin]);
        let mut outputs = Outputs::new(nonce);
        let readable = readable(spawn.id, spawn.mailbox);
        outputs.add(spawned.stdout, Stream::Stdout, readable.clone())?;
        outputs.add(spawned.stderr, Stream::Stderr, readable)?;
        Ok(Self {
            id: spawn.id,
            pid: spawned.pid,
            domain: spawn.domain.to_owned(),
            plugin: Arc::clone(spawn.plugin),
            connection,
            slots: Slots::new(page),
            page_path,
            outputs,
            cgroup: own_cgroup(spawn, spawned.pid),
            life: Life::Starting,
            load: Load::Awaited,
            is_slow_load_logged: false,
            stop: None,
            end: End::NotYet,
            spawned: now,
            since: now,
            idle_since: now,
            panic: None,
            left_behind: None,
            usage: Usage::default(),
            row: Row::new(Utc::now()),
        })
    }
}

/// A cgroup for a worker that has just been spawned, where the monitor may make one.
fn own_cgroup(spawn: &Spawn<'_>, pid: Pid) -> Option<WorkerCgroup> {
    let id = spawn.id;
    match spawn.cgroup?.add(id, pid) {
        Ok(cgroup) => Some(cgroup),
        Err(error) => {
            tracing::warn!(worker.id = %id, "worker {id} has no cgroup: {error}");
            None
        }
    }
}

/// The copy of a plugin that the monitor has looked at, whatever is put in its place meanwhile, and also for a
/// process that cannot reach the cache.
fn open(plugin: &PluginFile, cache: &Cache) -> Result<OwnedFd, WireError> {
    let copy = cache.open(&plugin.hash);
    copy.map(OwnedFd::from).map_err(|source| WireError::System {
        doing: "open the plugin for a worker",
        source,
    })
}
