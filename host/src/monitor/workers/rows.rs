//! The workers as the database knows them: what they run and use, and how they ended.

use super::{Event, News, Workers, process::Figures};
use crate::{
    descendants::Processes,
    model::{TaskId, WorkerId, text::without_nul, worker::WorkerCause},
    store::{StoreError, WorkerSave},
};
use chrono::{DateTime, Utc};
use std::time::{Duration, Instant};

/// Rows of workers that the database has refused are written again after this.
const WRITE_AGAIN: Duration = Duration::from_secs(2);
/// How often it is measured what workers use.
const SAMPLE_EVERY: Duration = Duration::from_secs(2);

/// Which process a row is about.
#[derive(Debug, Clone)]
pub(super) struct Subject {
    pub(super) id: WorkerId,
    /// The process id; 0: no process could be started.
    pub(super) pid: i32,
    pub(super) domain: String,
    /// The hash of the plugin.
    pub(super) plugin: String,
}

/// What is written about one worker.
#[derive(Debug)]
pub(super) struct Row {
    created: DateTime<Utc>,
    /// When it was ready.
    started: Option<DateTime<Utc>>,
    /// How many tasks it has finished.
    runs: u64,
    /// Resident memory, descendants included, in bytes.
    memory: Option<u64>,
    cpu_percent: Option<f64>,
    /// The last measurement: when, and the processor time until then, in seconds.
    sample: Option<(Instant, f64)>,
    /// The task that the database believes it runs.
    shown_task: Option<TaskId>,
    /// Whether something has changed since it was written.
    is_dirty: bool,
}

impl Row {
    /// A worker whose process was started at this time.
    pub(super) fn new(created: DateTime<Utc>) -> Self {
        Self {
            created,
            started: None,
            runs: 0,
            memory: None,
            cpu_percent: None,
            sample: None,
            shown_task: None,
            is_dirty: true,
        }
    }

    /// It is ready, with this resident memory, in bytes.
    pub(super) fn ready(&mut self, resident: u64, now: DateTime<Utc>) {
        self.started = Some(now);
        self.memory = Some(resident);
        self.is_dirty = true;
    }

    /// Whether it has been ready.
    pub(super) fn is_started(&self) -> bool {
        self.started.is_some()
    }

    /// How many tasks it has finished.
    pub(super) fn runs(&self) -> u64 {
        self.runs
    }

    /// It is shown as running this task.
    pub(super) fn show(&mut self, task: TaskId) {
        self.is_dirty |= !self.shows(task);
        self.shown_task = Some(task);
    }

    /// Whether it is shown as running this task.
    pub(super) fn shows(&self, task: TaskId) -> bool {
        self.shown_task == Some(task)
    }

    /// It has finished a task.
    pub(super) fn finished(&mut self, task: TaskId) {
        self.runs += 1;
        if self.shows(task) {
            self.shown_task = None;
            self.is_dirty = true;
        }
    }

    /// It uses this.
    pub(super) fn sample(&mut self, figures: Figures, now: Instant) {
        let percent = self.sample.map(|(at, seconds)| {
            let elapsed = now.duration_since(at).as_secs_f64();
            ((figures.cpu_seconds - seconds).max(0.0) / elapsed * 1000.0).round() / 10.0
        });
        self.sample = Some((now, figures.cpu_seconds));
        let memory = Some(figures.resident_bytes);
        if self.is_started() && (self.memory != memory || self.cpu_percent != percent) {
            self.memory = memory;
            self.cpu_percent = percent;
            self.is_dirty = true;
        }
    }

    /// Whether something has changed since it was written.
    pub(super) fn is_dirty(&self) -> bool {
        self.is_dirty
    }

    /// It could not be written.
    pub(super) fn not_saved(&mut self) {
        self.is_dirty = true;
    }

    /// What is written, which counts as written now. `dead`: why the worker has ended, and in words.
    pub(super) fn save(
        &mut self,
        subject: Subject,
        dead: Option<(WorkerCause, Option<String>)>,
        now: DateTime<Utc>,
    ) -> WorkerSave {
        self.is_dirty = false;
        let is_dead = dead.is_some();
        let task = self.shown_task.filter(|_| self.is_started() && !is_dead);
        let state = match (is_dead, self.started, task) {
            (true, ..) => "dead",
            (false, None, _) => "unstarted",
            (false, Some(_), Some(_)) => "running",
            (false, Some(_), None) => "idle",
        };
        let (cause, error) = dead.unzip();
        WorkerSave {
            id: subject.id,
            pid: subject.pid,
            domain: subject.domain,
            plugin: subject.plugin,
            state,
            task: task.map(|task| task.0),
            runs: self.runs as i64,
            memory: self.memory.map(|bytes| bytes as i64),
            cpu: self.cpu_percent.filter(|_| !is_dead),
            created: self.created,
            started: self.started,
            finished: is_dead.then_some(now),
            cause: cause.map(WorkerCause::as_str),
            error: error.flatten().map(without_nul),
        }
    }
}

/// The rows that are on their way to the database.
#[derive(Debug, Default)]
pub(super) struct Rows {
    /// The last rows of workers that are dead.
    dead: Vec<WorkerSave>,
    /// Whether rows are being written.
    is_saving: bool,
    /// The database has refused rows: none are written before this time.
    not_before: Option<Instant>,
}

impl Rows {
    /// A worker is dead.
    pub(super) fn push_dead(&mut self, row: WorkerSave) {
        self.dead.push(row);
    }

    /// Whether nothing is being written, nor waits to be.
    pub(super) fn is_settled(&self) -> bool {
        self.dead.is_empty() && !self.is_saving
    }

    /// What is to be written now, with the rows of workers that live; empty: nothing.
    fn begin(&mut self, living: impl Iterator<Item = WorkerSave>, now: Instant) -> Vec<WorkerSave> {
        if self.is_saving || self.not_before.is_some_and(|at| now < at) {
            return Vec::new();
        }
        let mut rows = std::mem::take(&mut self.dead);
        rows.extend(living);
        self.is_saving = !rows.is_empty();
        rows
    }

    /// The rows are written.
    fn saved(&mut self) {
        self.is_saving = false;
        self.not_before = None;
    }

    /// The rows could not be written. Those of the dead are kept, and their errors are left out if the
    /// database cannot store those; `is_alive` tells of which workers there will be newer rows.
    fn failed(
        &mut self,
        error: &StoreError,
        rows: Vec<WorkerSave>,
        is_alive: impl Fn(WorkerId) -> bool,
        now: Instant,
    ) {
        self.saved();
        let is_bad_data = error.is_bad_data();
        if !error.is_disconnect() && !is_bad_data {
            // Reports about tasks, which wait for the rows of workers, must not wait for long.
            self.not_before = Some(now + WRITE_AGAIN);
        }
        self.keep(rows, is_bad_data, is_alive);
    }

    fn keep(
        &mut self,
        rows: Vec<WorkerSave>,
        is_bad_data: bool,
        is_alive: impl Fn(WorkerId) -> bool,
    ) {
        for mut row in rows {
            let is_superseded = self.dead.iter().any(|dead| dead.id == row.id);
            if is_alive(row.id) || is_superseded {
                continue;
            }
            let had_error = row.error.is_some();
            if is_bad_data {
                row.error = None;
            }
            if !is_bad_data || had_error {
                self.dead.push(row);
            }
        }
    }
}

impl Workers {
    /// Measures what workers use, if it is time to.
    pub(in crate::monitor) fn sample(&mut self, now: Instant) {
        if now < self.next_sample {
            return;
        }
        self.next_sample = now + SAMPLE_EVERY;
        let processes = Processes::look();
        for worker in self.workers.values_mut() {
            worker.sample(&processes, now);
        }
    }

    /// When workers are measured for the first time.
    pub(super) fn first_sample(now: Instant) -> Instant {
        now + SAMPLE_EVERY
    }

    /// Writes what is new about workers, in one statement.
    pub(in crate::monitor) fn save(&mut self, now: Instant) {
        let dirty = self.workers.values_mut().filter(|worker| worker.is_dirty());
        let rows = self.rows.begin(dirty.map(|worker| worker.save(None)), now);
        if rows.is_empty() {
            return;
        }
        let (host, monitor) = (self.settings.host.clone(), self.settings.monitor);
        self.database.ask(
            async move |store| {
                let saved = store.worker_save(&host, monitor, &rows).await;
                (saved, rows)
            },
            |(saved, rows)| Event::Saved(saved, rows),
        );
    }

    /// Whether rows are being written.
    pub(in crate::monitor) fn is_saving(&self) -> bool {
        self.rows.is_saving
    }

    /// Rows have been written (or not).
    pub(super) fn saved(
        &mut self,
        saved: Result<(), StoreError>,
        rows: Vec<WorkerSave>,
        now: Instant,
    ) -> Vec<News> {
        let Err(error) = saved else {
            self.rows.saved();
            return Vec::new();
        };
        for row in &rows {
            if let Some(worker) = self.workers.get_mut(&row.id) {
                worker.not_saved();
            }
        }
        let workers = &self.workers;
        self.rows
            .failed(&error, rows, |id| workers.contains_key(&id), now);
        vec![News::DatabaseFailed(error)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject(id: i64) -> Subject {
        Subject {
            id: WorkerId(id),
            pid: 100,
            domain: "d".to_owned(),
            plugin: "hash".to_owned(),
        }
    }

    fn dead(id: i64, error: Option<&str>) -> WorkerSave {
        let why = (WorkerCause::Idle, error.map(str::to_owned));
        Row::new(Utc::now()).save(subject(id), Some(why), Utc::now())
    }

    fn ids(rows: &[WorkerSave]) -> Vec<i64> {
        rows.iter().map(|row| row.id.0).collect()
    }

    #[test]
    fn a_row_is_written_when_something_has_changed() {
        let mut row = Row::new(Utc::now());
        let state = |row: &mut Row| {
            let save = row.save(subject(1), None, Utc::now());
            (save.state, save.task, save.runs)
        };
        assert_eq!(state(&mut row), ("unstarted", None, 0));
        assert!(!row.is_dirty());
        row.ready(1 << 20, Utc::now());
        assert_eq!(state(&mut row), ("idle", None, 0));
        row.show(TaskId(7));
        assert_eq!(state(&mut row), ("running", Some(7), 0));
        row.show(TaskId(7));
        assert!(!row.is_dirty());
        row.finished(TaskId(8));
        assert!(!row.is_dirty(), "a count alone is not worth a write");
        row.finished(TaskId(7));
        assert_eq!(state(&mut row), ("idle", None, 2));
        row.not_saved();
        assert!(row.is_dirty());
    }

    #[test]
    fn processor_time_is_that_between_two_measurements() {
        let start = Instant::now();
        let mut row = Row::new(Utc::now());
        row.ready(1 << 20, Utc::now());
        let figures = |cpu_seconds| Figures {
            resident_bytes: 2 << 20,
            cpu_seconds,
        };
        row.sample(figures(5.0), start);
        row.sample(figures(6.0), start + Duration::from_secs(4));
        let save = row.save(subject(1), None, Utc::now());
        assert_eq!((save.memory, save.cpu), (Some(2 << 20), Some(25.0)));
    }

    #[test]
    fn one_write_at_a_time_and_the_dead_are_kept_until_they_are_written() {
        let now = Instant::now();
        let mut rows = Rows::default();
        assert!(rows.begin(std::iter::empty(), now).is_empty() && rows.is_settled());
        rows.push_dead(dead(1, None));
        let writing = rows.begin(std::iter::empty(), now);
        assert_eq!(ids(&writing), [1]);
        rows.push_dead(dead(2, None));
        assert!(rows.begin(std::iter::empty(), now).is_empty());
        rows.saved();
        rows.keep(writing, false, |_| false);
        assert_eq!(ids(&rows.begin(std::iter::empty(), now)), [2, 1]);
    }

    #[test]
    fn words_that_cannot_be_stored_are_left_out_and_what_is_newer_counts() {
        let mut rows = Rows::default();
        let written = vec![
            dead(1, Some("?")),
            dead(2, None),
            dead(3, Some("?")),
            dead(4, None),
        ];
        rows.push_dead(dead(4, Some("newer")));
        rows.keep(written, true, |id| id.0 == 3);
        assert_eq!(ids(&rows.dead), [4, 1]);
        assert_eq!(rows.dead[1].error, None);
    }
}
