//! A worker as its monitor sees it: a process, a socket, a shared page, its output, and the tasks
//! that it was handed.

use super::{
    cgroup::{Delegated, WorkerCgroup},
    event::Event,
    identity::Identity,
    output::{Pipe, TaskLine},
    process,
    tasks::{from_micros, without_nul},
    usage::Watched,
};
use crate::{
    model::{TaskId, WorkerId, worker::WorkerCause},
    plugin::Cache,
    store::{SLOW_LOAD, WorkerSave},
    wire::{
        self, AsyncReader, Crash, Page, PluginFile, SlotState, ToWorker, WireError, marker::Stream,
    },
};
use chrono::{DateTime, Utc};
use nix::unistd::Pid;
use std::{
    collections::BTreeMap,
    os::fd::OwnedFd,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::mpsc;

/// A worker that was told to end and has nothing to do may take so long to go.
const GOODBYE_LIMIT: Duration = Duration::from_secs(5);

/// What a worker is doing with its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Life {
    /// Loading its plugin.
    Starting,
    /// Runs what it is handed.
    Ready,
    /// Ends after what it has begun.
    Draining(WorkerCause),
    /// Killed by us; only its death is awaited.
    Killed(WorkerCause),
}

/// A task in the hands of a worker.
#[derive(Debug, Clone, Copy)]
pub(super) struct Handed {
    /// The task.
    pub(super) task: TaskId,
    /// Its place in the order of running.
    pub(super) rank: i16,
    /// When it was seen to have begun, and when it began by the worker's clock.
    pub(super) begun: Option<(Instant, DateTime<Utc>)>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) id: WorkerId,
    pub(super) pid: Pid,
    pub(super) domain: String,
    pub(super) plugin: Arc<PluginFile>,
    pub(super) page: Page,
    page_path: PathBuf,
    to_worker: mpsc::UnboundedSender<(ToWorker, Vec<OwnedFd>)>,
    nonce: String,
    pub(super) pipes: BTreeMap<u64, Pipe>,
    next_pipe: u64,
    pub(super) life: Life,
    /// By slot, in the order in which they were handed over.
    pub(super) handed: BTreeMap<u64, (u32, Handed)>,
    next_handed: u64,
    pub(super) created: DateTime<Utc>,
    pub(super) spawned: Instant,
    /// When it was ready; until then, when it was spawned.
    pub(super) since: Instant,
    pub(super) started: Option<DateTime<Utc>>,
    pub(super) idle_since: Instant,
    pub(super) runs: u64,
    pub(super) memory: Option<u64>,
    pub(super) cpu_percent: Option<f64>,
    pub(super) cpu_sample: Option<(Instant, f64)>,
    /// The task that the database believes it runs.
    pub(super) shown_task: Option<TaskId>,
    /// Whether the database has to be told something.
    pub(super) dirty: bool,
    /// Whether it is loading its plugin.
    pub(super) is_loading: bool,
    /// Whether the log tells that this takes long.
    pub(super) is_slow_load_told: bool,
    /// Why a load was refused.
    pub(super) refused: Option<String>,
    /// The last panic of the running task, and when it was heard of; perhaps it has been caught.
    pub(super) panic: Option<(TaskId, wire::Failure, Instant)>,
    pub(super) hung: bool,
    pub(super) exit: Option<(process::Exit, Instant)>,
    /// When it was told to end.
    pub(super) said_goodbye: Option<Instant>,
    /// The task that it runs, if that has limits.
    pub(super) watched: Option<Watched>,
    /// Resident memory after the last task, or after its start.
    pub(super) resident_before: u64,
    /// The highest memory that it had at its start, or with a task that it has finished.
    pub(super) peak_before: u64,
    /// Processor time of the tasks that it has finished.
    pub(super) cpu_of_finished: Duration,
    cgroup: Option<WorkerCgroup>,
    /// What a task has left in its process that cannot be put back.
    pub(super) left_behind: Option<String>,
    /// When a task that was asked to end in its own time will be killed.
    pub(super) kill_at: Option<(Instant, WorkerCause)>,
}

/// How long a process may take to die of a fault: a crash reporter of its plugin may write down its
/// memory first. Of an earlier fault it has recovered.
const CRASH_TAKES: Duration = Duration::from_secs(10);

/// The kernel's peak of a process is not exact: its counters of pages lag behind.
const PEAK_BLUR: u64 = 2 << 20;

/// What a worker needs to be spawned.
#[derive(Debug)]
pub(super) struct Spawn<'a> {
    pub(super) id: WorkerId,
    pub(super) domain: &'a str,
    pub(super) plugin: &'a Arc<PluginFile>,
    pub(super) cache: &'a Cache,
    pub(super) pages: &'a std::path::Path,
    pub(super) environment: &'a [(String, String)],
    pub(super) user: Option<&'a Identity>,
    pub(super) no_network: bool,
    pub(super) events: &'a mpsc::UnboundedSender<Event>,
}

impl Worker {
    /// Starts a worker and the local tasks that carry what it says into the monitor's loop.
    pub(super) fn spawn(spawn: &Spawn<'_>) -> Result<Self, WireError> {
        let plugin = opened(spawn.plugin, spawn.cache)?;
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
        let (mut reader, mut writer) = wire::async_socket(ours)?;
        let (to_worker, mut outgoing) = mpsc::unbounded_channel::<(ToWorker, Vec<OwnedFd>)>();
        let (id, events) = (spawn.id, spawn.events.clone());
        tokio::task::spawn_local(async move {
            while let Some((message, descriptors)) = outgoing.recv().await {
                let task = match &message {
                    ToWorker::Run(run) => Some(TaskId(run.task)),
                    ToWorker::Hello { .. } | ToWorker::Scheduled(_) | ToWorker::Goodbye => None,
                };
                match writer.send(message, descriptors).await {
                    Ok(()) => {}
                    // It is gone; its end of the story comes from the reader.
                    Err(error) if error.is_hang_up() => return,
                    Err(error) => {
                        let _ = events.send(Event::Unsaid(id, task, error));
                    }
                }
            }
        });
        let (id, events) = (spawn.id, spawn.events.clone());
        tokio::task::spawn_local(async move {
            if let Err(error) = listen(&mut reader, id, &events).await {
                let _ = events.send(Event::Garbled(id, error));
            }
            let _ = events.send(Event::Hung(id));
        });
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
        let now = Instant::now();
        let mut worker = Self {
            id,
            pid: spawned.pid,
            domain: spawn.domain.to_owned(),
            plugin: Arc::clone(spawn.plugin),
            page,
            page_path,
            to_worker,
            nonce,
            pipes: BTreeMap::new(),
            next_pipe: 0,
            life: Life::Starting,
            handed: BTreeMap::new(),
            next_handed: 0,
            created: Utc::now(),
            spawned: now,
            since: now,
            started: None,
            idle_since: now,
            runs: 0,
            memory: None,
            cpu_percent: None,
            cpu_sample: None,
            shown_task: None,
            dirty: true,
            is_loading: false,
            is_slow_load_told: false,
            refused: None,
            panic: None,
            hung: false,
            exit: None,
            said_goodbye: None,
            watched: None,
            resident_before: 0,
            peak_before: 0,
            cpu_of_finished: Duration::ZERO,
            cgroup: None,
            left_behind: None,
            kill_at: None,
        };
        worker.send_with(hello, vec![plugin]);
        worker.add_pipe(spawned.stdout, Stream::Stdout, None, spawn.events)?;
        worker.add_pipe(spawned.stderr, Stream::Stderr, None, spawn.events)?;
        Ok(worker)
    }

    /// Puts it into a cgroup of its own, where the monitor may make one.
    pub(super) fn enter(&mut self, cgroup: Option<&Delegated>) {
        match cgroup.map(|cgroup| cgroup.add(self.id, self.pid)) {
            Some(Ok(cgroup)) => self.cgroup = Some(cgroup),
            Some(Err(error)) => {
                tracing::warn!(worker.id = %self.id, "worker {} has no cgroup: {error}", self.id);
            }
            None => {}
        }
    }

    /// Allows the task at hand so much memory, with all that it starts; `None`: any.
    pub(super) fn set_memory_limit(&self, more: Option<u64>) {
        if let Some(cgroup) = &self.cgroup {
            cgroup.set_memory_limit(more);
        }
    }

    /// Whether the kernel has killed in its cgroup for want of memory.
    pub(super) fn was_out_of_memory(&self) -> bool {
        self.cgroup
            .as_ref()
            .is_some_and(WorkerCgroup::was_out_of_memory)
    }

    /// Whether a task that has ended left processes behind.
    pub(super) fn has_strangers(&self) -> bool {
        self.pipes.values().any(|pipe| pipe.left_to().is_some())
    }

    fn add_pipe(
        &mut self,
        fd: OwnedFd,
        stream: Stream,
        task: Option<TaskId>,
        events: &mpsc::UnboundedSender<Event>,
    ) -> Result<(), WireError> {
        let number = self.next_pipe;
        self.next_pipe += 1;
        let (id, events) = (self.id, events.clone());
        let readable = move || {
            let _ = events.send(Event::Readable(id, number));
        };
        let (pipe, watch) = Pipe::new(fd, &self.nonce, stream, task, readable)?;
        tokio::task::spawn_local(watch);
        self.pipes.insert(number, pipe);
        Ok(())
    }

    /// The task that just ended has left children behind: what they print comes through the old
    /// pipes, what the next tasks print through these.
    pub(super) fn replace_pipes(
        &mut self,
        descriptors: Vec<OwnedFd>,
        task: TaskId,
        events: &mpsc::UnboundedSender<Event>,
    ) -> Result<(), WireError> {
        for pipe in self.pipes.values_mut() {
            pipe.leave_to(task);
        }
        let mut descriptors = descriptors.into_iter();
        for stream in [Stream::Stdout, Stream::Stderr] {
            if let Some(fd) = descriptors.next() {
                let flags = nix::fcntl::OFlag::O_NONBLOCK;
                nix::fcntl::fcntl(&fd, nix::fcntl::FcntlArg::F_SETFL(flags))
                    .map_err(WireError::system("set up a pipe"))?;
                self.add_pipe(fd, stream, None, events)?;
            }
        }
        Ok(())
    }

    /// Says something to it.
    pub(super) fn send(&self, message: ToWorker) {
        self.send_with(message, Vec::new());
    }

    fn send_with(&self, message: ToWorker, descriptors: Vec<OwnedFd>) {
        // A closed channel means that it is dying, which is reported elsewhere.
        let _ = self.to_worker.send((message, descriptors));
    }

    /// Gives it a task, unless all of its slots are taken.
    pub(super) fn hand(&mut self, task: TaskId, rank: i16) -> Option<u32> {
        let taken: Vec<u32> = self.handed.values().map(|(slot, _)| *slot).collect();
        let slot = (0..Page::SLOTS).find(|slot| !taken.contains(slot))?;
        self.page.hand(slot, task.0);
        let handed = Handed {
            task,
            rank,
            begun: None,
        };
        self.handed.insert(self.next_handed, (slot, handed));
        self.next_handed += 1;
        Some(slot)
    }

    /// The task of a slot has left this worker; `None` if it has not begun there.
    pub(super) fn take_back(&mut self, slot: u32, task: TaskId) -> Option<Handed> {
        if self.page.state(slot) != SlotState::Begun {
            return None;
        }
        let is_it = |(taken, handed): &(u32, Handed)| *taken == slot && handed.task == task;
        let (&key, _) = self.handed.iter().find(|(_, entry)| is_it(entry))?;
        let (_, handed) = self.handed.remove(&key)?;
        self.page.release(slot);
        if self.handed.is_empty() {
            self.idle_since = Instant::now();
        }
        Some(handed)
    }

    /// Takes back every task that has not begun, and never will here.
    pub(super) fn revoke_all(&mut self) -> Vec<Handed> {
        let slots: Vec<u32> = self.handed.values().map(|(slot, _)| *slot).collect();
        slots
            .into_iter()
            .filter_map(|slot| self.revoke(slot))
            .collect()
    }

    /// Takes back one task, if it has not begun.
    pub(super) fn revoke(&mut self, slot: u32) -> Option<Handed> {
        if !self.page.revoke(slot) {
            return None;
        }
        let (&key, _) = self.handed.iter().find(|(_, (taken, _))| *taken == slot)?;
        let (_, handed) = self.handed.remove(&key)?;
        if self.handed.is_empty() {
            self.idle_since = Instant::now();
        }
        Some(handed)
    }

    /// The slot of a task.
    pub(super) fn slot_of(&self, task: TaskId) -> Option<u32> {
        self.handed
            .values()
            .find(|(_, handed)| handed.task == task)
            .map(|(slot, _)| *slot)
    }

    /// Notes which tasks have begun since the last look.
    pub(super) fn see_begun(&mut self, now: Instant) {
        for (slot, handed) in self.handed.values_mut() {
            if handed.begun.is_none()
                && let Some(started_us) = self.page.started_us(*slot)
            {
                handed.begun = Some((now, from_micros(started_us)));
            }
        }
    }

    /// A task that it was handed and has not given back.
    pub(super) fn handed_task(&self, task: TaskId) -> Option<Handed> {
        let mut handed = self.handed.values().map(|(_, handed)| *handed);
        handed.find(|handed| handed.task == task)
    }

    /// The task that it is running.
    pub(super) fn running(&self) -> Option<(u32, Handed)> {
        self.handed
            .values()
            .copied()
            .find(|(_, handed)| handed.begun.is_some())
    }

    /// Kills it with all that it started; its death comes back from the kernel. If its task has been
    /// asked to end already, that stays the cause.
    pub(super) fn kill(&mut self, cause: WorkerCause) {
        if matches!(self.life, Life::Killed(_)) || self.exit.is_some() {
            return;
        }
        self.life = Life::Killed(self.kill_at.map_or(cause, |(_, first)| first));
        if let Some(cgroup) = &self.cgroup {
            cgroup.kill();
        }
        process::kill_tree(self.pid);
    }

    /// Lets it end after what it has begun.
    pub(super) fn drain(&mut self, cause: WorkerCause) {
        if matches!(self.life, Life::Starting | Life::Ready) {
            self.life = Life::Draining(cause);
            self.said_goodbye = Some(Instant::now());
            self.send(ToWorker::Goodbye);
        }
    }

    /// Lets it end because a task has left it changed, in words.
    pub(super) fn retire_for(&mut self, left: String) {
        self.left_behind = Some(left);
        self.drain(WorkerCause::Leftovers);
    }

    /// When the log is to tell that it is still loading.
    pub(super) fn slow_load_at(&self) -> Option<Instant> {
        let is_due = self.life == Life::Starting && !self.is_slow_load_told;
        is_due.then(|| self.spawned + SLOW_LOAD)
    }

    /// When a worker that was told to end, and has nothing begun, must be gone.
    pub(super) fn goodbye_deadline(&self) -> Option<Instant> {
        let is_draining = matches!(self.life, Life::Draining(_));
        if !is_draining || !self.handed.is_empty() || self.exit.is_some() {
            return None;
        }
        Some(self.said_goodbye?.max(self.idle_since) + GOODBYE_LIMIT)
    }

    /// Reads one of its outputs.
    pub(super) fn read(&mut self, pipe: u64, lines: &mut Vec<TaskLine>) {
        if let Some(open) = self.pipes.get_mut(&pipe) {
            open.read_turn(lines);
        }
    }

    /// Reads every output until nothing is there.
    pub(super) fn read_all(&mut self, lines: &mut Vec<TaskLine>) {
        for pipe in self.pipes.values_mut() {
            pipe.read_all(lines);
        }
    }

    /// Forgets the pipes of ended tasks that have been closed; the tasks whose children held them.
    /// The worker's own close when it dies: what they said last is still wanted.
    pub(super) fn drop_closed_pipes(&mut self) -> Vec<TaskId> {
        let is_over = |pipe: &Pipe| pipe.left_to().filter(|_| pipe.closed);
        let orphaned = self.pipes.values().filter_map(is_over).collect();
        self.pipes.retain(|_, pipe| is_over(pipe).is_none());
        orphaned
    }

    /// The last line on stderr of the task at hand.
    pub(super) fn last_words(&self) -> Option<&str> {
        self.pipes.values().find_map(Pipe::last_words)
    }

    /// What its signal handler recorded, now that it is dead.
    pub(super) fn crash(&self) -> Option<Crash> {
        let (_, died) = self.exit?;
        self.page.crash(died.elapsed() + CRASH_TAKES)
    }

    /// The peak memory of the task that it died with; if there was more before it, what was left of
    /// that. Children that did not end are not among the kernel's figures: then what the task was
    /// killed for counts.
    pub(super) fn peak_of_last(&self, exit: &process::Exit) -> u64 {
        let peak = if exit.peak_memory > self.peak_before + PEAK_BLUR {
            exit.peak_memory
        } else {
            self.resident_before
        };
        let excess = self.watched.as_ref().and_then(|watched| watched.excess);
        peak.max(excess.map_or(0, |excess| excess.resident_bytes))
    }

    /// The processor time of the task that it died with, in the same way; in seconds.
    pub(super) fn cpu_of_last(&self, exit: &process::Exit) -> f64 {
        let own = exit.cpu.saturating_sub(self.cpu_of_finished).as_secs_f64();
        let excess = self.watched.as_ref().and_then(|watched| watched.excess);
        own.max(excess.map_or(0.0, |excess| excess.cpu_seconds))
    }

    /// Whether children of this task may still print.
    pub(super) fn has_pipe_of(&self, task: TaskId) -> bool {
        self.pipes.values().any(|pipe| pipe.left_to() == Some(task))
    }

    /// What the database is told about it.
    pub(super) fn save(&mut self, dead: Option<(WorkerCause, Option<String>)>) -> WorkerSave {
        self.dirty = false;
        let state = match (&dead, self.started, self.shown_task) {
            (Some(_), ..) => "dead",
            (None, None, _) => "unstarted",
            (None, Some(_), Some(_)) => "running",
            (None, Some(_), None) => "idle",
        };
        let (cause, error) = dead.unzip();
        WorkerSave {
            id: self.id,
            pid: self.pid.as_raw(),
            domain: self.domain.clone(),
            plugin: self.plugin.hash.clone(),
            state,
            task: self
                .shown_task
                .filter(|_| state == "running")
                .map(|task| task.0),
            runs: self.runs as i64,
            memory: self.memory.map(|bytes| bytes as i64),
            cpu: self.cpu_percent.filter(|_| state != "dead"),
            created: self.created,
            started: self.started,
            finished: (state == "dead").then(Utc::now),
            cause: cause.map(WorkerCause::as_str),
            error: error.flatten().map(without_nul),
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.page_path);
    }
}

/// The plugin that was looked at, whatever is put in its place, and also for a process that cannot
/// reach that.
fn opened(plugin: &PluginFile, cache: &Cache) -> Result<OwnedFd, WireError> {
    let copy = cache.open(&plugin.hash);
    copy.map(OwnedFd::from).map_err(|source| WireError::System {
        doing: "open the plugin for a worker",
        source,
    })
}

/// Carries what a worker says into the monitor's loop, until it hangs up.
async fn listen(
    reader: &mut AsyncReader,
    id: WorkerId,
    events: &mpsc::UnboundedSender<Event>,
) -> Result<(), WireError> {
    loop {
        match reader.recv().await {
            Ok(Some((message, descriptors))) => {
                if events.send(Event::Said(id, message, descriptors)).is_err() {
                    return Ok(());
                }
            }
            // It died, perhaps in the middle of a word.
            Ok(None) | Err(WireError::Cut) => return Ok(()),
            Err(error) if error.is_hang_up() => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}
