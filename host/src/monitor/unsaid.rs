//! Results that a monitor could not report to the database. They are kept in a file beside its pages, and the
//! host's next monitor reports them, under the claims that they were made under.

use super::{
    tasks::{Files, Unreported, chain, storable},
    workers::pages::Abandoned,
};
use crate::{
    model::{MonitorId, TaskId},
    store::{Cycle, Ended, LogChunk, Result, Store, StoreError},
};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fs,
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

/// The file's name in the directory of the pages.
const FILE: &str = "unsaid.json";
/// How many ends, or chunks of lines, are reported in one statement.
const BATCH: usize = 200;
/// While the database takes nothing, the file is written anew at most this often,
const KEEP_EVERY: Duration = Duration::from_secs(1);
/// and a pause lasts this many times as long as the writing took.
const KEEP_SHARE: u32 = 20;
/// How long a monitor that ends waits for the disk. Service managers kill after 90 s.
const LAST_WRITE: Duration = Duration::from_secs(10);

/// The content of the file.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Unsaid {
    /// The installation that the results belong to: a state directory may serve monitors of several.
    pub(super) installation: String,
    /// The monitor that has not reported them.
    pub(super) monitor: MonitorId,
    pub(super) ended: Vec<Ended>,
    /// Contents beside the outputs of some of these tasks.
    pub(super) files: Vec<(TaskId, Files)>,
    pub(super) logs: Vec<LogChunk>,
}

impl Unsaid {
    /// What a monitor has not reported.
    pub(super) fn new(installation: String, monitor: MonitorId, unreported: Unreported) -> Self {
        let Unreported { ended, files, logs } = unreported;
        Self {
            installation,
            monitor,
            ended,
            files,
            logs,
        }
    }

    /// Whether there is nothing in it.
    pub(super) fn is_empty(&self) -> bool {
        self.ended.is_empty() && self.logs.is_empty()
    }

    /// Writes it, complete or not at all; readable by nobody else.
    pub(super) fn write(&self, directory: &Path) -> io::Result<PathBuf> {
        self.write_by(directory, "new")
    }

    /// As [`Unsaid::write`], at the end of the monitor: a disk that does not answer for [`LAST_WRITE`] is left
    /// alone, also where another thread still waits for it.
    pub(super) fn write_in_time(self, directory: &Path) -> io::Result<PathBuf> {
        let (sender, receiver) = mpsc::channel();
        let directory = directory.to_owned();
        thread::spawn(move || {
            // By now nobody may wait for the answer.
            let _ = sender.send(self.write_by(&directory, "last"));
        });
        receiver.recv_timeout(LAST_WRITE).unwrap_or_else(|_| {
            let text = format!("the disk has not answered for {} s", LAST_WRITE.as_secs());
            Err(io::Error::new(io::ErrorKind::TimedOut, text))
        })
    }

    /// Writes it by way of a file with this suffix.
    fn write_by(&self, directory: &Path, suffix: &str) -> io::Result<PathBuf> {
        let path = directory.join(FILE);
        let unfinished = directory.join(format!("{FILE}.{suffix}"));
        let file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&unfinished)?;
        file.set_permissions(fs::Permissions::from_mode(0o600))?;
        let mut writer = io::BufWriter::new(file);
        serde_json::to_writer(&mut writer, self)?;
        writer.flush()?;
        writer.get_ref().sync_all()?;
        fs::rename(&unfinished, &path)?;
        Ok(path)
    }

    /// What a monitor has left in the directory of its pages; `None`: nothing.
    pub(super) fn read(directory: &Path) -> io::Result<Option<Self>> {
        let content = match fs::read(directory.join(FILE)) {
            Ok(content) => content,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        Ok(Some(serde_json::from_slice(&content)?))
    }

    /// Whether a monitor has left something for this installation there.
    pub(super) fn is_for(installation: &str, directory: &Path) -> bool {
        let unsaid = Self::read(directory);
        unsaid.is_ok_and(|unsaid| unsaid.is_some_and(|unsaid| unsaid.installation == installation))
    }

    /// Whether a monitor has left something there.
    pub(super) fn is_in(directory: &Path) -> bool {
        directory.join(FILE).exists()
    }

    /// Reports the results; the database ignores those that it has already. An error: the database does not
    /// answer, or may take the report in a moment.
    async fn report(self, store: &Store) -> Result<Reported> {
        let mut reported = Reported {
            waits: false,
            refused: Self {
                ended: Vec::new(),
                files: Vec::new(),
                logs: Vec::new(),
                ..self.clone()
            },
            reason: None,
        };
        let mut ended: BTreeMap<TaskId, Ended> =
            self.ended.into_iter().map(|one| (one.task, one)).collect();
        for (task, files) in self.files {
            let Some(one) = ended.get_mut(&task) else {
                continue;
            };
            match store.file_save_output(task, one.token, &files).await {
                Ok(()) => {}
                Err(error) if error.is_bad_data() => {
                    if let Some(without) = storable(one.clone(), &chain(&error)) {
                        *one = without;
                    }
                }
                Err(error) if is_for_later(&error) => return Err(error),
                Err(error) => {
                    reported.reason = Some(chain(&error));
                    reported.refused.ended.extend(ended.remove(&task));
                    reported.refused.files.push((task, files));
                }
            }
        }
        let ended: Vec<Ended> = ended.into_values().collect();
        for batch in ended.chunks(BATCH) {
            reported
                .report_batch(store, batch.to_vec(), Vec::new())
                .await?;
        }
        for batch in self.logs.chunks(BATCH) {
            reported
                .report_batch(store, Vec::new(), batch.to_vec())
                .await?;
        }
        Ok(reported)
    }
}

/// Whether the same report may be taken in a moment.
fn is_for_later(error: &StoreError) -> bool {
    error.is_disconnect() || error.is_passing()
}

/// What became of a report.
#[derive(Debug)]
struct Reported {
    /// Whether some of it has to wait for a lock that somebody holds.
    waits: bool,
    /// What the database has refused.
    refused: Unsaid,
    /// Why the database has refused the last part of that.
    reason: Option<String>,
}

impl Reported {
    /// Reports some results in one statement; if that is refused, one by one, so that a result that is refused
    /// harms no other.
    async fn report_batch(
        &mut self,
        store: &Store,
        ended: Vec<Ended>,
        logs: Vec<LogChunk>,
    ) -> Result<()> {
        match store.cycle(&self.cycle(ended.clone(), logs.clone())).await {
            Ok(result) => {
                self.waits |= result.reported.len() + result.moved.len() < ended.len();
                Ok(())
            }
            Err(error) if is_for_later(&error) => Err(error),
            Err(_) => {
                for one in ended {
                    self.report_end(store, one).await?;
                }
                for chunk in logs {
                    match store
                        .cycle(&self.cycle(Vec::new(), vec![chunk.clone()]))
                        .await
                    {
                        // Lines that cannot be stored are lost; they are no result.
                        Ok(_) => {}
                        Err(error) if error.is_bad_data() => {}
                        Err(error) if is_for_later(&error) => return Err(error),
                        Err(error) => {
                            self.reason = Some(chain(&error));
                            self.refused.logs.push(chunk);
                        }
                    }
                }
                Ok(())
            }
        }
    }

    /// Reports the end of one task. What cannot be stored of it is left out.
    async fn report_end(&mut self, store: &Store, end: Ended) -> Result<()> {
        let mut one = end.clone();
        loop {
            match store
                .cycle(&self.cycle(vec![one.clone()], Vec::new()))
                .await
            {
                Ok(result) => {
                    self.waits |= result.reported.is_empty() && result.moved.is_empty();
                    return Ok(());
                }
                Err(error) if is_for_later(&error) => return Err(error),
                Err(error) => {
                    let words = chain(&error);
                    let without = error.is_bad_data().then(|| storable(one, &words));
                    match without.flatten() {
                        Some(without) => one = without,
                        None => {
                            self.reason = Some(words);
                            self.refused.ended.push(end);
                            return Ok(());
                        }
                    }
                }
            }
        }
    }

    fn cycle(&self, ended: Vec<Ended>, logs: Vec<LogChunk>) -> Cycle {
        Cycle {
            monitor: self.refused.monitor,
            number: 0,
            ended,
            marks: Vec::new(),
            logs,
            finished_cycles: Vec::new(),
            scans: Vec::new(),
        }
    }
}

/// What is left of the file of a dead monitor after its results have been reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Left {
    /// Nothing: its directory can go.
    Nothing,
    /// A result waits for a lock: the monitor must not be buried yet, or that task would end as lost.
    Waits,
    /// The database refuses a result, or the file cannot be read: the directory stays, and the monitor is
    /// buried.
    Stays,
}

/// Reports the results that a dead monitor of this host has left.
pub(super) async fn report_left(
    store: &Store,
    installation: &str,
    abandoned: &Abandoned,
) -> Result<Left> {
    let directory = abandoned.directory();
    let place = directory.to_owned();
    // The disk may be slow: not on the loop.
    let read = tokio::task::spawn_blocking(move || Unsaid::read(&place));
    let unsaid = match read.await.expect("reading does not panic") {
        Ok(Some(unsaid)) if unsaid.installation == installation => unsaid,
        Ok(Some(_)) => return Ok(Left::Stays),
        Ok(None) => return Ok(Left::Nothing),
        Err(error) => {
            tracing::error!(
                "what a monitor left unsaid in {} cannot be read: {error}",
                directory.display()
            );
            return Ok(Left::Stays);
        }
    };
    let (monitor, results) = (unsaid.monitor, unsaid.ended.len());
    let Reported {
        waits,
        refused,
        reason,
    } = unsaid.report(store).await?;
    if waits {
        return Ok(Left::Waits);
    }
    if let Some(reason) = reason {
        tracing::error!(
            monitor.id = %monitor,
            "the database refuses some of what monitor {monitor} had left unsaid (results: {} of {results}); \
             it is kept in {} and tried again: {reason}",
            refused.ended.len(),
            directory.display()
        );
        let place = directory.to_owned();
        let write = tokio::task::spawn_blocking(move || refused.write(&place));
        if let Err(error) = write.await.expect("writing does not panic") {
            // The file is still there with all results, and reporting a result twice changes nothing.
            tracing::warn!("could not write {}: {error}", directory.display());
        }
        return Ok(Left::Stays);
    }
    tracing::info!(
        monitor.id = %monitor,
        "reported what monitor {monitor} had left unsaid (results: {results})"
    );
    Ok(Left::Nothing)
}

/// What tells one set of unreported ends from another: their number, and the sum of their tasks.
type Print = (usize, i64);

/// What is to be done with the file: it is written, with these ends in it; `None`: it is removed.
#[derive(Debug)]
pub(super) struct Keep(Option<Print>);

/// What became of the file.
#[derive(Debug)]
pub(super) struct Kept {
    /// The ends that are in it now, or why it could not be written.
    file: io::Result<Option<Print>>,
    took: Duration,
}

/// When the file was last written, and what was in it.
#[derive(Debug, Default)]
pub(super) struct Keeping {
    next: Option<Instant>,
    /// The ends that are in the file; `None`: there is no file.
    kept: Option<Print>,
    /// The file is being written or removed by another thread. The monitor does not end meanwhile, unless
    /// the disk does not answer: its last words go into the same file.
    is_busy: bool,
}

impl Keeping {
    /// Whether the file is being written or removed.
    pub(super) fn is_busy(&self) -> bool {
        self.is_busy
    }

    /// While the database takes nothing (`is_in_trouble`), results are kept on the disk as well: this process
    /// may be killed before it can report them. Answers what is to be done with the file now; the caller does
    /// it, in another thread.
    pub(super) fn begin(
        &mut self,
        unreported: impl Iterator<Item = TaskId>,
        is_in_trouble: bool,
        now: Instant,
    ) -> Option<Keep> {
        if self.is_busy || self.next.is_some_and(|next| now < next) {
            return None;
        }
        let print = unreported.fold((0, 0), |(count, sum), task| (count + 1, sum + task.0));
        let wanted = (print.0 > 0).then_some(print);
        if self.kept == wanted || wanted.is_some() && !is_in_trouble {
            return None;
        }
        self.is_busy = true;
        Some(Keep(wanted))
    }

    /// The file has been written or removed (or not).
    pub(super) fn done(&mut self, kept: Kept, directory: &Path, now: Instant) {
        self.is_busy = false;
        self.next = Some(now + KEEP_EVERY.max(kept.took * KEEP_SHARE));
        match kept.file {
            Ok(print) => self.kept = print,
            Err(error) => tracing::warn!(
                "results that wait could not be kept in {}: {error}",
                directory.display()
            ),
        }
    }
}

impl Keep {
    /// Whether the file is written.
    pub(super) fn is_write(&self) -> bool {
        self.0.is_some()
    }

    /// Does it. `unsaid`: what the file is to hold, if it is written.
    pub(super) fn carry_out(self, unsaid: Option<&Unsaid>, directory: &Path) -> Kept {
        let began = Instant::now();
        let done = match unsaid {
            Some(unsaid) => unsaid.write(directory).map(drop),
            None => match fs::remove_file(directory.join(FILE)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            },
        };
        let file = done.map(|()| self.0);
        let took = began.elapsed();
        Kept { file, took }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::{
            Token,
            log::LogLine,
            task::{Cause, Outcome},
        },
        store::{Fate, FileContent},
    };
    use chrono::Utc;
    use std::sync::Arc;

    #[test]
    fn the_file_follows_what_waits_while_the_database_takes_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let unreported = Unreported {
            ended: Vec::new(),
            files: Vec::new(),
            logs: Vec::new(),
        };
        let unsaid = Unsaid::new("here".to_owned(), MonitorId(3), unreported);
        let start = Instant::now();
        let mut keeping = Keeping::default();
        let waits = |count: i64| (0..count).map(TaskId);
        assert!(keeping.begin(waits(2), false, start).is_none());
        let write = keeping.begin(waits(2), true, start).unwrap();
        assert!(
            keeping.begin(waits(3), true, start).is_none(),
            "one at a time"
        );
        keeping.done(
            write.carry_out(Some(&unsaid), directory.path()),
            directory.path(),
            start,
        );
        assert!(Unsaid::is_in(directory.path()));
        assert!(keeping.begin(waits(3), true, start).is_none(), "too soon");
        let later = start + Duration::from_secs(600);
        assert!(keeping.begin(waits(2), true, later).is_none(), "it is kept");
        let remove = keeping.begin(waits(0), false, later).unwrap();
        keeping.done(
            remove.carry_out(None, directory.path()),
            directory.path(),
            later,
        );
        assert!(!Unsaid::is_in(directory.path()));
    }

    #[test]
    fn what_is_written_is_read_back() {
        let directory = tempfile::tempdir().unwrap();
        assert!(Unsaid::read(directory.path()).unwrap().is_none());
        let ended = Ended {
            cause: Some(Cause::BadOutput),
            output_raw: Some(vec![0, 255]),
            output_encoding: Some("raw".to_owned()),
            ..Ended::new(
                (TaskId(7), 1),
                Token(77),
                Fate::End(Outcome::Failed),
                Utc::now(),
            )
        };
        let released = Ended::new((TaskId(8), 1), Token(77), Fate::Retry(5), Utc::now());
        let file = FileContent {
            name: "f".to_owned(),
            content: vec![1, 2, 3],
        };
        let line = LogLine(1, "stdout".into(), "info".into(), None, "é".into());
        let unsaid = Unsaid {
            installation: "here".to_owned(),
            monitor: MonitorId(3),
            ended: vec![ended, released],
            files: vec![(TaskId(7), Arc::new(vec![file]))],
            logs: vec![LogChunk {
                task: TaskId(7),
                attempt: 1,
                first: 1,
                lines: vec![line],
            }],
        };
        let path = unsaid.write(directory.path()).unwrap();
        assert!(Unsaid::is_in(directory.path()));
        let mode = fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let read = Unsaid::read(directory.path()).unwrap().unwrap();
        assert_eq!(format!("{read:?}"), format!("{unsaid:?}"));
    }
}
