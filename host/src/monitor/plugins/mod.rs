//! The plugins of this host: what lies in its drop-in directories, what the catalog names and the cache
//! lacks, what other hosts have published.
//!
//! Three owners decide: `drop_in` about files of drop-in directories, `provision` about contents that are
//! to be in the cache, `examiner` about the children that look at files. None of them knows the others.
//! [`Plugins`] carries their decisions out (`step`), and is all that the supervisor sees.

mod content;
mod drop_in;
mod event;
mod examiner;
mod fetch;
mod notes;
mod provision;
mod scan;
mod step;
mod watch;

pub(super) use event::Event;

use super::{claim::Availability, database::Database};
use crate::{
    model::MonitorId,
    plugin::{Cache, Confinement, Examination, TrustedKey, Verdict},
    store::{CatalogRow, StoreError},
};
use drop_in::DropIn;
use examiner::{Examiners, Purpose};
use nix::unistd::Pid;
use provision::Provision;
use std::{
    path::{Path, PathBuf},
    rc::Rc,
    time::Instant,
};
use tokio::sync::Semaphore;
use watch::Watch;

/// How a monitor deals with plugins.
#[derive(Debug)]
pub(super) struct Settings {
    /// The monitor.
    pub(super) monitor: MonitorId,
    /// The host that it works for.
    pub(super) host: String,
    /// The domains that it claims for; empty: every domain.
    pub(super) domains: Vec<String>,
    /// Its drop-in directories, by their canonical paths.
    pub(super) directories: Vec<PathBuf>,
    /// Whether it runs what other hosts have published.
    pub(super) fetches: bool,
    /// The key that plugins have to be signed with.
    pub(super) key: Option<TrustedKey>,
    /// What plugins are denied while they are examined.
    pub(super) confinement: Confinement,
    /// The environment that plugins are loaded in.
    pub(super) environment: Vec<(String, String)>,
}

/// What the supervisor has to know.
#[derive(Debug)]
pub(super) enum News {
    /// The operations that this host can run are others now.
    CatalogChanged,
    /// The database has not answered a question, or has refused something.
    DatabaseFailed(StoreError),
}

/// The plugins of this host.
#[derive(Debug)]
pub(super) struct Plugins {
    settings: Settings,
    database: Database<Event>,
    cache: Cache,
    drop_in: DropIn,
    watch: Option<Watch>,
    provision: Provision,
    examiners: Examiners,
    /// Held by the one registration that is under way. A registration may wait for those of other hosts; it
    /// occupies one connection to the database, and leaves the others to the rest of the monitor.
    registering: Rc<Semaphore>,
}

impl Plugins {
    /// The plugins of a monitor that begins.
    pub(super) fn new(
        settings: Settings,
        cache: Cache,
        database: Database<Event>,
        now: Instant,
    ) -> Self {
        let directories = &settings.directories;
        Self {
            drop_in: DropIn::new(directories.clone(), now),
            provision: Provision::new(
                directories.clone(),
                settings.fetches,
                settings.key.is_some(),
                now,
            ),
            watch: None,
            examiners: Examiners::default(),
            registering: Rc::new(Semaphore::new(1)),
            settings,
            database,
            cache,
        }
    }

    /// Does what is due; idempotent. A monitor that is not working any more ends its examiners.
    pub(super) fn tick(&mut self, now: Instant, is_working: bool) -> Option<News> {
        self.examiners.end(now, !is_working);
        if !is_working {
            return None;
        }
        let mut steps = self.drop_in.tick(now);
        steps.extend(self.provision.tick(now));
        let news = self.carry_out(steps, now);
        for path in self.drop_in.to_examine(now) {
            let purpose = Purpose::DropIn(path.clone());
            if !self.examine(&path, &path, None, purpose, now) {
                break;
            }
            self.drop_in.examining(&path, now);
        }
        news
    }

    /// When [`Plugins::tick`] has something to do next.
    pub(super) fn next_wake(&self) -> Option<Instant> {
        let times = [self.drop_in.next_wake(), self.provision.next_wake()];
        times.into_iter().flatten().min()
    }

    /// Something has happened.
    pub(super) fn handle(&mut self, event: Event, now: Instant, is_working: bool) -> Option<News> {
        let steps = match event {
            Event::DirectoryChanged => {
                self.drop_in.changed(now);
                return None;
            }
            Event::Scanned(scan) => {
                if let Some(watch) = &self.watch {
                    watch.add(&scan.directories);
                }
                self.drop_in.scanned(scan, now)
            }
            Event::Known(known) => self.drop_in.known(known, now),
            Event::Examined(pid, output) => return self.examined(pid, &output, now, is_working),
            Event::Registered(path, outcome) => self.drop_in.registered(&path, outcome, now),
            Event::Retired(path, retired) => self.drop_in.retired(&path, retired, now),
            Event::RefusalSaved(Ok(())) => return None,
            Event::RefusalSaved(Err(error)) => return Some(News::DatabaseFailed(error)),
            Event::Offers(offers) => self.provision.offered(offers, now),
            Event::Fetched(hash, fetched) => self.provision.fetched(&hash, fetched, now),
            Event::Adopted(hash, adopted) => self.provision.adopted(&hash, adopted),
        };
        self.carry_out(steps, now)
    }

    /// Something about plugins has changed in the database.
    pub(super) fn database_changed(&mut self, now: Instant) {
        self.provision.database_changed(now);
    }

    /// Begins to obtain what the catalog names and the cache lacks.
    pub(super) fn obtain(&mut self, rows: &[CatalogRow], now: Instant) {
        let mut steps = self.provision.catalog_changed(|path, hash| {
            rows.iter().any(|row| row.path == path && row.hash == hash)
        });
        for row in rows {
            let find = |hash: &str| self.cache.find(hash);
            steps.extend(self.provision.want(&row.hash, &row.path, find, now));
        }
        // The only news is that something is refused. Whoever calls this asks for the availability next.
        let _ = self.carry_out(steps, now);
    }

    /// Whether this host can run a plugin that the catalog names.
    pub(super) fn availability(&self, row: &CatalogRow) -> Availability {
        let is_cached = self.cache.find(&row.hash).is_some();
        self.provision.availability(&row.hash, &row.path, is_cached)
    }

    /// The cached copies of plugins.
    pub(super) fn cache(&self) -> &Cache {
        &self.cache
    }

    /// Whether a copy that somebody has touched is to be looked at now.
    pub(super) fn has_to_look(&mut self, hash: &str, now: Instant) -> bool {
        self.provision.has_to_look(hash, now)
    }

    /// Whether a child of this process is an examiner.
    pub(super) fn is_examiner(&self, pid: Pid) -> bool {
        self.examiners.knows(pid)
    }

    /// A child of this process, which may be an examiner, has been reaped.
    pub(super) fn reaped(&mut self, pid: Pid) {
        self.examiners.reaped(pid);
    }

    /// Starts an examiner of a file, which users know as `named`, and which has to have this hash; false:
    /// none can be started now.
    fn examine(
        &mut self,
        file: &Path,
        named: &Path,
        hash: Option<String>,
        purpose: Purpose,
        now: Instant,
    ) -> bool {
        let settings = &self.settings;
        let examination = Examination {
            file: file.to_owned(),
            named: named.to_owned(),
            cache: self.cache.directory().to_owned(),
            key: settings.key.as_ref().map(|key| key.as_str().to_owned()),
            confinement: settings.confinement.clone(),
            hash,
        };
        let mailbox = self.database.mailbox();
        self.examiners
            .start(&examination, &settings.environment, purpose, now, mailbox)
    }

    fn examined(
        &mut self,
        pid: Pid,
        output: &[u8],
        now: Instant,
        is_working: bool,
    ) -> Option<News> {
        let purpose = self.examiners.answered(pid)?;
        if !is_working {
            // The examiner was killed because the monitor ends; the next monitor looks again.
            if let Purpose::Content(hash) = &purpose {
                self.postpone(hash);
            }
            return None;
        }
        let verdict = examiner::verdict(output, &purpose);
        if let Verdict::Good(examined) = &verdict {
            self.provision.found_good(&examined.inspection.hash);
        }
        let steps = match purpose {
            Purpose::DropIn(path) => self.drop_in.examined(&path, verdict, now),
            Purpose::Content(hash) => self.provision.examined(&hash, verdict, now),
        };
        self.carry_out(steps, now)
    }
}
