//! Drop-in directories: this host offers the plugins that they hold. `DIR/x.so` is registered under the
//! domains that the plugin declares, `DIR/<domain>/x.so` under that one.
//!
//! A reconciler: a scan finds what is there, and each file is led to what it should be, one step at a
//! time. Inotify makes it fast, the periodic scan makes it right.
//!
//! ```text
//!   appears or changes        stable for a moment      verdict            written down
//!        ──▶ Fresh ───────────────────▶ Examining ──▶ Registering ──────▶ Settled
//!              ▲    still being written     │  refused: noted, said once ───▲
//!              └────────────────────────────┘
//! ```
//!
//! A file is registered when its content changes, not because it lies there: the table
//! `rework.drop_in` remembers the hash that each file had, also while no monitor runs. So after a
//! rollback the file, which still is the newer version, changes nothing until it is replaced.

use super::{
    News,
    scan::{Fingerprint, NOT_TEXT, Scan, is_scanned, is_text},
    step::Step,
};
use crate::{
    model::{name::printable_path, plugin::short_hash},
    plugin::{Examined, Verdict},
    store::{DropInOutcome, StoreError},
};
use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// The pause between two scans while nothing happens. Inotify does not tell of changes that another host
/// makes on a network file system; a person who waits for such a change notices a second, not less.
const SCAN_EVERY: Duration = Duration::from_secs(1);
/// The pause between two scans while a file is on its way to being registered or retired.
const SCAN_SOON: Duration = Duration::from_millis(100);
/// The pause before a scan after inotify has told of a change. Changes come in groups: a file is made,
/// written to and closed.
const SCAN_NOW: Duration = Duration::from_millis(10);
/// A file that has not changed for this time is taken to be complete, if nobody has it open for writing.
/// Programs that copy write more often than that.
const STABLE: Duration = Duration::from_millis(300);
/// A file that is cut short, empty or not signed is refused only when it has not changed for this time:
/// the rest of the file, or its signature, may be on its way.
const PATIENCE: Duration = Duration::from_secs(3);
/// A file is taken to be gone when it has been missing for this time. Tools that replace a file by
/// deleting it first make it anew sooner.
const GONE: Duration = Duration::from_millis(500);
/// A refused file is examined again after this time although it has not changed: a library that it needs
/// may have been installed since.
const TRY_AGAIN: Duration = Duration::from_secs(60);
/// After an examination that has taken a time `t`, a refused file rests for at least `t` times this, so that
/// a plugin that hangs while it loads occupies an examiner for at most 1/60 of the time.
const REST_FACTOR: u32 = 60;

/// How far a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// It has appeared or changed, and is to be examined once it is stable.
    Fresh,
    /// An examiner looks at it. With its fingerprint when that began.
    Examining(Fingerprint),
    /// The database registers what it offers. With its fingerprint when it was examined.
    Registering(Fingerprint),
    /// It is gone; the database retires what it offered.
    Retiring,
    /// It is registered, or refused, or its content is the one that it had before.
    Settled,
}

#[derive(Debug)]
struct File {
    /// The domain that its directory names.
    domain: Option<String>,
    /// `None`: the file is gone.
    fingerprint: Option<Fingerprint>,
    /// Since when the fingerprint is this one.
    since: Instant,
    state: State,
    /// The file is neither examined nor retired before this time.
    not_before: Instant,
    /// When the last examination began.
    examined_at: Instant,
    /// The hash that the file was registered with last, perhaps by an earlier monitor.
    hash: Option<String>,
    /// Why it is refused.
    refused: Option<String>,
}

impl File {
    /// A file of which no scan has told yet.
    fn new(domain: Option<String>, hash: Option<String>, now: Instant) -> Self {
        Self {
            domain,
            fingerprint: None,
            since: now,
            state: State::Fresh,
            not_before: now,
            examined_at: now,
            hash,
            refused: None,
        }
    }

    /// The fingerprint (`None`: the file is gone), if it has been this one for this time, and nothing is
    /// under way with the file.
    fn stable(&self, time: Duration, now: Instant) -> Option<Option<Fingerprint>> {
        let is_at_rest = matches!(self.state, State::Fresh | State::Settled);
        let is_due = now >= self.not_before && now.duration_since(self.since) >= time;
        (is_at_rest && is_due).then_some(self.fingerprint)
    }
}

/// What is under way for the directories as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    /// The database has not said which files earlier monitors knew.
    Unknown,
    /// It is being asked.
    AskingKnown,
    /// Waiting for the next scan.
    Waiting,
    /// The directories are being read.
    Scanning,
}

/// The drop-in directories of this monitor, and what is known of the files in them.
#[derive(Debug)]
pub(super) struct DropIn {
    directories: Vec<PathBuf>,
    files: HashMap<PathBuf, File>,
    /// Directories that the last scan could not read, each with the reason.
    unreadable: BTreeMap<PathBuf, String>,
    progress: Progress,
    /// Whether there has been a scan: before, no file is known to be gone.
    has_scanned: bool,
    /// `None`: there are no directories.
    next_scan: Option<Instant>,
}

impl DropIn {
    /// The drop-in directories of a monitor that begins.
    pub(super) fn new(directories: Vec<PathBuf>, now: Instant) -> Self {
        Self {
            next_scan: (!directories.is_empty()).then_some(now),
            directories,
            files: HashMap::new(),
            unreadable: BTreeMap::new(),
            progress: Progress::Unknown,
            has_scanned: false,
        }
    }

    /// Something in a directory has changed.
    pub(super) fn changed(&mut self, now: Instant) {
        let soon = now + SCAN_NOW;
        self.next_scan = self.next_scan.map(|planned| planned.min(soon));
    }

    /// When [`DropIn::tick`] has something to do next.
    pub(super) fn next_wake(&self) -> Option<Instant> {
        self.next_scan
            .filter(|_| matches!(self.progress, Progress::Unknown | Progress::Waiting))
    }

    /// Begins what is due, except for examinations.
    pub(super) fn tick(&mut self, now: Instant) -> Vec<Step> {
        let Some(next_scan) = self.next_scan else {
            return Vec::new();
        };
        let mut steps = Vec::new();
        match self.progress {
            Progress::Unknown if now >= next_scan => {
                self.progress = Progress::AskingKnown;
                return vec![Step::AskKnown];
            }
            Progress::Unknown | Progress::AskingKnown => return steps,
            Progress::Waiting if now >= next_scan => {
                self.progress = Progress::Scanning;
                steps.push(Step::Scan);
            }
            Progress::Waiting | Progress::Scanning => {}
        }
        for path in self.gone(now) {
            if let Some(file) = self.files.get_mut(&path) {
                file.state = State::Retiring;
            }
            steps.push(Step::Retire(path));
        }
        for path in self.complete(now) {
            if !is_text(&path) {
                if let Some(file) = self.files.get_mut(&path) {
                    file.examined_at = now;
                }
                let reason = format!("{}: {NOT_TEXT}", printable_path(&path));
                steps.extend(self.refuse(&path, reason, now));
            }
        }
        steps
    }

    /// The files that are to be examined, in this order.
    pub(super) fn to_examine(&self, now: Instant) -> Vec<PathBuf> {
        match self.progress {
            Progress::Unknown | Progress::AskingKnown => Vec::new(),
            Progress::Waiting | Progress::Scanning => self.complete(now),
        }
    }

    /// The examination of this file has begun.
    pub(super) fn examining(&mut self, path: &Path, now: Instant) {
        if let Some(file) = self.files.get_mut(path)
            && let Some(fingerprint) = file.fingerprint
        {
            file.state = State::Examining(fingerprint);
            file.examined_at = now;
        }
    }

    /// Files that are complete as far as can be seen. New files come before those that were refused. Of two
    /// versions of a plugin that have come at once, the younger one wins, so it comes last.
    fn complete(&self, now: Instant) -> Vec<PathBuf> {
        let mut complete: Vec<_> = self
            .files
            .iter()
            .filter(|(_, file)| file.state == State::Fresh || file.refused.is_some())
            .filter_map(|(path, file)| {
                let fingerprint = file.stable(STABLE, now)??;
                let order = (file.refused.is_some(), fingerprint.modified());
                Some((order, path.clone()))
            })
            .collect();
        complete.sort();
        complete.into_iter().map(|(_, path)| path).collect()
    }

    /// Files that have been missing for long enough.
    fn gone(&self, now: Instant) -> Vec<PathBuf> {
        self.files
            .iter()
            .filter(|(_, file)| self.has_scanned && file.stable(GONE, now) == Some(None))
            .map(|(path, _)| path.clone())
            .collect()
    }

    /// The database has said which files earlier monitors knew. Such a file that no scan finds has vanished
    /// in the meantime.
    pub(super) fn known(
        &mut self,
        known: Result<Vec<(String, Option<String>)>, StoreError>,
        now: Instant,
    ) -> Vec<Step> {
        let known = match known {
            Ok(known) => known,
            Err(error) => {
                self.progress = Progress::Unknown;
                self.next_scan = Some(now + SCAN_EVERY);
                return vec![Step::Tell(News::DatabaseFailed(error))];
            }
        };
        self.progress = Progress::Waiting;
        for (path, hash) in known {
            let path = PathBuf::from(path);
            if is_scanned(&self.directories, &path) {
                self.files.insert(path, File::new(None, hash, now));
            }
        }
        vec![Step::Watch]
    }

    /// The directories have been read.
    pub(super) fn scanned(&mut self, scan: Scan, now: Instant) -> Vec<Step> {
        self.progress = Progress::Waiting;
        self.has_scanned = true;
        self.find_missing(&scan, now);
        for (path, (domain, fingerprint)) in scan.files {
            let file = self
                .files
                .entry(path)
                .or_insert_with(|| File::new(None, None, now));
            file.domain = domain;
            if file.fingerprint != Some(fingerprint) {
                file.fingerprint = Some(fingerprint);
                file.since = now;
                if file.state == State::Settled {
                    (file.state, file.not_before) = (State::Fresh, now);
                }
            }
        }
        let is_on_its_way =
            |file: &File| file.state != State::Settled || file.fingerprint.is_none();
        let pause = if self.files.values().any(is_on_its_way) {
            SCAN_SOON
        } else {
            SCAN_EVERY
        };
        self.next_scan = Some(now + pause);
        self.directories_read(scan.unreadable)
    }

    /// Notes which files a scan has not found. Nothing is known of files in a directory that cannot be read.
    fn find_missing(&mut self, scan: &Scan, now: Instant) {
        for (path, file) in &mut self.files {
            let is_hidden = scan.unreadable.keys().any(|dir| path.starts_with(dir));
            if is_hidden && file.fingerprint.is_none() {
                file.since = now;
            } else if !is_hidden && !scan.files.contains_key(path) && file.fingerprint.is_some() {
                file.fingerprint = None;
                (file.since, file.not_before) = (now, now);
            }
        }
    }

    /// Says, once, which directories cannot be read, and writes it down, and that it is over.
    fn directories_read(&mut self, unreadable: BTreeMap<PathBuf, String>) -> Vec<Step> {
        let before = std::mem::replace(&mut self.unreadable, unreadable);
        let mut steps = Vec::new();
        for (directory, reason) in &self.unreadable {
            if before.get(directory) != Some(reason) {
                let reason = format!("drop-in directory {} {reason}", printable_path(directory));
                tracing::error!("{reason}");
                steps.push(save_refusal(directory, None, Some(reason)));
            }
        }
        for directory in before.keys() {
            if !self.unreadable.contains_key(directory) {
                steps.push(save_refusal(directory, None, None));
            }
        }
        steps
    }

    /// An examiner has looked at a file.
    pub(super) fn examined(&mut self, path: &Path, verdict: Verdict, now: Instant) -> Vec<Step> {
        let Some(file) = self.files.get_mut(path) else {
            return Vec::new();
        };
        let State::Examining(fingerprint) = file.state else {
            return Vec::new();
        };
        file.state = State::Fresh;
        file.not_before = now + SCAN_SOON;
        if file.fingerprint != Some(fingerprint) {
            return Vec::new();
        }
        match verdict {
            Verdict::Unfinished => file.since = now,
            Verdict::Refused {
                unfinished: true, ..
            } if now.duration_since(file.since) < PATIENCE => {
                file.not_before = now + STABLE;
            }
            Verdict::Refused { reason, .. } => return self.refuse(path, reason, now),
            Verdict::Good(examined) => return self.register(path, fingerprint, &examined, now),
        }
        Vec::new()
    }

    /// Refuses a file. That is said once: in the log, and in the table that `list-plugins` and `doctor`
    /// show.
    fn refuse(&mut self, path: &Path, reason: String, now: Instant) -> Vec<Step> {
        let Some(file) = self.files.get_mut(path) else {
            return Vec::new();
        };
        file.state = State::Settled;
        let took = now.duration_since(file.examined_at);
        file.not_before = now + TRY_AGAIN.max(took * REST_FACTOR);
        if file.refused.as_ref() == Some(&reason) {
            return Vec::new();
        }
        tracing::error!("not registered: {reason}");
        file.refused = Some(reason.clone());
        vec![save_refusal(path, file.hash.clone(), Some(reason))]
    }

    fn register(
        &mut self,
        path: &Path,
        fingerprint: Fingerprint,
        examined: &Examined,
        now: Instant,
    ) -> Vec<Step> {
        let Some(file) = self.files.get_mut(path) else {
            return Vec::new();
        };
        let hash = &examined.inspection.hash;
        if file.hash.as_ref() == Some(hash) {
            // The file has the content that it had before, whatever has become of that since.
            file.state = State::Settled;
            return match file.refused.take() {
                Some(_) => vec![save_refusal(path, Some(hash.clone()), None)],
                None => Vec::new(),
            };
        }
        let offered = examined
            .inspection
            .offer(path, None, file.domain.as_deref());
        match offered {
            Ok(plugin) => {
                file.state = State::Registering(fingerprint);
                vec![Step::Register {
                    path: path.to_owned(),
                    plugin: Box::new(plugin),
                    is_new: file.hash.is_none(),
                }]
            }
            Err(error) => self.refuse(path, error.to_string(), now),
        }
    }

    /// The database has registered what a file offers, or has not.
    pub(super) fn registered(
        &mut self,
        path: &Path,
        outcome: Result<DropInOutcome, StoreError>,
        now: Instant,
    ) -> Vec<Step> {
        let Some(file) = self.files.get_mut(path) else {
            return Vec::new();
        };
        let State::Registering(fingerprint) = file.state else {
            return Vec::new();
        };
        file.state = State::Fresh;
        let outcome = match outcome {
            Ok(outcome) => outcome,
            Err(error) if error.is_bad_data() => {
                return self.refuse(path, format!("{}: {error}", path.display()), now);
            }
            Err(error) => {
                file.not_before = now + SCAN_EVERY;
                return vec![Step::Tell(News::DatabaseFailed(error))];
            }
        };
        if file.fingerprint == Some(fingerprint) {
            file.state = State::Settled;
        }
        file.hash = Some(outcome.hash.clone());
        file.refused = None;
        log_registration(path, &outcome);
        match outcome.registered {
            Some(_) => vec![Step::Tell(News::CatalogChanged)],
            None => Vec::new(),
        }
    }

    /// The database has retired what a vanished file offered, or has not.
    pub(super) fn retired(
        &mut self,
        path: &Path,
        retired: Result<(i64, Vec<String>), StoreError>,
        now: Instant,
    ) -> Vec<Step> {
        let Some(file) = self.files.get_mut(path) else {
            return Vec::new();
        };
        file.state = State::Fresh;
        let (retired, before) = match retired {
            Ok(retired) => retired,
            Err(error) => {
                file.not_before = now + SCAN_EVERY;
                return vec![Step::Tell(News::DatabaseFailed(error))];
            }
        };
        let had_content = file.hash.is_some();
        if file.fingerprint.is_none() {
            self.files.remove(path);
        } else {
            // The file is back: as if it had never been there.
            (file.hash, file.refused) = (None, None);
        }
        // Nobody needs to hear of a file that was only ever refused.
        if had_content || retired > 0 {
            tracing::info!(
                "{} is gone: retired {} operations, their tasks and schedules stay",
                printable_path(path),
                retired
            );
        }
        // Another file offered these operations before this one took over, and may do so again.
        for path in before {
            if let Some(file) = self.files.get_mut(Path::new(&path))
                && file.state == State::Settled
            {
                (file.state, file.hash) = (State::Fresh, None);
            }
        }
        if retired == 0 {
            return Vec::new();
        }
        vec![Step::Tell(News::CatalogChanged)]
    }
}

fn save_refusal(path: &Path, hash: Option<String>, reason: Option<String>) -> Step {
    Step::SaveRefusal {
        path: path.to_string_lossy().into_owned(),
        hash,
        reason,
    }
}

fn log_registration(path: &Path, outcome: &DropInOutcome) {
    let path = printable_path(path);
    let hash = short_hash(&outcome.hash);
    let Some(registered) = &outcome.registered else {
        tracing::info!("{path} ({hash}) was rolled back: it stays so until the file changes");
        return;
    };
    tracing::info!(
        "registered {path} ({hash}): {} new operation ({} already known)",
        registered.new,
        registered.known
    );
    for change in &outcome.changes {
        tracing::info!("{path}: {change}");
    }
    for taken in &registered.taken_over {
        tracing::warn!("{path}: {taken}");
    }
    for warning in &outcome.warnings {
        tracing::warn!("{warning}");
    }
}

#[cfg(test)]
mod tests {
    use super::{super::scan::scan, *};
    use crate::store::Registered;
    use std::fs;
    use tempfile::TempDir;

    const MOMENT: Duration = Duration::from_millis(1);

    /// A drop-in directory, what a monitor knows of it, and the time.
    struct World {
        directory: TempDir,
        drop_in: DropIn,
        now: Instant,
    }

    impl World {
        /// A monitor that has been told of no earlier one.
        fn new() -> Self {
            Self::after(&[])
        }

        /// A monitor, and the files that earlier monitors knew, each with its hash.
        fn after(known: &[(&str, &str)]) -> Self {
            let directory = tempfile::tempdir().unwrap();
            let now = Instant::now();
            let mut drop_in = DropIn::new(vec![directory.path().to_owned()], now);
            assert!(matches!(drop_in.tick(now)[..], [Step::AskKnown]));
            assert!(drop_in.tick(now).is_empty(), "it is asked once");
            let path = |name: &str| directory.path().join(name).display().to_string();
            let known = known
                .iter()
                .map(|(name, hash)| (path(name), Some((*hash).to_owned())))
                .collect();
            assert!(matches!(drop_in.known(Ok(known), now)[..], [Step::Watch]));
            Self {
                directory,
                drop_in,
                now,
            }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.directory.path().join(name)
        }

        fn write(&self, name: &str, content: &str) {
            fs::write(self.path(name), content).unwrap();
        }

        /// Lets time pass, and reads the directories.
        fn scan_after(&mut self, pause: Duration) -> Vec<Step> {
            self.now += pause;
            let scan = scan(&self.drop_in.directories);
            self.drop_in.scanned(scan, self.now)
        }

        /// The names of the files that are to be examined now.
        fn to_examine(&self) -> Vec<String> {
            let paths = self.drop_in.to_examine(self.now);
            let name = |path: &PathBuf| path.file_name().unwrap().display().to_string();
            paths.iter().map(name).collect()
        }

        /// Lets a file be examined, which takes a time and has this result.
        fn examine(&mut self, name: &str, takes: Duration, verdict: Verdict) -> Vec<Step> {
            let path = self.path(name);
            self.drop_in.examining(&path, self.now);
            assert_eq!(self.to_examine(), [""; 0], "it is under way");
            self.now += takes;
            self.drop_in.examined(&path, verdict, self.now)
        }

        fn ticks(&mut self) -> Vec<Step> {
            self.drop_in.tick(self.now)
        }
    }

    fn refused(unfinished: bool) -> Verdict {
        Verdict::Refused {
            reason: "it is not a plugin".to_owned(),
            unfinished,
        }
    }

    fn is_refusal(steps: &[Step]) -> bool {
        matches!(
            steps,
            [Step::SaveRefusal { reason: Some(reason), .. }] if reason == "it is not a plugin"
        )
    }

    fn outcome(hash: &str) -> DropInOutcome {
        DropInOutcome {
            hash: hash.to_owned(),
            registered: Some(Registered::default()),
            changes: Vec::new(),
            warnings: Vec::new(),
        }
    }

    #[test]
    fn without_directories_there_is_nothing_to_do() {
        let now = Instant::now();
        let mut drop_in = DropIn::new(Vec::new(), now);
        drop_in.changed(now);
        assert_eq!(drop_in.next_wake(), None);
        assert!(drop_in.tick(now).is_empty());
    }

    #[test]
    fn a_failed_question_is_asked_again() {
        let now = Instant::now();
        let mut drop_in = DropIn::new(vec!["/plugins".into()], now);
        assert!(matches!(drop_in.tick(now)[..], [Step::AskKnown]));
        assert_eq!(drop_in.next_wake(), None, "the answer wakes the loop");
        let steps = drop_in.known(Err(StoreError::SchemaMissing), now);
        assert!(matches!(steps[..], [Step::Tell(News::DatabaseFailed(_))]));
        assert_eq!(drop_in.next_wake(), Some(now + SCAN_EVERY));
        assert!(drop_in.tick(now).is_empty());
        assert!(matches!(
            drop_in.tick(now + SCAN_EVERY)[..],
            [Step::AskKnown]
        ));
    }

    #[test]
    fn directories_are_read_every_second_and_sooner_when_something_happens() {
        let mut world = World::new();
        assert!(matches!(world.ticks()[..], [Step::Scan]));
        assert!(world.ticks().is_empty(), "one scan is under way");
        assert_eq!(world.drop_in.next_wake(), None);
        world.scan_after(MOMENT);
        assert_eq!(world.drop_in.next_wake(), Some(world.now + SCAN_EVERY));
        world.drop_in.changed(world.now);
        assert_eq!(world.drop_in.next_wake(), Some(world.now + SCAN_NOW));
        world.write("one.so", "content");
        world.scan_after(SCAN_NOW);
        assert_eq!(world.drop_in.next_wake(), Some(world.now + SCAN_SOON));
    }

    #[test]
    fn a_file_is_examined_once_it_has_not_changed_for_a_while() {
        let mut world = World::new();
        world.write("one.so", "con");
        world.scan_after(MOMENT);
        assert_eq!(world.to_examine(), [""; 0]);
        world.write("one.so", "content");
        world.scan_after(STABLE - MOMENT);
        world.now += STABLE - MOMENT;
        assert_eq!(world.to_examine(), [""; 0], "it has changed");
        world.now += MOMENT;
        assert_eq!(world.to_examine(), ["one.so"]);
        // Somebody still has it open for writing.
        world.examine("one.so", MOMENT, Verdict::Unfinished);
        world.now += STABLE - MOMENT;
        assert_eq!(world.to_examine(), [""; 0]);
        world.now += MOMENT;
        assert_eq!(world.to_examine(), ["one.so"]);
    }

    #[test]
    fn a_verdict_on_a_content_that_has_changed_meanwhile_counts_for_nothing() {
        let mut world = World::new();
        world.write("one.so", "content");
        world.scan_after(MOMENT);
        world.now += STABLE;
        let path = world.path("one.so");
        world.drop_in.examining(&path, world.now);
        world.write("one.so", "other content");
        world.scan_after(MOMENT);
        assert!(
            world
                .drop_in
                .examined(&path, refused(false), world.now)
                .is_empty()
        );
        world.now += STABLE;
        assert_eq!(world.to_examine(), ["one.so"]);
    }

    #[test]
    fn a_refusal_is_said_once_and_the_file_examined_again_after_a_rest() {
        let mut world = World::new();
        world.write("one.so", "content");
        world.scan_after(MOMENT);
        world.now += STABLE;
        assert!(is_refusal(&world.examine("one.so", MOMENT, refused(false))));
        world.now += TRY_AGAIN - MOMENT;
        assert_eq!(world.to_examine(), [""; 0]);
        world.now += MOMENT;
        assert_eq!(world.to_examine(), ["one.so"]);
        // This time it hangs: it rests for longer.
        let hangs = Duration::from_secs(10);
        assert!(world.examine("one.so", hangs, refused(false)).is_empty());
        world.now += hangs * REST_FACTOR - MOMENT;
        assert_eq!(world.to_examine(), [""; 0]);
        world.now += MOMENT;
        assert_eq!(world.to_examine(), ["one.so"]);
        // A change ends the rest.
        world.examine("one.so", MOMENT, refused(false));
        world.write("one.so", "other content");
        world.scan_after(MOMENT);
        world.now += STABLE;
        assert_eq!(world.to_examine(), ["one.so"]);
    }

    #[test]
    fn a_file_that_may_still_be_arriving_is_given_time() {
        let mut world = World::new();
        world.write("one.so", "con");
        world.scan_after(MOMENT);
        let since = world.now;
        world.now += STABLE;
        assert!(world.examine("one.so", MOMENT, refused(true)).is_empty());
        world.now += STABLE;
        assert_eq!(world.to_examine(), ["one.so"]);
        world.now = since + PATIENCE;
        assert!(is_refusal(&world.examine("one.so", MOMENT, refused(true))));
    }

    #[test]
    fn new_files_come_before_refused_ones_and_the_youngest_version_last() {
        let mut world = World::new();
        world.write("a-refused.so", "content");
        world.scan_after(MOMENT);
        world.now += STABLE;
        world.examine("a-refused.so", MOMENT, refused(false));
        let modified = |name: &str, seconds: u64| {
            world.write(name, "content");
            let file = fs::File::options().write(true).open(world.path(name));
            let time = std::time::UNIX_EPOCH + Duration::from_secs(seconds);
            file.unwrap().set_modified(time).unwrap();
        };
        modified("b-younger.so", 2000);
        modified("c-older.so", 1000);
        world.scan_after(MOMENT);
        world.now += TRY_AGAIN;
        assert_eq!(
            world.to_examine(),
            ["c-older.so", "b-younger.so", "a-refused.so"]
        );
    }

    #[test]
    fn a_name_that_is_not_text_is_refused_unexamined() {
        let mut world = World::new();
        world.write("new\nline.so", "content");
        world.scan_after(MOMENT);
        world.now += STABLE;
        let steps = world.ticks();
        let refusal = |step: &Step| matches!(step, Step::SaveRefusal { reason: Some(reason), .. } if reason.ends_with(NOT_TEXT));
        assert!(steps.iter().any(refusal), "{steps:?}");
        assert_eq!(world.to_examine(), [""; 0]);
    }

    #[test]
    fn a_registration_settles_a_file_and_changes_the_catalog() {
        let mut world = World::new();
        world.write("one.so", "content");
        world.scan_after(MOMENT);
        let path = world.path("one.so");
        let fingerprint = world.drop_in.files[&path].fingerprint.unwrap();
        let register = |world: &mut World, outcome| {
            let file = world.drop_in.files.get_mut(&path).unwrap();
            file.state = State::Registering(fingerprint);
            world.drop_in.registered(&path, outcome, world.now)
        };
        let steps = register(&mut world, Err(StoreError::SchemaMissing));
        assert!(matches!(steps[..], [Step::Tell(News::DatabaseFailed(_))]));
        assert_eq!(world.to_examine(), [""; 0]);
        world.now += SCAN_EVERY;
        assert_eq!(world.to_examine(), ["one.so"], "from the beginning");
        let steps = register(&mut world, Ok(outcome("hash")));
        assert!(matches!(steps[..], [Step::Tell(News::CatalogChanged)]));
        world.now += TRY_AGAIN;
        assert_eq!(world.to_examine(), [""; 0]);
        world.scan_after(MOMENT);
        assert_eq!(world.drop_in.next_wake(), Some(world.now + SCAN_EVERY));
        // A file that has changed while it was registered is examined again.
        world.write("one.so", "other content");
        world.scan_after(MOMENT);
        register(&mut world, Ok(outcome("hash")));
        world.now += STABLE;
        assert_eq!(world.to_examine(), ["one.so"]);
    }

    #[test]
    fn a_file_that_is_missing_for_a_while_is_retired() {
        let mut world = World::new();
        world.write("one.so", "content");
        world.scan_after(MOMENT);
        let path = world.path("one.so");
        world.drop_in.files.get_mut(&path).unwrap().state = State::Settled;
        fs::remove_file(&path).unwrap();
        world.scan_after(MOMENT);
        world.now += GONE - MOMENT;
        let is_retired =
            |steps: &[Step]| matches!(steps, [.., Step::Retire(gone)] if *gone == path);
        assert!(!is_retired(&world.ticks()));
        world.now += MOMENT;
        assert!(is_retired(&world.ticks()));
        assert!(!is_retired(&world.ticks()), "it is under way");
        // The database is away; later it answers.
        let failed = Err(StoreError::SchemaMissing);
        let steps = world.drop_in.retired(&path, failed, world.now);
        assert!(matches!(steps[..], [Step::Tell(News::DatabaseFailed(_))]));
        world.now += SCAN_EVERY;
        assert!(is_retired(&world.ticks()));
        let retired = Ok((1, Vec::new()));
        let steps = world.drop_in.retired(&path, retired, world.now);
        assert!(matches!(steps[..], [Step::Tell(News::CatalogChanged)]));
        assert!(world.drop_in.files.is_empty());
    }

    #[test]
    fn when_a_file_is_gone_the_file_that_it_had_replaced_is_registered_again() {
        let mut world = World::after(&[("old.so", "old hash"), ("new.so", "new hash")]);
        world.write("old.so", "content");
        world.scan_after(MOMENT);
        let (old, new) = (world.path("old.so"), world.path("new.so"));
        world.drop_in.files.get_mut(&old).unwrap().state = State::Settled;
        world.now += GONE;
        assert_eq!(world.to_examine(), [""; 0]);
        assert!(matches!(&world.ticks()[..], [.., Step::Retire(path)] if *path == new));
        let before = vec![old.display().to_string()];
        world.drop_in.retired(&new, Ok((1, before)), world.now);
        assert_eq!(world.to_examine(), ["old.so"]);
        assert_eq!(world.drop_in.files[&old].hash, None);
    }

    #[test]
    fn files_of_earlier_monitors_are_gone_only_when_a_scan_has_not_found_them() {
        let mut world = World::after(&[("one.so", "hash"), ("deep/er/two.so", "hash")]);
        world.now += 9 * GONE;
        assert!(matches!(world.ticks()[..], [Step::Scan]));
        world.scan_after(MOMENT);
        let path = world.path("one.so");
        assert!(
            matches!(&world.ticks()[..], [Step::Retire(gone)] if *gone == path),
            "and the other one lies where nothing is looked for"
        );
    }

    #[test]
    fn nothing_is_taken_to_be_gone_from_a_directory_that_cannot_be_read() {
        let mut world = World::after(&[("one.so", "hash")]);
        let elsewhere = tempfile::tempdir().unwrap();
        let away = elsewhere.path().join("away");
        fs::rename(world.directory.path(), &away).unwrap();
        let steps = world.scan_after(MOMENT);
        assert!(
            matches!(
                steps[..],
                [Step::SaveRefusal {
                    reason: Some(_),
                    ..
                }]
            ),
            "{steps:?}"
        );
        assert!(world.scan_after(GONE).is_empty(), "it is said once");
        assert!(matches!(world.ticks()[..], []));
        fs::rename(&away, world.directory.path()).unwrap();
        let steps = world.scan_after(MOMENT);
        assert!(
            matches!(steps[..], [Step::SaveRefusal { reason: None, .. }]),
            "{steps:?}"
        );
        world.now += GONE;
        assert!(matches!(world.ticks()[..], [.., Step::Retire(_)]));
    }
}
