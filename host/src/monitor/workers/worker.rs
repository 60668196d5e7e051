//! A worker as its monitor sees it: a process, a socket, its output, and the tasks that it was handed. The
//! fields are private; whoever decides something about a worker (`limits`, `exits`, the pool) is given what
//! the decision needs.

use super::{
    cgroup::{Delegated, WorkerCgroup},
    connection::Connection,
    dispatch,
    event::Event,
    exits::PostMortem,
    identity::Identity,
    life::{End, Life, Load, Stop},
    limits::Times,
    output::{Outputs, TaskLine},
    pool::{Member, PoolOptions, Stage},
    process,
    rows::{Row, Subject},
    slots::{Begun, Handed, Revoked, Slots, Terms},
    usage::Usage,
};
use crate::{
    descendants::Processes,
    model::{TaskId, WorkerId, task::Cause, worker::WorkerCause},
    monitor::{
        fault::{Exit, Fault, Ran},
        mailbox::Mailbox,
    },
    plugin::Cache,
    store::{CatalogRow, WorkerSave},
    wire::{self, Failure, Finished, Page, PluginFile, Run, ToWorker, WireError, marker::Stream},
};
use chrono::{DateTime, Utc};
use nix::unistd::Pid;
use std::{
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

/// How long a process may take to die of a fault: a crash reporter of its plugin may write down its
/// memory first. It has recovered from a fault before that.
const CRASH_TAKES: Duration = Duration::from_secs(10);

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

/// What is needed to start a worker.
#[derive(Debug)]
pub(super) struct Spawn<'a> {
    pub(super) id: WorkerId,
    pub(super) domain: &'a str,
    pub(super) plugin: &'a Arc<PluginFile>,
    pub(super) cache: &'a Cache,
    /// The directory of the monitor's shared pages.
    pub(super) pages: &'a Path,
    pub(super) environment: &'a [(String, String)],
    pub(super) user: Option<&'a Identity>,
    pub(super) no_network: bool,
    /// Where workers get cgroups of their own.
    pub(super) cgroup: Option<&'a Delegated>,
    pub(super) mailbox: &'a Mailbox<Event>,
}

/// What follows from the end of a task that its worker has reported.
#[derive(Debug)]
pub(super) struct Done {
    /// The version of the operation.
    pub(super) operation: Arc<CatalogRow>,
    /// The task had been told to end, for this reason.
    pub(super) stopped_for: Option<Fault>,
    /// The worker ends, and these tasks have not begun.
    pub(super) revoked: Vec<Revoked>,
    /// Whether children that the task has left may still print.
    pub(super) goes_on: bool,
}

/// What became of a request to abort a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::monitor) enum Aborted {
    /// The task had not begun, and never will.
    BeforeBegin,
    /// The task runs, and is being ended.
    Ending,
    /// The task has just ended, and another one runs: its report is on its way.
    TooLate,
}

/// What a worker that is gone leaves.
#[derive(Debug)]
pub(super) struct Remains {
    /// What was printed last.
    pub(super) lines: Vec<TaskLine>,
    /// The ended tasks whose children may still have printed.
    pub(super) closed: Vec<TaskId>,
    /// The tasks that have ended with it.
    pub(super) ended: Vec<(TaskId, Fault, Ran)>,
    /// The tasks that had not begun.
    pub(super) revoked: Vec<Revoked>,
    /// Why it did not start, if it did not.
    pub(super) start_failure: Option<String>,
    /// Its last row.
    pub(super) row: WorkerSave,
}

impl Worker {
    /// Starts a worker, and the tasks beside the loop that carry what it says and prints into the loop.
    pub(super) fn spawn(spawn: &Spawn<'_>, now: Instant) -> Result<Self, WireError> {
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
        let mut member = Member {
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
        member.room = dispatch::room(&member, window, runs_left, now);
        Some(member)
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

/// The life of a task in a worker, in order.
impl Worker {
    /// Gives it a task, which it may begin once it has received it; `None`: all of its slots are taken. `lease`:
    /// how long it may go on with tasks that others would repeat.
    pub(super) fn hand(
        &mut self,
        task: TaskId,
        rank: i16,
        terms: Terms,
        lease: u64,
    ) -> Option<u32> {
        let slot = self.slots.hand(task, rank, terms)?;
        self.slots.set_lease(lease);
        Some(slot)
    }

    /// Sends it a task that it was handed.
    pub(super) fn run(&self, run: Run) {
        self.connection
            .send(ToWorker::Run(Box::new(run)), Vec::new());
    }

    /// Takes back a task, if it has not begun.
    pub(super) fn revoke(&mut self, task: TaskId, now: Instant) -> Option<Revoked> {
        let revoked = self.slots.revoke(task)?;
        self.note_idle(now);
        Some(revoked)
    }

    /// Takes back every task that has not begun.
    pub(super) fn revoke_all(&mut self, now: Instant) -> Vec<Revoked> {
        let revoked = self.slots.revoke_all();
        if !revoked.is_empty() {
            self.note_idle(now);
        }
        revoked
    }

    fn note_idle(&mut self, now: Instant) {
        if self.slots.is_empty() {
            self.idle_since = now;
        }
    }

    /// Notes which tasks have begun since the last look.
    pub(super) fn notice_begun(&mut self, now: Instant) {
        self.slots.notice_begun(now);
    }

    /// Whether it was handed this task and has not given it back.
    pub(super) fn has(&self, task: TaskId) -> bool {
        self.slots.get(task).is_some()
    }

    /// Takes back the tasks behind one that has run for longer than this.
    pub(super) fn free_trapped(&mut self, after: Duration, now: Instant) -> Vec<Revoked> {
        let running = self.slots.running();
        let is_slow =
            running.is_some_and(|(_, begun)| now.saturating_duration_since(begun.noticed) > after);
        if is_slow && self.slots.len() > 1 {
            self.revoke_all(now)
        } else {
            Vec::new()
        }
    }

    /// The running task, if it has run for this long and the database does not show it as running; with the
    /// time when it began.
    pub(super) fn to_show(&self, after: Duration, now: Instant) -> Option<(TaskId, DateTime<Utc>)> {
        let (handed, begun) = self.slots.running()?;
        let is_due = now.saturating_duration_since(begun.noticed) >= after;
        (is_due && !self.row.shows(handed.task)).then_some((handed.task, begun.time))
    }

    /// When [`Worker::to_show`] has something to show.
    pub(super) fn next_show(&self, after: Duration, now: Instant) -> Option<Instant> {
        if !self.row.is_started() {
            return None;
        }
        let hidden = self.slots.iter().filter(|one| !self.row.shows(one.task));
        hidden
            // Whether a task has begun is seen when the page is looked at.
            .map(|handed| handed.begun.map_or(now, |begun| begun.noticed) + after)
            .min()
    }

    /// The database shows this task as running, or will with the next cycle.
    pub(super) fn show(&mut self, task: TaskId) {
        self.row.show(task);
    }

    /// A task tells how far it is. Answers when it began; `None`: it has ended.
    pub(super) fn progress(&mut self, task: TaskId, now: Instant) -> Option<DateTime<Utc>> {
        self.slots.notice_begun(now);
        let handed = self.slots.get(task)?;
        Some(handed.begun.map_or_else(Utc::now, |begun| begun.time))
    }

    /// The running task panics.
    pub(super) fn panicking(&mut self, task: TaskId, failure: Failure, now: Instant) {
        self.panic = self.has(task).then_some((task, failure, now));
    }

    /// It says that it has finished a task; `None`: it does not run that task.
    pub(super) fn finish(
        &mut self,
        finished: &Finished,
        options: &PoolOptions,
        lease: u64,
        now: Instant,
    ) -> Option<Done> {
        let task = TaskId(finished.task);
        let handed = self.slots.finish(finished.slot, task)?;
        self.note_idle(now);
        self.panic = None;
        self.usage.finished(finished);
        self.row.finished(task);
        let stopped_for = self.stop.take().and_then(Stop::obeyed);
        if options.max_runs > 0 && self.row.runs() >= options.max_runs {
            self.drain(WorkerCause::MaxRuns, now);
        }
        let max_mem = options.max_mem << 20;
        if max_mem > 0 && finished.resident_bytes > max_mem {
            self.drain(WorkerCause::MaxMem, now);
        }
        if let Some(left) = &finished.left_behind {
            self.retire_for(format!("task {task} left {left}"), now);
        }
        let revoked = if self.is_draining() {
            self.revoke_all(now)
        } else {
            Vec::new()
        };
        self.slots.set_lease(lease);
        Some(Done {
            operation: handed.terms.operation,
            stopped_for,
            revoked,
            goes_on: self.outputs.is_left_to(task),
        })
    }

    /// How long it may go on with tasks that others would repeat.
    pub(super) fn set_lease(&self, until: u64) {
        self.slots.set_lease(until);
    }

    /// Sends the answer to a request of its task.
    pub(super) fn answer(&self, answer: Result<i64, String>) {
        self.connection
            .send(ToWorker::Scheduled(answer), Vec::new());
    }
}

/// Its end, and the end of its tasks.
impl Worker {
    /// Ends the running task. The first reason stands. A task that asks `cancelled()` is told and given some
    /// time, others have nothing to gain from waiting.
    pub(super) fn stop(
        &mut self,
        task: TaskId,
        cause: WorkerCause,
        reason: Option<String>,
        grace: Duration,
        now: Instant,
    ) {
        let Some(slot) = self.slots.get(task).map(|handed| handed.slot) else {
            return;
        };
        if self.stop.is_some() {
            return;
        }
        let page = self.slots.page();
        page.request_cancel(slot);
        let may_obey = page.asked_cancel(slot) && !grace.is_zero();
        self.stop = Some(Stop {
            cause,
            reason,
            deadline: may_obey.then(|| now + grace),
        });
        if !may_obey {
            self.kill(cause);
        }
    }

    /// Ends the running task, if there is one.
    pub(super) fn stop_running(&mut self, cause: WorkerCause, grace: Duration, now: Instant) {
        if let Some(task) = self.running_task() {
            self.stop(task, cause, None, grace, now);
        }
    }

    /// Somebody wants one of its tasks aborted.
    pub(super) fn abort(
        &mut self,
        task: TaskId,
        reason: Option<String>,
        grace: Duration,
        now: Instant,
    ) -> Aborted {
        self.slots.notice_begun(now);
        if self.revoke(task, now).is_some() {
            return Aborted::BeforeBegin;
        }
        let is_running = self.running_task() == Some(task) || self.slots.len() == 1;
        if !self.has(task) || !is_running {
            return Aborted::TooLate;
        }
        self.stop(task, WorkerCause::Task(Cause::Abort), reason, grace, now);
        Aborted::Ending
    }

    fn running_task(&self) -> Option<TaskId> {
        self.slots.running().map(|(handed, _)| handed.task)
    }

    /// It has sent what makes no sense, so little is certain about what it runs: it is killed, and its task
    /// ends for this reason.
    pub(super) fn distrust(&mut self, reason: String, now: Instant) {
        let cause = WorkerCause::Task(Cause::Crash);
        self.slots.notice_begun(now);
        if self.running_task().is_some() {
            self.stop.get_or_insert(Stop {
                cause,
                reason: Some(reason),
                deadline: None,
            });
        }
        self.kill(cause);
    }

    /// Kills it with all that it has started; its death comes back from the kernel. If its task has been told
    /// to end already, the reason for that stays the cause.
    pub(super) fn kill(&mut self, cause: WorkerCause) {
        if self.life.is_killed() || self.end.exit().is_some() {
            return;
        }
        let first = self.stop.as_ref().map(|stop| stop.cause);
        self.life = Life::Killed(first.unwrap_or(cause));
        if let Some(cgroup) = &self.cgroup {
            cgroup.kill();
        }
        process::kill_tree(self.pid);
    }

    /// Lets it end after what it has begun.
    pub(super) fn drain(&mut self, cause: WorkerCause, now: Instant) {
        if self.life.is_wanted() {
            self.life = Life::Draining(cause, now);
            self.connection.send(ToWorker::Goodbye, Vec::new());
        }
    }

    /// Lets it end because a task has left it changed, in words.
    pub(super) fn retire_for(&mut self, left: String, now: Instant) {
        self.left_behind = Some(left);
        self.drain(WorkerCause::Leftovers, now);
    }

    /// It has closed its socket.
    pub(super) fn disconnected(&mut self) {
        self.end = self.end.disconnected();
    }

    /// Its process has been reaped.
    pub(super) fn reaped(&mut self, exit: Exit, now: Instant) {
        self.end = self.end.reaped(exit, now);
    }

    /// Its process, unless that has been reaped: then the number may be another process's by now.
    pub(super) fn live_pid(&self) -> Option<Pid> {
        self.end.exit().is_none().then_some(self.pid)
    }

    /// When nothing more can be expected of it; `None`: its process has not ended.
    pub(super) fn over_at(&self) -> Option<Instant> {
        self.end.over_at()
    }

    /// What `limits` decides by.
    pub(super) fn times(&self) -> Times {
        let running = self.slots.running();
        Times {
            life: self.life,
            spawned: self.spawned,
            is_slow_load_logged: self.is_slow_load_logged,
            idle_since: self.slots.is_empty().then_some(self.idle_since),
            stop_deadline: self
                .stop
                .as_ref()
                .and_then(|stop| Some((stop.deadline?, stop.cause))),
            task_deadline: running
                .filter(|_| self.stop.is_none())
                .and_then(|(handed, begun)| {
                    let timeout = handed.terms.timeout?;
                    Some((handed.task, begun.noticed + timeout, timeout))
                }),
            is_reaped: self.end.exit().is_some(),
        }
    }

    /// It is gone: what it leaves. `None`: its process has not ended.
    pub(super) fn remains(mut self, now: Instant) -> Option<Remains> {
        let (exit, died) = self.end.exit()?;
        let lines = self.outputs.read_rest();
        self.slots.notice_begun(now);
        let (begun, revoked) = self.slots.take_all();
        let crash = self
            .slots
            .page()
            .crash(now.saturating_duration_since(died) + CRASH_TAKES);
        let post_mortem = PostMortem {
            exit,
            died,
            life: self.life,
            stop: self.stop.as_ref(),
            load: &self.load,
            was_ready: self.row.is_started(),
            plugin: &self.plugin.name,
            panic: self.panic.as_ref(),
            left_behind: self.left_behind.as_deref(),
            stderr_tail: self.outputs.stderr_tail(),
            crash: crash.as_ref(),
            is_out_of_memory: self
                .cgroup
                .as_ref()
                .is_some_and(WorkerCgroup::was_out_of_memory),
            is_cut_off: self.slots.page().is_cut_off(),
        };
        let ended: Vec<_> = begun
            .into_iter()
            .filter_map(
                |Handed {
                     task, terms, begun, ..
                 }| {
                    let ran = self.ran(&exit, begun?);
                    Some((task, post_mortem.fault(task, terms.limits), ran))
                },
            )
            .collect();
        let last = ended.last().map(|(_, fault, _)| fault);
        let (cause, error) = post_mortem.row(last);
        let start_failure = post_mortem
            .did_not_start()
            .then(|| error.clone().unwrap_or_else(|| "it ended".to_owned()));
        let closed = self.outputs.left_to();
        let row = self.save(Some((cause, error)));
        Some(Remains {
            lines,
            closed,
            ended,
            revoked,
            start_failure,
            row,
        })
    }

    /// The run of a task that the process has died with.
    fn ran(&self, exit: &Exit, begun: Begun) -> Ran {
        Ran {
            started: Some(begun.time),
            peak_memory: Some(self.usage.peak_of_last(exit) as i64),
            cpu_seconds: Some(self.usage.cpu_of_last(exit)),
            worker: Some(self.id),
        }
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
