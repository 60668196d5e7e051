//! Drop-in directories: what lies in them is what this host offers. `DIR/x.so` under the domains that
//! it declares, `DIR/<domain>/x.so` under that one.
//!
//! A reconciler: a scan says what is there, and each file is led to what it should be, one step at a
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
    event::Event,
    examiner::{PluginEvent, Purpose},
    scan::{NOT_TEXT, Scan, Stamp, is_looked_at, is_text, scan},
    supervisor::Supervisor,
};
use crate::{
    model::{name::printable_path, plugin::short_hash},
    plugin::{Examined, Verdict},
    store::{DropInOutcome, StoreError},
    wire,
};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use std::{
    collections::{BTreeMap, HashMap},
    io,
    os::fd::AsFd,
    path::{Path, PathBuf},
    rc::Rc,
    time::{Duration, Instant},
};
use tokio::{io::Interest, sync::Semaphore};

/// The periodic look.
const SCAN_EVERY: Duration = Duration::from_secs(1);
/// While something is under way.
const SCAN_SOON: Duration = Duration::from_millis(100);
/// After inotify has spoken: more is likely to follow at once.
const SCAN_NOW: Duration = Duration::from_millis(10);
/// A file that has not changed for so long is taken to be whole, if nobody has it open for writing.
const STABLE: Duration = Duration::from_millis(300);
/// One that is evidently not whole, or not yet signed, may take longer before it is refused.
const PATIENCE: Duration = Duration::from_secs(3);
/// A file that is replaced by deleting it first is gone for less than this.
const GONE: Duration = Duration::from_millis(500);
/// What was refused may be usable without having changed: a library that it needs is there now.
const TRY_AGAIN: Duration = Duration::from_secs(60);
/// But looking at one that hangs may take no more than this part of the time.
const PART: u32 = 60;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Fresh,
    Examining(Stamp),
    Registering(Stamp),
    Retiring,
    Settled,
}

#[derive(Debug)]
struct File {
    domain: Option<String>,
    /// `None`: it is gone.
    stamp: Option<Stamp>,
    /// Since when the stamp is this.
    since: Instant,
    state: State,
    /// Nothing is tried before then.
    not_before: Instant,
    /// When it was examined last.
    tried: Instant,
    /// The content that was dealt with last, perhaps by an earlier monitor.
    hash: Option<String>,
    refused: Option<String>,
}

/// What is known of the drop-in directories.
#[derive(Debug)]
pub(super) struct DropIn {
    files: HashMap<PathBuf, File>,
    unreadable: BTreeMap<PathBuf, String>,
    watch: Option<Rc<Inotify>>,
    /// Whose registration is under way.
    turn: Rc<Semaphore>,
    /// Whether the database has said what earlier monitors knew.
    is_known: bool,
    asking_known: bool,
    scanning: bool,
    /// Without a scan nothing is known to be gone.
    has_scanned: bool,
    next_scan: Option<Instant>,
}

impl DropIn {
    /// Of a monitor that has these directories, perhaps none.
    pub(super) fn new(directories: &[PathBuf], now: Instant) -> Self {
        Self {
            files: HashMap::new(),
            unreadable: BTreeMap::new(),
            watch: None,
            turn: Rc::new(Semaphore::new(1)),
            is_known: false,
            asking_known: false,
            scanning: false,
            has_scanned: false,
            next_scan: (!directories.is_empty()).then_some(now),
        }
    }

    /// Something changed.
    pub(super) fn touched(&mut self, now: Instant) {
        let soon = now + SCAN_NOW;
        self.next_scan = self.next_scan.map(|planned| planned.min(soon));
    }

    /// When it has to be looked at again.
    pub(super) fn next_wake(&self) -> Option<Instant> {
        self.next_scan
            .filter(|_| !self.scanning && !self.asking_known)
    }

    /// Takes over what a scan found. Answers directories that are newly unreadable, with the reason,
    /// or no longer, without.
    fn take(&mut self, scan: Scan, now: Instant) -> Vec<(PathBuf, Option<String>)> {
        self.has_scanned = true;
        let mut under_way = false;
        for (path, file) in &mut self.files {
            let hidden = scan.unreadable.keys().any(|dir| path.starts_with(dir));
            if hidden && file.stamp.is_none() {
                // Who knows.
                file.since = now;
            } else if !scan.files.contains_key(path) && !hidden && file.stamp.is_some() {
                file.stamp = None;
                (file.since, file.not_before) = (now, now);
            }
        }
        for (path, (domain, stamp)) in scan.files {
            let file = self.files.entry(path).or_insert_with(|| File {
                domain: domain.clone(),
                stamp: None,
                since: now,
                state: State::Fresh,
                not_before: now,
                tried: now,
                hash: None,
                refused: None,
            });
            file.domain = domain;
            if file.stamp != Some(stamp) {
                file.stamp = Some(stamp);
                file.since = now;
                if file.state == State::Settled {
                    (file.state, file.not_before) = (State::Fresh, now);
                }
            }
        }
        for file in self.files.values() {
            under_way |= file.state != State::Settled || file.stamp.is_none();
        }
        self.next_scan = Some(now + if under_way { SCAN_SOON } else { SCAN_EVERY });
        let news = scan
            .unreadable
            .iter()
            .filter(|(path, reason)| self.unreadable.get(*path) != Some(reason))
            .map(|(path, reason)| (path.clone(), Some(reason.clone())));
        let readable = self
            .unreadable
            .keys()
            .filter(|path| !scan.unreadable.contains_key(*path))
            .map(|path| (path.clone(), None));
        let news = news.chain(readable).collect();
        self.unreadable = scan.unreadable;
        news
    }

    /// Files that are whole as far as can be seen, and files that are gone.
    fn due(&self, now: Instant) -> (Vec<(PathBuf, Stamp)>, Vec<PathBuf>) {
        let (mut whole, mut gone) = (Vec::new(), Vec::new());
        for (path, file) in &self.files {
            let age = now.duration_since(file.since);
            let may_move = matches!(file.state, State::Fresh | State::Settled);
            if !may_move || now < file.not_before {
                continue;
            }
            match file.stamp {
                Some(stamp)
                    if (file.state == State::Fresh || file.refused.is_some()) && age >= STABLE =>
                {
                    whole.push((path.clone(), stamp));
                }
                None if age >= GONE && self.has_scanned => gone.push(path.clone()),
                _ => {}
            }
        }
        // What was refused before waits for the others. Of two versions of a plugin that have come at
        // once, the younger one wins.
        whole.sort_by_key(|(path, stamp)| {
            let was_refused = self.files[path].refused.is_some();
            (was_refused, stamp.file.modified, path.clone())
        });
        (whole, gone)
    }
}

impl Supervisor {
    /// Looks, and leads each file one step further.
    pub(super) fn tend_drop_in(&mut self, now: Instant) {
        let Some(next_scan) = self.drop_in.next_scan else {
            return;
        };
        if !self.drop_in.is_known {
            if now >= next_scan {
                self.ask_known();
            }
            return;
        }
        if now >= next_scan && !self.drop_in.scanning {
            self.drop_in.scanning = true;
            let directories = self.options.plugin_dirs.clone();
            self.ask_plugins(
                async move {
                    let scanned = tokio::task::spawn_blocking(move || scan(&directories)).await;
                    scanned.expect("a scan does not panic")
                },
                PluginEvent::Scanned,
            );
        }
        let (whole, gone) = self.drop_in.due(now);
        for (path, stamp) in whole {
            if let Some(file) = self.drop_in.files.get_mut(&path) {
                file.tried = now;
            }
            if !is_text(&path) {
                self.refuse_file(&path, format!("{}: {NOT_TEXT}", printable_path(&path)));
                continue;
            }
            if !self.examine(&path, &path, Purpose::DropIn(path.clone())) {
                break;
            }
            if let Some(file) = self.drop_in.files.get_mut(&path) {
                file.state = State::Examining(stamp);
            }
        }
        for path in gone {
            self.retire_file(path);
        }
    }

    fn ask_known(&mut self) {
        if self.drop_in.asking_known {
            return;
        }
        self.drop_in.asking_known = true;
        let (store, host) = (self.store.clone(), self.options.host.clone());
        let directories: Vec<String> = self
            .options
            .plugin_dirs
            .iter()
            .map(|directory| directory.to_string_lossy().into_owned())
            .collect();
        self.ask_plugins(
            async move { store.drop_in_known(&host, &directories).await },
            PluginEvent::Known,
        );
    }

    /// What earlier monitors knew. A file among it that is not there has vanished in the meantime.
    pub(super) fn drop_in_known(
        &mut self,
        known: Result<Vec<(String, Option<String>)>, StoreError>,
        now: Instant,
    ) {
        self.drop_in.asking_known = false;
        let known = match known {
            Ok(known) => known,
            Err(error) => {
                self.drop_in.next_scan = Some(now + SCAN_EVERY);
                return self.upkeep.lost(&error);
            }
        };
        self.drop_in.is_known = true;
        let directories = &self.options.plugin_dirs;
        let known = known.into_iter();
        for (path, hash) in known.filter(|(path, _)| is_looked_at(directories, Path::new(path))) {
            let file = File {
                domain: None,
                stamp: None,
                since: now,
                state: State::Fresh,
                not_before: now,
                tried: now,
                hash,
                refused: None,
            };
            self.drop_in.files.insert(path.into(), file);
        }
        self.watch_directories();
    }

    /// Lets inotify speak. Without it the periodic look is all there is, and all that is needed.
    fn watch_directories(&mut self) {
        let watch = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)
            .map_err(io::Error::from)
            .and_then(|inotify| Ok((inotify.as_fd().try_clone_to_owned()?, Rc::new(inotify))));
        let (descriptor, watch) = match watch {
            Ok(watch) => watch,
            Err(error) => {
                tracing::warn!("drop-in directories are only looked at every second: {error}");
                return;
            }
        };
        self.drop_in.watch = Some(Rc::clone(&watch));
        let events = self.events.clone();
        tokio::task::spawn_local(async move {
            let Ok(descriptor) = wire::watched(descriptor, Interest::READABLE) else {
                return;
            };
            while let Ok(mut ready) = descriptor.readable().await {
                while watch.read_events().is_ok() {}
                ready.clear_ready();
                if events.send(Event::Plugin(PluginEvent::Touched)).is_err() {
                    return;
                }
            }
        });
    }

    pub(super) fn drop_in_scanned(&mut self, scan: Scan, now: Instant) {
        self.drop_in.scanning = false;
        if let Some(watch) = &self.drop_in.watch {
            let flags = AddWatchFlags::IN_CREATE
                | AddWatchFlags::IN_CLOSE_WRITE
                | AddWatchFlags::IN_MOVED_TO
                | AddWatchFlags::IN_MOVED_FROM
                | AddWatchFlags::IN_DELETE
                | AddWatchFlags::IN_ATTRIB
                | AddWatchFlags::IN_ONLYDIR;
            for directory in &scan.directories {
                // Again and again: it is the same watch, unless the directory was made anew.
                let _ = watch.add_watch(directory.as_path(), flags);
            }
        }
        for (directory, reason) in self.drop_in.take(scan, now) {
            let words = reason.map(|reason| {
                let directory = printable_path(&directory);
                format!("drop-in directory {directory} {reason}")
            });
            if let Some(words) = &words {
                tracing::error!("{words}");
            }
            self.note_refusal(&directory, None, words);
        }
    }

    pub(super) fn drop_in_examined(&mut self, path: &Path, verdict: Verdict) {
        let now = Instant::now();
        let Some(file) = self.drop_in.files.get_mut(path) else {
            return;
        };
        let State::Examining(stamp) = file.state else {
            return;
        };
        file.state = State::Fresh;
        file.not_before = now + SCAN_SOON;
        if file.stamp != Some(stamp) {
            return;
        }
        match verdict {
            Verdict::Unfinished => file.since = now,
            Verdict::Refused {
                unfinished: true, ..
            } if now.duration_since(file.since) < PATIENCE => {
                file.not_before = now + STABLE;
            }
            Verdict::Refused { reason, .. } => self.refuse_file(path, reason),
            Verdict::Good(examined) => self.register_file(path, stamp, *examined),
        }
    }

    /// Said once: in the log, and in the table that `list-plugins` and `doctor` show.
    fn refuse_file(&mut self, path: &Path, reason: String) {
        let Some(file) = self.drop_in.files.get_mut(path) else {
            return;
        };
        file.state = State::Settled;
        let now = Instant::now();
        file.not_before = now + TRY_AGAIN.max(now.duration_since(file.tried) * PART);
        if file.refused.as_ref() == Some(&reason) {
            return;
        }
        tracing::error!("not registered: {reason}");
        file.refused = Some(reason.clone());
        let hash = file.hash.clone();
        self.note_refusal(path, hash, Some(reason));
    }

    /// Writes down that a file is refused, or (`None`) that it no longer is.
    fn note_refusal(&self, path: &Path, hash: Option<String>, reason: Option<String>) {
        let (store, monitor, host) = (self.store.clone(), self.monitor, self.options.host.clone());
        let path = path.to_string_lossy().into_owned();
        self.ask_plugins(
            async move {
                let (hash, reason) = (hash.as_deref(), reason.as_deref());
                store
                    .drop_in_save(monitor, &host, &path, hash, reason)
                    .await
            },
            PluginEvent::Noted,
        );
    }

    fn register_file(&mut self, path: &Path, stamp: Stamp, examined: Examined) {
        let Some(file) = self.drop_in.files.get_mut(path) else {
            return;
        };
        let hash = examined.inspection.hash.clone();
        if file.hash.as_ref() == Some(&hash) {
            // The content that it had before, whatever has become of that since.
            file.state = State::Settled;
            if file.refused.take().is_some() {
                self.note_refusal(path, Some(hash), None);
            }
            return;
        }
        let plugin = match examined
            .inspection
            .offer(path, None, file.domain.as_deref())
        {
            Ok(plugin) => plugin,
            Err(error) => return self.refuse_file(path, error.to_string()),
        };
        file.state = State::Registering(stamp);
        let is_new = file.hash.is_none();
        let (store, monitor, host) = (self.store.clone(), self.monitor, self.options.host.clone());
        let (path, name) = (path.to_owned(), path.to_string_lossy().into_owned());
        let turn = Rc::clone(&self.drop_in.turn);
        self.ask_plugins(
            async move {
                // One connection may wait for the registrations of others, the rest has other work.
                let _turn = turn.acquire().await;
                store
                    .drop_in_register(monitor, &plugin, &host, &name, is_new)
                    .await
            },
            move |outcome| PluginEvent::Registered(path, outcome),
        );
    }

    pub(super) fn drop_in_registered(
        &mut self,
        path: &Path,
        outcome: Result<DropInOutcome, StoreError>,
    ) {
        let Some(file) = self.drop_in.files.get_mut(path) else {
            return;
        };
        let State::Registering(stamp) = file.state else {
            return;
        };
        file.state = State::Fresh;
        let outcome = match outcome {
            Ok(outcome) => outcome,
            Err(error) if error.is_bad_data() => {
                return self.refuse_file(path, format!("{}: {error}", path.display()));
            }
            Err(error) => {
                file.not_before = Instant::now() + SCAN_EVERY;
                return self.upkeep.lost(&error);
            }
        };
        if file.stamp == Some(stamp) {
            file.state = State::Settled;
        }
        file.hash = Some(outcome.hash.clone());
        file.refused = None;
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
        self.refresh_catalog();
    }

    fn retire_file(&mut self, path: PathBuf) {
        if let Some(file) = self.drop_in.files.get_mut(&path) {
            file.state = State::Retiring;
        }
        let (store, host) = (self.store.clone(), self.options.host.clone());
        let name = path.to_string_lossy().into_owned();
        let turn = Rc::clone(&self.drop_in.turn);
        self.ask_plugins(
            async move {
                let _turn = turn.acquire().await;
                store.drop_in_gone(&host, &name).await
            },
            move |retired| PluginEvent::Gone(path, retired),
        );
    }

    pub(super) fn drop_in_gone(
        &mut self,
        path: &Path,
        retired: Result<(i64, Vec<String>), StoreError>,
    ) {
        let Some(file) = self.drop_in.files.get_mut(path) else {
            return;
        };
        file.state = State::Fresh;
        let (retired, before) = match retired {
            Ok(retired) => retired,
            Err(error) => {
                file.not_before = Instant::now() + SCAN_EVERY;
                return self.upkeep.lost(&error);
            }
        };
        let had_content = file.hash.is_some();
        if file.stamp.is_none() {
            self.drop_in.files.remove(path);
        } else {
            // It is back: as if it had never been there.
            (file.hash, file.refused) = (None, None);
        }
        // Of what was only ever refused nobody needs to hear.
        if had_content || retired > 0 {
            tracing::info!(
                "{} is gone: retired {} operations, their tasks and schedules stay",
                printable_path(path),
                retired
            );
        }
        // Another file offered them before this one took over, and may do so again.
        for path in before {
            if let Some(file) = self.drop_in.files.get_mut(Path::new(&path))
                && file.state == State::Settled
            {
                (file.state, file.hash) = (State::Fresh, None);
            }
        }
        if retired > 0 {
            self.refresh_catalog();
        }
    }
}
