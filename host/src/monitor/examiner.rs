//! Examiners: children that look at plugin files for the monitor. It must not load foreign code, nor
//! wait, nor have children that it does not know; so each is started in `process`, is known here
//! until it has been reaped, and its verdict comes back as an event.

use super::{event::Event, process, supervisor::Supervisor};
use crate::{
    model::plugin::short_hash,
    plugin::{Confinement, Examination, Verdict},
    store::{DropInOutcome, Offer, StoreError},
};
use nix::unistd::Pid;
use std::{
    collections::HashMap,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};
use tokio::{io::AsyncReadExt, net::unix::pipe};

/// So many at once.
const AT_ONCE: usize = 4;
/// One that takes longer waits for a plugin that hangs while it loads: that does not hold up the others,
/// so many at most.
const LONG: Duration = Duration::from_secs(1);
const LONG_AT_ONCE: usize = 16;
/// Copying a large file from a slow disk takes a while; a probe ends by itself after ten seconds.
const TIME_LIMIT: Duration = Duration::from_secs(120);
/// A verdict is smaller than this.
const LARGEST_VERDICT: u64 = 64 << 20;

/// What happens around plugins.
#[derive(Debug)]
pub(super) enum PluginEvent {
    /// Something changed in a drop-in directory.
    Touched,
    /// The drop-in directories have been looked through.
    Scanned(super::scan::Scan),
    /// What the database knows of their files.
    Known(Result<Vec<(String, Option<String>)>, StoreError>),
    /// An examiner has spoken.
    Examined(Pid, Vec<u8>),
    /// A drop-in file has been registered (or not).
    Registered(PathBuf, Result<DropInOutcome, StoreError>),
    /// What a vanished file offered has been retired (or not).
    Gone(PathBuf, Result<(i64, Vec<String>), StoreError>),
    /// A refusal has been written down (or not); nothing depends on it.
    Noted(Result<(), StoreError>),
    /// What other hosts have published.
    Offers(Result<Vec<Offer>, StoreError>),
    /// Published bytes have been unpacked, or there is something wrong with them.
    Unpacked(Purpose, Result<Result<PathBuf, String>, StoreError>),
    /// A fetched plugin is deployed here: so many operations.
    Adopted(Offer, Result<usize, StoreError>),
}

/// Why a file is examined.
#[derive(Debug, Clone)]
pub(super) enum Purpose {
    /// It is in a drop-in directory.
    DropIn(PathBuf),
    /// It should be the plugin with this hash, which was registered from there.
    Supply(String),
    /// Other hosts have published it.
    Offer(Offer),
}

#[derive(Debug)]
struct Examiner {
    /// `None`: it has spoken.
    purpose: Option<Purpose>,
    since: Instant,
    reaped: bool,
}

/// The examiners of this monitor, by process.
#[derive(Debug, Default)]
pub(super) struct Examiners {
    running: HashMap<Pid, Examiner>,
}

impl Examiners {
    /// Whether one more may be started.
    pub(super) fn has_room(&self, now: Instant) -> bool {
        let is_long = |examiner: &Examiner| now.duration_since(examiner.since) > LONG;
        let long = self.running.values().filter(|one| is_long(one)).count();
        self.running.len() - long < AT_ONCE && long < LONG_AT_ONCE
    }

    /// Whether a child of this process is one of them.
    pub(super) fn knows(&self, pid: Pid) -> bool {
        self.running.contains_key(&pid)
    }

    /// A child has ended; it may have been one of them.
    pub(super) fn reaped(&mut self, pid: Pid) {
        if let Some(examiner) = self.running.get_mut(&pid) {
            examiner.reaped = true;
            if examiner.purpose.is_none() {
                self.running.remove(&pid);
            }
        }
    }

    /// Kills those that take too long, or all; what they were to find out is then a refusal.
    pub(super) fn end(&self, now: Instant, all: bool) {
        for (pid, examiner) in &self.running {
            let is_late = now.duration_since(examiner.since) > TIME_LIMIT;
            if !examiner.reaped && (all || is_late) {
                process::kill_tree(*pid);
            }
        }
    }
}

impl Supervisor {
    /// Starts an examiner; false: it could not be started now.
    pub(super) fn examine(&mut self, file: &Path, named: &Path, purpose: Purpose) -> bool {
        if !self.examiners.has_room(Instant::now()) {
            return false;
        }
        let request = Examination {
            file: file.to_owned(),
            named: named.to_owned(),
            cache: self.cache.directory().to_owned(),
            key: self.options.key.as_ref().map(|key| key.as_str().to_owned()),
            confinement: Confinement {
                user: self
                    .worker_user
                    .as_ref()
                    .map(|identity| (identity.user.as_raw(), identity.group.as_raw())),
                no_network: self.options.no_network,
                // Not in the request, which is an argument: everybody can read those.
                environment: Vec::new(),
            },
            hash: match &purpose {
                Purpose::DropIn(_) => None,
                Purpose::Supply(hash) => Some(hash.clone()),
                Purpose::Offer(offer) => Some(offer.hash.clone()),
            },
        };
        let request = serde_json::to_string(&request).expect("a request is plain data");
        let (pid, said) = match process::spawn_examiner(&request, &self.environment) {
            Ok(started) => started,
            Err(error) => {
                tracing::error!(
                    "could not start an examiner of {}: {error}",
                    named.display()
                );
                return false;
            }
        };
        self.examiners.running.insert(
            pid,
            Examiner {
                purpose: Some(purpose),
                since: Instant::now(),
                reaped: false,
            },
        );
        let events = self.events.clone();
        tokio::task::spawn_local(async move {
            let verdict = listen(said).await.unwrap_or_default();
            let _ = events.send(Event::Plugin(PluginEvent::Examined(pid, verdict)));
        });
        true
    }

    pub(super) fn examined(&mut self, pid: Pid, verdict: &[u8]) {
        let Some(examiner) = self.examiners.running.get_mut(&pid) else {
            return;
        };
        let purpose = examiner.purpose.take();
        if examiner.reaped {
            self.examiners.running.remove(&pid);
        }
        let Some(purpose) = purpose else { return };
        if self.phase != super::supervisor::Phase::Working {
            // It was ended for that; the next monitor looks again.
            if let Purpose::Supply(hash) | Purpose::Offer(Offer { hash, .. }) = &purpose {
                self.unstage(hash);
            }
            return;
        }
        let named = match &purpose {
            Purpose::DropIn(path) => path.display().to_string(),
            Purpose::Supply(hash) => short_hash(hash).to_owned(),
            Purpose::Offer(offer) => short_hash(&offer.hash).to_owned(),
        };
        let verdict = serde_json::from_slice(verdict).unwrap_or_else(|_| Verdict::Refused {
            reason: format!("{named} could not be examined: the examiner ended without a verdict"),
            unfinished: false,
        });
        if let Verdict::Good(examined) = &verdict {
            self.supply.examined(&examined.inspection.hash);
        }
        match purpose {
            Purpose::DropIn(path) => self.drop_in_examined(&path, verdict),
            Purpose::Supply(hash) => self.supply_examined(&hash, verdict),
            Purpose::Offer(offer) => self.offer_examined(offer, verdict),
        }
    }

    /// One thing happened around plugins.
    pub(super) fn plugin_event(&mut self, event: PluginEvent) {
        let now = Instant::now();
        match event {
            PluginEvent::Touched => self.drop_in.touched(now),
            PluginEvent::Scanned(scan) => self.drop_in_scanned(scan, now),
            PluginEvent::Known(known) => self.drop_in_known(known, now),
            PluginEvent::Examined(pid, verdict) => self.examined(pid, &verdict),
            PluginEvent::Registered(path, outcome) => self.drop_in_registered(&path, outcome),
            PluginEvent::Gone(path, retired) => self.drop_in_gone(&path, retired),
            PluginEvent::Noted(Ok(())) => {}
            PluginEvent::Noted(Err(error)) => self.database_failed(&error),
            PluginEvent::Offers(offers) => self.offers_arrived(offers),
            PluginEvent::Unpacked(purpose, file) => self.published_unpacked(purpose, file),
            PluginEvent::Adopted(offer, adopted) => self.adopted(&offer, adopted),
        }
    }

    /// Looks after plugins: idempotent, whatever is not due stays.
    pub(super) fn tend_plugins(&mut self, now: Instant) {
        let is_working = self.phase == super::supervisor::Phase::Working;
        self.examiners.end(now, !is_working);
        if is_working {
            self.tend_drop_in(now);
            self.tend_offers(now);
        }
    }

    /// As [`Supervisor::ask`], about plugins.
    pub(super) fn ask_plugins<T: 'static>(
        &self,
        question: impl Future<Output = T> + 'static,
        event: impl FnOnce(T) -> PluginEvent + 'static,
    ) {
        self.ask(question, move |answer| Event::Plugin(event(answer)));
    }
}

async fn listen(said: OwnedFd) -> std::io::Result<Vec<u8>> {
    let mut text = Vec::new();
    let receiver = pipe::Receiver::from_owned_fd(said)?;
    receiver
        .take(LARGEST_VERDICT)
        .read_to_end(&mut text)
        .await?;
    Ok(text)
}
