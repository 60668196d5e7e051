//! What a monitor could not tell the database: it is kept in a file beside its pages, and the host's next
//! monitor reports it, under the claims that it was made under.

use super::{
    event::Event,
    pages::Abandoned,
    supervisor::Supervisor,
    tasks::{Files, Unreported, chain, storable},
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
/// So many ends are reported in one statement.
const BATCH: usize = 200;
/// While the database takes nothing, the file is written anew at most so often; a large one more seldom.
const KEEP_EVERY: Duration = Duration::from_secs(1);
const KEEP_SHARE: u32 = 20;
/// How long a monitor that ends waits for the disk. Service managers kill after 90 s.
const LAST_WRITE: Duration = Duration::from_secs(10);

/// What was not said.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Unsaid {
    /// The installation that it is for: a state directory may serve monitors of several.
    pub(super) installation: String,
    /// Who has not said it.
    pub(super) monitor: MonitorId,
    pub(super) ended: Vec<Ended>,
    /// Contents beside the outputs of some of them.
    pub(super) files: Vec<(TaskId, Files)>,
    pub(super) logs: Vec<LogChunk>,
}

impl Unsaid {
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
            // Nobody may wait for the answer any more.
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

    /// Whether a monitor has left something there.
    pub(super) fn is_in(directory: &Path) -> bool {
        directory.join(FILE).exists()
    }

    /// Reports it. What the database has is left out. An error: the database does not answer, or says that
    /// it will do it in a moment.
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
            reported.say(store, batch.to_vec(), Vec::new()).await?;
        }
        for batch in self.logs.chunks(BATCH) {
            reported.say(store, Vec::new(), batch.to_vec()).await?;
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
    /// Something has to wait for a lock that somebody holds.
    waits: bool,
    /// What the database has refused.
    refused: Unsaid,
    /// Why, of the last of it.
    reason: Option<String>,
}

impl Reported {
    /// Says some of it, in one statement; if that is refused, one by one, so that what is refused harms only
    /// itself.
    async fn say(&mut self, store: &Store, ended: Vec<Ended>, logs: Vec<LogChunk>) -> Result<()> {
        match store.cycle(&self.cycle(ended.clone(), logs.clone())).await {
            Ok(result) => {
                self.waits |= result.reported.len() + result.moved.len() < ended.len();
                Ok(())
            }
            Err(error) if is_for_later(&error) => Err(error),
            Err(_) => {
                for one in ended {
                    self.say_end(store, one).await?;
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

    /// Says how one task ended, if that cannot be stored in words that can.
    async fn say_end(&mut self, store: &Store, end: Ended) -> Result<()> {
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

/// What is left of what a dead monitor had not said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Left {
    /// Nothing: its directory can go.
    Nothing,
    /// Something that waits for a lock: the monitor must not be buried yet, or it would end as lost.
    Waits,
    /// Something that the database refuses, or that cannot be read: the directory stays, and the rest
    /// goes on.
    Stays,
}

/// Reports what a dead monitor of this host left unsaid.
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
            // The file is still there, with all of it, and what is said twice changes nothing.
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

/// When the file was last written, and what was in it.
#[derive(Debug, Default)]
pub(super) struct Keeping {
    next: Option<Instant>,
    /// The ends that are in the file; `None`: there is no file.
    kept: Option<Print>,
    /// The file is being written or removed by another thread. The monitor does not end meanwhile, unless
    /// the disk does not answer: its last words go into the same file.
    pub(super) is_busy: bool,
}

/// What became of the file.
#[derive(Debug)]
pub(super) struct Kept {
    /// The ends that are in it now, or why it could not be written.
    file: io::Result<Option<Print>>,
    took: Duration,
}

impl Supervisor {
    /// How many results wait to be reported.
    pub(super) fn unreported(&self) -> usize {
        self.tasks.unreported().count()
    }

    /// All that the database has not taken, to be left to the host's next monitor.
    pub(super) fn all_unsaid(&mut self) -> Unsaid {
        let Unreported { ended, files, logs } = self.tasks.all_unreported();
        Unsaid {
            installation: self.installation.clone(),
            monitor: self.monitor,
            ended,
            files,
            logs,
        }
    }

    /// While the database takes nothing, results are kept on the disk as well: this process may be killed
    /// before it can say them. The disk may be slow or stuck, so another thread writes; the loop goes on.
    pub(super) fn keep_unsaid(&mut self, now: Instant) {
        if self.keeping.is_busy || self.keeping.next.is_some_and(|next| now < next) {
            return;
        }
        let in_trouble = self.outage.is_away() || self.refusals.is_any();
        let print = self
            .tasks
            .unreported()
            .fold((0, 0), |(count, sum), task| (count + 1, sum + task.0));
        let is_empty = print.0 == 0;
        if self.keeping.kept == (!is_empty).then_some(print) || !is_empty && !in_trouble {
            return;
        }
        let directory = self.pages.directory().to_owned();
        let unsaid = (!is_empty).then(|| self.all_unsaid());
        self.keeping.is_busy = true;
        let keep = move || {
            let began = Instant::now();
            let file = match unsaid {
                Some(unsaid) => unsaid.write(&directory).map(|_| Some(print)),
                None => match fs::remove_file(directory.join(FILE)) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                    _ => Ok(None),
                },
            };
            let took = began.elapsed();
            Kept { file, took }
        };
        self.ask(
            async move {
                let kept = tokio::task::spawn_blocking(keep).await;
                kept.expect("writing does not panic")
            },
            Event::Kept,
        );
    }

    /// The file has been written or removed (or not).
    pub(super) fn kept(&mut self, kept: Kept, now: Instant) {
        self.keeping.is_busy = false;
        self.keeping.next = Some(now + KEEP_EVERY.max(kept.took * KEEP_SHARE));
        match kept.file {
            Ok(print) => self.keeping.kept = print,
            Err(error) => tracing::warn!(
                "results that wait could not be kept in {}: {error}",
                self.pages.directory().display()
            ),
        }
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
