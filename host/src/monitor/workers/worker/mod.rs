//! A worker as its monitor sees it: a process, a socket, its output, and the tasks that it was handed. The
//! fields are private; whoever decides something about a worker (`limits`, `exits`, the pool) is given what
//! the decision needs.

mod end;
mod spawn;
mod tasks;

pub(in crate::monitor) use end::Aborted;
pub(super) use end::Remains;
pub(super) use spawn::Spawn;
pub(super) use tasks::Done;

use super::{
    cgroup::WorkerCgroup,
    connection::Connection,
    event::Event,
    life::{End, Life, Load, Stop},
    output::{Outputs, TaskLine},
    pool::{Member, PoolOptions, Stage},
    process,
    rows::{Row, Subject},
    slots::Slots,
    usage::Usage,
};
use crate::{
    descendants::Processes,
    model::{TaskId, WorkerId, task::Cause, worker::WorkerCause},
    monitor::mailbox::Mailbox,
    store::WorkerSave,
    wire::{self, Failure, PluginFile, WireError},
};
use chrono::Utc;
use nix::unistd::Pid;
use std::{
    os::fd::OwnedFd,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

/// A worker process.
#[derive(Debug)]
pub(super) struct Worker {
    id: WorkerId,
    pid: Pid,
    domain: String,
    plugin: Arc<PluginFile>,
    connection: Connection,
    slots: Slots,
    page_path: PathBuf,
    outputs: Outputs,
    cgroup: Option<WorkerCgroup>,
    life: Life,
    load: Load,
    /// Whether the log tells that loading takes long.
    is_slow_load_logged: bool,
    stop: Option<Stop>,
    end: End,
    spawned: Instant,
    /// When it was ready; until then, when it was spawned.
    since: Instant,
    /// Since when it has had no task, if it has none.
    idle_since: Instant,
    /// The last panic of the running task, and when it was reported; perhaps it has been caught.
    panic: Option<(TaskId, Failure, Instant)>,
    /// What a task has changed in its process that cannot be put back, in words.
    left_behind: Option<String>,
    usage: Usage,
    row: Row,
}

impl Worker {
    pub(super) fn id(&self) -> WorkerId {
        self.id
    }

    pub(super) fn domain(&self) -> &str {
        &self.domain
    }

    pub(super) fn plugin(&self) -> &Arc<PluginFile> {
        &self.plugin
    }

    /// Whether it is loading its plugin, and is wanted.
    pub(super) fn is_starting(&self) -> bool {
        self.life == Life::Starting
    }

    /// Whether nobody has told it to end.
    pub(super) fn is_wanted(&self) -> bool {
        self.life.is_wanted()
    }

    /// Whether it was told to end after what it has begun.
    pub(super) fn is_draining(&self) -> bool {
        matches!(self.life, Life::Draining(..))
    }

    /// Whether it has no task.
    pub(super) fn is_idle(&self) -> bool {
        self.slots.is_empty()
    }

    /// The worker as its pool sees it; `None`: it ends for a reason of its own, or of an operator, and the pool
    /// does without it. `window`: how many tasks a worker of its plugin may hold.
    pub(super) fn member(
        &self,
        window: usize,
        options: &PoolOptions,
        now: Instant,
    ) -> Option<Member> {
        let stage = match self.life {
            Life::Starting => Stage::Starting,
            Life::Ready => Stage::Ready,
            Life::Draining(WorkerCause::MadeRoom, told) => Stage::Leaving(told),
            Life::Draining(..) | Life::Killed(_) => return None,
        };
        let running_since = self.slots.running().map(|(_, begun)| begun.noticed);
        let member = Member {
            id: self.id,
            plugin: Arc::clone(&self.plugin),
            stage,
            since: self.since,
            idle_since: self.idle_since,
            handed: self.slots.len(),
            rank: self.slots.rank(),
            running_since,
            room: 0,
        };
        let runs_left = match options.max_runs {
            0 => u64::MAX,
            most => most.saturating_sub(self.row.runs()),
        };
        let window = if options.max_mem > 0 { 1 } else { window };
        Some(member.with_room(window, runs_left, now))
    }
}

/// The start, as its messages tell.
impl Worker {
    /// It begins to load its plugin.
    pub(super) fn begin_load(&mut self) {
        self.load = Load::UnderWay;
    }

    /// Its plugin is loaded.
    pub(super) fn end_load(&mut self) {
        self.load = Load::Done;
    }

    /// It cannot use its plugin, for this reason.
    pub(super) fn refuse_load(&mut self, reason: String) {
        self.load = Load::Refused(reason);
    }

    /// The log tells that loading takes long. Answers whether the plugin is being loaded by now.
    pub(super) fn log_slow_load(&mut self) -> bool {
        self.is_slow_load_logged = true;
        self.load == Load::UnderWay
    }

    /// It is ready for tasks, with this memory, in bytes. Answers how long that took.
    pub(super) fn ready(&mut self, resident: u64, peak: u64, now: Instant) -> Duration {
        self.row.ready(resident, Utc::now());
        self.usage.ready(resident, peak);
        self.idle_since = now;
        self.since = now;
        if self.life == Life::Starting {
            self.life = Life::Ready;
        }
        now.saturating_duration_since(self.spawned)
    }
}

/// What it prints.
impl Worker {
    /// Reads the pipe that has something to read.
    pub(super) fn read_turn(&mut self, pipe: u64) -> Vec<TaskLine> {
        self.outputs.read_turn(pipe)
    }

    /// Reads everything that is there.
    pub(super) fn read_all(&mut self) -> Vec<TaskLine> {
        self.outputs.read_all()
    }

    /// The ended tasks whose children have closed their pipes since this was last asked.
    pub(super) fn take_closed_pipes(&mut self) -> Vec<TaskId> {
        self.outputs.take_closed()
    }

    /// The task that has just ended has left children behind, which keep the pipes until now.
    pub(super) fn replace_pipes(
        &mut self,
        descriptors: Vec<OwnedFd>,
        task: TaskId,
        mailbox: &Mailbox<Event>,
    ) -> Result<(), WireError> {
        let readable = readable(self.id, mailbox);
        self.outputs.replace(descriptors, task, readable)
    }
}

/// What it uses, and what is written about it.
impl Worker {
    /// Looks at what the running task uses, at the processes in `table` if it is time to. Answers what it uses
    /// beyond its limits, if it does, in words.
    pub(super) fn watch_usage(
        &mut self,
        table: Option<&Processes>,
        now: Instant,
    ) -> Option<(TaskId, Cause, String)> {
        let running = self.slots.running();
        let running = running.map(|(handed, _)| (handed.task, handed.terms.limits));
        let limited = |limits: &wire::Limits| limits.memory_bytes.or(limits.cpu_ms).is_some();
        let Some((task, limits)) = running.filter(|(_, limits)| limited(limits)) else {
            if self.usage.unwatch() {
                self.set_memory_limit(None);
            }
            return None;
        };
        if self.usage.is_watching(task) {
            let (cause, words) = self.usage.look(self.pid, table?, limits, now)?;
            return Some((task, cause, words));
        }
        let orphans = if self.outputs.has_orphans() {
            Processes::look().below(self.pid)
        } else {
            Vec::new()
        };
        self.usage.watch(task, self.pid, orphans, now);
        self.set_memory_limit(limits.memory_bytes);
        None
    }

    /// Allows the running task so much memory, with all that it starts, where the kernel can hold that limit;
    /// `None`: any.
    fn set_memory_limit(&self, bytes: Option<u64>) {
        if let Some(cgroup) = &self.cgroup {
            cgroup.set_memory_limit(bytes);
        }
    }

    /// When the running task is looked at again, if it has limits.
    pub(super) fn next_usage(&self) -> Option<Instant> {
        self.usage.next_look().filter(|_| self.end.exit().is_none())
    }

    /// Measures what it uses, for its row.
    pub(super) fn sample(&mut self, processes: &Processes, now: Instant) {
        if let Some(figures) = process::figures(self.pid, &processes.below(self.pid)) {
            self.row.sample(figures, now);
        }
    }

    /// Whether its row has to be written.
    pub(super) fn is_dirty(&self) -> bool {
        self.row.is_dirty()
    }

    /// Its row could not be written: it has to be written again.
    pub(super) fn not_saved(&mut self) {
        self.row.not_saved();
    }

    /// Its row, which counts as written; `dead`: why it has ended, and in words.
    pub(super) fn save(&mut self, dead: Option<(WorkerCause, Option<String>)>) -> WorkerSave {
        let subject = Subject {
            id: self.id,
            pid: self.pid.as_raw(),
            domain: self.domain.clone(),
            plugin: self.plugin.hash.clone(),
        };
        self.row.save(subject, dead, Utc::now())
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.page_path);
    }
}

/// What a pipe of this worker calls when there is something to read.
fn readable(worker: WorkerId, mailbox: &Mailbox<Event>) -> impl Fn(u64) + Clone + 'static {
    let mailbox = mailbox.clone();
    move |pipe| {
        mailbox.send(Event::Readable(worker, pipe));
    }
}
